"""What the clip fraction does to every optimizer's step, and where the curvature of SGD's step sits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean, geometric_mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.run_tables import Row, RunTables, seeds_of
from figures.style import PALETTE, key, new_figure, readable_decades
from runs.tables import first_batch, on_batch

FRACTION = "clip fraction $k$ of the coordinates"
BAND = {"alpha": 0.15, "linewidth": 0}
PANELS: dict[str, Callable[[Row], float]] = {  # what is drawn, and from which column
    "directional sharpness, $v^T H v \\,/\\, \\|v\\|^2$": lambda row: row["sharpness"],
    "downhill slope, $-g^T v \\,/\\, \\|v\\|$": lambda row: -row["slope"],
    "predicted decrease of the loss": lambda row: row["predicted_decrease"],
}
PARTS = {
    "top": ("$v_{top}^T H\\, v_{top}$", {"color": PALETTE[1], "marker": "o"}),
    "cross": ("$2\\, v_{top}^T H\\, v_{rest}$", {"color": PALETTE[3], "marker": "s", "linestyle": "-."}),
    "rest": ("$v_{rest}^T H\\, v_{rest}$", {"color": PALETTE[0], "marker": "^", "linestyle": "--"}),
}
LENGTH = {"color": "black", "linewidth": 0.9, "linestyle": ":"}
LEFT = {"color": PALETTE[0], "marker": "^"}
Values = Mapping[float, Sequence[float]]  # fraction -> one number per seed


def clip_sweep_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """For each epoch: sharpness, slope and predicted decrease against the clip fraction, one line per optimizer."""
    rows = run.table("clip_sweep", "epoch algorithm measured_on fraction slope sharpness predicted_decrease")
    rows = on_batch(rows, first_batch(rows))
    for epoch in dict.fromkeys(row["epoch"] for row in rows):
        own = [row for row in rows if row["epoch"] == epoch]
        labels = [label for label in run.styles if any(row["algorithm"] == label for row in own)]
        handles = [key(label, **run.styles[label].line(), **run.styles[label].points()) for label in labels]
        figure, axes = new_figure(1, 3, [*handles, *_band_key(own)], width=9.0, height=2.9)
        for ax, (name, value) in zip(axes, PANELS.items(), strict=True):
            for label in labels:
                style = run.styles[label]
                values = _by_fraction([row for row in own if row["algorithm"] == label], value)
                _draw(ax, values, style.line() | style.points(), own)
            _fraction_axis(ax, own)
            _size_axis(ax)
            ax.set_ylabel(name)
        figure.suptitle(f"{run.title}, epoch {epoch}: steps of optimizers that clip a fraction of the coordinates")
        yield f"clip_sweep_epoch{epoch}", figure


def curvature_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """For each epoch, against the fraction of the largest coordinates of SGD's step: which share of its curvature they
    carry, alone and together with the others; and how sharp the loss is along what is left."""
    rows = run.table(
        "curvature_by_size", "epoch algorithm measured_on fraction length_share top cross rest rest_sharpness"
    )
    rows = [row for row in on_batch(rows, first_batch(rows)) if row["top"] is not None]
    for epoch in dict.fromkeys(row["epoch"] for row in rows):
        own = [row for row in rows if row["epoch"] == epoch]
        handles = [key(f"{name} over $v^T H v$", **look) for name, look in PARTS.values()]
        handles += [key("share of $\\|v\\|^2$ in the largest coordinates", **LENGTH), *_band_key(own)]
        figure, (left, right) = new_figure(1, 2, handles, width=8.4, height=3.0)
        for part, (_, look) in PARTS.items():
            _draw(left, _by_fraction(own, lambda row, part=part: row[part] / _whole(row)), look, own)
        _draw(left, _by_fraction(own, lambda row: row["length_share"]), LENGTH, own)
        left.axhline(0, color="0.5", linewidth=0.8, zorder=1)
        left.set_ylabel("share of the curvature along SGD's step")
        _draw(right, _by_fraction(own, lambda row: row["rest_sharpness"] / _whole(row)), LEFT, own)
        right.axhline(1, color="0.5", linewidth=0.8, zorder=1)
        right.set_ylabel("sharpness along $v_{rest}$ over that along $v$")
        _size_axis(right)
        for ax in (left, right):
            _fraction_axis(ax, own)
            ax.set_xlabel("fraction of the largest coordinates, $k$")
        where = f"{run.title}, epoch {epoch}"
        figure.suptitle(f"{where}: curvature of {own[0]['algorithm']}'s step by the size of its coordinates")
        yield f"curvature_by_size_epoch{epoch}", figure


def _whole(row: Row) -> float:
    """The size of the sharpness along v."""
    return abs(row["top"] + row["cross"] + row["rest"])


def _by_fraction(rows: Sequence[Row], value: Callable[[Row], float]) -> dict[float, list[float]]:
    """Ascending; without the steps that clipping has erased, and those without a predicted decrease."""
    by_fraction: dict[float, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["fraction"]):
        if row.get("sharpness", 0) is not None and row.get("predicted_decrease", 0) is not None:
            by_fraction.setdefault(row["fraction"], []).append(value(row))
    return by_fraction


def _draw(ax: Axes, values: Values, look: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Means over the seeds, geometric where all are positive, in a band from the lowest to the highest."""
    places = [_place(fraction, rows) for fraction in values]
    positive = all(value > 0 for of_one in values.values() for value in of_one)
    means = [geometric_mean(of_one) if positive else fmean(of_one) for of_one in values.values()]
    ax.plot(places, means, zorder=3, **({"markersize": 4.5} | dict(look)))
    if len(seeds_of(rows)) > 1:
        low, high = (list(map(extreme, values.values())) for extreme in (min, max))
        ax.fill_between(places, low, high, color=look["color"], zorder=2, **BAND)


def _place(fraction: float, rows: Sequence[Row]) -> float:
    """On a logarithmic axis k = 0 stands left of the smallest fraction."""
    return fraction or min(row["fraction"] for row in rows if row["fraction"]) / 3


def _fraction_axis(ax: Axes, rows: Sequence[Row]) -> None:
    fractions = sorted({row["fraction"] for row in rows})
    ax.set(xscale="log", xlabel=FRACTION)
    ax.set_xticks([_place(k, rows) for k in fractions], [f"{k:g}" for k in fractions], rotation=45)
    ax.set_xticks([], minor=True)


def _size_axis(ax: Axes) -> None:
    """Logarithmic where all that is drawn is positive."""
    if all(value > 0 for line in ax.lines for value in line.get_ydata()):
        ax.set_yscale("log")
        readable_decades(ax.yaxis)
    else:
        ax.axhline(0, color="0.5", linewidth=0.8, linestyle=":", zorder=1)


def _band_key(rows: Sequence[Row]) -> list[Patch]:
    seeds = len(seeds_of(rows))
    return [Patch(label=f"lines: means over {seeds} seeds, bands: lowest to highest", facecolor="0.35", **BAND)] * (
        seeds > 1
    )
