"""The loss along every optimizer's next step, with its quadratic model (Pan & Li, arXiv:2306.00204, figures 2 to 4)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.run_tables import Row, RunTables
from figures.style import Style, key, label_outside, new_figure
from runs.tables import TRAINING, first_batch, on_batch

MODEL = {"linewidth": 0.8, "linestyle": "--"}
MINIMUM_SIZE = 8  # of its marker; those along a curve are half as large


@dataclass(frozen=True)
class ScanCurve:
    """The loss along one algorithm's unit direction at one point, with the derivatives there where measured."""

    style: Style
    distances: list[float]
    losses: list[float]
    derivatives: tuple[float, float] | None  # slope and directional sharpness

    @property
    def reach(self) -> float:
        return self.distances[-1]

    @property
    def uphill(self) -> bool:
        return min(self.losses) == self.losses[0]

    @property
    def minimum(self) -> int | None:
        """Index of the lowest point; None where the scan does not enclose one."""
        lowest = self.losses.index(min(self.losses))
        return lowest if 0 < lowest < len(self.losses) - 1 else None

    def model(self, distance: float) -> float:
        """loss + slope s + sharpness s^2 / 2"""
        slope, sharpness = self.derivatives
        return self.losses[0] + slope * distance + sharpness * distance**2 / 2


def scan_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """The loss along every direction at one point, in panels that zoom out."""
    measured = run.points("sharpness", "slope sharpness")
    for place, scans in run.points("scan", "distance loss").items():
        curves = {
            label: curve
            for label, rows in scans.items()
            if (curve := _curve(run.styles[label], rows, measured.get(place, {}).get(label, [])))
        }
        if curves:
            figure = _scan_figure(curves)
            figure.suptitle(f"{run.title}: loss along every step from {place}")
            yield f"scan_{place.stem}", figure


def _curve(style: Style, scan: Sequence[Row], measured: Sequence[Row]) -> ScanCurve | None:
    """None where fewer than two finite losses were found: that is no curve."""
    points = sorted((row["distance"], row["loss"]) for row in scan if None not in (row["distance"], row["loss"]))
    if len(points) < 2:
        return None
    measured = on_batch(measured, first_batch(measured))
    derivatives = [(row["slope"], row["sharpness"]) for row in measured if None not in (row["slope"], row["sharpness"])]
    distances, losses = map(list, zip(*points, strict=True))
    return ScanCurve(style, distances, losses, derivatives[0] if derivatives else None)


def _scan_figure(curves: dict[str, ScanCurve]) -> Figure:
    handles = [
        key(label + " (uphill)" * curve.uphill, **curve.style.line(), **curve.style.points())
        for label, curve in curves.items()
    ]
    look = {"color": "0.35", "marker": "o", "markersize": MINIMUM_SIZE, "linestyle": ""}
    if any(curve.minimum is not None for curve in curves.values()):
        handles.append(key("large marker: minimum of a scan", **look))
    if any(curve.derivatives for curve in curves.values()):
        handles.append(key("its quadratic model", color="0.35", **MODEL))
    limits = zoom_limits(curve.reach for curve in curves.values())
    columns = len(limits) if len(limits) < 4 else 2
    figure, axes = new_figure(math.ceil(len(limits) / columns), columns, handles, max(3.6 * columns, 6), height=2.8)
    for ax, limit in zip(axes, limits, strict=True):
        _scan_panel(ax, list(curves.values()), 1.04 * limit)
        ax.set_title("all distances" if limit == limits[-1] else f"distances up to {limit:.2g}")
    label_outside(axes, columns, "distance along the direction, $\\|x - x_t\\|$", "loss on the test batch")
    return figure


def zoom_limits(reaches: Iterable[float], factor: float = 5.0, most: int = 4) -> list[float]:
    """x-limits of the panels, ascending, so that every curve spans at least 1 / factor of some panel's width.

    The widest panel holds the longest curve; the next one the longest of the curves too short for it, and so on. With
    more than `most` scales, an evenly spread choice that keeps the smallest and the largest.
    """
    limits: list[float] = []
    for reach in sorted(reaches, reverse=True):
        if not limits or reach < limits[-1] / factor:
            limits.append(reach)
    if len(limits) > most:
        limits = [limits[round(i * (len(limits) - 1) / (most - 1))] for i in range(most)]
    return limits[::-1]


def _scan_panel(ax: Axes, curves: Sequence[ScanCurve], limit: float) -> None:
    # A curve too long for this panel would be a straight stub: it is left to the wider ones.
    curves = [curve for curve in curves if curve.reach <= limit or sum(s <= limit for s in curve.distances) > 2]
    for place, curve in enumerate(curves):
        own = curve.style.name == TRAINING  # below, and wider: it may lie on the row of the same optimizer
        look = curve.style.line() | ({"zorder": 2, "linewidth": 3.2} if own else {"zorder": 3})
        if curve.reach > limit / 30:  # a shorter one would be a vertical stroke: here only its minimum is marked
            every = (0.02 + 0.1 * place / len(curves), 0.12)  # shares of the panel's diagonal, so that few overlap
            ax.plot(curve.distances, curve.losses, markevery=every, **look, **curve.style.points(MINIMUM_SIZE / 2))
        if curve.derivatives and curve.reach > limit / 8:  # for a shorter curve, a zoomed panel has room for it
            grid = [min(limit, curve.reach) * i / 200 for i in range(201)]
            ax.plot(grid, [curve.model(s) for s in grid], color=curve.style.color, **MODEL)
        if curve.minimum is not None:
            lowest = curve.distances[curve.minimum], curve.losses[curve.minimum]
            size, zorder = (1.6 * MINIMUM_SIZE, 3.5) if own else (MINIMUM_SIZE, 4)
            ax.plot(*lowest, color=curve.style.color, linestyle="", zorder=zorder, **curve.style.points(size))
    within = [loss for curve in curves for s, loss in zip(curve.distances, curve.losses, strict=True) if s <= limit]
    start, low = curves[0].losses[0], min(within)
    # Models, and scans past their start, may rise without bound: a third of the deepest fall is room enough.
    top = start + (start - low) / 3 if low < start else max(within)
    margin = 0.05 * (top - low) or 1e-6
    ax.set(xlim=(0, limit), ylim=(low - margin, top + margin))
    ax.axhline(start, color="0.6", linewidth=0.7, zorder=1)
    ax.ticklabel_format(axis="y", useOffset=False)
