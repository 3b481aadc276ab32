"""A direction that moves some tensors alone: the same numbers as with zeros elsewhere, for fewer operations."""

import pytest
import torch

from curvature import vhv_by_recording
from curvature.borrowing import KeepPrecision
from curvature.direction import Direction
from curvature.objective import functional_loss, trainable_parameters
from curvature.operation import Operation
from landscape_utils import directional_sharpness, vhv_by_double_backward
from tests.helpers.tiny_models import random_direction, tiny_t5
from tests.test_curvature import ARCHITECTURES, architecture, in_float64

X = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)


def zeros_elsewhere(direction, names):
    return {name: v if name in names else torch.zeros_like(v) for name, v in direction.items()}


def groups_of(params):
    """Every tensor by itself, the first half, and every other one."""
    names = list(params)
    return [*([name] for name in names), names[: len(names) // 2], names[::2]]


@pytest.fixture(scope="module")
def t5():
    model, losses, batch = tiny_t5()
    return functional_loss(model, losses), trainable_parameters(model), batch


def assert_parts_agree(loss_fn, params, batch, route):
    direction = Direction(random_direction(params, 3))
    groups = groups_of(params)
    with KeepPrecision():
        derivatives = route(loss_fn, params, [direction.part(names) for names in groups], batch)
        full = vhv_by_double_backward(loss_fn, params, [zeros_elsewhere(direction, names) for names in groups], batch)
    for ours, expected in zip(derivatives[1:3], full[1:3], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("route", [vhv_by_recording, vhv_by_double_backward])
def test_a_part_has_the_numbers_of_the_direction_that_is_zero_elsewhere(t5, route):
    assert_parts_agree(*t5, route)


@pytest.mark.parametrize("name, attention", ARCHITECTURES)
def test_so_it_is_in_every_architecture(name, attention):
    torch.manual_seed(0)
    assert_parts_agree(*in_float64(*architecture(name, attention)), vhv_by_recording)


def test_lists_of_tensors_take_those_that_stand_still():
    params = {"a": torch.ones(3, 1, dtype=torch.float64), "b": torch.full((3, 1), 0.5, dtype=torch.float64)}

    def loss_fn(p, batch):
        both = torch.cat([X @ p["a"], X @ p["b"], X], dim=1)
        return (both.tanh() * both).pow(2).sum(1)

    assert_parts_agree(loss_fn, params, {}, vhv_by_recording)


def test_a_part_that_the_loss_does_not_use_changes_nothing():
    params = {"used": torch.ones(3, dtype=torch.float64), "unused": torch.ones(2, dtype=torch.float64)}
    part = Direction(params).part(["unused"])
    derivatives = vhv_by_recording(lambda p, batch: (X @ p["used"]) ** 2, params, [part], {})
    assert (derivatives.slopes.item(), derivatives.curvatures.item()) == (0, 0)


def test_a_part_costs_only_the_operations_that_it_reaches(t5, monkeypatch):
    loss_fn, params, batch = t5
    direction = Direction(random_direction(params, 3))
    pushed, through = [], Operation.push_through

    def spy(op, tangents):
        before = len(tangents)
        bend = through(op, tangents)
        pushed[-1] += bend is not None or len(tangents) != before
        return bend

    monkeypatch.setattr(Operation, "push_through", spy)

    def operations(v):
        pushed.append(0)
        vhv_by_recording(loss_fn, params, [v], batch)
        return pushed[-1]

    last = operations(direction.part(["decoder.final_layer_norm.weight"]))
    first = operations(direction.part(["encoder.block.0.layer.0.layer_norm.weight"]))
    whole = operations(direction)
    assert 0 < last < 0.2 * whole < first < whole


def test_only_a_part_may_lack_a_tensor(t5):
    loss_fn, params, batch = t5
    part = Direction(random_direction(params, 3)).part(["decoder.final_layer_norm.weight"])
    (quadratic,) = directional_sharpness(loss_fn, params, [part], [batch])
    assert quadratic.sharpness != 0
    with pytest.raises(ValueError, match="names and shapes of the parameters"):
        directional_sharpness(loss_fn, params, [dict(part)], [batch])
    with pytest.raises(ValueError, match="nowhere is no such tensor"):
        directional_sharpness(loss_fn, params, [Direction({"nowhere": torch.ones(1)}, is_part=True)], [batch])
