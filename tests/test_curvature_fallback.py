"""What the fast route cannot follow is measured by double backward, with the right number and one line in the log."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import landscape_utils
from curvature import NotTraceable, memory, vhv_by_recording
from curvature.objective import functional_loss, trainable_parameters
from curvature.operation import Curved, Rule
from curvature.rules import RULES
from landscape.cross_checks import central_differences
from landscape_utils import directional_sharpness, vhv_by_double_backward
from tests.helpers.tiny_models import random_direction

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def said(monkeypatch):
    messages = set()
    monkeypatch.setattr(memory, "_said", messages)
    return messages


def double(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def check(loss_fn, params, rtol=1e-5, batch=None):
    """Slope and sharpness beside loss values alone. Returns: whether the fast route gave them."""
    direction = random_direction(params, 0)
    (quadratic,) = directional_sharpness(loss_fn, params, [direction], [batch or {}])
    expected = central_differences(loss_fn, params, direction, [batch or {}])
    assert (quadratic.slope, quadratic.sharpness) == pytest.approx(expected, rel=rtol)
    return not memory._said


class CubeOfItsOwn(torch.autograd.Function):
    """x^3, computed under a graph of its own that its backward pass does not use."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        with torch.enable_grad():
            return (x * x) * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 3 * x * x * gradient


def test_a_custom_function_with_a_graph_of_its_own_is_not_taken_for_operations():
    params = {"x": double(4)}

    def loss_fn(p, b):
        return CubeOfItsOwn.apply(p["x"].sin()).exp()

    with pytest.raises(NotTraceable, match="no recorded operation made"):
        vhv_by_recording(loss_fn, params, [params], {})
    assert not check(loss_fn, params)


def test_an_adjoint_that_autograd_does_not_give_is_refused(monkeypatch):
    monkeypatch.setattr("curvature.tape.BackwardCFunction", str)  # as for a custom function that does not show itself
    params = {"x": double(4)}
    with pytest.raises(NotTraceable, match="backward pass goes around aten.mul.Tensor"):
        vhv_by_recording(lambda p, b: CubeOfItsOwn.apply(p["x"].sin()).exp(), params, [params], {})


def test_a_tangent_may_lie_in_memory_otherwise_than_its_value():
    params, direction = {"w": double(3, 4)}, {"w": double(4, 3, seed=1).T}

    def loss_fn(p, b):
        tokens = p["w"].view(2, 6).sin() @ p["w"].tanh().view(6, 2)
        return tokens.view(-1) ** 3

    expected = vhv_by_double_backward(loss_fn, params, [direction], {})[:3]
    for found, exact in zip(vhv_by_recording(loss_fn, params, [direction], {}), expected, strict=False):
        torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("stage", ["push", "prepare"])
def test_any_error_of_a_rule_ends_in_the_fallback(stage, monkeypatch, caplog):
    def broken(*_):
        raise IndexError("no such axis\nsecond line")

    rule = Rule(broken) if stage == "push" else Rule(lambda *_: None, Curved.ALWAYS, keep_inputs=True, prepare=broken)
    monkeypatch.setitem(RULES, aten.tanh.default, rule)
    params = {"x": double(4)}
    with caplog.at_level("INFO"):
        assert not check(lambda p, b: p["x"].tanh() ** 2, params)
        assert not check(lambda p, b: p["x"].tanh() ** 2, params)
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and "tanh" in said[0] and "no such axis" in said[0] and "\n" not in said[0]


def test_memory_that_runs_out_in_a_rule_is_no_reason_for_the_fallback(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(RULES, aten.tanh.default, Rule(full))
    params = {"x": double(4)}
    with pytest.raises(torch.OutOfMemoryError):
        directional_sharpness(lambda p, b: p["x"].tanh(), params, [params], [{}])


def test_errors_of_the_loss_pass_through():
    def broken(p, b):
        raise KeyError("labels")

    with pytest.raises(KeyError, match="labels"):
        directional_sharpness(broken, {"x": double(4)}, [{"x": double(4)}], [{}])


def test_numbers_that_are_not_finite_are_measured_again_for_their_directions_only(monkeypatch):
    params = {"x": torch.tensor([-60.0, 1.0]), "y": torch.tensor([3.0, 1.0])}
    steep = {"x": torch.tensor([1e25, 0.0]), "y": torch.zeros(2)}  # its square is no float32
    flat = {"x": torch.zeros(2), "y": torch.tensor([1.0, 0.0])}
    again = []

    def slow(loss_fn, params, directions, batch):
        again.append(len(directions))
        return vhv_by_double_backward(loss_fn, params, directions, batch)

    monkeypatch.setattr(landscape_utils, "vhv_by_double_backward", slow)
    monkeypatch.setattr("curvature.direction.SAFE_LENGTHS", (0.0, float("inf")))
    loss_fn = lambda p, b: p["x"].exp() + p["y"] ** 3  # noqa: E731
    steep_one, flat_one = directional_sharpness(loss_fn, params, [steep, flat], [{}])
    assert again == [1]
    assert steep_one.sharpness == pytest.approx(math.exp(-60) / 2, rel=1e-5)
    assert flat_one.sharpness == pytest.approx(6 * 3 / 2)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: (x - x[0]) ** 0 + x**2,
        lambda x: F.relu(x - x[0]) ** 1 + x**2,
        lambda x: x.logcumsumexp(0) + torch.cat([x[:1] - 1e4, x[1:]]).logcumsumexp(0),
    ],
)
def test_powers_and_sums_at_their_edge_are_right(loss):
    check(lambda p, b: loss(p["x"]), {"x": double(5)})


def test_complex_numbers_are_right():
    params = {"x": double(3, 8), "kernel": double(8, seed=1)}

    def convolution(p, b):
        spectrum = torch.fft.rfft(p["x"].tanh()) * torch.fft.rfft(p["kernel"])
        return (torch.fft.irfft(spectrum, n=8) ** 2).sum(1)

    def functions(p, b):
        z, w = torch.complex(p["x"], p["x"].cos()), torch.complex(p["kernel"], p["kernel"] ** 2)
        return (torch.softmax((z.exp() / w * 1j).log().abs(), 1) @ (w.sqrt() * z.reciprocal()).imag.mT).sum(1)

    def conjugates(p, b):
        z = torch.polar(p["x"], p["x"] * p["kernel"])
        z = torch.view_as_complex(torch.view_as_real(z.exp() / (2 + z.conj()) @ (z.mT * 1j)).sin())
        return z.abs().log().sum(1) + z.imag.square().mean(1)

    assert check(convolution, params)
    assert check(functions, params)
    check(conjugates, params)


def test_matrix_products_with_factors_of_their_own_are_right():
    x, bias = double(3, 4), double(5)
    for constant in (False, True):

        def loss_fn(p, b):
            y = torch.addmm(p["bias"], x if constant else x * p["scale"], p["w"], alpha=0.5, beta=-2.0)  # noqa: B023
            return torch.addmm(bias, y, p["w"].mT @ p["w"], alpha=0.02, beta=0.3).tanh().sum(1)

        params = {"w": double(4, 5), "bias": double(5, seed=1), "scale": double(4, seed=2)}
        assert check(loss_fn, {n: p for n, p in params.items() if n != "scale" or not constant})


@pytest.mark.parametrize("route", [vhv_by_recording, vhv_by_double_backward])
def test_weight_norm_is_right_by_both_routes(route):
    torch.manual_seed(0)
    model = nn.Sequential(weight_norm(nn.Linear(3, 4), dim=0), nn.Tanh(), weight_norm(nn.Linear(4, 2), dim=0)).double()
    x = double(5, 3)
    loss_fn, params = functional_loss(model, lambda f, b: f(x).square().sum(1)), trainable_parameters(model)
    direction = random_direction(params, 0)
    length = torch.cat([v.flatten() for v in direction.values()]).norm()
    _, slope, curvature, _ = route(loss_fn, params, [direction], {})
    found = (slope / length / 5).item(), (curvature / length**2 / 5).item()
    assert found == pytest.approx(central_differences(loss_fn, params, direction, [{}]), rel=1e-6)


def test_a_decrease_beyond_every_float_is_infinite():
    assert landscape_utils.QuadraticModel(1.0, -1e200, 1.0).predicted_decrease == math.inf
    assert landscape_utils.QuadraticModel(1.0, -1e200, 1e300).predicted_decrease == pytest.approx(5e99)


@pytest.mark.parametrize("route", [vhv_by_recording, vhv_by_double_backward])
def test_the_cross_entropy_of_a_linear_layer_in_chunks_is_right_by_both_routes(route):
    params = {"x": double(6, 3), "w": double(4, 3, seed=1) - 1}
    classes = torch.tensor([0, 1, 2, 3, 0, 1])

    def loss_fn(p, b):
        return F.linear_cross_entropy(p["x"].sin(), p["w"], classes).view(1)

    direction = random_direction(params, 0)
    length = torch.cat([v.flatten() for v in direction.values()]).norm()
    curvature = route(loss_fn, params, [direction], {}).curvatures.item() / length**2
    assert curvature == pytest.approx(central_differences(loss_fn, params, direction, [{}])[1], rel=1e-5)


def test_a_loss_without_second_derivative_is_refused_in_one_line():
    class Once(torch.autograd.Function):
        """x^3; autograd would take its gradient for constant."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return 3 * ctx.saved_tensors[0] ** 2 * gradient

    def once(p, b):
        return Once.apply(p["x"] ** 2)

    def without_kernel(p, b):
        return torch.segment_reduce(p["x"], "prod", lengths=torch.tensor([2, 2])).exp()

    params = {"x": double(4)}
    for loss_fn, reason in ((once, "Once, a custom function"), (without_kernel, "segment_reduce")):
        with pytest.raises(ValueError, match=f"cannot be differentiated twice: .*{reason}") as error:
            directional_sharpness(loss_fn, params, [params], [{}])
        assert "\n" not in str(error.value)
