"""The largest stable learning rate on a quadratic loss, and the edge number on both sides of it."""

import numpy as np
import torch
from torch import Tensor

from known_cases.exact import ONE_EXAMPLE, diagonal_quadratic
from known_cases.rows import Row, above, below, near
from known_cases.trajectory import Step, Trajectory
from torch_optimizer import Algorithm

STEPS = 300  # other modes than the one that loses its stability have decayed long before
MEASURED = 20  # of the steps behind the first half

# lr times curvature, by the rule x' = z x: the row loses its stability where z = -1 solves the rule
#   z^2 - (1 + mu - (1 - d) c) z + mu = 0                                         so c = 2 (1 + mu) / (1 - d)
#   z^2 - (1 + mu) (1 - c) z + mu (1 - c) = 0   for Nesterov                      so c = 2 (1 + mu) / (1 + 2 mu)
LIMITS = (
    ("gradient descent", {}, 2.0, "2"),
    ("momentum .9, dampening .9", {"momentum": 0.9, "dampening": 0.9}, 38.0, "38"),
    ("heavy ball .9", {"momentum": 0.9}, 3.8, "3.8"),
    ("Nesterov .9", {"momentum": 0.9, "nesterov": True}, 3.8 / 2.8, "1.357143"),
)
SOURCE = "2103.00065"


def stability_limits() -> list[Row]:
    """Of four rows of the SGD family, on x^2 / 2."""
    return [row for name, options, limit, text in LIMITS for row in _limit_of(name, options, limit, text)]


def _limit_of(name: str, options: dict, limit: float, text: str) -> list[Row]:
    measured_limit = largest_stable_curvature(Algorithm("sgd", lr=1.0, **options))
    rows = [near(f"x^2/2, {name}: largest stable lr", measured_limit, limit, SOURCE, within=1e-4, text=text)]
    steps, change = _measured(options, limit)
    edges = [steps[-1].edge_quadratic, steps[-1].edge_realized]
    rows.append(near(f"x^2/2, {name}, there: both edge numbers", edges, [1.0, 1.0], SOURCE))
    steps, change = _measured(options, 0.99 * limit)
    numbers = [change, _edge_of_all(steps)]
    rows.append(below(f"x^2/2, {name}, .99 of it: loss / its start, edge", numbers, 1.0, SOURCE))
    steps, change = _measured(options, 1.01 * limit)
    numbers = [change, _edge_of_all(steps)]
    rows.append(above(f"x^2/2, {name}, 1.01 of it: loss / its start, edge", numbers, 1.0, SOURCE))
    turn = 0.5 - 0.5 * fastest_mode(1.01 * limit, **options)  # s = (z - 1) x, so that the edge is (1 - z) / 2
    rows.append(near(f"x^2/2, {name}, 1.01 of it: edge_quadratic", steps[-1].edge_quadratic, turn, SOURCE))
    return rows


def fastest_mode(lr: float, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False) -> float:
    """The z of largest magnitude with x' = z x on x^2 / 2, for the row's rule; real only from its limit on."""
    shrink = 1 - lr if nesterov else 1.0
    pull = (1 + momentum) * shrink if nesterov else 1 + momentum - (1 - dampening) * lr
    return float(min(np.roots([1.0, -pull, momentum * shrink]).real))


def _measured(options: dict, lr: float) -> tuple[list[Step], float]:
    """The steps from x = 1 at the end of a run, measured, and the loss behind them over the one before them."""
    one = torch.ones(1, dtype=torch.float64)
    row = Algorithm("sgd", lr=lr, **options)
    trajectory = Trajectory(row, {"x": one}, diagonal_quadratic(one), ONE_EXAMPLE)
    for _ in range(STEPS // 2):
        trajectory.take_step()
    start = trajectory.loss
    steps = [trajectory.measure_step() for _ in range(MEASURED)]
    return steps, trajectory.loss / start


def _edge_of_all(steps: list[Step]) -> float:
    """What the curvature takes back over several steps beside what the slopes promise, sum s'Hs / 2 over sum -g's.

    Below 1 if the quadratic loss falls over all of them. Near the limit, x turns by almost half a turn per step. There
    the edge number of a single step goes up and down, and it does not exist for a step uphill.
    """
    taken_back = sum(0.5 * step.quadratic.sharpness * step.length * step.length for step in steps)
    return taken_back / -sum(step.quadratic.slope * step.length for step in steps)


def largest_stable_curvature(row: Algorithm) -> float:
    """Up to which curvature the row's steps shrink x, at its own lr; to 1e-5 of it, between 0 and 64."""
    low, high = 0.0, 64.0
    while high - low > 1e-5 * high:
        grid = torch.linspace(low, high, 4097, dtype=torch.float64)
        grows = np.flatnonzero((_growth(row, grid) > 1).numpy())
        first = int(grows[0]) if len(grows) else len(grid) - 1
        low, high = grid[max(first - 1, 0)].item(), grid[first].item()
    return (low + high) / 2


def _growth(row: Algorithm, curvatures: Tensor) -> Tensor:
    """|x| at the end of STEPS steps over |x| in their middle, for each curvature [n] alone: the row is
    coordinate-wise. Where x overflows: inf."""
    trajectory = Trajectory(row, {"x": torch.ones_like(curvatures)}, diagonal_quadratic(curvatures), ONE_EXAMPLE)
    x = trajectory.params["x"]
    for step in range(STEPS):
        if step == STEPS // 2:
            middle = x.detach().clone()
        trajectory.take_step()
    growth = (x.detach() / middle).abs().nan_to_num(nan=torch.inf)
    return torch.where(middle == 0, 0.0, growth)
