"""The mean loss, and loss scans along a direction: f(x + s v / |v|), s on a grid (arXiv:2306.00204, fig. 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from curvature.checks import check_losses, checked_batches
from curvature.direction import Direction, norm
from curvature.interpolation import FullScan, ScanPoint, SparseScan
from curvature.objective import Batch, LossFunction, Params
from curvature.quadratic import QuadraticModel
from curvature.ranks import ALONE, Ranks


def scan_spacing(derivatives: QuadraticModel, params: Params, num_points: int = 20) -> float:
    """Spacing of a grid of `num_points` that reaches 2.5 times the distance at which the quadratic model turns. So the
    minimum lies inside. Where the loss has no curvature along the direction: a thousandth of |x| in all."""
    turn = abs(derivatives.slope / derivatives.sharpness) if derivatives.sharpness else 0.0
    reach = 2.5 * turn if 0 < turn < math.inf else 1e-3 * norm(params)
    return reach / num_points


@torch.inference_mode()
def mean_loss(loss_fn: LossFunction, params: Params, batches: Sequence[Batch], ranks: Ranks = ALONE) -> float:
    """f(params): the mean over all examples of `batches` of their own losses. `ranks`: as `directional_sharpness`."""

    def sum_and_count(batch: Batch) -> Tensor:
        losses = loss_fn(params, batch)
        check_losses(losses)
        total = losses.sum(dtype=torch.float64)
        return torch.stack([total, torch.full_like(total, len(losses))])

    rows = ranks.rows(sum_and_count, checked_batches(batches)).to(next(iter(params.values())).device)
    total, count = (column.contiguous().sum() for column in rows.unbind(1))
    return (total / count).item()


@torch.no_grad()
def scan_loss(
    loss_fn: LossFunction,
    params: Params,
    direction: Params,
    batches: Sequence[Batch],
    *,
    start_loss: float,
    spacing: float,
    num_points: int = 20,
    refine: bool = True,
    quadratic: QuadraticModel | None = None,
    ranks: Ranks = ALONE,
) -> list[ScanPoint]:
    """The loss along a unit direction: (distance, f(x + distance v/|v|)) at 0, s, 2s, ..., 20 s.

    Ends one point after the loss has exceeded its start. If that leaves fewer than 4 points below, the grid is refined
    towards 0, five times finer each time. This ends where distances approach the rounding of the parameters.

    Args:
        start_loss: f(x), evaluated once for all directions by the caller.
        spacing: s, a distance in parameter space.
        refine: False for a direction known to lead uphill.
        quadratic: slope and curvature along the direction, of `directional_sharpness`. With them only some points are
            evaluated and the others interpolated (`curvature.interpolation`). Without them all are evaluated.
        ranks: as of `directional_sharpness`.
    """
    if not 0 < spacing < math.inf:
        raise ValueError(f"a scan needs a positive spacing, got {spacing}")
    u = dict(Direction.of(direction).unit(like=params))
    floor = torch.finfo(next(iter(params.values())).dtype).eps * norm(params)
    moved = {n: torch.empty_like(p) for n, p in params.items()}

    def loss_at(distance: float) -> float:
        for n, p in params.items():
            torch.add(p, u[n], alpha=distance, out=moved[n])
        return mean_loss(loss_fn, moved, batches, ranks)

    scan = FullScan(loss_at, start_loss)
    if quadratic is not None and refine:
        scan = SparseScan(loss_at, start_loss, quadratic)
    while True:
        points = scan.on([i * spacing for i in range(num_points + 1)])
        below = next((i for i, point in enumerate(points) if not point.loss <= start_loss), num_points)
        if below >= 4 or not refine or spacing / 5 < floor:
            return points
        spacing /= 5
