"""Draw every figure of a run from the tables in its folder; nothing is measured or loaded again.

    python plotting.py output/toy            # (re)draws output/toy/figures/*.png and *.pdf

From training.csv: training_loss. From scan.csv (and sharpness.csv): scan_epoch2_batch6, ... From histogram.csv:
histogram_epoch2_batch6, ... From ratios.csv: sharpness_ratios. A table that is absent or has no rows is skipped."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from results import read_config, read_table, write_whole

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]  # one line of a table, as read_table returns it

# One colour a name in all figures of all runs: the colour-blind-safe sets of Okabe & Ito (first six) and Tol.
COLORS = {"sgd": "#D55E00", "adam": "#0072B2", "adafactor": "#009E73", "normalized_sgd": "#E69F00",
          "sign_sgd": "#CC79A7", "lion": "#56B4E9", "adamw": "#332288", "rmsprop": "#882255", "adagrad": "#999933",
          "nadam": "#AA4499", "radam": "#117733", "muon": "#555555"}
OTHER_COLORS = ("#000000", "#661100", "#6699CC", "#888888")  # names we do not know, in order of appearance
# Line, opacity, marker and outline of a name's first, second, ... row; "--" on lines is left to the quadratic model.
VARIANTS = (("-", 1.0, "o", "-"), ("-.", 0.75, "s", "-"), (":", 0.75, "^", (0, (1.5, 0.7))),
            ((0, (7, 1, 1, 1, 1, 1)), 0.6, "D", ":"))
RC = {"font.size": 9, "figure.titlesize": 10, "axes.titlesize": 9, "legend.fontsize": 8, "legend.frameon": False,
      "legend.handlelength": 3.2, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
      "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.6,
      "lines.linewidth": 1.7, "pdf.fonttype": 42, "savefig.dpi": 200}


# ---- what a figure is drawn from -----------------------------------------------------------------------------

@dataclass(frozen=True)
class Style:
    """How one algorithm looks in every figure: its name's colour; line, opacity, marker, outline of its row."""
    name: str
    variant: int  # 0 for the first row of a name, unclipped before clipped
    color: str

    def line(self) -> dict[str, Any]:
        linestyle, alpha, _, _ = VARIANTS[self.variant % len(VARIANTS)]
        return {"color": self.color, "linestyle": linestyle, "alpha": alpha}

    @property
    def marker(self) -> str:
        return VARIANTS[self.variant % len(VARIANTS)][2]

    def bars(self) -> dict[str, Any]:
        if self.variant == 0:
            return {"facecolor": self.color + "60", "edgecolor": self.color, "linewidth": 0.5, "fill": True}
        outline = VARIANTS[self.variant % len(VARIANTS)][3]
        return {"edgecolor": self.color, "linewidth": 1.5, "linestyle": outline, "fill": False}


def styles_of(algorithms: Iterable[Row]) -> dict[str, Style]:
    """Label -> style for the rows of config.json (`label`, `name`, `options`), rows of one name side by side."""
    by_name: dict[str, list[Row]] = {}
    for row in algorithms:
        by_name.setdefault(row["name"], []).append(row)
    others = [name for name in by_name if name not in COLORS]
    return {row["label"]: Style(name, variant, COLORS.get(name) or OTHER_COLORS[others.index(name) % len(OTHER_COLORS)])
            for name, rows in by_name.items() for variant, row in enumerate(sorted(rows, key=_is_clipped))}


def _is_clipped(row: Row) -> bool:
    return any(row["options"].get(option) for option in ("coordinate_clip", "clip_update"))


@dataclass(frozen=True)
class Run:
    """A run folder as the figures need it."""
    folder: Path
    styles: dict[str, Style]
    title: str

    def table(self, name: str) -> list[Row]:
        """The rows of a table of ours; none where the run did not write it."""
        path = self.folder / f"{name}.csv"
        return read_table(path) if path.exists() else []

    def points(self, name: str) -> dict[tuple[int, int], dict[str, list[Row]]]:
        """The rows of a table by measured point (epoch, batch), then by algorithm, in the order of the styles."""
        points: dict[tuple[int, int], dict[str, list[Row]]] = {}
        for row in self.table(name):
            points.setdefault((row["epoch"], row["batch"]), {}).setdefault(row["algorithm"], []).append(row)
        return {point: {label: rows[label] for label in self.styles if label in rows} for point, rows in points.items()}


def open_run(folder: str | Path) -> Run:
    """Raises ValueError, in one line, if the folder is none of a run."""
    config, folder = read_config(folder), Path(folder)
    settings = config["settings"]
    by = f", trained by {settings['train_optimizer']}" if "train_optimizer" in settings else ""
    return Run(folder, styles_of(config["algorithms"]), settings.get("task", folder.name) + by)


# ---- training loss -------------------------------------------------------------------------------------------

def training_figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The loss of every batch as it was trained on, and its mean over each epoch."""
    rows = [row for row in run.table("training") if row["loss"] is not None]
    if not rows:
        return
    epochs: dict[int, list[Row]] = {}
    for row in rows:
        epochs.setdefault(row["epoch"], []).append(row)
    means = [[_mean(row[column] for row in part) for part in epochs.values()] for column in ("iteration", "loss")]
    handles = [Line2D([], [], color="0.65", linewidth=0.9, label="one batch"),
               Line2D([], [], color="black", marker="o", markersize=3.5, label="mean over the epoch")]
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


def scan_figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """The loss along every direction at one point, in panels that zoom out (Pan & Li, figures 2 to 4)."""
    measured = run.points("sharpness")
    for (epoch, batch), scans in run.points("scan").items():
        curves = {label: curve for label, rows in scans.items()
                  if (curve := _curve(run.styles[label], rows, measured.get((epoch, batch), {}).get(label, [])))}
        if not curves:
            continue
        handles = [Line2D([], [], label=label + " (uphill)" * curve.uphill, **curve.style.line())
                   for label, curve in curves.items()]
        handles.append(Line2D([], [], color="black", marker="o", linestyle="", markersize=5, label="minimum of a scan"))
        if any(curve.derivatives for curve in curves.values()):
            handles.append(Line2D([], [], color="0.4", linewidth=0.8, linestyle="--", label="its quadratic model"))
        limits = zoom_limits(curve.reach for curve in curves.values())
        columns = len(limits) if len(limits) < 4 else 2
        figure, axes = new_figure(math.ceil(len(limits) / columns), columns, handles, width=max(3.6 * columns, 6), height=2.7)
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
        ax.plot(curve.distances, curve.losses, zorder=3, **curve.style.line())
        if curve.derivatives and curve.reach > limit / 8:  # for a shorter curve, a zoomed panel has room for it
            grid = [min(limit, curve.reach) * i / 200 for i in range(201)]
            ax.plot(grid, [curve.model(s) for s in grid], color=curve.style.color, linewidth=0.8, linestyle="--")
        if curve.minimum is not None:
            ax.plot(curve.distances[curve.minimum], curve.losses[curve.minimum], curve.style.marker, markersize=5,
                    color=curve.style.color, markeredgecolor="white", markeredgewidth=0.6, zorder=4)
    within = [loss for curve in curves for s, loss in zip(curve.distances, curve.losses, strict=True) if s <= limit]
    start, low = curves[0].losses[0], min(within)
    # Models, and scans past their start, may rise without bound: a third of the deepest fall is room enough.
    top = start + (start - low) / 3 if low < start else max(within)
    margin = 0.05 * (top - low) or 1e-6
    ax.set(xlim=(0, limit), ylim=(low - margin, top + margin))
    ax.axhline(start, color="0.6", linewidth=0.7, zorder=1)
    ax.ticklabel_format(axis="y", useOffset=False)


# ---- histograms ----------------------------------------------------------------------------------------------

def histogram_figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """How the sizes of one step spread over the coordinates, a panel per optimizer name (Pan & Li, figure 1).

    The first row of a name is filled, its clipped variants are outlines. Magnitudes of exactly zero, or below the
    range of the bins, are the bar at the left end.
    """
    for (epoch, batch), tables in run.points("histogram").items():
        bars = {label: _bars(rows) for label, rows in tables.items()}
        panels = list(dict.fromkeys(run.styles[label].name for label in bars))
        columns = min(3, len(panels))
        handles = [Patch(label=label, **run.styles[label].bars()) for label in bars]
        figure, axes = new_figure(math.ceil(len(panels) / columns), columns, handles, width=max(3.1 * columns, 6), height=1.8)
        for label, (edges, fractions) in bars.items():
            ax = axes[panels.index(run.styles[label].name)]
            ax.stairs(fractions, edges, **run.styles[label].bars())
        occupied = [edge for edges, fractions in bars.values()
                    for low, high, fraction in zip(edges, edges[1:], fractions, strict=False) if fraction
                    for edge in (low, high)]
        for ax, name in zip(axes, panels, strict=False):
            ax.set(title=name, xscale="log", xlim=(min(occupied) / 2, 2 * max(occupied)), ylim=(0, None))
        for ax in axes[len(panels):]:
            ax.set_axis_off()
        label_outside(axes, columns, "$|v_i|$, per unit of learning rate", "fraction of coordinates")
        figure.suptitle(f"{run.title}, epoch {epoch}, batch {batch}: size of the update of each coordinate "
                        "(leftmost bar: zero)")
        yield f"histogram_epoch{epoch}_batch{batch}", figure


def _bars(bins: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Edges and fractions; the zero bin, which has no place on a log axis, gets the width of the others."""
    bins = sorted(bins, key=lambda row: row["bin_low"])
    ratio = bins[-1]["bin_high"] / bins[-1]["bin_low"]
    total = sum(row["count"] for row in bins)
    edges = [row["bin_low"] or row["bin_high"] / ratio for row in bins] + [bins[-1]["bin_high"]]
    return edges, [row["count"] / total for row in bins]


# ---- sharpness ratios ----------------------------------------------------------------------------------------

def ratio_figures(run: Run) -> Iterator[tuple[str, Figure]]:
    """Directional sharpness relative to SGD's over the epochs, mean and spread (Pan & Li, tables 3 to 6).

    The axis is logarithmic: a negative mean (the loss bends down) is a hollow marker at its size, and a bar that
    would leave the axis ends in an arrow.
    """
    rows = [row for row in run.table("ratios") if row["mean_ratio"]]
    if not rows:
        return
    epochs = sorted({row["epoch"] for row in rows})
    labels = [label for label in run.styles if any(row["algorithm"] == label for row in rows)]
    handles = [Line2D([], [], label=label, marker=run.styles[label].marker, markersize=4, **run.styles[label].line())
               for label in labels]
    if any(row["mean_ratio"] < 0 for row in rows):
        handles.append(Line2D([], [], color="0.3", marker="o", markerfacecolor="white", linestyle="",
                              label="negative mean, at its size"))
    handles.append(Line2D([], [], color="0.3", marker="v", markersize=3, linestyle="", label="std reaches to zero"))
    figure, (ax,) = new_figure(1, 1, handles, width=7.2, height=3.8)
    for place, label in enumerate(labels):
        points = sorted((row for row in rows if row["algorithm"] == label), key=lambda row: row["epoch"])
        shift = 0.6 * ((place + 0.5) / len(labels) - 0.5)  # side by side, so that no bar hides another
        _ratio_line(ax, [epochs.index(row["epoch"]) + shift for row in points], points, run.styles[label])
    ax.set(yscale="log", xlim=(-0.45, len(epochs) - 0.55), xlabel="epoch", title=run.title,
           ylabel="directional sharpness / |that of sgd|\nmean and std over the sampled points")
    ax.set_xticks(range(len(epochs)), [str(epoch) for epoch in epochs])
    ax.axhline(1, color="0.5", linewidth=0.8, zorder=1)
    yield "sharpness_ratios", figure


def _ratio_line(ax: Axes, places: Sequence[float], points: Sequence[Row], style: Style) -> None:
    ax.plot(places, [abs(row["mean_ratio"]) for row in points], **(style.line() | {"linewidth": 0.9}))
    for place, row in zip(places, points, strict=True):
        size, std = abs(row["mean_ratio"]), row["std"] or 0.0
        cut = std > 0.75 * size
        bottom = size / 4 if cut else size - std
        ax.plot([place, place], [bottom, size + std], color=style.color, linewidth=1.0)
        if cut:
            ax.plot(place, bottom, "v", color=style.color, markersize=3)
        ax.plot(place, size, style.marker, color=style.color, markersize=4.5, zorder=4,
                markerfacecolor=style.color if row["mean_ratio"] > 0 else "white")


# ---- a whole run ---------------------------------------------------------------------------------------------

# Table -> its figures (file name, figure). A new kind of figure is one function and one line here.
FIGURES: dict[str, Callable[[Run], Iterator[tuple[str, Figure]]]] = {
    "training": training_figures, "scan": scan_figures, "histogram": histogram_figures, "ratios": ratio_figures}


def draw_all(folder: str | Path) -> list[Path]:
    """Draw every figure that the folder's tables allow into its figures/, as PNG and PDF; the paths of what was drawn.

    The same tables give the same bytes. Raises ValueError, in one line, if the folder is none of a run.
    """
    run, paths = open_run(folder), []
    (run.folder / "figures").mkdir(exist_ok=True)
    with matplotlib.rc_context(RC):
        for table, figures in FIGURES.items():
            drawn = [path for stem, figure in figures(run) for path in save_figure(figure, run.folder / "figures", stem)]
            if not drawn:
                logger.info("%s.csv holds nothing to draw", table)
            paths += drawn
    return paths


def new_figure(rows: int, columns: int, handles: Sequence[Any], width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with its legend below the axes, in as many columns as fit; `width` of all, `height` of a row, in inches."""
    longest = max(len(handle.get_label()) for handle in handles)
    legend_columns = max(1, min(4, int(width / (0.062 * longest + 0.75))))
    legend_height = 0.17 * math.ceil(len(handles) / legend_columns)
    figure = Figure(figsize=(width, rows * height + legend_height + 0.6), layout="constrained")
    FigureCanvasAgg(figure)  # needs neither a display nor pyplot's global state
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def label_outside(axes: Sequence[Axes], columns: int, xlabel: str, ylabel: str) -> None:
    """Name the axes once: below the last row and left of the first column."""
    for i, ax in enumerate(axes):
        ax.set(xlabel=xlabel if i >= len(axes) - columns else "", ylabel="" if i % columns else ylabel)


def save_figure(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write stem.png and stem.pdf into the folder, without the time of writing in them."""
    def write(kind: str, **metadata: None) -> Path:
        return write_whole(folder / f"{stem}.{kind}",
                           lambda file: figure.savefig(file, format=kind, metadata=metadata))
    return [write("png"), write("pdf", CreationDate=None)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a run folder, such as output/toy: holds config.json and the tables")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        for path in draw_all(parser.parse_args(arguments).folder):
            print(path)
    except ValueError as error:
        print(f"plotting.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
