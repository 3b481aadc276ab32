"""How far each optimizer's real step s = lr v is from the edge, and its curvature in norms that fit the step."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.direction import Direction
from curvature.objective import Objective
from curvature.quadratic import QuadraticModel
from landscape_utils import mean_loss


@dataclass(frozen=True)
class Edge:
    """Numbers along the step s = lr v that a row would take; NaN where one does not exist (uphill, no curvature).

    s is the whole move of the parameters. Decoupled weight decay belongs to it.
    """

    learning_rate: float = math.nan  # lr
    quadratic: float = math.nan  # -(1/2) s'Hs / (g's): below 1 the quadratic model falls, 1/2 is its best step
    realized: float = math.nan  # 1 - (f(x + s) - f(x)) / (g's): the same number from the loss itself
    critical_lr: float = math.nan  # 2 (-g'v) / (v'Hv): there the quadratic model is back at its start

    @property
    def best_lr(self) -> float:
        """Half of `critical_lr`: there the quadratic model is lowest."""
        return self.critical_lr / 2

    @property
    def quotient(self) -> float:
        """Realized over quadratic: 1 where the loss is quadratic as far as the step goes."""
        return self.realized / self.quadratic if self.quadratic else math.nan


def edge_of(
    direction: Direction, quadratic: QuadraticModel, learning_rate: float, start_loss: float, objective: Objective
) -> Edge:
    """The edge numbers of one row. Costs one forward pass of the test batch.

    Args:
        learning_rate: of the row's step; NaN where it is not known, as in points saved by earlier versions.
        start_loss: f(x), found in the same way as f(x + s).
    """
    if math.isnan(quadratic.slope):
        return Edge(learning_rate)
    distance = learning_rate * direction.length
    realized = math.nan
    if quadratic.slope * distance < 0:
        moved = moved_by(objective.params, direction, learning_rate)
        change = mean_loss(objective.loss_fn, moved, objective.batches) - start_loss
        realized = quadratic.realized_edge(distance, change)
    return Edge(learning_rate, quadratic.edge(distance), realized, quadratic.critical_distance / direction.length)


def moved_by(params: Mapping[str, Tensor], direction: Direction, learning_rate: float) -> dict[str, Tensor]:
    """x + lr v, in the dtypes of x."""
    return {name: torch.add(p, direction[name].to(p), alpha=learning_rate) for name, p in params.items()}


# ---- norms ----------------------------------------------------------------------------------------------------------


def spectral_length(direction: Mapping[str, Tensor], tolerance: float = 1e-4) -> float:
    """max_b |v_b|_2: the largest singular value of any matrix of the direction, the length of any vector.

    A tensor of more than two dimensions, such as a convolution's kernel, counts as a matrix of its outputs."""
    return max((_spectral_norm(v, tolerance) for v in direction.values() if v.numel()), default=0.0)


@torch.no_grad()
def _spectral_norm(v: Tensor, tolerance: float, most: int = 200) -> float:
    """By power iteration on v'v from a fixed start, until the value changes by less than `tolerance` of itself."""
    matrix = v.flatten(1).float() if v.dim() > 1 else v.reshape(-1, 1)
    largest = matrix.abs().max().item()
    if min(matrix.shape) == 1 or not 0 < largest < math.inf:
        return torch.linalg.vector_norm(v, dtype=torch.float64).item()
    matrix = matrix / largest  # float32 can square it
    x = torch.randn(matrix.shape[1], generator=torch.Generator().manual_seed(0)).to(matrix)
    before = 0.0
    for _ in range(most):
        y = matrix @ (x / torch.linalg.vector_norm(x))
        value = torch.linalg.vector_norm(y).item()
        if abs(value - before) <= 0.1 * tolerance * value:
            break
        before, x = value, matrix.T @ y
    return value * largest
