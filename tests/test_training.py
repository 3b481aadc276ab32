"""The one training loop: what a batch's gradient is, what a run depends on, and what it does not depend on."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from tasks.base import Task, random_ids
from tasks.machine_translation import MachineTranslation
from tests.helpers.tiny_models import tiny_t5
from torch_optimizer import Adafactor, SGDClip
from training.loop import (
    ORDER,
    SAMPLE,
    STEP,
    TEST_BATCH,
    Point,
    Training,
    TrainingPlan,
    batches_per_epoch,
    micro_batches,
    random_stream,
    seed_generators,
)
from training.schedules import SCHEDULERS, make_scheduler

CPU = torch.device("cpu")


class Line(Task):
    """Examples (x [3], y) of equal length, loss (w x - y)^2 / 2 behind dropout; `seen`: the groups it collated."""

    def __init__(self, dropout=0.0, examples=10):
        generator = torch.Generator().manual_seed(0)
        draws = torch.randn(examples, 4, generator=generator, dtype=torch.float64)
        rows = [{"number": i, "x": row[:3], "y": row[3]} for i, row in enumerate(draws)]
        model = nn.Sequential(nn.Dropout(dropout), nn.Linear(3, 1, bias=False, dtype=torch.float64))
        model[1].weight.data = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
        super().__init__("line", model, None, rows)
        self.seen = []

    def length(self, index):
        return 1

    def collate(self, examples):
        self.seen.append([row["number"] for row in examples])
        return {name: torch.stack([row[name] for row in examples]) for name in ("x", "y")}

    def losses(self, forward, batch):
        return (forward(batch["x"])[:, 0] - batch["y"]).square() / 2

    @property
    def weight(self):
        return self.model[1].weight

    def gradient(self, numbers):
        """By hand: the mean over examples of (w x - y) x."""
        x, y = (torch.stack([self.examples[i][name] for i in numbers]) for name in ("x", "y"))
        return ((x @ self.weight[0] - y)[:, None] * x).mean(0).detach()


def run(task, lr=0.1, between=None, forward=None, **options):
    """The points of a run of SGD; `between(task, point)` is called at each."""
    plan = TrainingPlan(**dict(num_epochs=2, batch_size=4, micro_batch_size=2) | options)
    training = Training(task, SGDClip(task.model.parameters(), lr=lr), plan, forward=forward)
    points = []
    for point in training:
        points.append(point)
        if between is not None:
            between(task, point)
        training.step()
    return points


def order_seen(task):
    return [i for group in task.seen for i in group]


# ---- the gradient of a batch --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("micro_batch_size", [1, 3, 32])
def test_gradient_of_a_t5_is_the_mean_over_examples_for_every_grouping(micro_batch_size, dtype, tolerance):
    task = pairs(dtype)
    # the other route: every example alone and unpadded, its loss the library's own token mean
    losses = []
    for example in task.examples:
        alone = {name: torch.tensor([ids]) for name, ids in example.items()}
        losses.append(task.model(**alone).loss)
    loss = torch.stack(losses).mean()
    expected = torch.autograd.grad(loss, list(task.model.parameters()))
    optimizer = SGDClip(task.model.parameters(), lr=0.0)
    point = next(iter(Training(task, optimizer, TrainingPlan(1, 8, micro_batch_size))))
    assert point.loss == pytest.approx(loss.item(), rel=tolerance)
    scale = torch.cat([g.flatten() for g in expected]).norm()
    difference = torch.cat([(p.grad - g).flatten() for p, g in zip(task.model.parameters(), expected, strict=True)])
    assert difference.norm() < tolerance * scale


def pairs(dtype):
    """8 pairs of different lengths and a tiny T5 without dropout."""
    model, _, _ = tiny_t5(dtype, spread=0.03)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # of the attention weights
            module.dropout = 0.0
    lengths = [(7, 6), (5, 3), (3, 6), (7, 1), (2, 2), (9, 4), (4, 8), (6, 6)]
    english, french = random_ids([n for n, _ in lengths]), random_ids([m for _, m in lengths])
    examples = [{"input_ids": i, "labels": t} for i, t in zip(english, french, strict=True)]
    return MachineTranslation("tiny", model, None, examples)


def test_the_last_batch_of_an_epoch_is_smaller_and_its_mean_is_over_its_own_examples():
    task = Line()

    def check(task, point):
        size = 2 if point.batch == 3 else 4
        expected = task.gradient(order_seen(task)[-size:])
        torch.testing.assert_close(task.weight.grad[0], expected, rtol=1e-13, atol=1e-15)

    points = run(task, between=check)
    assert [(p.epoch, p.batch, p.iteration) for p in points] == [
        (1, 1, 1), (1, 2, 2), (1, 3, 3), (2, 1, 4), (2, 2, 5), (2, 3, 6),
    ]  # fmt: skip
    assert [len(group) for group in task.seen] == [2, 2, 2, 2, 2] * 2
    assert [(p.examples, p.ends_epoch) for p in points] == [(4, False), (4, False), (2, True)] * 2


def test_a_step_sees_the_random_variants_of_its_own_iteration():
    class Varied(Line):
        def training_collate(self, examples, seed):
            seeds.append(seed)
            return self.collate(examples)

    seeds = []
    run(Varied())
    by_step = [set(seeds[:2]), set(seeds[2:4]), set(seeds[4:5]), set(seeds[5:7])]  # in micro-batches of two
    assert len(seeds) == 10 and all(len(of_step) == 1 for of_step in by_step) and len(set(seeds)) == 6


def test_neighbors_in_length_share_a_micro_batch():
    task = Line()
    task.length = lambda index: index % 4
    list(micro_batches(task, [9, 0, 3, 4, 1, 7, 8], 3, CPU))
    assert task.seen == [[0, 4, 8], [9, 1, 3], [7]]  # ties as they came


def test_only_floating_point_inputs_change_their_type():
    task = Line()
    task.collate = lambda rows: {"pixels": torch.zeros(len(rows), 2), "labels": torch.ones(len(rows), dtype=torch.long)}
    (batch,) = micro_batches(task, [0, 1], 2, CPU, torch.float64)
    assert (batch["pixels"].dtype, batch["labels"].dtype) == (torch.float64, torch.long)


@pytest.mark.parametrize("share, expected", [(0.5, 0.5), (2.0, 1.0)])
def test_only_a_gradient_longer_than_max_grad_norm_is_scaled_down_to_it(share, expected):
    free, norms = [], []
    run(Line(), num_epochs=1, batch_size=10, between=lambda task, _: free.append(task.weight.grad.clone()))
    length = free[0].norm().item()
    run(Line(), num_epochs=1, batch_size=10, max_grad_norm=share * length,
        between=lambda task, _: norms.append(task.weight.grad.clone()))  # fmt: skip
    torch.testing.assert_close(norms[0], free[0] * expected, rtol=1e-5, atol=0)  # clip_grad_norm_ adds 1e-6 to the norm


# ---- what a run depends on ----------------------------------------------------------------------------------------


def test_order_depends_on_seed_and_epoch_alone():
    def order(task=None, **options):
        task = task or Line()
        run(task, **options)
        return order_seen(task)

    first = order(seed=3)
    assert first == order(Line(dropout=0.5), seed=3, lr=1e-3, between=lambda *_: (torch.rand(7), np.random.rand(7)))
    assert first == order(seed=3, micro_batch_size=4) == order(seed=3, batch_size=10)
    assert first[:10] == order(seed=3, num_epochs=1)
    assert first[:10] != first[10:]
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert order(seed=4) != first


def test_dropout_masks_depend_on_seed_and_iteration_alone():
    def losses(**options):
        return [p.loss for p in run(Line(dropout=0.5), lr=0.0, batch_size=10, num_epochs=3, **options)]

    assert losses() == losses(between=lambda *_: torch.rand(5))
    assert losses() != losses(seed=1)
    assert len(set(losses())) == 3
    assert losses()[:2] == [p.loss for p in run(Line(dropout=0.5), lr=0.0, batch_size=10, num_epochs=2)]


def test_on_the_cpu_a_seed_means_what_it_means_to_torch():
    seed_generators(7, torch.device("cpu"))
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))


def test_what_is_done_between_two_steps_cannot_change_the_run():
    def measure(task, point):
        before = {n: p.grad.clone() for n, p in task.model.named_parameters()}
        task.model.eval()
        torch.manual_seed(99)
        np.random.seed(99)
        with torch.no_grad():
            task.losses(task.model, task.collate(task.examples))
        for n, p in task.model.named_parameters():
            p.grad = before[n]

    plain, measured = Line(dropout=0.5), Line(dropout=0.5)
    assert run(plain) == run(measured, between=measure)
    assert torch.equal(plain.weight, measured.weight)
    assert not torch.equal(plain.weight, Line().weight)


def test_the_step_is_taken_after_the_point_on_its_gradient():
    task, before = Line(), []
    points = run(task, lr=0.25, num_epochs=1, batch_size=10,
                 between=lambda task, _: before.append(task.weight.detach().clone()))  # fmt: skip
    assert torch.equal(before[0], Line().weight)
    expected = before[0][0] - 0.25 * Line().gradient(range(10))
    torch.testing.assert_close(task.weight[0].detach(), expected, rtol=1e-13, atol=0)
    start = Line().losses(Line().model, Line().collate(Line().examples)).mean().item()
    assert points == [Point(1, 1, 1, pytest.approx(start, rel=1e-13), 0.25, 10, ends_epoch=True)]


@pytest.mark.parametrize("steps", [0, 2])
def test_a_point_is_followed_by_one_step(steps):
    task = Line()
    training = Training(task, SGDClip(task.model.parameters(), lr=0.1), TrainingPlan(1, 4, 2))
    points = iter(training)
    next(points)
    for _ in range(steps):
        training.step()
    with pytest.raises(RuntimeError, match=r"iteration 1: call step\(\) once before asking for the next point"):
        next(points)


def test_gradients_of_parameters_that_the_optimizer_leaves_alone_do_not_pile_up():
    class Biased(Line):
        def losses(self, forward, batch):
            return super().losses(forward, batch) + self.offset

    task = Biased()
    task.offset = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    task.model.register_parameter("offset", task.offset)
    optimizer = torch.optim.SGD([task.weight], lr=0.1)
    training = Training(task, optimizer, TrainingPlan(num_epochs=3, batch_size=5, micro_batch_size=5))
    for _ in training:
        assert task.offset.grad == pytest.approx(1.0)
        training.step()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(bad):
    probe, task, weights = Line(), Line(), []
    run(probe, num_epochs=1)
    order = order_seen(probe)
    task.examples[order[5]]["y"] = torch.tensor(bad, dtype=torch.float64)  # in the second batch of four
    with pytest.raises(FloatingPointError, match=r"the training loss is (nan|inf) in epoch 1, batch 2"):
        run(task, between=lambda task, _: weights.append(task.weight.detach().clone()))
    (start,) = weights  # one point, one step
    expected = start[0] - 0.1 * Line().gradient(order[:4])
    torch.testing.assert_close(task.weight[0].detach(), expected, rtol=1e-13, atol=0)


def test_another_forward_stands_in_for_the_model():
    task, calls = Line(), []

    def forward(x):
        calls.append(len(x))
        return task.model(x)

    assert run(task, forward=forward) == run(Line())
    assert calls == [2] * 10


# ---- learning rates -----------------------------------------------------------------------------------------------


SCHEDULES = [  # ours, theirs, updates that warm up
    ("constant", "constant", 0),
    ("linear", "linear", 0),
    ("cosine", "cosine", 0),
    ("linear_with_warmup", "linear", 4),
]


@pytest.mark.parametrize("name, theirs, warmup", SCHEDULES)
def test_schedules_are_those_of_transformers_at_every_update(name, theirs, warmup):
    from transformers import get_scheduler

    task = Line()
    optimizer = SGDClip(task.model.parameters(), lr=0.1)
    steps = batches_per_epoch(10, 4)
    scheduler = make_scheduler(name, optimizer, num_epochs=4, steps_per_epoch=steps, warmup_ratio=0.3)  # ceil(3.6) = 4
    training, rates = Training(task, optimizer, TrainingPlan(4, 4, 4), scheduler=scheduler), []
    for point in training:
        rates.append(point.learning_rate)
        training.step()

    reference = torch.optim.SGD(deepcopy(task.model).parameters(), lr=0.1)
    schedule = get_scheduler(theirs, reference, num_warmup_steps=warmup, num_training_steps=12)
    expected = []
    for _ in range(12):
        expected.append(reference.param_groups[0]["lr"])
        reference.step()
        schedule.step()
    assert rates == expected


def test_epoch_warmup_rises_from_a_third_in_one_step_an_epoch():
    optimizer = SGDClip([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = make_scheduler("epoch_warmup", optimizer, num_epochs=4, steps_per_epoch=2, warmup_ratio=0.5)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3, 0.3])  # 1/3, 1/3 + 2/3 * 1/2, then whole


def test_an_optimizer_that_sets_its_own_rate_has_no_schedule_and_no_rate_to_show():
    task = Line()
    optimizer = Adafactor(task.model.parameters(), relative_step=True)
    assert all(make_scheduler(name, optimizer, 2, 3) is None for name in SCHEDULERS)
    point = next(iter(Training(task, optimizer, TrainingPlan(num_epochs=1, batch_size=4, micro_batch_size=4))))
    assert math.isnan(point.learning_rate)


def test_unknown_schedule_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown schedule 'step'; known: constant, linear, cosine"):
        make_scheduler("step", SGDClip([nn.Parameter(torch.zeros(1))]), 1, 1)


# ---- too little memory --------------------------------------------------------------------------------------------


def test_out_of_memory_halves_the_micro_batch_for_good_and_changes_no_result(caplog):
    class Small(Line):
        """Runs out of memory in the group after one of four, whose gradient must not count twice."""

        def losses(self, forward, batch):
            if len(self.seen) > 1 and len(self.seen[-2]) == 4:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(forward, batch)

    plain, small = Line(examples=12), Small(examples=12)
    expected = run(plain, batch_size=6, micro_batch_size=2)
    assert run(small, batch_size=6, micro_batch_size=4) == expected
    assert torch.equal(small.weight, plain.weight)
    assert [len(group) for group in small.seen] == [4, 2] + [2] * 12
    said = "out of memory: continuing with micro-batches of 2 examples in training"
    assert [record.message for record in caplog.records] == [said]


def test_one_example_that_does_not_fit_is_an_error():
    class Full(Line):
        def losses(self, forward, batch):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        run(Full())


def test_what_is_drawn_for_one_purpose_is_not_drawn_for_another():
    purposes = [ORDER, SAMPLE, TEST_BATCH, STEP]
    drawn = {tuple(random_stream(0, purpose, epoch).permutation(20)) for purpose in purposes for epoch in (1, 2)}
    assert len(drawn) == 8
