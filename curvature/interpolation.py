"""The loss along a direction from few evaluations: a spline (`curvature.spline`) goes through them, and says where it
may be wrong. There the loss is evaluated next. It ends when the spline is sure everywhere."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from curvature.quadratic import QuadraticModel
from curvature.spline import spline

DOUBT = 1 / 250  # of the depth: with a smaller standard deviation the spline counts as sure (docs/speed.md)
NEAR_START = 0.01  # of the depth: so near the start loss, whether the loss exceeds it is evaluated
WIDEST_GAP = 0.3  # of the grid, between two evaluations
FEWEST = 3  # evaluations: a curve may meet its quadratic model twice by chance


class ScanPoint(NamedTuple):
    """f(x + distance v/|v|), evaluated or interpolated."""

    distance: float
    loss: float
    evaluated: bool = True


def last_of_scan(losses: Sequence[float], start: float) -> int:
    """Index where a scan ends: one point after the loss has exceeded its start, or the last point."""
    exceeded = next((i for i in range(1, len(losses)) if not losses[i] <= start), len(losses))
    return min(exceeded + 1, len(losses) - 1)


class FullScan:
    """Every point is evaluated."""

    def __init__(self, loss_at: Callable[[float], float], start: float) -> None:
        self.loss_at, self.start = loss_at, start

    def on(self, grid: Sequence[float]) -> list[ScanPoint]:
        """The points of `grid` (0, s, 2 s, ...) up to `last_of_scan`."""
        points = [ScanPoint(0.0, self.start)]
        for distance in grid[1:]:
            points.append(ScanPoint(distance, self.loss_at(distance)))
            if len(points) > 2 and not points[-2].loss <= self.start:
                break
        return points


class SparseScan:
    """Scans of one direction, on one grid after the other. What was evaluated serves every later grid.

    Args:
        loss_at: distance -> loss, the expensive part.
        start: the loss at distance 0, found as by `loss_at`.
        quadratic: slope and curvature at 0.
    """

    def __init__(self, loss_at: Callable[[float], float], start: float, quadratic: QuadraticModel) -> None:
        self.loss_at, self.start = loss_at, start
        self.taylor = [start, quadratic.slope, quadratic.sharpness / 2]
        self.turn = quadratic.best_distance  # the first guess at the scale of the curve
        self.evaluated: dict[float, float] = {}  # distance -> loss, in the order of evaluation

    @np.errstate(over="ignore", invalid="ignore")  # of losses beyond all bounds
    def on(self, grid: Sequence[float]) -> list[ScanPoint]:
        """The points of `grid` (0, s, 2 s, ...) up to `last_of_scan`."""
        losses = np.array([self.start, *(self.evaluated.get(s, math.nan) for s in grid[1:])])
        known = np.isin(grid, [0.0, *self.evaluated])
        while True:
            above = [i for i in range(1, len(grid)) if known[i] and not losses[i] <= self.start]
            upper = min([len(grid) - 1, *(i + 1 for i in above)])
            mean, deviation = self._spline(grid, grid[upper])
            curve = np.where(known, losses, mean)
            last = last_of_scan(curve[: upper + 1].tolist(), self.start)
            place = self._next(grid, curve, deviation, known, last)
            if place is None:
                return [ScanPoint(grid[i], float(curve[i]), bool(known[i])) for i in range(last + 1)]
            losses[place] = self.evaluated[grid[place]] = self.loss_at(grid[place])
            known[place] = True

    def _spline(self, grid: Sequence[float], limit: float) -> np.ndarray:
        """Mean and deviation on the grid, from the evaluations up to `limit` and the first one beyond."""
        finite = sorted((s, loss) for s, loss in self.evaluated.items() if math.isfinite(loss))
        beyond = next((s for s, _ in finite if s > limit), limit)
        nodes = [(s, loss) for s, loss in finite if s <= beyond]
        return spline(grid, self.taylor, nodes) if nodes else np.full((2, len(grid)), math.inf)

    def _next(self, grid: Sequence[float], curve, deviation, known, last: int) -> int | None:
        """Index of the next evaluation; None where none is needed."""
        n, places = len(grid) - 1, np.flatnonzero(known)
        if len(places) == 1:
            return max(round(min(self.turn / grid[1], n)), 1)
        open_places = [i for i in range(1, last + 1) if not known[i]]
        if not open_places:
            return None
        broken = [i for i in places if not math.isfinite(curve[i])]
        if broken:  # no interpolation says where the loss stops to be finite
            sound = max(i for i in places if i < broken[0])
            if broken[0] - sound > 1:
                return int(sound + broken[0]) // 2
        depth = self.start - np.min(curve[places], where=np.isfinite(curve[places]), initial=self.start)
        doubt = np.nan_to_num(deviation[open_places], nan=math.inf)
        if depth == 0 or doubt.max() > DOUBT * depth or len(places) <= FEWEST:
            # rounded, so that the last digit decides nothing: processes that share a scan agree on the place
            return open_places[int(np.round(doubt / doubt.max(), 6).argmax())]
        edges = [*(i for i in places if i < last), last]
        gap, low = max((b - a, a) for a, b in zip(edges, edges[1:], strict=False))
        if gap > WIDEST_GAP * n:
            return int(low + gap // 2)
        near = np.maximum(NEAR_START * depth, doubt)
        return next((i for i, d in zip(open_places, near, strict=True) if abs(curve[i] - self.start) < d), None)
