"""Draw every figure of a run from the tables in its folder; nothing is measured or loaded again.

    python -m figures output/toy            # (re)draws output/toy/figures/*.png and *.pdf
    python -m figures --overlay output/hessian-a output/hessian-b --output_dir output/both

From training.csv: training_loss. From scan.csv (and sharpness.csv): scan_epoch2_batch6, ... From histogram.csv:
histogram_epoch2_batch6, ... From ratios.csv: sharpness_ratios. From losses.csv (and summary.csv): loss_by_epoch and
loss_by_iteration. From tuned_learning_rates.csv: learning_rates. From scores.csv: scores. From blocks.csv:
gradient_against_curvature, along_depth, lorenz. A table that is absent or has no rows is skipped. --overlay compares
several runs of run_hessian.py in one figure."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from figures.run_tables import Row, RunTables
from figures.style import Style, label_outside, new_figure

logger = logging.getLogger(__name__)

# ---- training loss -------------------------------------------------------------------------------------------


def training_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """The loss of every batch as it was trained on, and its mean over each epoch."""
    rows = [row for row in run.table("training", "epoch iteration loss") if row["loss"] is not None]
    if not rows:
        return
    epochs: dict[int, list[Row]] = {}
    for row in rows:
        epochs.setdefault(row["epoch"], []).append(row)
    means = [[_mean(row[column] for row in part) for part in epochs.values()] for column in ("iteration", "loss")]
    handles = [
        Line2D([], [], color="0.65", linewidth=0.9, label="one batch"),
        Line2D([], [], color="black", marker="o", markersize=3.5, label="mean over the epoch"),
    ]
    figure, (ax,) = new_figure(1, 1, handles, width=5.5, height=3.0)
    ax.plot([row["iteration"] for row in rows], [row["loss"] for row in rows], color="0.65", linewidth=0.9)
    ax.plot(*means, "o-", color="black", markersize=3.5)
    ax.set(xlabel="iteration (one update each)", ylabel="training loss", title=run.title)
    yield "training_loss", figure


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


# ---- loss scans ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
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
    """The loss along every direction at one point, in panels that zoom out (Pan & Li, figures 2 to 4)."""
    measured = run.points("sharpness", "slope sharpness")
    for (epoch, batch), scans in run.points("scan", "distance loss").items():
        curves = {
            label: curve
            for label, rows in scans.items()
            if (curve := _curve(run.styles[label], rows, measured.get((epoch, batch), {}).get(label, [])))
        }
        if not curves:
            continue
        handles = [
            Line2D([], [], label=label + " (uphill)" * curve.uphill, **curve.style.line())
            for label, curve in curves.items()
        ]
        handles.append(Line2D([], [], color="black", marker="o", linestyle="", markersize=5, label="minimum of a scan"))
        if any(curve.derivatives for curve in curves.values()):
            handles.append(Line2D([], [], color="0.4", linewidth=0.8, linestyle="--", label="its quadratic model"))
        limits = zoom_limits(curve.reach for curve in curves.values())
        columns = len(limits) if len(limits) < 4 else 2
        rows = math.ceil(len(limits) / columns)
        figure, axes = new_figure(rows, columns, handles, width=max(3.6 * columns, 6), height=2.7)
        for ax, limit in zip(axes, limits, strict=True):
            _scan_panel(ax, list(curves.values()), 1.04 * limit)
        label_outside(axes, columns, "distance along the direction, $\\|x - x_t\\|$", "loss on the test batch")
        figure.suptitle(f"{run.title}, epoch {epoch}, batch {batch}")
        yield f"scan_epoch{epoch}_batch{batch}", figure


def _curve(style: Style, scan: Sequence[Row], measured: Sequence[Row]) -> Curve | None:
    """None where fewer than two finite losses were found: that is no curve."""
    points = sorted((row["distance"], row["loss"]) for row in scan if None not in (row["distance"], row["loss"]))
    if len(points) < 2:
        return None
    derivatives = [(row["slope"], row["sharpness"]) for row in measured if None not in (row["slope"], row["sharpness"])]
    return Curve(style, [s for s, _ in points], [loss for _, loss in points], derivatives[0] if derivatives else None)


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


def _scan_panel(ax: Axes, curves: Sequence[Curve], limit: float) -> None:
    # A curve too long for this panel would be a straight stub: it is left to the wider ones.
    curves = [curve for curve in curves if curve.reach <= limit or sum(s <= limit for s in curve.distances) > 2]
    for curve in curves:
        if curve.reach > limit / 30:  # a shorter one would be a vertical stroke: here only its minimum is marked
            ax.plot(curve.distances, curve.losses, zorder=3, **curve.style.line())
        if curve.derivatives and curve.reach > limit / 8:  # for a shorter curve, a zoomed panel has room for it
            grid = [min(limit, curve.reach) * i / 200 for i in range(201)]
            ax.plot(grid, [curve.model(s) for s in grid], color=curve.style.color, linewidth=0.8, linestyle="--")
        if curve.minimum is not None:
            ax.plot(
                curve.distances[curve.minimum],
                curve.losses[curve.minimum],
                curve.style.marker,
                markersize=5,
                color=curve.style.color,
                markeredgecolor="white",
                markeredgewidth=0.6,
                zorder=4,
            )
    within = [loss for curve in curves for s, loss in zip(curve.distances, curve.losses, strict=True) if s <= limit]
    start, low = curves[0].losses[0], min(within)
    # Models, and scans past their start, may rise without bound: a third of the deepest fall is room enough.
    top = start + (start - low) / 3 if low < start else max(within)
    margin = 0.05 * (top - low) or 1e-6
    ax.set(xlim=(0, limit), ylim=(low - margin, top + margin))
    ax.axhline(start, color="0.6", linewidth=0.7, zorder=1)
    ax.ticklabel_format(axis="y", useOffset=False)


# ---- histograms ----------------------------------------------------------------------------------------------


def histogram_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """How the sizes of one step spread over the coordinates, a panel per optimizer name (Pan & Li, figure 1).

    The first row of a name is filled, its clipped variants are outlines. Magnitudes of exactly zero, or below the
    range of the bins, are the bar at the left end.
    """
    for (epoch, batch), tables in run.points("histogram", "bin_low bin_high count").items():
        bars = {label: _bars(rows) for label, rows in tables.items() if any(row["count"] for row in rows)}
        if not bars:
            continue
        panels = list(dict.fromkeys(run.styles[label].name for label in bars))
        columns = min(3, len(panels))
        handles = [Patch(label=label, **run.styles[label].bars()) for label in bars]
        rows = math.ceil(len(panels) / columns)
        figure, axes = new_figure(rows, columns, handles, width=max(3.1 * columns, 6), height=1.8)
        for label, (edges, fractions) in bars.items():
            ax = axes[panels.index(run.styles[label].name)]
            ax.stairs(fractions, edges, **run.styles[label].bars())
        occupied = [
            edge
            for edges, fractions in bars.values()
            for low, high, fraction in zip(edges, edges[1:], fractions, strict=False)
            if fraction
            for edge in (low, high)
        ]
        for ax, name in zip(axes, panels, strict=False):
            ax.set(title=name, xscale="log", xlim=(min(occupied) / 2, 2 * max(occupied)), ylim=(0, None))
            ax.tick_params(labelbottom=ax in axes[max(0, len(panels) - columns) :])
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        label_outside(axes[: len(panels)], columns, "$|v_i|$, per unit of learning rate", "fraction of coordinates")
        figure.suptitle(
            f"{run.title}, epoch {epoch}, batch {batch}: size of the update of each coordinate (leftmost bar: zero)"
        )
        yield f"histogram_epoch{epoch}_batch{batch}", figure


def _bars(bins: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Edges and fractions; the zero bin, which has no place on a log axis, gets the width of the others."""
    bins = sorted(bins, key=lambda row: row["bin_low"])
    last = bins[-1]
    ratio = last["bin_high"] / last["bin_low"] if last["bin_low"] else 10.0
    total = sum(row["count"] for row in bins)
    edges = [row["bin_low"] or row["bin_high"] / ratio for row in bins] + [last["bin_high"]]
    return edges, [row["count"] / total for row in bins]


# ---- sharpness ratios ----------------------------------------------------------------------------------------


def ratio_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Directional sharpness relative to SGD's over the epochs, mean and spread (Pan & Li, tables 3 to 6).

    The axis is logarithmic: a negative mean (the loss bends down) is a hollow marker at its size, and a bar that
    would leave the axis ends in an arrow.
    """
    rows = [row for row in run.table("ratios", "epoch algorithm mean_ratio std") if row["mean_ratio"]]
    if not rows:
        return
    epochs = sorted({row["epoch"] for row in rows})
    labels = [label for label in run.styles if any(row["algorithm"] == label for row in rows)]
    handles = [
        Line2D([], [], label=label, marker=run.styles[label].marker, markersize=4, **run.styles[label].line())
        for label in labels
    ]
    if any(row["mean_ratio"] < 0 for row in rows):
        handles.append(
            Line2D(
                [],
                [],
                color="0.3",
                marker="o",
                markerfacecolor="white",
                linestyle="",
                label="negative mean, at its size",
            )
        )
    if any(_is_cut(row) for row in rows):
        handles.append(
            Line2D(
                [],
                [],
                color="0.3",
                marker="v",
                markersize=3,
                linestyle="",
                label="bar cut short: std near or above mean",
            )
        )
    figure, (ax,) = new_figure(1, 1, handles, width=7.2, height=3.8)
    for place, label in enumerate(labels):
        points = sorted((row for row in rows if row["algorithm"] == label), key=lambda row: row["epoch"])
        shift = 0.6 * ((place + 0.5) / len(labels) - 0.5)  # side by side, so that no bar hides another
        _ratio_line(ax, [epochs.index(row["epoch"]) + shift for row in points], points, run.styles[label])
    ax.set(
        yscale="log",
        xlim=(-0.45, len(epochs) - 0.55),
        xlabel="epoch",
        title=run.title,
        ylabel="directional sharpness / |that of sgd|\nmean and std over the sampled points",
    )
    ax.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
    ax.axhline(1, color="0.5", linewidth=0.8, zorder=1)
    yield "sharpness_ratios", figure


def _is_cut(row: Row) -> bool:
    """Whether mean - std lies near zero or beyond it, where a log axis cannot show it."""
    return (row["std"] or 0.0) > 0.75 * abs(row["mean_ratio"])


def _ratio_line(ax: Axes, places: Sequence[float], points: Sequence[Row], style: Style) -> None:
    ax.plot(places, [abs(row["mean_ratio"]) for row in points], **(style.line() | {"linewidth": 0.9}))
    for place, row in zip(places, points, strict=True):
        size, std = abs(row["mean_ratio"]), row["std"] or 0.0
        bottom = size / 4 if _is_cut(row) else size - std
        ax.plot([place, place], [bottom, size + std], color=style.color, linewidth=1.0)
        if _is_cut(row):
            ax.plot(place, bottom, "v", color=style.color, markersize=3)
        ax.plot(
            place,
            size,
            style.marker,
            color=style.color,
            markersize=4.5,
            zorder=4,
            markerfacecolor=style.color if row["mean_ratio"] > 0 else "white",
        )
