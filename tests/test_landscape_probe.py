"""The probe in a training loop of one's own: its numbers are the definition's, and the run does not feel it."""

import argparse
import copy
import gc
import math
import random
from collections import UserDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.optimizer import _global_optimizer_pre_hooks

import run_landscape
from algorithm_list import ALGORITHM_LISTS
from landscape.tables import COLUMNS
from landscape_probe import Algorithm, LandscapeProbe
from runs.config import read_config
from runs.flags import task_arguments
from runs.tables import read_table
from tasks import load_task
from tests.test_next_step import same
from torch_optimizer import direction_optimizer
from training.loop import TEST_BATCH, Training, TrainingPlan, micro_batches, random_stream

NUMBERS = COLUMNS["sharpness"].split()
NUMBERS = [column for column in NUMBERS[NUMBERS.index("algorithm") :] if column != "measured_on"]
ADAM = Algorithm("adam", lr=1e-2)


def network(dtype=torch.float64, dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(dropout), nn.Linear(6, 2, bias=False)
    ).to(dtype)


def batch_of(seed, dtype=torch.float64, size=8):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 3, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(2, (size,), generator=generator)


def losses_of_batch(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def train(model, optimizer, probe=None, steps=3, every=1, schedule=None, first=0, dtype=torch.float64):
    """The loop of the docs; the rows of every measurement."""
    found = []
    for step in range(first, first + steps):
        losses_of_batch(model, batch_of(step, dtype)).mean().backward()
        if probe:
            probe.observe()
            if step % every == 0:
                found.append(probe.measure(batch_of(99, dtype)))
        optimizer.step()
        optimizer.zero_grad()
        if schedule:
            schedule.step()
    return found


def by_label(rows):
    return {row["algorithm"]: row for row in rows}


def close(row, other, rtol=1e-9):
    """Whether two rows agree in every number; those that are 0 up to rounding are left out."""
    assert row.keys() == other.keys()
    for name in row.keys() - {"algorithm", "sharpness_error", "noise_share"}:
        assert row[name] == pytest.approx(other[name], rel=rtol, abs=1e-300, nan_ok=True), name


def gradients(model, seed=0, dtype=torch.float64):
    losses_of_batch(model, batch_of(seed, dtype)).mean().backward()


# ---- the numbers ---------------------------------------------------------------------------------------------------


def test_the_row_training_is_the_step_that_the_loop_then_takes():
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[4].parameters(), "lr": 0.1}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.2)
    schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
    probe = LandscapeProbe(model, losses_of_batch, optimizer=optimizer, algorithms=["sgd"])
    test_batch = batch_of(99)
    for step in range(3):
        losses_of_batch(model, batch_of(step)).mean().backward()
        probe.observe()
        row = by_label(probe.measure(test_batch))["training"]
        model.eval()
        before = losses_of_batch(model, test_batch).mean()
        grad = torch.autograd.grad(before, [p for p in model.parameters()], allow_unused=True)
        start = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        change = losses_of_batch(model, test_batch).mean() - before
        model.train()
        s = [p.detach() - x for p, x in zip(model.parameters(), start, strict=True)]
        slope = sum((g * d).sum() for g, d in zip(grad, s, strict=True) if g is not None)
        length = math.sqrt(sum(d.square().sum() for d in s))
        assert row["learning_rate"] == pytest.approx(schedule.get_last_lr()[0])
        assert row["step_norm"] * row["learning_rate"] == pytest.approx(length, rel=1e-9)
        assert row["slope"] == pytest.approx(slope.item() / length, rel=1e-9)
        if slope < 0:
            assert row["edge_realized"] == pytest.approx((1 - change / slope).item(), rel=1e-6)
        optimizer.zero_grad()
        schedule.step()


def test_a_row_that_is_the_training_optimizer_has_its_numbers_at_every_update():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = ["sgd", Algorithm(torch.optim.AdamW, lr=1e-2), ADAM]
    found = train(model, optimizer, LandscapeProbe(model, losses_of_batch, optimizer=optimizer, algorithms=rows), 5, 2)
    assert len(found) == 3
    for rows in map(by_label, found):
        assert list(rows["sgd"]) == NUMBERS and list(rows) == ["training", "sgd", "adamw", "adam"]
        close(rows["adamw"], rows["training"] | {"algorithm": "adamw"})
        assert rows["sgd"]["ratio"] == pytest.approx(math.copysign(1, rows["sgd"]["sharpness"]))


def test_several_optimizers_take_one_step_together():
    model, other = network(), network()
    both = [torch.optim.SGD(model[0].parameters(), lr=0.1), torch.optim.SGD(model[4].parameters(), lr=0.3)]
    groups = [{"params": other[0].parameters(), "lr": 0.1}, {"params": other[4].parameters(), "lr": 0.3}]
    for each in (model, other):
        gradients(each)
    found = []
    for each, optimizer in ((model, both), (other, torch.optim.SGD(groups))):
        probe = LandscapeProbe(each, losses_of_batch, optimizer=optimizer, algorithms=["sgd"])
        probe.observe()
        found.append(probe.measure(batch_of(99))[0])
    close(*found)


def test_default_rows_and_a_list_of_micro_batches():
    model = network(torch.float32)
    probe = LandscapeProbe(model, losses_of_batch)
    gradients(model, dtype=torch.float32)
    probe.observe()
    x, y = batch_of(99, torch.float32)
    whole, parts = probe.measure((x, y)), probe.measure((x[:3], y[:3]), (x[3:], y[3:]))
    assert [row["algorithm"] for row in whole] == ["sgd", "sgd, coordinate_clip=0.1", "sign_sgd", "adam"]
    for one, other in zip(whole, parts, strict=True):
        for row in (one, other):
            del row["edge_realized"], row["edge_quotient"]  # a step so short is lost in the rounding of the loss
        close(one, other, rtol=1e-3)
        assert one["sharpness_error"] > 0


def test_frozen_and_tied_parameters_are_measured_as_they_train():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.embed, self.middle, self.head = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight
            self.middle.weight.requires_grad_(False)

        def forward(self, ids):
            return self.head(self.middle(self.embed(ids)).tanh())

    model, ids = Tied().double(), torch.tensor([0, 1, 2, 3, 4])

    def losses(model, ids):
        return cross_entropy(model(ids), ids.flip(0), reduction="none")

    losses(model, ids).mean().backward()
    probe = LandscapeProbe(model, losses, algorithms=["sgd"])
    probe.observe()
    (row,) = probe.measure(ids)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert list(trained) == ["embed.weight", "middle.bias"]
    direction = [-p.grad for p in trained.values()]
    grad = torch.autograd.grad(losses(model, ids).mean(), list(trained.values()), create_graph=True)
    along = sum((g * v).sum() for g, v in zip(grad, direction, strict=True))
    bend = sum(
        (h * v).sum() for h, v in zip(torch.autograd.grad(along, list(trained.values())), direction, strict=True)
    )
    square = sum(v.square().sum() for v in direction)
    assert row["sharpness"] == pytest.approx((bend / square).item(), rel=1e-9)
    assert row["slope"] == pytest.approx((along / square.sqrt()).item(), rel=1e-9)


def test_a_bfloat16_model_is_measured_in_float32_on_a_copy():
    model = network(torch.bfloat16).eval()
    gradients(model, dtype=torch.bfloat16)
    exact = copy.deepcopy(model).float()
    for p, low in zip(exact.parameters(), model.parameters(), strict=True):
        p.grad = low.grad.float()
    found = []
    for each, dtype in ((model, torch.bfloat16), (exact, torch.float32)):
        probe = LandscapeProbe(each, losses_of_batch, algorithms=["sgd", "adam"])
        probe.observe()
        x, y = batch_of(99, torch.bfloat16)
        found.append(probe.measure((x.to(dtype), y)))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for low, high in zip(*found, strict=True):
        close(low, high, rtol=1e-6)


def test_a_compiled_model_gives_the_numbers_of_the_bare_one():
    model = network()
    compiled = torch.compile(model, backend="eager")
    gradients(model)
    found = []
    for each in (model, compiled):
        probe = LandscapeProbe(each, losses_of_batch, algorithms=["sgd", "adam"])
        probe.observe()
        found.append(probe.measure(batch_of(99)))
    assert found[0] == found[1]

    def backend(graph, inputs):
        raise AssertionError("a measurement is compiled")

    model.compile(backend=backend)  # in place
    probe = LandscapeProbe(model, losses_of_batch, algorithms=["sgd", "adam"])
    probe.observe()
    assert probe.measure(batch_of(99)) == found[0]


@pytest.mark.parametrize("kind", ["mapping", "nested", "class"])
def test_a_batch_may_have_any_shape(kind):
    x, y = batch_of(99)

    class Encoding(UserDict):
        @property
        def input(self):
            return self["input"]

    batch = {
        "mapping": {"input": x, "labels": y, "name": "a string"},
        "nested": ([x, {"scale": torch.tensor(1.0)}], y),
        "class": Encoding(input=x, labels=y),
    }[kind]
    read = {
        "mapping": lambda b: (b["input"], b["labels"]),
        "nested": lambda b: (b[0][0] * b[0][1]["scale"], b[1]),
        "class": lambda b: (b.input, b["labels"]),
    }[kind]
    model = network()
    gradients(model)
    found = []
    for losses, given in ((losses_of_batch, (x, y)), (lambda m, b: losses_of_batch(m, read(b)), batch)):
        probe = LandscapeProbe(model, losses, algorithms=["sgd"])
        probe.observe()
        found.append(probe.measure(given))
    assert found[0] == found[1]


def test_examples_whose_losses_see_each_other_are_not_taken_apart():
    def contrastive(model, batch):
        out = model(batch[0])
        return cross_entropy(out @ out.T, torch.arange(len(out)), reduction="none")

    model = network(torch.float32)
    contrastive(model, batch_of(0, torch.float32)).mean().backward()
    probe = LandscapeProbe(model, contrastive, algorithms=["sgd"])
    probe.observe()
    batch = batch_of(99, torch.float32)
    (row,) = probe.measure(batch)
    model.eval()
    assert row["loss"] == pytest.approx(contrastive(model, batch).mean().item(), rel=1e-6)
    assert math.isnan(row["sharpness_error"]) and row["noise_share"] == 0


# ---- the run does not feel it --------------------------------------------------------------------------------------


def everything(model, optimizer):
    found = model.state_dict(), [p.grad for p in model.parameters()], optimizer.state_dict()
    modes = [module.training for module in model.modules()]
    return copy.deepcopy((*found, modes, torch.get_rng_state(), random.getstate(), repr(np.random.get_state())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_ends_in_the_same_bits(dtype):
    found = []
    for probed in (False, True):
        model = network(dtype, dropout=0.3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        probe = LandscapeProbe(model, losses_of_batch, optimizer=optimizer) if probed else None
        train(model, optimizer, probe, steps=6, every=2, dtype=dtype)
        found.append(everything(model, optimizer))
    assert same(*found)


@pytest.mark.parametrize("fails", [0, 1, 4])
def test_nothing_has_changed_after_a_measurement_nor_after_an_exception_in_it(fails):
    calls, broken = [], bool(fails)

    def losses(model, batch):
        calls.append(None)
        torch.rand(1), np.random.rand(), random.random()
        model.train()
        model[1].running_mean.add_(1)
        if broken and len(calls) >= fails:
            raise OSError("the disk is full")
        model.eval()
        return losses_of_batch(model, batch)

    model = network(torch.float32, dropout=0.3)
    model[3].eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    gradients(model, dtype=torch.float32)
    probe = LandscapeProbe(model, losses, optimizer=optimizer)
    before = everything(model, optimizer)
    probe.observe()
    if fails:
        with pytest.raises(OSError, match="the disk is full"):
            probe.measure(batch_of(99, torch.float32))
    broken = False
    rows = probe.measure(batch_of(99, torch.float32))  # once more, at the same point
    assert same(everything(model, optimizer), before) and len(rows) == 5


def test_a_probe_that_is_gone_is_told_of_no_steps():
    gc.collect()
    before = len(_global_optimizer_pre_hooks)
    probe = LandscapeProbe(network(), losses_of_batch)
    assert len(_global_optimizer_pre_hooks) == before + 1
    del probe
    gc.collect()
    assert len(_global_optimizer_pre_hooks) == before


# ---- which gradients the rows see ----------------------------------------------------------------------------------


def test_with_accumulated_gradients_the_rows_see_the_sum_of_an_update():
    found = []
    for often in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        probe = LandscapeProbe(model, losses_of_batch, algorithms=["sgd", "adam"])
        for update in range(3):
            for part in range(2):
                gradients(model, 2 * update + part)
                if often or part:
                    probe.observe()
            rows = probe.measure(batch_of(99)) if update == 2 else []
            optimizer.step()
            optimizer.zero_grad()
        found.append(rows)
    assert found[0] == found[1] != []


def scaled_run(with_scaler, unscale_first=False, overflow_at=None, fused=False):
    """Four updates, of which one may overflow; the rows of the last."""
    model = network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if with_scaler else None
    probe = LandscapeProbe(model, losses_of_batch, optimizer=optimizer, algorithms=["sgd", "adam"], scaler=scaler)
    rows = []
    for step in range(4):
        if step == overflow_at and not with_scaler:
            continue
        loss = losses_of_batch(model.eval(), batch_of(step, torch.float32)).mean()
        (scaler.scale(loss) if scaler else loss).backward()
        if step == overflow_at:
            model[0].weight.grad[0, 0] = math.inf
        if unscale_first:
            scaler.unscale_(optimizer)
        probe.observe()
        rows = probe.measure(batch_of(99, torch.float32)) if step >= 2 else []
        assert rows == [] if step == overflow_at else True
        scaler.step(optimizer) if scaler else optimizer.step()
        if scaler:
            scaler.update()
        optimizer.zero_grad()
    return rows


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale_first", [False, True])
@pytest.mark.parametrize("overflow_at", [None, 1, 2])
def test_with_a_grad_scaler_the_rows_see_the_true_gradients_of_the_updates_that_are_made(
    unscale_first, overflow_at, fused
):
    scaled = scaled_run(True, unscale_first, overflow_at, fused)
    plain = scaled_run(False, overflow_at=overflow_at, fused=fused)
    assert len(plain) == 3
    for one, other in zip(scaled, plain, strict=True):
        close(one, other, rtol=1e-4)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_grad_scaler_that_the_probe_does_not_know_is_noticed(measured, fused):
    model = network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    probe = LandscapeProbe(model, losses_of_batch)
    scaler.scale(losses_of_batch(model, batch_of(0, torch.float32)).mean()).backward()
    probe.observe()
    if measured:
        probe.measure(batch_of(99, torch.float32))
    with pytest.raises(ValueError, match=r"changed after observe\(\).*or make the probe with scaler="):
        scaler.step(optimizer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu")
    optimizer.zero_grad()
    scaler.scale(losses_of_batch(model, batch_of(1, torch.float32)).mean()).backward()
    scaler.unscale_(optimizer)  # as the message says
    probe.observe()
    scaler.step(optimizer)


def test_a_row_without_state_costs_nothing_while_it_is_not_measured(monkeypatch):
    thresholds = []
    find = direction_optimizer.clip_threshold
    monkeypatch.setattr(direction_optimizer, "clip_threshold", lambda *a: thresholds.append(None) or find(*a))
    for momentum, expected in ((0.0, 1), (0.9, 3)):
        model = network()
        row = Algorithm("sgd", lr=0.1, coordinate_clip=0.1, momentum=momentum)
        probe = LandscapeProbe(model, losses_of_batch, algorithms=[row])
        thresholds.clear()
        train(model, torch.optim.SGD(model.parameters(), lr=0.1), probe, 3, 4)
        assert len(thresholds) == expected


def test_a_run_goes_on_from_the_state_of_the_probe(tmp_path):
    def start():
        model = network(torch.float32)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        rows = ["sgd", "adam", Algorithm("muon", lr=0.02)]
        return model, optimizer, LandscapeProbe(model, losses_of_batch, optimizer=optimizer, algorithms=rows)

    model, optimizer, probe = start()
    whole = train(model, optimizer, probe, 4, 3, dtype=torch.float32)
    model, optimizer, probe = start()
    train(model, optimizer, probe, 2, 9, dtype=torch.float32)
    stored = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "probe": probe.state_dict()}
    torch.save(stored, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    model, optimizer, probe = start()
    for part, name in ((model, "model"), (optimizer, "optimizer"), (probe, "probe")):
        part.load_state_dict(state[name])
    assert train(model, optimizer, probe, 2, 3, first=2, dtype=torch.float32)[0] == whole[1]
    with pytest.raises(
        ValueError, match=r"^the state belongs to other rows: it has Algorithm\('sgd'\).*the probe has [^\n]+$"
    ):
        LandscapeProbe(model, losses_of_batch, algorithms=["sgd"]).load_state_dict(state["probe"])


def test_a_row_that_is_no_longer_finite_has_a_last_row_without_numbers(caplog):
    class Exploding(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.mul_(math.inf)

    model = network()
    probe = LandscapeProbe(model, losses_of_batch, algorithms=["sgd", Algorithm(Exploding, lr=0.1)])
    found = train(model, torch.optim.SGD(model.parameters(), lr=0.1), probe, 2)
    assert [list(by_label(rows)) for rows in found] == [["sgd", "exploding"], ["sgd"]]
    assert all(math.isnan(x) for k, x in found[0][1].items() if k != "algorithm") and list(found[0][1]) == NUMBERS
    assert "exploding: its step or its state is not finite; it is dropped" in caplog.text


# ---- beside a run of run_landscape.py -----------------------------------------------------------------------------


def test_the_numbers_are_those_of_a_run_with_the_same_model_data_seed_and_optimizer(tmp_path, monkeypatch):
    rows = [Algorithm("sgd", lr=0.1), Algorithm("adam", lr=1e-2), Algorithm("muon", lr=0.02)]
    monkeypatch.setitem(ALGORITHM_LISTS, "mine", rows)
    monkeypatch.setattr(run_landscape, "draw_all", lambda folder: [])
    flags = "--dataset_size 32 --batch_size 16 --micro_batch_size 16 --test_batch_size 8 --num_epochs 1 --test_epochs 1"
    flags += " --seed 3 --train_optimizer adamw --lr 1e-3 --algorithm_list mine --skip_search --sample_iterations 2"
    assert run_landscape.main([*flags.split(), "--output_dir", str(tmp_path / "run")]) == 0
    table = [row for row in read_table(tmp_path / "run" / "sharpness.csv") if row["measured_on"] == "test"]
    settings = argparse.Namespace(**read_config(tmp_path / "run")["settings"])
    task = load_task(settings.task, seed=3, **task_arguments(settings))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    probe = LandscapeProbe(task.model, task.losses, optimizer=optimizer, algorithms=rows)
    tested = random_stream(3, TEST_BATCH).permutation(32)[:8].tolist()
    test_batch = next(micro_batches(task, tested, 16, torch.device("cpu")))
    expected = {(row["iteration"], row["algorithm"]): row for row in table}
    assert {iteration for iteration, _ in expected} == {2}
    training = Training(task, optimizer, TrainingPlan(1, 16, 16, 3))
    for point in training:
        probe.observe()
        for row in probe.measure(test_batch) if point.iteration == 2 else []:
            theirs = expected.pop((point.iteration, row["algorithm"]))
            for name in row.keys() - {"algorithm"}:
                assert row[name] == pytest.approx(
                    math.nan if theirs[name] is None else theirs[name], rel=1e-6, nan_ok=True
                )
        training.step()
    assert not expected
