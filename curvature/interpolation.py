"""The loss along a direction from few evaluations: its value, slope and curvature at 0 are known, the rest follows.

Interpolants go through what was evaluated. Two of them use the derivatives at 0: one polynomial through all points, and
a piecewise one through the four nearest. Two others are piecewise and ignore the derivatives, through four and through
three points. Far from 0 they are better where the loss falls steeply at first and then bends on another scale. The next
evaluation is where two interpolants, or one before and after the latest evaluation, differ most. It ends when they
agree.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from curvature.quadratic import QuadraticModel

AGREEMENT = 1 / 250  # of the depth of the curve; errors of the result were then below 1 % of it (docs/speed.md)
NEAR_START = 0.01  # of the depth: so near the start loss, whether the loss exceeds it is evaluated
PATIENCE = 6  # evaluations before the polynomial may be given up
MISS = 0.02  # of the depth: at most this much may the believed interpolant have missed its latest two evaluations
WORSE = 3  # times: how much worse it must have predicted


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

    @np.errstate(over="ignore", invalid="ignore")  # of losses beyond all bounds; what is then not finite is evaluated
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

    def on(self, grid: Sequence[float]) -> list[ScanPoint]:
        """The points of `grid` (0, s, 2 s, ...) up to `last_of_scan`."""
        distances = np.asarray(grid)
        known = np.isin(distances, [0.0, *self.evaluated])
        losses = np.array([self.evaluated.get(s, math.nan) for s in grid])
        losses[0] = self.start
        before, misses = None, []  # the interpolants at the latest step; by how much each missed an evaluation
        while True:
            above = [i for i in range(1, len(grid)) if known[i] and not losses[i] <= self.start]
            upper = min([len(grid) - 1, *(i + 1 for i in above)])
            curves = self._interpolants(distances, distances[upper])
            best, second = self._two_best(misses)
            curve = np.where(known, losses, curves[best])
            last = last_of_scan(curve[: upper + 1].tolist(), self.start)
            depth = self.start - min(self.start, *losses[known & np.isfinite(losses)])  # of what was evaluated
            doubt = np.abs(curves[best] - curves[second])
            if before is not None:
                doubt = np.maximum(doubt, np.abs(curves[best] - before[best]))
            doubt[known] = doubt[last + 1 :] = -1.0
            missed = max((miss[best] for miss in misses[-2:]), default=0.0)
            settled = before is not None and depth > 0 and doubt.max() <= AGREEMENT * depth and missed <= MISS * depth
            place = self._next(distances, curve, known, doubt, settled, depth, last, upper)
            if place is None:
                return [ScanPoint(grid[i], float(curve[i]), bool(known[i])) for i in range(last + 1)]
            losses[place] = self.evaluated[grid[place]] = self.loss_at(grid[place])
            known[place] = True
            if before is not None:
                misses.append([abs(float(each[place] - losses[place])) for each in curves])
            before = curves

    def _interpolants(self, distances: np.ndarray, limit: float) -> list[np.ndarray]:
        """Each of them at every distance, from the evaluations up to `limit` and the first one beyond."""
        finite = {s: loss for s, loss in self.evaluated.items() if math.isfinite(loss)}
        beyond = sorted(s for s in finite if s > limit)[:1]
        nodes = [(s, loss) for s, loss in finite.items() if s <= limit or s in beyond]
        near = sorted(nodes)
        return [
            interpolate(distances, self.taylor, nodes),
            np.array([_piecewise(s, self.taylor, near) for s in distances]),
            np.array([_piecewise(s, self.taylor[:1], near) for s in distances]),
            np.array([_piecewise(s, self.taylor[:1], near, width=3) for s in distances]),
        ]

    def _two_best(self, misses: list[list[float]]) -> tuple[int, int]:
        """Which interpolant to believe, and which to doubt it by."""
        if len(misses) + 1 < PATIENCE:
            return 0, 1
        polynomial, _, plain, _ = np.max(misses[-2:], axis=0)
        return (2, 3) if polynomial > WORSE * plain else (0, 1)

    def _next(self, distances, curve, known, doubt, settled: bool, depth: float, last: int, upper: int) -> int | None:
        """Index of the next evaluation; None where none is needed."""
        n, count = len(distances) - 1, int(known.sum()) - 1
        turn = max(round(min(self.turn / distances[1], n)), 1)
        if count == 0:
            return turn
        open_places = [i for i in range(1, last + 1) if not known[i]]
        if not open_places:
            return None
        if count == 1:  # twice as far; or nearer, where the loss has risen already
            (first,) = np.flatnonzero(known)[1:]
            place = min(2 * turn, n) if curve[first] <= self.start else max(first // 3, 1)
            if not known[place] and place <= upper:
                return int(place)
            return _widest_gap(open_places, known)
        broken = [i for i in np.flatnonzero(known) if not math.isfinite(curve[i])]
        if broken:  # no interpolation says where the loss stops to be finite
            sound = max(i for i in np.flatnonzero(known) if i < broken[0])
            if broken[0] - sound > 1:
                return int(sound + broken[0]) // 2
        rises_early = [i for i in open_places if i <= 3 and not curve[i] <= self.start]  # then the grid is refined
        if rises_early:
            return rises_early[0]
        if not settled:
            return int(doubt.argmax()) if doubt.max() > 0 else _widest_gap(open_places, known)
        if count == 2:  # a curve may meet its quadratic model twice by chance
            return _widest_gap(open_places, known)
        unsure = [i for i in open_places if abs(curve[i] - self.start) < NEAR_START * depth]
        return unsure[0] if unsure else None


def _widest_gap(places: Sequence[int], known: np.ndarray) -> int:
    """The place that is farthest from all that is known."""
    return max(places, key=lambda i: np.abs(i - np.flatnonzero(known)).min())


def interpolate(x: np.ndarray | float, taylor: Sequence[float], nodes: Sequence[tuple[float, float]]) -> np.ndarray:
    """The polynomial with the Taylor coefficients `taylor` at 0 that passes through `nodes` (s > 0, value), at x.

    p(x) = sum_k taylor_k x^k + x^K q(x), where q goes through the rests at the nodes (Newton's divided differences).
    """
    powers = np.power.outer(np.asarray(x, float), range(len(taylor)))
    value = powers @ np.array(taylor, float) if len(taylor) else np.zeros_like(np.asarray(x, float))
    if not nodes:
        return value
    s = np.array([node for node, _ in nodes])
    q = (np.array([loss for _, loss in nodes]) - np.polyval(taylor[::-1], s)) / s ** len(taylor)
    for k in range(1, len(s)):
        q[k:] = (q[k:] - q[k - 1 : -1]) / (s[k:] - s[:-k])
    rest = np.zeros_like(value)
    for coefficient, node in zip(q[::-1], s[::-1], strict=True):
        rest = rest * (x - node) + coefficient
    return value + np.asarray(x, float) ** len(taylor) * rest


def _piecewise(x: float, taylor: Sequence[float], near: Sequence[tuple[float, float]], width: int = 4) -> float:
    """The same through the `width` nearest nodes of `near` (sorted). Where 0 is among them, it has the coefficients
    `taylor`."""
    places = [0.0, *(s for s, _ in near)]
    low = min(max(int(np.searchsorted(places, x, side="right")) - 1, 0), max(len(places) - 2, 0))
    high = min(low + 1, len(places) - 1)
    while high - low + 1 < min(width, len(places)):
        if high == len(places) - 1 or low > 0 and x - places[low - 1] <= places[high + 1] - x:
            low -= 1
        else:
            high += 1
    return float(interpolate(x, taylor, near[:high]) if low == 0 else interpolate(x, [], near[low - 1 : high]))
