"""How far each optimizer's real step s = lr v is from the edge, and its curvature in norms that fit the step."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.borrowing import within_memory
from curvature.direction import Direction, numbers
from curvature.memory import retried
from curvature.objective import Objective, Params
from curvature.products import is_free_to_read
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
        change = loss_at(objective, moved) - start_loss
        realized = quadratic.realized_edge(distance, change)
    return Edge(learning_rate, quadratic.edge(distance), realized, quadratic.critical_distance / direction.length)


def loss_at(objective: Objective, params: Params | None = None) -> float:
    """f at `params`, by default at the objective's point. Micro-batches are halved where memory runs out."""
    params = objective.params if params is None else params
    return within_memory(
        lambda batches: mean_loss(objective.loss_fn, params, batches, objective.ranks),
        objective.batches,
        objective.per_example,
    )


def moved_by(params: Mapping[str, Tensor], direction: Direction, learning_rate: float) -> dict[str, Tensor]:
    """x + lr v, in the dtypes of x."""
    return {name: torch.add(p, direction[name].to(p), alpha=learning_rate) for name, p in params.items()}


# ---- norms ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def spectral_length(direction: Mapping[str, Tensor], tolerance: float = 1e-4) -> float:
    """max_b |v_b|_2: the largest singular value of any matrix of the direction, the length of any vector.

    A tensor of more than two dimensions, such as a convolution's kernel, counts as a matrix of its outputs. The
    matrices' power iterations go in step, so that the host's waits for a device do not grow with their number. Where
    memory runs out, fewer matrices go together.
    """
    tensors = [v for v in direction.values() if v.numel()]
    matrices = [v.flatten(1) if v.dim() > 1 else v.reshape(-1, 1) for v in tensors]
    largest = numbers([matrix.float().abs().max() for matrix in matrices])
    iterated = [i for i, m in enumerate(matrices) if min(m.shape) > 1 and 0 < largest[i] < math.inf]
    lengths = [torch.linalg.vector_norm(v, dtype=torch.float64) for i, v in enumerate(tensors) if i not in iterated]
    left, values, together = list(iterated), [], len(iterated)

    def rest() -> None:
        while left:
            at_once = left[:together]
            scaled = [matrices[i].float() / largest[i] for i in at_once]  # float32 can square it
            norms = _spectral_norms(scaled, tolerance)
            values.extend(value * largest[i] for i, value in zip(at_once, norms, strict=True))
            del left[:together]

    def fewer() -> str | None:
        nonlocal together
        if together < 2:
            return None
        together = (together + 1) // 2
        return f"the spectral norms of at most {together} matrices at once"

    retried(rest, fewer)
    return max([*numbers(lengths), *values], default=0.0)


def _spectral_norms(
    matrices: Sequence[Tensor], tolerance: float, at_once: int | None = None, most: int = 200
) -> list[float]:
    """By power iteration on m'm from a fixed start, until each value changes by less than `tolerance` of itself.

    at_once: iterations between two waits for the device; the values do not depend on it.
    """
    kinds = dict.fromkeys((m.shape[1], m.device, m.dtype) for m in matrices)
    starts = {  # one copy to the device for each width
        kind: torch.randn(kind[0], generator=torch.Generator().manual_seed(0)).to(kind[1], kind[2]) for kind in kinds
    }
    x = [starts[m.shape[1], m.device, m.dtype] for m in matrices]
    values, open_ones = [0.0] * len(matrices), list(range(len(matrices)))
    at_once = at_once or (1 if all(map(is_free_to_read, matrices)) else 10)
    for _ in range(0, most, at_once):
        norms = []
        for i in open_ones:
            for _ in range(at_once):
                y = matrices[i] @ (x[i] / torch.linalg.vector_norm(x[i]))
                norms.append(torch.linalg.vector_norm(y))
                x[i] = matrices[i].T @ y
        read = iter(numbers(norms))
        still_open = []
        for i in open_ones:
            settled = False
            for value in [next(read) for _ in range(at_once)]:
                if not settled:
                    settled, values[i] = abs(value - values[i]) <= 0.1 * tolerance * value, value
            if not settled:
                still_open.append(i)
        open_ones = still_open
        if not open_ones:
            break
    return values
