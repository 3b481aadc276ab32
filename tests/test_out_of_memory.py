"""Memory that runs out, in any part of a measurement: less is done at once, with the same results and one log line."""

import math
import weakref
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import landscape_utils
from convergence.one_run import Start
from curvature import direction as groups
from curvature import lanczos, memory
from curvature.direction import Direction
from curvature.memory import has_room_for, retried
from curvature.objective import examples_of, objective_at
from hessian.blocks import block_curvature
from hessian.jobs import Graphs
from hessian.robust_smoothness import robust_smoothness
from landscape.classes import FrequencyClass, measure_classes
from landscape.cross_checks import check_at_point
from landscape.decomposition import decompose
from landscape.measurements import MeasurementPlan, measure_point, scan_point
from landscape.saved_points import MeasuredPoint
from landscape.top_eigenvalues import Stability, top_eigenvalues
from landscape_core.edges import edge_of, loss_at, spectral_length
from landscape_core.gradients import gradient
from landscape_core.measurement import quadratic_models
from landscape_core.rounding import rounding_errors
from landscape_utils import PseudoUpdates, scan_spacing, update_histogram
from runs.lifecycle import less_memory
from torch_optimizer import Algorithm

EXAMPLES, POSITIONS, WIDTH = 8, 200, 6
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
]


def fresh_error(error=ERRORS[0]):
    """One like it: an error that is raised holds the frames that it passed."""
    return type(error)(str(error))


class Cramped(TorchDispatchMode):
    """No new tensor has room that has more elements than `most`, as if a device had so little memory."""

    def __init__(self, most, error=ERRORS[0]):
        super().__init__()
        self.most, self.error, self.refused = most, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        is_new = not any(r.alias_info for r in func._schema.returns)
        if is_new and isinstance(made, torch.Tensor) and made.numel() > self.most:
            self.refused += 1
            raise fresh_error(self.error)
        return made


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(memory, "_said", set())


@pytest.fixture
def said(caplog):
    """The warnings about memory."""
    caplog.set_level("WARNING")
    return lambda: [r.message for r in caplog.records if r.message.startswith("out of memory")]


def cramped(act):
    with Cramped(2 * POSITIONS * WIDTH):
        return act()


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(WIDTH, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def losses(model, batch, only=None):
    labels = batch["y"].flatten()
    each = nn.functional.cross_entropy(model(batch["x"]).flatten(0, 1), labels, reduction="none")
    each = each if only is None else each.masked_fill(~only.to(labels.device)[labels], 0)
    return each.view_as(batch["y"]).mean(1)


def objective(dtype=torch.float64):
    """Of 43 parameters and one micro-batch of eight examples, 1,200 numbers each."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(EXAMPLES, POSITIONS, WIDTH, generator=generator, dtype=dtype)
    y = torch.randint(3, (EXAMPLES, POSITIONS), generator=generator)
    return objective_at(Pairs().to(dtype), losses, [{"x": x, "y": y}], dtype)


def directions_of(here, count=3, dtype=None):
    generator = torch.Generator().manual_seed(2)
    return {
        str(k): Direction({n: torch.randn(p.shape, generator=generator, dtype=dtype or p.dtype)
                           for n, p in here.params.items()})
        for k in range(count)
    }  # fmt: skip


def numbers_in(found):
    """Every number of a result, whatever it is made of."""
    if isinstance(found, torch.Tensor):
        return found.flatten().tolist()
    if isinstance(found, dict):
        return [n for value in found.values() for n in numbers_in(value)]
    if isinstance(found, (list, tuple)):
        return [n for value in found for n in numbers_in(value)]
    if isinstance(found, (int, float)):
        return [float(found)]
    if isinstance(found, (FrequencyClass, str)) or not hasattr(found, "__dict__"):
        return []
    # the magnitude is a bound, and larger for smaller micro-batches
    return numbers_in({name: value for name, value in vars(found).items() if name != "magnitude"})


# ---- parts that make their micro-batches smaller --------------------------------------------------------------------


def everything(here):
    plan = MeasurementPlan(torch.float64, True, True, False, dict.fromkeys("012"))
    point = MeasuredPoint(None, directions_of(here), True, learning_rates=dict.fromkeys("012", -0.1))
    return measure_point(point, here, plan)


def edges(here, quadratics):
    downhill = {label: -math.copysign(0.1, q.slope) for label, q in quadratics.items()}
    return [edge_of(v, quadratics[label], downhill[label], 1.0, here) for label, v in directions_of(here).items()]


def scans(here, quadratics):
    spacing = {label: scan_spacing(q, here.params) for label, q in quadratics.items()}
    plan = MeasurementPlan(torch.float64, True, True, True, spacing)
    return scan_point(directions_of(here), quadratics, 1.1, here, plan)


def classes(here):
    some, others = torch.tensor([True, False, False]), torch.tensor([False, True, True])
    both = [FrequencyClass(i, only, types=1, tokens=1, share=0.5) for i, only in enumerate((some, others))]
    return measure_classes(directions_of(here), here, both)


def eigenvalues(here):
    inverse = {name: torch.full_like(p, 0.5) for name, p in here.params.items()}
    return [each.found.eigenvalue for each in top_eigenvalues(here, Stability(inverse, 0.1, 2.0))]


def along(here):
    return [(q.loss, q.slope, q.sharpness) for q in quadratic_models(directions_of(here), here).values()]


PARTS = {
    "slope and sharpness": along,
    "loss": loss_at,
    "gradient": gradient,
    "edges": edges,
    "scans": scans,
    "decomposition": lambda here: decompose(directions_of(here), here, "layer"),
    "classes": classes,
    "largest eigenvalues": eigenvalues,
    "a whole point": everything,
    "the check of a point": lambda here: check_at_point(directions_of(here), here),
}


@pytest.mark.parametrize("error", ERRORS, ids=["CUDA", "CPU"])
@pytest.mark.parametrize("name", PARTS)
def test_every_part_goes_on_with_smaller_micro_batches_and_gives_the_same(name, error, said):
    there, here = objective(), objective()
    given = (quadratic_models(directions_of(here), objective()),) if name in ("edges", "scans") else ()
    expected = PARTS[name](there, *given)
    with Cramped(2 * POSITIONS * WIDTH, error) as device:
        found = PARTS[name](here, *given)
    assert device.refused and len(there.batches) == 1
    assert max(examples_of(batch, here.per_example) for batch in here.batches) <= 4  # some are measured in halves
    if isinstance(found, str):
        assert found == expected
    else:
        assert numbers_in(found) == pytest.approx(numbers_in(expected), rel=1e-10, abs=1e-12, nan_ok=True)
        assert numbers_in(found)
    assert len(said()) == (2 if name == "the check of a point" else 1), said()  # it measures by two routes


# ---- parts that make something else smaller -------------------------------------------------------------------------


def test_the_rounding_estimate_goes_on_with_fewer_copies_of_directions(monkeypatch, said):
    here, alive = objective(torch.float32), []
    directions = directions_of(here, 5)
    found = quadratic_models(directions, here)
    expected = rounding_errors(directions, found, here)

    def held(self, params):
        if sum(copy() is not None for copy in alive) == 2:  # the third copy finds no room
            raise fresh_error()
        copy = Direction(dict(self))
        alive.append(weakref.ref(copy))
        return copy

    monkeypatch.setattr(groups._Copied, "held", held)
    assert rounding_errors(directions, found, here) == expected and len(alive) > 2 * 5
    assert said() == ["out of memory: continuing with copies of at most 2 directions at once"]


def test_copies_are_only_fewer_at_once_where_nothing_else_could_be(said):
    v = {n: torch.ones(3, dtype=torch.float32) for n in "ab"}
    params = {n: torch.ones(3, dtype=torch.float64) for n in "ab"}
    copies = [Direction(v).tangent(params) for _ in range(4)]
    sizes = []

    def measure(group):
        sizes.append(len(group))
        if len(group) > 1:
            raise fresh_error(ERRORS[1])
        return len(group)

    with pytest.raises(RuntimeError, match="can't allocate"):  # the caller has smaller micro-batches to try
        groups.by_groups(measure, copies, params, can_be_less=True)
    assert groups.by_groups(measure, copies, params, can_be_less=False) == [1, 1, 1, 1]
    assert sizes == [4, 4, 2, 1, 1, 1, 1] and said() == [
        "out of memory: continuing with copies of at most 1 directions at once"
    ]
    with pytest.raises(RuntimeError, match="can't allocate"):  # these are no copies: fewer would free nothing
        groups.by_groups(measure, [Direction(params)] * 4, params, can_be_less=False)


def test_a_direction_on_another_device_is_copied_as_it_is():
    v = Direction({"a": torch.tensor([3.0, 4.0])})
    params = {"a": torch.ones(2, device="meta")}
    there = v.tangent(params)
    assert (there.length, there["a"].device.type) == (5.0, "meta")
    same = groups._Copied(v, v, 1.0)
    assert torch.equal(same["a"], v["a"])


def test_a_histogram_counts_the_same_in_smaller_parts(said):
    direction = {"a": torch.logspace(-17, 5, 5000), "b": torch.zeros(30)}
    expected = update_histogram(direction)
    with Cramped(700):
        assert update_histogram(direction) == expected
    assert said() == ["out of memory: continuing with 512 coordinates of a histogram at once"]


def test_spectral_norms_are_the_same_with_fewer_matrices_together(monkeypatch, said):
    direction = directions_of(objective(torch.float32))["0"]
    expected, together, edges = spectral_length(direction), [], pytest.importorskip("landscape_core.edges")
    norms = edges._spectral_norms

    def small(matrices, tolerance):
        together.append(len(matrices))
        if len(matrices) > 1:
            raise fresh_error()
        return norms(matrices, tolerance)

    monkeypatch.setattr(edges, "_spectral_norms", small)
    assert spectral_length(direction) == expected
    assert together == [2, 1, 1] and said() == [
        "out of memory: continuing with the spectral norms of at most 1 matrices at once"
    ]


def test_robust_smoothness_is_the_same_in_smaller_parts(said):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList(nn.Linear(10, 10) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).tanh()
            return x[:, :2]

    model, x = Two(), torch.randn(6, 10)
    batch = {"x": x, "y": torch.arange(6) % 2}
    here = objective_at(
        model, lambda m, b: nn.functional.cross_entropy(m(b["x"]), b["y"], reduction="none"), [batch], torch.float32
    )

    def measured():
        generator = torch.Generator().manual_seed(3)
        return robust_smoothness(here.loss_fn, here.params, [batch], list(here.params), generator)

    expected = measured()
    with Cramped(1400):  # the matrix has 6 rows of 440
        found = measured()
    assert numbers_in(found) == pytest.approx(numbers_in(expected), rel=1e-12) and len(said()) == 1


def test_hessian_blocks_rebuild_their_graphs_and_then_take_smaller_micro_batches(said):
    here = objective()
    (batch,) = here.batches
    task = SimpleNamespace(
        model=here.model,
        losses=losses,
        examples=[{name: t[i] for name, t in batch.items()} for i in range(EXAMPLES)],
        length=lambda index: 1,
        collate=lambda examples: {name: torch.stack([e[name] for e in examples]) for name in batch},
    )
    settings = SimpleNamespace(micro_batch_size=8, rebuild_graphs=False, device=torch.device("cpu"), dtype="float64")

    def eigenvalues():
        with Graphs(task, list(here.params), [range(EXAMPLES)], settings) as graphs:
            found = [
                graphs.within_memory(
                    1, lambda g, n=n: block_curvature(g, n, 1e-9, 100, torch.Generator().manual_seed(0))
                )
                for n in here.params
            ]
        return [(b.eigenvalue, b.magnitude_eigenvalue, b.gradient_norm) for b in found], graphs

    (expected, before), (found, after) = eigenvalues(), cramped(eigenvalues)
    assert numbers_in(found) == pytest.approx(numbers_in(expected), rel=1e-10, abs=1e-12)
    assert (before.size, before.keeps_graphs, after.size, after.keeps_graphs) == (8, True, 2, False)
    assert said() == [
        "out of memory: continuing with micro-batches of 2 examples, and gradient graphs built again for every product"
    ]
    with pytest.raises(torch.OutOfMemoryError), Cramped(POSITIONS):
        eigenvalues()


def test_the_vectors_of_lanczos_go_to_the_cpu_where_their_device_has_no_room(monkeypatch, said):
    a = torch.randn(30, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = a + a.T

    def found():
        generator = torch.Generator().manual_seed(1)
        return lanczos.extreme_eigenvalues(lambda u: a @ u, 30, generator=generator, like=a)

    expected, cat, moved = found(), torch.cat, []

    class Elsewhere:  # a basis whose device is full; what it gives to the CPU is a tensor
        device, shape = SimpleNamespace(type="cuda"), (8, 30)

        def __init__(self, basis):
            self.basis = basis

        def to(self, place):
            if place is self.device:
                raise fresh_error()
            moved.append(place)
            return self.basis

    extended = lanczos._extended
    monkeypatch.setattr(lanczos, "_extended", lambda basis, rows: extended(Elsewhere(basis), rows))
    assert found() == expected and moved and set(moved) == {torch.device("cpu")} and torch.cat is cat
    assert said() == ["out of memory: continuing with the vectors of Lanczos' method in the memory of the CPU"]


def test_held_out_examples_are_scored_in_smaller_micro_batches(said):
    def scores(model, split, size):
        if size > 2:
            raise fresh_error()
        return {"accuracy": 0.5}

    task = SimpleNamespace(model=None, evaluation={"validation": [1]}, scores=scores)
    plan = SimpleNamespace(num_epoch_to_save=None, training=SimpleNamespace(micro_batch_size=8))
    start = SimpleNamespace(task=task, plan=plan)
    assert Start.end_epoch(start, 3, folder="somewhere") == [(3, "validation", "accuracy", 0.5)]
    assert said() == ["out of memory: continuing with micro-batches of 2 held-out examples"]


# ---- pseudo-updates -------------------------------------------------------------------------------------------------

ROWS = {row: Algorithm(*row.split(), lr=0.1) for row in ("sgd", "adam", "lion", "sign_sgd")}


def pseudo_updates(steps=3):
    here = objective(torch.float32)
    params = {n: nn.Parameter(p.clone()) for n, p in here.params.items()}
    updates = PseudoUpdates(params, ROWS)
    for step in range(steps):
        for k, p in enumerate(params.values()):
            p.grad = torch.full_like(p, 0.1 * (step + 1)) * (k - 1.5)
        directions = updates.advance()
    return updates, directions


def test_directions_go_to_the_cpu_where_their_device_has_no_room_for_all(monkeypatch, said):
    _, expected = pseudo_updates()
    asked = []

    def no_room(copies, tensors):
        asked.append((copies, sum(t.numel() for t in tensors)))
        return False

    monkeypatch.setattr(landscape_utils, "has_room_for", no_room)
    updates, found = pseudo_updates()
    assert asked == [(len(ROWS) + landscape_utils.SPARE, 43)] * 3
    assert all(torch.equal(found[label][n], v) for label in ROWS for n, v in expected[label].items())
    assert updates.not_finite(found) == []
    assert said() == ["out of memory: continuing with directions in the memory of the CPU"]


def test_room_is_tried_on_a_gpu_alone_and_given_back(monkeypatch):
    tried = []

    def full(copies, tensors):
        tried.append((copies, len(tensors)))
        if tensors:
            raise fresh_error()

    monkeypatch.setattr(memory, "_empty_copies", full)
    assert has_room_for(3, [torch.ones(2)]) and not has_room_for(3, [torch.ones(2, device="meta"), torch.ones(1)])
    assert tried == [(3, 0), (3, 1)]
    monkeypatch.undo()
    assert [t.shape for t in memory._empty_copies(3, [torch.ones(2)])] == [(2,)] * 3


# ---- what no smaller part helps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARTS)
def test_a_single_example_that_does_not_fit_ends_in_the_error_of_memory(name, said):
    here = objective()
    given = (quadratic_models(directions_of(here), objective()),) if name in ("edges", "scans") else ()
    with Cramped(POSITIONS * WIDTH // 2), pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        PARTS[name](here, *given)
    assert said() == []


def test_what_is_no_lack_of_memory_is_no_reason_to_try_again():
    tries = []

    def broken():
        tries.append(1)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        retried(broken, partial(pytest.fail, "not asked"))
    assert len(tries) == 1


def test_what_is_tried_again_is_said_once_in_a_process(said):
    for _ in range(3):
        sizes = [4]

        def act(sizes=sizes):
            if sizes[-1] > 1:
                raise MemoryError

        def less(sizes=sizes):
            sizes.append(sizes[-1] // 2)
            return f"{sizes[-1]} things"

        retried(act, less)
    assert said() == ["out of memory: continuing with 1 things"]


@pytest.mark.parametrize("settings, answer", [
    (dict(device="cuda", dtype="float64", optimizer_device=None, algorithm_list="toy", max_length=64),
     "--dtype float32 or --optimizer_device cpu or an --algorithm_list of fewer rows or a smaller --max_length or "
     "a smaller --model"),
    (dict(device="cuda", dtype="float32", optimizer_device=torch.device("cpu")), "a smaller --model"),
    (dict(device="cuda", dtype="float32", optimizer_device=None, from_points="run"), "a smaller --model"),
    (dict(device="cpu", dtype="float32", optimizer_device=None), "a smaller --model"),
])  # fmt: skip
def test_the_last_line_names_the_flags_that_take_less(settings, answer):
    settings = SimpleNamespace(**settings | {"device": torch.device(settings["device"])})
    assert less_memory(settings) == f"less is taken by {answer}"
