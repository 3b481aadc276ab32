"""Slope, curvature, scans and pseudo-updates, against known functions, the full Hessian and loss values alone."""

import gc
import math
from copy import deepcopy

import pytest
import torch
from torch import nn

import landscape_utils
from curvature import memory
from curvature.borrowing import measuring, within_memory
from curvature.objective import functional_loss, trainable_parameters
from curvature.tape import Tape
from landscape.cross_checks import central_differences, check_sharpness, full_hessian
from landscape_utils import (
    PseudoUpdates,
    QuadraticModel,
    directional_sharpness,
    mean_loss,
    norm,
    scan_loss,
    scan_spacing,
    update_histogram,
)
from tests.helpers.tiny_models import random_direction, rows_of, tiny_t5
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled

# f(x, y) = a/2 (3 x^2 + y^2) per example with weights a: H = mean(a) diag(3, 1)
BOWL = [{"a": torch.tensor([1.0, 3.0], dtype=torch.float64)}, {"a": torch.tensor([2.0], dtype=torch.float64)}]
AT = {"x": torch.tensor(1.0, dtype=torch.float64), "y": torch.tensor(-2.0, dtype=torch.float64)}


def bowl(params, batch):
    return batch["a"] / 2 * (3 * params["x"] ** 2 + params["y"] ** 2)


def vector(x, y):
    return {"x": torch.tensor(float(x), dtype=torch.float64), "y": torch.tensor(float(y), dtype=torch.float64)}


@pytest.fixture
def t5():
    model, losses, batch = tiny_t5()
    loss_fn, params = functional_loss(model, losses), trainable_parameters(model)
    with measuring(model):
        yield loss_fn, params, batch


# ---- slope and curvature ------------------------------------------------------------------------------------------


def test_sharpness_of_a_quadratic_is_its_rayleigh_quotient():
    (diagonal, axis) = directional_sharpness(bowl, AT, [vector(2, 2), vector(0, -5)], BOWL)
    # mean a = 2, grad = 2 (3 x, y) = (6, -4), H = 2 diag(3, 1)
    assert diagonal.loss == pytest.approx(2 / 2 * (3 + 4), rel=1e-15)
    assert diagonal.slope == pytest.approx((6 - 4) / math.sqrt(2), rel=1e-15)
    assert diagonal.sharpness == pytest.approx(2 * (3 + 1) / 2, rel=1e-15)
    assert (axis.slope, axis.sharpness) == pytest.approx((4.0, 2.0), rel=1e-15)


def test_length_cancels_and_sign_turns_only_the_slope():
    one, longer, back = directional_sharpness(bowl, AT, [vector(1, 2), vector(1e-9, 2e-9), vector(-1, -2)], BOWL)
    assert longer.slope == pytest.approx(one.slope, rel=1e-12)
    assert longer.sharpness == pytest.approx(one.sharpness, rel=1e-12)
    assert back.slope == pytest.approx(-one.slope, rel=1e-15)
    assert back.sharpness == pytest.approx(one.sharpness, rel=1e-15)


def test_loss_without_curvature_has_sharpness_zero():
    (flat,) = directional_sharpness(lambda p, b: b["a"] * p["x"] + 0 * p["y"], AT, [vector(1, 1)], BOWL)
    assert flat.sharpness == 0.0
    assert flat.slope == pytest.approx(2 / math.sqrt(2))


def test_direction_without_length_or_not_finite_is_nan_and_the_others_are_measured():
    zero, bad, good = directional_sharpness(bowl, AT, [vector(0, 0), vector(math.nan, 1), vector(1, 0)], BOWL)
    assert math.isnan(zero.slope) and math.isnan(zero.sharpness) and math.isnan(zero.best_distance)
    assert math.isnan(bad.slope) and math.isnan(bad.sharpness)
    assert good.sharpness == pytest.approx(6.0)


@pytest.mark.parametrize(
    "wrong", [{"x": torch.zeros(())}, {**vector(1, 1), "z": torch.zeros(2)}, {**vector(1, 1), "y": torch.ones(2)}]
)
def test_wrong_direction_is_answered_with_the_tensor_that_differs(wrong):
    with pytest.raises(ValueError, match="names and shapes of the parameters: [yz] is"):
        directional_sharpness(bowl, AT, [wrong], BOWL)


def test_no_examples_is_an_error():
    with pytest.raises(ValueError, match="no examples"):
        directional_sharpness(bowl, AT, [vector(1, 1)], [])


def test_t5_agrees_with_its_full_hessian_in_float64(t5):
    loss_fn, params, batch = t5
    directions = [random_direction(params, seed) for seed in range(3)]
    for brute, ours in check_sharpness(loss_fn, params, directions, rows_of(batch, [0, 1, 2], [3, 4])):
        assert ours == pytest.approx(brute, rel=1e-10)


def test_t5_agrees_with_central_differences_in_float64(t5):
    loss_fn, params, batch = t5
    for seed in range(3):
        direction = random_direction(params, seed)
        (ours,) = directional_sharpness(loss_fn, params, [direction], [batch])
        slope, sharpness = central_differences(loss_fn, params, direction, [batch])
        assert ours.slope == pytest.approx(slope, rel=1e-5)
        assert ours.sharpness == pytest.approx(sharpness, rel=1e-5)


def test_t5_in_float32_agrees_with_float64_to_a_thousandth(t5):
    loss_fn, params, batch = t5
    model, losses, _ = tiny_t5(torch.float32)
    single = functional_loss(model, losses), trainable_parameters(model)
    for seed in range(3):
        direction = random_direction(params, seed)
        (exact,) = directional_sharpness(loss_fn, params, [direction], [batch])
        with measuring(model):
            (ours,) = directional_sharpness(*single, [{n: v.float() for n, v in direction.items()}], [batch])
        assert ours.slope == pytest.approx(exact.slope, rel=1e-3)
        assert ours.sharpness == pytest.approx(exact.sharpness, rel=1e-3)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_grouping_into_micro_batches_changes_nothing(dtype, tolerance):
    model, losses, batch = tiny_t5(dtype, spread=0.03)  # well conditioned: what is left is the rounding of sums
    loss_fn, params = functional_loss(model, losses), trainable_parameters(model)
    with measuring(model):
        point = {n: p.requires_grad_() for n, p in params.items()}
        direction = dict(zip(point, torch.autograd.grad(loss_fn(point, batch).mean(), point.values()), strict=True))
        found = []
        for groups in ([[0, 1, 2, 3, 4]], [[4, 2, 0], [1, 3]], [[0], [1], [2], [3], [4]]):
            batches = rows_of(batch, *groups)
            (d,) = directional_sharpness(loss_fn, params, [direction], batches)
            scan = scan_loss(loss_fn, params, direction, batches, start_loss=d.loss, spacing=0.01, num_points=2)
            found.append([d.loss, d.slope, d.sharpness, mean_loss(loss_fn, params, batches), *(f for _, f, _ in scan)])
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=tolerance)


def test_full_hessian_of_too_large_a_model_is_refused():
    with pytest.raises(ValueError, match="20,001 parameters"):
        check_sharpness(bowl, {"x": torch.zeros(20_001)}, [], BOWL)


def test_full_hessian_of_the_bowl_is_its_diagonal():
    assert torch.equal(full_hessian(bowl, AT, BOWL), torch.diag(torch.tensor([6.0, 2.0], dtype=torch.float64)))


def test_a_micro_batch_is_measured_in_halves_where_its_examples_are_named(t5):
    loss_fn, params, batch = t5
    sizes = []

    def counted(point, part):
        sizes.append(len(part["labels"]))
        return loss_fn(point, part)

    direction = random_direction(params, 0)
    (in_halves,) = directional_sharpness(counted, params, [direction], [batch], per_example=list(batch))
    assert sizes == [3, 2]
    (whole,) = directional_sharpness(counted, params, [direction], [batch])
    assert sizes == [3, 2, 5]
    assert (in_halves.loss, in_halves.slope, in_halves.sharpness) == pytest.approx(
        (whole.loss, whole.slope, whole.sharpness)
    )


@pytest.mark.parametrize("route", ["vhv_by_recording", "vhv_by_double_backward"])
def test_a_caller_without_gradients_gets_the_same(route, monkeypatch):
    function = getattr(landscape_utils, route)
    monkeypatch.setattr(landscape_utils, "vhv_by_recording", lambda *args: function(*args[:4]))
    with torch.no_grad():
        (quadratic,) = directional_sharpness(bowl, AT, [vector(1, 0)], BOWL)
    assert (quadratic.slope, quadratic.sharpness) == pytest.approx((6.0, 6.0), rel=1e-15)


def test_the_slower_route_is_named_once_and_the_failed_recording_is_gone_by_then(caplog, monkeypatch):
    monkeypatch.setattr(memory, "_said", set())

    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

        @staticmethod
        def backward(ctx, gradient):
            return 2 * gradient

    recordings = []

    def loss_fn(params, batch):
        # not isinstance, which asks dead proxies for their class
        recordings.append(sum(type(thing) is Tape for thing in gc.get_objects()))
        return bowl({name: Double.apply(x) for name, x in params.items()}, batch)

    with caplog.at_level("INFO"):
        for _ in range(2):
            (quadratic,) = directional_sharpness(loss_fn, AT, [vector(1, 0)], BOWL[1:])
            assert quadratic.sharpness == pytest.approx(2 * 4 * 3, rel=1e-12)
    assert recordings == [1, 0, 1, 0]
    assert caplog.text.count("double backward") == 1


def test_losses_that_are_not_one_an_example_are_refused():
    def loss_fn(params, batch):
        return (params["x"] * batch["a"]).sum().square().view(1)

    at = {"x": torch.ones(())}
    with pytest.raises(ValueError, match="1 losses for 2 examples"):
        directional_sharpness(loss_fn, at, [at], [{"a": torch.ones(4)}], per_example=["a"])


@pytest.mark.parametrize("length", [1e-12, 1e-6, 1.0, 1e7, 1e18])
def test_directions_of_any_length_are_measured_alike_in_float32(length):
    batch, at = [{"a": torch.tensor([2.0])}], {"x": torch.tensor(1.0), "y": torch.tensor(-2.0)}
    (quadratic,) = directional_sharpness(bowl, at, [{"x": torch.tensor(length), "y": torch.tensor(-length)}], batch)
    assert (quadratic.slope, quadratic.sharpness) == pytest.approx(((6 + 4) / math.sqrt(2), 4.0), rel=1e-6)


def test_out_of_memory_halves_the_micro_batches_for_good_and_changes_no_result(t5):
    loss_fn, params, batch = t5
    direction, batches = random_direction(params, 0), [batch]

    def cramped(point, part):
        if len(part["labels"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_fn(point, part)

    (quadratic,) = within_memory(
        lambda parts: directional_sharpness(cramped, params, [direction], parts, per_example=list(batch)),
        batches,
        list(batch),
    )
    assert [len(part["labels"]) for part in batches] == [3, 2]  # which are measured in halves
    (expected,) = directional_sharpness(loss_fn, params, [direction], [batch])
    assert (quadratic.loss, quadratic.sharpness) == pytest.approx((expected.loss, expected.sharpness), rel=1e-12)


def test_one_example_that_does_not_fit_is_an_error():
    def full(_batches):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        within_memory(full, [{"a": torch.zeros(1)}], ["a"])


# ---- quadratic model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slope, sharpness, best, decrease",
    [(-2.0, 4.0, 0.5, 0.5), (-2.0, -4.0, math.inf, math.inf), (-2.0, 0.0, math.inf, math.inf), (2.0, 4.0, 0.0, 0.0)],
)
def test_quadratic_model_is_lowest_at_minus_slope_over_sharpness(slope, sharpness, best, decrease):
    model = QuadraticModel(1.0, slope, sharpness)
    assert (model.best_distance, model.predicted_decrease) == (best, decrease)


def test_grid_of_the_scan_reaches_two_and_a_half_times_the_best_distance():
    assert 20 * scan_spacing(QuadraticModel(1.0, -2.0, 4.0), AT) == pytest.approx(2.5 * 0.5)
    flat = QuadraticModel(1.0, -2.0, 0.0)
    assert 20 * scan_spacing(flat, AT) == pytest.approx(1e-3 * math.sqrt(5))


# ---- loss scan ----------------------------------------------------------------------------------------------------


def parabola(curvature):
    return lambda p, b: b["a"] / 2 * ((p["x"] - 1) ** 2 * curvature + p["y"] ** 2)


def test_loss_scan_starts_at_the_current_loss_and_ends_one_point_after_it_is_exceeded():
    origin = vector(0, 0)
    start = mean_loss(parabola(1.0), origin, BOWL)
    assert start == 1.0
    points = scan_loss(parabola(1.0), origin, vector(3, 0), BOWL, start_loss=start, spacing=0.3)
    distances = [d for d, _, _ in points]
    assert distances == pytest.approx([0.3 * i for i in range(9)])  # 2.1 is the first above the start; one more
    assert [f for _, f, _ in points] == pytest.approx([(1 - d) ** 2 for d in distances], abs=1e-15)


def test_loss_scan_has_twenty_steps_where_the_loss_keeps_falling():
    points = scan_loss(parabola(1.0), vector(0, 0), vector(3, 0), BOWL, start_loss=1.0, spacing=0.01)
    assert len(points) == 21


def test_loss_scan_is_refined_until_four_points_lie_before_the_rise():
    # the loss is back at its start at distance 2, so 4 points (0, s, 2s, 3s) need s < 2/3: from 50 by fives, s = 0.4
    points = scan_loss(parabola(1.0), vector(0, 0), vector(3, 0), BOWL, start_loss=1.0, spacing=50.0)
    assert points[1][0] == pytest.approx(0.4)
    assert sum(point.loss <= 1.0 for point in points) >= 4


def test_a_scan_with_slope_and_curvature_evaluates_less_and_finds_the_same():
    problem = dict(batches=BOWL, start_loss=1.0, spacing=50.0)
    full = scan_loss(parabola(1.0), vector(0, 0), vector(3, 0), **problem)
    few = scan_loss(parabola(1.0), vector(0, 0), vector(3, 0), **problem, quadratic=QuadraticModel(1.0, -2.0, 2.0))
    assert [point.distance for point in few] == [point.distance for point in full]
    assert [point.loss for point in few] == pytest.approx([point.loss for point in full], abs=1e-7)
    assert sum(point.evaluated for point in few) < 6 < sum(point.evaluated for point in full)


def test_uphill_direction_ends_after_two_points_and_its_refinement_has_a_floor():
    uphill = dict(start_loss=1.0, spacing=0.1)
    assert len(scan_loss(parabola(1.0), vector(0, 0), vector(-1, 0), BOWL, **uphill, refine=False)) == 3
    at = vector(-1, 0)
    finest = scan_loss(parabola(1.0), at, vector(-1, 0), BOWL, start_loss=4.0, spacing=0.1)
    assert finest[1][0] < 1e-14  # given up near the rounding of the parameters instead of never
    assert len(finest) == 3 or finest[1][1] == 4.0


def test_scan_leaves_the_parameters_alone():
    at = vector(0.5, 0.25)
    scan_loss(parabola(1.0), at, vector(1, 1), BOWL, start_loss=1.0, spacing=0.1)
    assert (at["x"].item(), at["y"].item()) == (0.5, 0.25)


# ---- borrowing the model ------------------------------------------------------------------------------------------


def test_measuring_leaves_the_model_as_found_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.BatchNorm1d(2))
    model[2].eval()
    model(torch.randn(4, 2)).sum().backward()
    before, random_state = deepcopy(model.state_dict()), torch.get_rng_state()
    grad = model[0].weight.grad.clone()
    with pytest.raises(RuntimeError, match="in the middle"), measuring(model):
        assert not model.training and not model[1].training
        torch.rand(3)
        raise RuntimeError("in the middle")
    assert model.training and model[1].training and not model[2].training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.equal(model[0].weight.grad, grad)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_measuring_keeps_float64_where_a_model_casts_to_float32():
    x = torch.tensor([1.0, 1 / 3], dtype=torch.float64)
    with measuring(nn.Linear(1, 1).double()):
        for y in (x.float(), x.to(torch.float32), x.to(dtype=torch.float32), x.to("cpu", torch.float32)):
            assert y.dtype == torch.float64 and torch.equal(x, y)
        assert torch.nn.functional.softmax(x, dim=0, dtype=torch.float32).dtype == torch.float64
        assert torch.tensor([1]).float().dtype == torch.float32
    with measuring(nn.Linear(1, 1)):
        assert x.float().dtype == torch.float32


# ---- pseudo-updates -----------------------------------------------------------------------------------------------

OURS = [
    Algorithm("sgd", lr=0.1, momentum=0.9, dampening=0.9, coordinate_clip=0.2),
    Algorithm("normalized_sgd", lr=0.1, momentum=0.9),
    Algorithm("sign_sgd", lr=0.1, momentum=0.9, coordinate_clip=0.2),
    Algorithm("adam", lr=0.1, coordinate_clip=0.5),
    Algorithm("adafactor", coordinate_clip=0.5),
    Algorithm("lion", lr=0.1, clip_update=0.5),
]
FOREIGN = [
    Algorithm("adamw", lr=0.01, weight_decay=0.1),
    Algorithm(torch.optim.AdamW, lr=0.1),
    Algorithm("muon", lr=0.1),
]


def small_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2, bias=False))


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


@pytest.mark.parametrize("row", OURS + FOREIGN, ids=repr)
def test_pseudo_update_equals_the_move_step_makes(row):
    model = small_net().double()
    params = dict(model.named_parameters())
    updates = PseudoUpdates(params, {"row": row})
    twin = small_net().double()
    optimizer = row.build(dict(twin.named_parameters()))
    for seed in range(4):
        gradients(model, seed), gradients(twin, seed)
        before = deepcopy(twin.state_dict())
        optimizer.step()
        moves = updates.advance()["row"]
        lr = optimizer.param_groups[0]["lr"] or min(1e-2, (seed + 1) ** -0.5)  # Adafactor's relative step
        for name, p in twin.named_parameters():
            torch.testing.assert_close(lr * moves[name], p.detach() - before[name], rtol=1e-9, atol=1e-12)
        with torch.no_grad():  # one trajectory: the pseudo-updates' model goes where the twin went
            for name, p in twin.named_parameters():
                params[name].copy_(p)


@pytest.mark.parametrize("lr, expected", [(None, -1.0), (0.0, 0.0), (0.5, -2.0)])
def test_a_foreign_optimizer_may_set_its_own_rate_or_stand_still(lr, expected):
    class Unit(torch.optim.Optimizer):
        def __init__(self, params, lr=None):
            super().__init__(params, {"lr": lr})

        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data -= 1.0 if group["lr"] != 0 else 0.0

    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    (direction,) = PseudoUpdates({"p": p}, {"row": Algorithm(Unit, lr=lr)}).advance().values()
    assert torch.equal(direction["p"], torch.full((2,), expected))


def test_pseudo_updates_move_no_parameter_and_no_gradient():
    model = small_net()
    gradients(model, 0)
    before = deepcopy(model.state_dict()), [p.grad.clone() for p in model.parameters()]
    PseudoUpdates(dict(model.named_parameters()), labeled(OURS + FOREIGN[:1])).advance()
    assert all(torch.equal(before[0][k], v) for k, v in model.state_dict().items())
    assert all(torch.equal(g, p.grad) for g, p in zip(before[1], model.parameters(), strict=True))


def test_state_advances_at_iterations_that_are_not_collected():
    models = small_net(), small_net()
    updates = [PseudoUpdates(dict(m.named_parameters()), {"sgd": OURS[0]}) for m in models]
    for seed in range(3):
        for model in models:
            gradients(model, seed)
        assert updates[0].advance(collect=False) == {}
        every = updates[1].advance()["sgd"]
    gradients(models[0], 3), gradients(models[1], 3)
    late, every = updates[0].advance()["sgd"], updates[1].advance()["sgd"]
    assert all(torch.equal(late[n], every[n]) for n in every)


def test_float32_shadow_step_keeps_small_coordinates():
    p = nn.Parameter(torch.tensor([100.0, 1.0]))
    p.grad = torch.tensor([1e-6, 1.0])
    (direction,) = PseudoUpdates({"p": p}, {"row": Algorithm(torch.optim.SGD, lr=1e-3)}).advance().values()
    torch.testing.assert_close(direction["p"], torch.tensor([-1e-6, -1.0]), rtol=1e-4, atol=0)


def test_parameter_without_gradient_gets_a_zero_direction():
    model = small_net()
    gradients(model, 0)
    model[0].bias.grad = None
    for direction in PseudoUpdates(dict(model.named_parameters()), labeled(OURS + FOREIGN[:1])).advance().values():
        assert not direction["0.bias"].any() and direction["0.weight"].any()


def test_muon_moves_matrices_and_nothing_else():
    model = small_net()
    gradients(model, 0)
    (direction,) = PseudoUpdates(dict(model.named_parameters()), {"muon": FOREIGN[2]}).advance().values()
    assert not direction["0.bias"].any() and direction["0.weight"].any() and direction["2.weight"].any()


# ---- histogram ----------------------------------------------------------------------------------------------------


def test_histogram_counts_every_coordinate_once():
    bins = update_histogram({"a": torch.tensor([0.0, -1e-20, 1e-3, -0.5]), "b": torch.tensor([[3.0, 1e9]])})
    assert sum(count for *_, count in bins) == 6
    filled = {(low, high): count for low, high, count in bins if count}
    assert filled.pop((0.0, 1e-16)) == 2
    assert any(low <= 0.5 < high for low, high in filled) and any(low <= 3.0 < high for low, high in filled)


def test_norm_is_over_all_tensors_together():
    assert norm({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, 4.0]])}) == 5.0


# ---- states that several rows have in common ----------------------------------------------------------------------


def shared_rows():
    """Twelve rows with eight states."""
    average = dict(momentum=0.9, dampening=0.9)
    return labeled([
        Algorithm("normalized_sgd", lr=1.0, **average), Algorithm("sgd", lr=2.0, **average),
        Algorithm("sign_sgd", lr=3.0, **average), Algorithm("sgd", lr=1.0, momentum=0.9),
        Algorithm("sgd", lr=1.0, **average, coordinate_clip=0.2), Algorithm("adam", lr=1.0),
        Algorithm("adam", lr=2.0, clip_update=0.3), Algorithm("adam", lr=1.0, coordinate_clip=0.2),
        Algorithm("lion", lr=1.0), Algorithm("lion", lr=1.0, clip_update=0.2, weight_decay=0.0),
        Algorithm("adafactor", relative_step=True), Algorithm("nadam", lr=1.0),
    ])  # fmt: skip


def parameters_and_gradients(steps):
    generator = torch.Generator().manual_seed(0)
    params = {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in (("w", (4, 3)), ("b", (3,)))}
    return params, [{n: torch.randn(p.shape, generator=generator) for n, p in params.items()} for _ in range(steps)]


def advance(updates, gradients, collect=True):
    for name, p in updates.params.items():
        p.grad = gradients[name]
    return updates.advance(collect)


def test_rows_of_one_state_keep_it_once_and_give_the_bits_of_each_by_itself():
    rows = shared_rows()
    params, gradients = parameters_and_gradients(4)
    together = PseudoUpdates(params, rows)
    alone = {label: PseudoUpdates(params, {label: row}) for label, row in rows.items()}
    assert len(rows) == 12 and len(set(map(id, together.states.values()))) == 8
    for step, gradient in enumerate(gradients):
        directions = advance(together, gradient, collect=step != 1)
        for label, updates in alone.items():
            expected = advance(updates, gradient)[label]
            if step != 1:
                assert all(torch.equal(directions[label][n], expected[n]) for n in params), (label, step)
    assert list(directions) == list(rows)


def test_a_state_outlives_the_row_it_came_with_and_a_restart():
    rows = shared_rows()
    params, gradients = parameters_and_gradients(4)
    whole, parted = PseudoUpdates(params, rows), PseudoUpdates(params, rows)
    for gradient in gradients[:2]:
        advance(whole, gradient)
        advance(parted, gradient)
    parted.drop("normalized_sgd")  # sgd and sign_sgd go on with its momentum
    restarted = PseudoUpdates(params, {label: row for label, row in rows.items() if label != "normalized_sgd"})
    restarted.load_state_dict(deepcopy(parted.state_dict()))
    for gradient in gradients[2:]:
        expected = advance(whole, gradient)
        for updates in (parted, restarted):
            directions = advance(updates, gradient)
            assert list(directions) == [label for label in rows if label != "normalized_sgd"]
            assert all(torch.equal(directions[k][n], expected[k][n]) for k in directions for n in params)


def test_adafactor_that_averages_its_moves_shares_no_state_with_another_learning_rate():
    options = dict(relative_step=False, beta1=0.9)
    rows = [Algorithm("adafactor", lr=lr, **{**options, "beta1": b}) for b in (0.9, None) for lr in (1.0, 2.0)]
    rows = {f"{i}": row for i, row in enumerate(rows)}
    states = PseudoUpdates(parameters_and_gradients(1)[0], rows).states
    assert len(set(map(id, states.values()))) == 3
