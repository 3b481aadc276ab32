"""The training loss along which a landscape run measured, and the sizes of every optimizer's step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.run_tables import Row, RunTables, seeds_of
from figures.style import key, label_outside, new_figure

BATCH = {"color": "0.65", "linewidth": 0.9}
BAND = {"facecolor": "0.85", "linewidth": 0}
EPOCH = {"color": "black", "marker": "o", "markersize": 3.5}
TAIL = 0.001  # of a row's coordinates: as many of its smallest nonzero ones may lie left of the axis

# ---- training loss -------------------------------------------------------------------------------------------


def training_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """The loss of every batch as it was trained on, and its mean over each epoch; with several seeds, means over them
    and a band from the lowest to the highest batch."""
    rows = [row for row in run.table("training", "epoch iteration loss") if row["loss"] is not None]
    if not rows:
        return
    seeds = len(seeds_of(rows))
    epochs, iterations = _by(rows, "epoch"), _by(rows, "iteration")
    means = [[fmean(row[column] for row in part) for part in epochs.values()] for column in ("iteration", "loss")]
    of_seeds = f", mean over {seeds} seeds" if seeds > 1 else ""
    handles = [key(f"one batch{of_seeds}", **BATCH), key(f"mean over the epoch{of_seeds}", **EPOCH)]
    handles += [Patch(label="lowest to highest seed", **BAND)] if seeds > 1 else []
    figure, (ax,) = new_figure(1, 1, handles, width=5.5, height=3.0)
    losses = [[row["loss"] for row in part] for part in iterations.values()]
    if seeds > 1:
        ax.fill_between(list(iterations), list(map(min, losses)), list(map(max, losses)), **BAND)
    ax.plot(list(iterations), list(map(fmean, losses)), **BATCH)
    ax.plot(*means, **EPOCH)
    ax.set(xlabel="iteration (one update each)", ylabel="training loss", title=run.title)
    yield "training_loss", figure


def _by(rows: Sequence[Row], column: str) -> dict[int, list[Row]]:
    """The rows of each value of a column, ascending."""
    rows_by_value: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[column]):
        rows_by_value.setdefault(row[column], []).append(row)
    return rows_by_value


# ---- histograms ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Histogram:
    """How the sizes |v_i| of one step are distributed, as fractions of all its coordinates."""

    edges: list[float]  # one more than fractions; ascending, the first may be 0
    fractions: list[float]

    def lowest(self) -> float:
        """Lower edge of the bins that hold all but a share TAIL of the nonzero coordinates."""
        below = 0.0
        for edge, fraction in zip(self.edges, self.fractions, strict=False):
            below += fraction if edge else 0.0
            if edge and below > TAIL:
                return edge
        return math.inf

    def highest(self) -> float:
        """Upper edge of the last bin that holds anything."""
        return max(high for high, fraction in zip(self.edges[1:], self.fractions, strict=True) if fraction)

    def split(self, low: float) -> tuple[float, list[float], list[float]]:
        """The fraction in the bins below the edge `low`; edges and fractions of the others."""
        first = sum(edge < low for edge in self.edges)
        return sum(self.fractions[:first]), self.edges[first:], self.fractions[first:]


def histogram_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """How the sizes of one step are distributed over the coordinates, one panel per optimizer (Pan & Li, figure 1).

    The first unclipped row of an optimizer is filled, its other rows are outlines. The axis is cropped to what holds
    nearly all coordinates; those of size zero, or too small for it, are one bar of its own at the left end.
    """
    for place, tables in run.points("histogram", "bin_low bin_high count").items():
        histograms = {label: _histogram(rows) for label, rows in tables.items() if any(row["count"] for row in rows)}
        if histograms:
            figure = _histogram_figure(run, histograms)
            figure.suptitle(f"{run.title}, {place}: how large the update of each coordinate is")
            yield f"histogram_{place.stem}", figure


def _histogram(bins: Sequence[Row]) -> Histogram:
    bins = sorted(bins, key=lambda row: row["bin_low"])
    total = sum(row["count"] for row in bins)
    edges = [row["bin_low"] for row in bins] + [bins[-1]["bin_high"]]
    return Histogram(edges, [row["count"] / total for row in bins])


def _histogram_figure(run: RunTables, histograms: Mapping[str, Histogram]) -> Figure:
    panels = list(dict.fromkeys(run.styles[label].name for label in histograms))
    columns = min(3, len(panels))
    low = min(histogram.lowest() for histogram in histograms.values())
    high = max(histogram.highest() for histogram in histograms.values())
    low = min(low, high / 10)  # a step that is zero everywhere, or has one size, still needs an axis
    small = any(histogram.split(low)[0] for histogram in histograms.values())
    handles = [Patch(label=label, **run.styles[label].bars()) for label in histograms]
    if small:
        handles.append(key(f"at 0: smaller than {low:.1g}, or zero", linestyle=""))
    figure, axes = new_figure(math.ceil(len(panels) / columns), columns, handles, max(3.1 * columns, 6), height=1.8)
    for label, histogram in histograms.items():
        ax = axes[panels.index(run.styles[label].name)]
        _draw_histogram(ax, histogram, low, small, run.styles[label].bars())
    for i, (ax, name) in enumerate(zip(axes, panels, strict=False)):
        ax.set_title(name)
        _size_axis(ax, low, high, small)
        ax.tick_params(labelbottom=i >= len(panels) - columns)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    label_outside(axes[: len(panels)], columns, "$|v_i|$ per unit of learning rate", "fraction of coordinates")
    return figure


def _draw_histogram(ax: Axes, histogram: Histogram, low: float, small: bool, look: dict) -> None:
    """Bars from `low` on; if `small`, the rest is one bar left of them."""
    below, edges, fractions = histogram.split(low)
    if small:
        edges, fractions = [*_small_edges(low), *edges], [below, 0.0, *fractions]
    ax.stairs(fractions, edges, **look)


def _small_edges(low: float) -> tuple[float, float]:
    """Of the bar for what is smaller than `low`: a third of a decade wide, two thirds away from the others."""
    return low / 10, low * 10 ** (-2 / 3)


def _size_axis(ax: Axes, low: float, high: float, small: bool) -> None:
    """Logarithmic from `low` to `high`, ticks at powers of ten; with a tick "0" at the bar of the small ones."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    powers = range(first, last + 1, max(1, math.ceil((last - first) / 5)))
    ticks = {10.0**power: f"$10^{{{power}}}$" for power in powers}
    left = low
    if small:
        left = _small_edges(low)[0]
        ticks = {math.sqrt(math.prod(_small_edges(low))): "0"} | ticks
    ax.set(xscale="log", xlim=(left / 1.2, high * 1.2))
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.set_xticks([], minor=True)
