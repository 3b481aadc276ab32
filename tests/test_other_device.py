"""Everything that a run does on a GPU, on a second device that needs none: no tensor of the wrong device, and the same
numbers as on the CPU."""

import pytest
import torch
from torch import nn

from algorithm_list import ALGORITHM_LISTS
from curvature.direction import Direction
from curvature.objective import objective_at
from landscape_core.edges import spectral_length
from landscape_core.gradients import noise_coordinates, noise_share
from landscape_core.measurement import quadratic_models
from landscape_core.rounding import rounding_errors
from landscape_utils import PseudoUpdates, update_histogram
from tests.helpers.other_device import META, OtherDevice, There
from tests.test_out_of_memory import PARTS, directions_of, numbers_in, objective
from torch_optimizer.next_step import next_step
from torch_optimizer.rows import labeled

ROWS = {f"{name}: {label}": row for name, rows in ALGORITHM_LISTS.items() for label, row in labeled(rows).items()}
ROWS = {str(row): row for row in ROWS.values()}  # each once
FIRST = {
    (str(row.optimizer), *sorted(row.options)): row for row in reversed(ROWS.values())
}  # of those with like options
EACH = [
    pytest.param(row, id=name, marks=[] if row in FIRST.values() else pytest.mark.slow) for name, row in ROWS.items()
]


@pytest.fixture(autouse=True)
def other_device():
    with OtherDevice():
        yield


def on(device, tensors):
    return {name: t.to(device) for name, t in tensors.items()}


def there(here):
    """The same objective on the other device."""
    return objective_at(here.model.to(META), here.losses, [on(META, b) for b in here.batches], torch.float64)


# ---- the device itself ----------------------------------------------------------------------------------------------


def test_the_other_device_refuses_what_a_gpu_refuses_and_computes_the_rest():
    x, y = torch.ones(3).to(META), torch.ones(3)
    assert isinstance(x, There) and x.device == META and not x.is_cpu
    assert (x + x + torch.tensor(2.0)).tolist() == [4.0] * 3 and (x * 2).sum().item() == 6
    assert torch.zeros(2, device=META).tolist() == [0, 0] and x[torch.tensor([0])].device == META
    assert torch.zeros_like(x).device == META and x.cpu().device.type == "cpu"
    for wrong in (
        lambda: x + y,
        lambda: y.add_(x),
        lambda: torch.stack([x, y]),
        lambda: y[x.long()],
        lambda: x.numpy(),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            wrong()
    w = nn.Parameter(torch.ones(3, 2).to(META))
    (x @ w).sum().backward()
    assert w.grad.device == META and w.grad.tolist() == [[1, 1]] * 3


# ---- measuring ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", ["there", "on the CPU"])
@pytest.mark.parametrize("name", PARTS)
def test_every_part_of_a_measurement_stays_on_its_device(name, directions, monkeypatch):
    def made(of, count=3):
        is_there = next(iter(of.params.values())).device == META and directions == "there"
        return {label: Direction(on(META if is_there else "cpu", v)) for label, v in original(cpu, count).items()}

    cpu = objective()
    original = directions_of
    monkeypatch.setattr("tests.test_out_of_memory.directions_of", made)
    given = (quadratic_models(directions_of(objective()), objective()),) if name in ("edges", "scans") else ()
    expected = PARTS[name](objective(), *given)
    found = PARTS[name](there(objective()), *given)
    if isinstance(found, str):
        assert found == expected
    else:
        assert numbers_in(found) == pytest.approx(numbers_in(expected), rel=1e-9, abs=1e-12, nan_ok=True)


def test_the_rounding_estimate_and_the_share_of_noise_are_those_of_the_cpu():
    here = objective(torch.float32)
    away = objective_at(here.model, here.losses, [on(META, b) for b in here.batches], torch.float32)
    cpu = directions_of(here)
    found, noisy = quadratic_models(cpu, here), noise_coordinates(here)
    expected = rounding_errors(cpu, found, here), [noise_share(v, noisy) for v in cpu.values()]
    away.model.to(META)
    away = objective_at(away.model, away.losses, away.batches, torch.float32)
    for place in ("cpu", META):
        directions = {label: Direction(on(place, v)) for label, v in cpu.items()}
        noisy = noise_coordinates(away)
        again = rounding_errors(directions, found, away), [noise_share(v, noisy) for v in directions.values()]
        assert numbers_in(list(again)) == pytest.approx(numbers_in(list(expected)), rel=1e-3)
        lengths = [spectral_length(v) for v in directions.values()]
        assert lengths == pytest.approx([spectral_length(v) for v in cpu.values()], rel=1e-4)
        assert [update_histogram(v) for v in directions.values()] == [update_histogram(v) for v in cpu.values()]


# ---- training and pseudo-updates ------------------------------------------------------------------------------------


def with_gradients(device):
    generator = torch.Generator().manual_seed(0)
    shapes = {"layer.weight": (5, 4), "layer.bias": (5,), "norm.weight": (4,), "embedding.weight": (6, 4)}
    params = {name: nn.Parameter(torch.randn(shape, generator=generator).to(device)) for name, shape in shapes.items()}
    for p in params.values():
        p.grad = torch.randn(p.shape, generator=generator).to(device)
    return params


@pytest.mark.parametrize("place", ["there", "on the CPU"])
@pytest.mark.parametrize("row", EACH)
def test_every_row_of_every_list_makes_the_step_of_the_cpu(row, place):
    def steps(device, optimizer_device=None):
        params = with_gradients(device)
        updates = PseudoUpdates(params, {"row": row}, optimizer_device)
        updates.advance()
        directions = updates.advance()
        assert updates.not_finite(directions) == []
        assert {v.device for v in directions["row"].values()} == {torch.device(optimizer_device or device)}
        optimizer = row.build(params)
        optimizer.step()
        move, lr = next_step(optimizer, params)
        updates.load_state_dict(updates.state_dict())
        updates.advance(collect=False)
        return [*directions["row"].values(), *move.values(), *params.values()], [lr, *updates.learning_rates().values()]

    (tensors, rates), (expected, same) = steps(META, "cpu" if place == "on the CPU" else None), steps("cpu")
    assert rates == pytest.approx(same)
    for v, e in zip(tensors, expected, strict=True):
        torch.testing.assert_close(v.detach().cpu(), e.detach(), rtol=1e-4, atol=1e-6)
