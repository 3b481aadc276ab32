"""Edge numbers and norms beside quadratics worked by hand, real steps, and singular values."""

import math
from fractions import Fraction

import pytest
import torch
from torch import nn

from algorithm_list import ALGORITHM_LISTS
from curvature.direction import Direction
from curvature.objective import Objective
from curvature.quadratic import QuadraticModel
from landscape_core.edges import Edge, _spectral_norms, edge_of, spectral_length
from landscape_core.measurement import Measurement
from landscape_utils import PseudoUpdates, directional_sharpness, mean_loss
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled

CURVATURES = torch.tensor([4.0, 1.0], dtype=torch.float64)


def bowl(params, batch):
    """f = x'Hx / 2 with H = diag(4, 1), for every example."""
    return 0.5 * (CURVATURES * params["x"] ** 2).sum() * torch.ones(len(batch["i"]), dtype=torch.float64)


def edge_along(x, v, lr, loss_fn=bowl):
    model = nn.Module()
    model.x = nn.Parameter(torch.tensor(x, dtype=torch.float64))
    objective = Objective(model, losses=None, batches=[{"i": torch.arange(3)}])
    objective.loss_fn = loss_fn
    direction = Direction({"x": torch.tensor(v, dtype=torch.float64)})
    (quadratic,) = directional_sharpness(loss_fn, objective.params, [direction], objective.batches)
    start = mean_loss(loss_fn, objective.params, objective.batches)
    return edge_of(direction, quadratic, lr, start, objective)


def test_edges_of_a_quadratic_are_the_rationals_worked_by_hand():
    # x = (1/2, 3), v = -g = (-2, -3): g'v = -13, v'Hv = 16 + 9 = 25
    edge = edge_along([0.5, 3.0], [-2.0, -3.0], 0.1)
    assert edge.quadratic == pytest.approx(float(Fraction(25, 260)), rel=1e-12)  # (1/2) lr v'Hv / -(g'v)
    assert edge.realized == pytest.approx(edge.quadratic, rel=1e-12) and edge.quotient == pytest.approx(1)
    assert edge.critical_lr == pytest.approx(26 / 25, rel=1e-12) and edge.best_lr == pytest.approx(13 / 25, rel=1e-12)


@pytest.mark.parametrize("lr, edge", [(13 / 25, 0.5), (26 / 25, 1.0)])
def test_half_is_the_best_step_and_one_brings_the_loss_back(lr, edge):
    found = edge_along([0.5, 3.0], [-2.0, -3.0], lr)
    assert (found.quadratic, found.realized) == (pytest.approx(edge), pytest.approx(edge))


def test_where_the_loss_is_no_quadratic_the_realized_edge_tells():
    def quartic(params, batch):
        return (params["x"] ** 4).sum() * torch.ones(len(batch["i"]), dtype=torch.float64)

    # x = (1, 0), v = (-1, 0), lr 1/2: f 1 -> 1/16, g'v = -4, v'Hv = 12
    edge = edge_along([1.0, 0.0], [-1.0, 0.0], 0.5, quartic)
    assert edge.realized == pytest.approx(1 - (15 / 16) / 2) and edge.quadratic == pytest.approx(0.75)
    assert edge.quotient == pytest.approx((17 / 32) / 0.75)


@pytest.mark.parametrize("v", [[2.0, 3.0], [0.0, 0.0]])
def test_uphill_or_without_a_step_there_is_no_edge(v):
    edge = edge_along([0.5, 3.0], v, 0.1)
    assert all(map(math.isnan, (edge.quadratic, edge.realized, edge.quotient, edge.critical_lr, edge.best_lr)))


def test_without_positive_curvature_there_is_an_edge_but_no_critical_rate():
    flat = QuadraticModel(1.0, -2.0, 0.0)
    bent_down = QuadraticModel(1.0, -2.0, -3.0)
    assert flat.edge(0.5) == 0 and bent_down.edge(0.5) == pytest.approx(-0.375)
    assert math.isnan(flat.critical_distance) and math.isnan(bent_down.critical_distance)


def test_a_rate_that_is_not_known_leaves_its_cells_empty():
    edge = edge_along([0.5, 3.0], [-2.0, -3.0], math.nan)
    assert math.isnan(edge.learning_rate) and math.isnan(edge.quadratic) and math.isnan(edge.realized)
    assert edge.critical_lr == pytest.approx(26 / 25)


ROWS = [*ALGORITHM_LISTS["toy"], Algorithm("adafactor", relative_step=True), Algorithm("adamw", lr=0.02),
        Algorithm("muon_adamw", lr=0.01), Algorithm("radam", lr=0.03)]  # fmt: skip


def test_direction_times_rate_is_the_move_of_a_real_step_for_every_row():
    def params():
        torch.manual_seed(0)
        return {"layer.weight": nn.Parameter(torch.randn(4, 3)), "bias": nn.Parameter(torch.randn(4))}

    rows, ours = labeled(ROWS), params()
    updates = PseudoUpdates(ours, rows)
    others = {label: params() for label in rows}
    real = {label: row.build(others[label]) for label, row in rows.items()}
    for t in range(3):
        torch.manual_seed(10 + t)
        grads = {n: torch.randn_like(p) for n, p in ours.items()}
        for n, g in grads.items():
            ours[n].grad = g
        directions, rates = updates.advance(), updates.learning_rates()
        for label in rows:
            for n, g in grads.items():
                others[label][n].grad = g.clone()
                others[label][n].data.copy_(ours[n].detach())  # every row steps from the same point
            real[label].step()
            for n, p in others[label].items():
                move = rates[label] * directions[label][n]
                moved = p.detach() - ours[n].detach()
                torch.testing.assert_close(moved, move, rtol=1e-4, atol=3e-7, msg=f"{label} {n}")


def test_power_iterations_give_the_same_however_many_are_made_between_two_waits():
    torch.manual_seed(0)
    matrices = [torch.randn(9, 5), torch.diag(torch.tensor([3.0, 2.9, 1.0])), torch.eye(4)]
    one_by_one = _spectral_norms(matrices, 1e-4, at_once=1)
    assert _spectral_norms(matrices, 1e-4, at_once=7) == one_by_one == _spectral_norms(matrices, 1e-4)
    assert one_by_one == pytest.approx([torch.linalg.matrix_norm(m, 2).item() for m in matrices], rel=1e-3)


def test_spectral_length_is_the_largest_singular_value_of_any_matrix_or_length_of_any_vector():
    torch.manual_seed(1)
    tensors = {"a": torch.randn(7, 5), "kernel": torch.randn(6, 2, 3, 3), "bias": torch.randn(4)}
    by_svd = [torch.linalg.svdvals(tensors["a"])[0], torch.linalg.svdvals(tensors["kernel"].reshape(6, 18))[0]]
    expected = max(*map(float, by_svd), tensors["bias"].norm().item())
    assert spectral_length(tensors) == pytest.approx(expected, rel=1e-4)
    assert spectral_length({"bias": torch.tensor([3.0, 4.0])}) == 5
    assert spectral_length({"row": torch.tensor([[3.0, 4.0]])}) == 5
    assert spectral_length({"zero": torch.zeros(3, 3)}) == 0
    assert spectral_length({"tiny": 1e-30 * torch.eye(3)}) == pytest.approx(1e-30, rel=1e-4)


def test_sharpness_in_a_norm_divides_by_that_norm():
    numbers = dict(step_norm=2.0, step_max=0.5, sharpness_error=0.0, gradient_norm=1.0, noise_share=0.0)
    m = Measurement("sgd", QuadraticModel(1.0, -1.0, 3.0), **numbers, spectral_length=1.0, edge=Edge())
    assert (m.sharpness_inf, m.sharpness_spectral) == (48.0, 12.0)  # v'Hv = 3 * 4, over 1/4 and over 1
