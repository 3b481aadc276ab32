"""Several processes that share a measurement or a training step: the same bits as one."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from curvature.direction import Direction
from curvature.objective import Objective
from curvature.operation import NotTraceable
from curvature.ranks import LeaderFailed, RankLost
from landscape_core.gradients import gradient
from landscape_core.measurement import measure_steps
from landscape_probe import LandscapeProbe
from landscape_utils import directional_sharpness, mean_loss, scan_loss
from tests.helpers.several import on_ranks
from tests.helpers.tiny_models import random_direction, rows_of, tiny_t5
from tests.test_landscape_probe import batch_of, losses_of_batch
from tests.test_training import Line
from training.loop import Training, TrainingPlan, random_stream, step_seed

WORLDS = (1, 2, 3)


def hexed(value):
    """Floats by their bits; NaN by name."""
    if isinstance(value, torch.Tensor):
        return hexed(value.tolist())
    if isinstance(value, (list, tuple)):
        return [hexed(each) for each in value]
    return value.hex() if isinstance(value, float) else value


# ---- rows and sums --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_every_rank_gets_the_rows_of_all_in_order(world, count):
    def rows(ranks):
        computed = []

        def compute(item):
            computed.append(item)
            return torch.tensor([[item, -0.0], [math.nan, 1 / 3]], dtype=torch.float64)

        return hexed(ranks.rows(compute, list(range(count)))), computed

    (alone, _), *others = on_ranks(1, rows)[0], *on_ranks(world, rows)
    assert all(found == alone for found, _ in others)
    assert [items for _, items in others] == [list(range(rank, count, world)) for rank in range(world)]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_added_in_the_order_of_the_micro_batches(world, count, dtype, monkeypatch):
    monkeypatch.setattr("curvature.ranks.PIECE", 7)
    generator = torch.Generator().manual_seed(0)
    scales = torch.logspace(-4, 4, count)[torch.randperm(count, generator=generator)]
    all_of_them = [[s * torch.randn(n, generator=generator) for n in ((3, 5), (4,), (2,))] for s in scales]
    all_of_them[-1][2][0] = -0.0  # a sign that a sum with 0 would lose

    def total(ranks):
        params = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3, 5), (4,), (2,), (6,))]
        params[0].data = params[0].data.T.contiguous().T  # its gradient lies otherwise in memory

        def backward(place):
            given = all_of_them[place]
            loss = (params[0] * given[0].to(dtype)).sum() + (params[1] * given[1].to(dtype)).sum()
            if place == count - 1:  # only this one's depends on the third, and none on the fourth
                loss = loss + (params[2] * given[2].to(dtype)).sum()
            loss.backward()
            return torch.tensor(place + 0.5)

        numbers = ranks.accumulate(backward, list(range(count)), params)
        return hexed(numbers), [None if p.grad is None else hexed(p.grad) for p in params], params[0].grad.stride()

    by_hand = torch.zeros(3, 5, dtype=dtype)
    for given in all_of_them:
        by_hand = by_hand + given[0].to(dtype)
    alone = on_ranks(1, total)[0]
    assert alone[1][0] == hexed(by_hand) and alone[1][3] is None
    assert on_ranks(world, total) == [alone] * world


@pytest.mark.parametrize("world", [2, 3])
def test_parts_are_added_one_by_one_and_a_micro_batch_is_sent_once(world, monkeypatch):
    monkeypatch.setattr("curvature.ranks.PIECE", 7)
    generator = torch.Generator().manual_seed(0)
    items = [[10.0**e * torch.randn(9, generator=generator) for e in es] for es in ((0, 4), (-4, 8, 2), (6,), (1, 5))]

    def total(ranks):
        a, b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(5))

        def backward(part):
            ((a * part[:4]).sum() + (b * part[4:]).sum()).backward()
            return torch.tensor(0.5)

        numbers = ranks.accumulate(backward, items, [a, b], parts=lambda item: item, everywhere=False)
        has_it = ranks.rank == ranks.owner(3)
        return numbers.tolist(), [hexed(p.grad) for p in (a, b)] if has_it else None, dict(getattr(ranks, "sent", {}))

    by_hand = torch.zeros(9)
    for part in sum(items, []):
        by_hand = by_hand + part
    found = on_ranks(world, total)
    assert all(numbers == [1.0, 1.5, 0.5, 1.0] for numbers, _, _ in found)
    assert [grads for _, grads, _ in [*on_ranks(1, total), *found] if grads] == [
        [hexed(by_hand[:4]), hexed(by_hand[4:])]
    ] * 2
    assert sum(sent.get("gradients", 0) for _, _, sent in found) == 3 * 9 * 4  # from each of four to the next


def test_a_plain_sum_would_depend_on_the_number_of_ranks():
    values = torch.tensor([1e8, 1.0, -1e8, 1.0])

    def both(ranks):
        p = nn.Parameter(torch.zeros(1))
        ranks.accumulate(lambda v: (p * v).sum().backward() or torch.zeros(()), list(values), [p])
        own = values[ranks.rank :: ranks.world].sum().view(1)
        if ranks.world > 1:
            torch.distributed.all_reduce(own)
        return p.grad.item(), own.item()

    assert on_ranks(1, both) == [(1.0, 1.0)]
    assert on_ranks(2, both) == [(1.0, 2.0)] * 2


def test_where_one_rank_runs_out_of_memory_all_do():
    def outcome(ranks):
        said = []
        p = nn.Parameter(torch.zeros(1))

        def compute(item):
            if item == 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return torch.zeros(1)

        for attempt in (ranks.rows, lambda f, items: ranks.accumulate(f, items, [p])):
            try:
                attempt(compute, [0, 1, 2])
            except torch.OutOfMemoryError as error:
                said.append(str(error))
        return said

    others = ["out of memory on rank 1"] * 2
    assert on_ranks(3, outcome) == [others, ["CUDA out of memory"] * 2, others]


# ---- words ----------------------------------------------------------------------------------------------------------


def test_what_fails_on_the_leader_is_told_to_all():
    def outcome(ranks):
        done = []
        ranks.leading(lambda: done.append(ranks.rank))
        try:
            ranks.leading(Path("/nowhere/at/all").read_text)
        except (OSError, LeaderFailed) as error:
            return done, type(error).__name__, str(error)

    line = "[Errno 2] No such file or directory: '/nowhere/at/all'"
    assert on_ranks(2, outcome) == [([0], "FileNotFoundError", line), ([], "LeaderFailed", line)]


def test_signals_and_troubles_are_agreed_on():
    def outcome(ranks):
        return (
            ranks.largest(7 * ranks.rank),
            ranks.agree(None),
            ranks.agree(f"of {ranks.rank} ä" if ranks.rank else None),
        )

    assert on_ranks(3, outcome) == [(14, None, "of 1 ä")] * 3
    assert on_ranks(1, outcome) == [(0, None, None)]


def test_a_rank_that_is_gone_is_named_so():
    def outcome(ranks):
        if ranks.rank == 1:
            return None  # its process ends
        with pytest.raises(RankLost):
            ranks.rows(lambda item: torch.zeros(1), [0, 1])
        return "told"

    assert on_ranks(2, outcome) == ["told", None]


# ---- measurements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_measurement_gives_the_same_bits_on_every_number_of_ranks(dtype):
    def numbers(ranks):
        model, losses, batch = tiny_t5(dtype)
        batches = rows_of(batch, [0, 4], [1], [2, 3])  # uneven, one of a single example
        objective = Objective(model, losses, batches, ranks=ranks)
        v = {f"v{i}": Direction(random_direction(objective.params, i)) for i in range(3)}
        v["descent"] = Direction({n: -g for n, g in gradient(objective).items()})
        noisy = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in objective.params.items()}
        start = mean_loss(objective.loss_fn, objective.params, batches, ranks)
        found = measure_steps(v, dict.fromkeys(v, 0.1), objective, start, noisy)
        scan = scan_loss(
            objective.loss_fn, objective.params, v["descent"], batches, start_loss=start, spacing=0.05, num_points=6,
            quadratic=found[-1].quadratic, ranks=ranks,
        )  # fmt: skip
        return start, [hexed(list(m.row(1.0).values())) for m in found], hexed([list(point) for point in scan])

    alone = on_ranks(1, numbers)[0]
    assert len(alone[1]) == 4 and float.fromhex(alone[1][0][3]) != 0
    for world in WORLDS[1:]:
        assert on_ranks(world, numbers) == [alone] * world


def test_one_process_measures_as_before_the_ranks():
    """Against the sum written out: halves of micro-batches, one after the other."""
    model, losses, batch = tiny_t5()
    objective = Objective(model, losses, rows_of(batch, [0, 1, 2], [3, 4]))
    v = Direction(random_direction(objective.params, 0))
    (found,) = directional_sharpness(
        objective.loss_fn, objective.params, [v], objective.batches, per_example=objective.per_example
    )
    parts = rows_of(batch, [0, 1], [2], [3], [4])
    each = [directional_sharpness(objective.loss_fn, objective.params, [v], [part])[0] for part in parts]
    expected = sum(q.sharpness * len(p["labels"]) for q, p in zip(each, parts, strict=True)) / 5
    assert found.sharpness == pytest.approx(expected, rel=1e-14)


def test_what_cannot_be_recorded_turns_all_later_micro_batches_to_double_backward(monkeypatch):
    """One process goes on by double backward from the first micro-batch that cannot be recorded; so must all ranks."""
    import landscape_utils

    by_recording = landscape_utils.vhv_by_recording

    def numbers(ranks):
        model, losses, batch = tiny_t5()
        routes = []

        def recorded(loss_fn, params, directions, part, pushes):
            if part["labels"].shape[0] == 2:
                raise NotTraceable("a test")
            routes.append("recorded")
            return by_recording(loss_fn, params, directions, part, pushes)

        landscape_utils.vhv_by_recording = recorded
        objective = Objective(model, losses, rows_of(batch, [0], [1, 2], [3], [4]), ranks=ranks)
        v = Direction(random_direction(objective.params, 0))
        (found,) = directional_sharpness(objective.loss_fn, objective.params, [v], objective.batches, ranks=ranks)
        return hexed([found.loss, found.slope, found.sharpness, found.magnitude])

    alone = on_ranks(1, numbers)[0]
    for world in (2, 3):
        assert on_ranks(world, numbers) == [alone] * world


def test_a_probe_under_ddp_shares_a_measurement_and_gives_the_rows_of_one_process():
    def rows(ranks):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
        trained = nn.parallel.DistributedDataParallel(model) if ranks.world > 1 else model
        optimizer = torch.optim.Adam(trained.parameters(), lr=1e-2)
        probe = LandscapeProbe(trained, losses_of_batch, optimizer=optimizer, ranks=ranks)
        found = []
        for step in range(2):
            losses_of_batch(trained, batch_of(step, torch.float32)).mean().backward()  # the same batch on all ranks
            probe.observe()
            found += probe.measure(*(batch_of(90 + i, torch.float32, size=2 + i) for i in range(3)))
            optimizer.step()
            optimizer.zero_grad()
        return [hexed(list(row.values())) for row in found]

    (alone,), others = on_ranks(1, rows), on_ranks(2, rows)
    assert len(alone) == 10 and others == [alone] * 2


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_training_with_dropout_gives_the_same_bits_on_every_number_of_ranks(dtype):
    def run(ranks):
        task = Line(dropout=0.5)
        task.model.to(dtype)
        task.examples = [
            {name: torch.as_tensor(value).to(dtype) for name, value in row.items()} for row in task.examples
        ]
        optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-2)
        losses = []
        training = Training(task, optimizer, TrainingPlan(2, batch_size=7, micro_batch_size=2), ranks=ranks)
        for point in training:
            losses.append(point.loss)
            training.step()
        return hexed(losses), [hexed(p) for p in task.model.parameters()]

    alone = on_ranks(1, run)[0]
    for world in (2, 3):
        assert on_ranks(world, run) == [alone] * world


def test_micro_batches_of_a_step_have_masks_of_their_own_and_the_first_one_those_of_before():
    assert step_seed(3, 17) == step_seed(3, 17, 0) == int(random_stream(3, 3, 17).integers(2**63))
    assert len({step_seed(3, 17, part) for part in range(5)} | {step_seed(3, 18, 1)}) == 6


def test_the_loop_draws_the_masks_of_a_micro_batch_from_its_own_seed():
    class Seeded(Line):
        def losses(self, forward, batch):
            seeds.append(torch.initial_seed())
            return super().losses(forward, batch)

    seeds, task = [], Seeded(dropout=0.5)
    training = Training(task, torch.optim.SGD(task.model.parameters()), TrainingPlan(1, 5, 2, seed=3))
    for _ in training:
        training.step()
    assert seeds == [step_seed(3, iteration, part) for iteration in (1, 2) for part in (0, 1, 2)]


def test_batch_norm_is_refused_on_several_ranks_in_one_line():
    def outcome(ranks):
        task = Line()
        task.model = nn.Sequential(task.model, nn.BatchNorm1d(1))
        optimizer = torch.optim.SGD(task.model.parameters(), lr=1e-2)
        try:
            Training(task, optimizer, TrainingPlan(1, 2, 2), ranks=ranks)
        except ValueError as error:
            return str(error)

    assert on_ranks(1, outcome) == [None]
    (line, _) = on_ranks(2, outcome)
    assert "batch norm" in line and "one process" in line and "\n" not in line
