"""Directional sharpness over the epochs, by itself and relative to SGD's (Pan & Li, arXiv:2306.00204, figure 2 and
tables 3 to 6)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, geometric_mean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.patches import Patch

from figures.run_tables import RunTables
from figures.style import Style, key, new_figure, readable_decades
from runs.intervals import factor_interval, mean_interval
from runs.tables import first_batch, on_batch

SHARPNESS = "directional sharpness, $v^T H v \\,/\\, \\|v\\|^2$"
BARS = "mean and std over the epoch's points"
BARS_OF_SEEDS = "mean over the seeds, bar: 95 % interval"
SPREAD = 0.3  # of the distance between two epochs: over so much of it stand the markers of one
BAND = {"facecolor": "none", "edgecolor": "0.8", "hatch": "////", "linewidth": 0}  # epochs where SGD's is negative
CUT = {"marker": CARETDOWN, "markersize": 4.5, "linestyle": ""}


@dataclass(frozen=True)
class EpochMean:
    """Mean over the points that were measured in one epoch, and the bar around it: one sample standard deviation to
    both sides; of several seeds, the mean of theirs and its 95 % interval."""

    epoch: int
    mean: float
    std: float  # 0 where it rests on one point
    count: int
    interval: tuple[float, float] | None = None  # of several seeds

    @property
    def ends(self) -> tuple[float, float]:
        return self.interval or (self.mean - self.std, self.mean + self.std)


Means = Mapping[str, Sequence[EpochMean]]  # by label, in the order of the styles, the epochs ascending


# ---- what is drawn -------------------------------------------------------------------------------------------


def sharpness_means(run: RunTables) -> Means:
    """Directional sharpness v'Hv / ||v||^2 from sharpness.csv, without labels and epochs that have none."""
    values: dict[tuple[str, int], dict[int | None, list[float]]] = {}
    rows = run.table("sharpness", "epoch algorithm sharpness")
    for row in on_batch(rows, first_batch(rows)):
        if row["sharpness"] is not None:
            by_seed = values.setdefault((row["algorithm"], row["epoch"]), {})
            by_seed.setdefault(row.get("seed"), []).append(row["sharpness"])
    return _by_label(
        run,
        {
            place: _over_seeds([
                EpochMean(place[1], fmean(of_epoch), stdev(of_epoch) if len(of_epoch) > 1 else 0.0, len(of_epoch))
                for of_epoch in by_seed.values()
            ])
            for place, by_seed in values.items()
        },
    )  # fmt: skip


def ratio_means(run: RunTables) -> Means:
    """Sharpness relative to |that of the reference|, from ratios.csv, without labels and epochs that have none."""
    rows = run.table("ratios", "epoch algorithm mean_ratio std count")
    values: dict[tuple[str, int], list[EpochMean]] = {}
    for row in on_batch(rows, first_batch(rows)):
        if row["mean_ratio"] is not None:
            mean = EpochMean(row["epoch"], row["mean_ratio"], row["std"] or 0.0, row["count"])
            values.setdefault((row["algorithm"], row["epoch"]), []).append(mean)
    return _by_label(run, {place: _over_seeds(means) for place, means in values.items()})


def _over_seeds(means: Sequence[EpochMean]) -> EpochMean:
    """Of one epoch, one per seed: as in seed_means.csv, of the logarithms where all are positive."""
    if len(means) == 1:
        return means[0]
    values = [mean.mean for mean in means]
    by_factors = min(values) > 0
    mean = geometric_mean(values) if by_factors else fmean(values)
    interval = factor_interval(values) if by_factors else mean_interval(values)
    return EpochMean(means[0].epoch, mean, stdev(values), sum(mean.count for mean in means), interval)


def bars_of(every: Iterable[Sequence[EpochMean]]) -> str:
    """What mean and bar are, for an axis."""
    return BARS_OF_SEEDS if any(mean.interval for means in every for mean in means) else BARS


def _by_label(run: RunTables, means: Mapping[tuple[str, int], EpochMean]) -> Means:
    means_of = {label: [mean for (of, _), mean in sorted(means.items()) if of == label] for label in run.styles}
    return {label: of_one for label, of_one in means_of.items() if of_one}


def negative_references(run: RunTables, means: Means) -> dict[int, int]:
    """Epoch -> at how many of its points the reference's own sharpness is negative: its ratio is -1 there, else 1."""
    counts: dict[int, int] = {}
    if run.reference in means:
        rows = run.table("ratios", "epoch algorithm mean_ratio count")
        for row in on_batch(rows, first_batch(rows)):
            if row["algorithm"] == run.reference and row["mean_ratio"] is not None:
                negative = round(row["count"] * (1 - row["mean_ratio"]) / 2)
                counts[row["epoch"]] = counts.get(row["epoch"], 0) + negative
    return {epoch: count for epoch, count in sorted(counts.items()) if count}


def negative_note(run: RunTables, means: Means) -> str:
    """For a label: that the reference is negative at some points, where ratios divide by its size alone; or nothing."""
    points = sum(negative_references(run, means).values())
    return f" ({run.reference} is negative at {points} point{'s' * (points > 1)})" if points else ""


# ---- figures -------------------------------------------------------------------------------------------------


def sharpness_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Directional sharpness over the epochs: what there is to see where no row serves as a reference."""
    means = sharpness_means(run)
    if means:
        series = {label: (run.styles[label], of_one) for label, of_one in means.items()}
        figure, ax = _one_panel(series, [])
        ax.set(title=f"{run.title}: directional sharpness", ylabel=f"{SHARPNESS}\n{bars_of(means.values())}")
        yield "directional_sharpness", figure


def ratio_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Directional sharpness relative to the reference's. Epochs in which that one is negative are hatched, since their
    ratios divide by its size alone."""
    means = ratio_means(run)
    if not means:
        return
    series = {label: (run.styles[label], of_one) for label, of_one in means.items()}
    negative = negative_references(run, means)
    hatched = f"{run.reference}'s sharpness is negative at some points"
    figure, ax = _one_panel(series, [Patch(label=hatched, **BAND)] if negative else [])
    epochs = epochs_of(means.values())
    for epoch in negative:
        place = epochs.index(epoch)
        ax.axvspan(place - 0.45, place + 0.45, zorder=0, **BAND)
    names = epoch_names(epochs, means.values())
    for i, epoch in enumerate(epochs):
        names[i] += f"\nnegative at {negative[epoch]}" if epoch in negative else ""
    ax.set_xticks(range(len(epochs)), names)
    reference = run.reference or "the reference"
    ax.set(title=f"{run.title}: directional sharpness relative to {reference}")
    ax.set_ylabel(f"directional sharpness / |that of {reference}|\n{bars_of(means.values())}")
    ax.axhline(1, color="0.5", linewidth=0.8, zorder=1)
    yield "sharpness_ratios", figure


def _one_panel(series: Mapping[str, tuple[Style, Sequence[EpochMean]]], handles: Sequence) -> tuple[Figure, Axes]:
    keys = [key(label, **style.line(), **style.points()) for label, (style, _) in series.items()]
    if any_cut([means for _, means in series.values()]):
        keys.append(cut_key())
    figure, (ax,) = new_figure(1, 1, [*keys, *handles], width=7.2, height=3.8)
    draw_epochs(ax, list(series.values()))
    return figure, ax


# ---- one axes ------------------------------------------------------------------------------------------------


def draw_epochs(ax: Axes, series: Sequence[tuple[Style, Sequence[EpochMean]]], epochs: Sequence[int] = ()) -> None:
    """Means with their bars, one place per epoch, the markers of an epoch side by side.

    Args:
        epochs: the places on the x axis; by default the epochs that occur.
    """
    every = [means for _, means in series]
    epochs = epochs or epochs_of(every)
    for i, (style, means) in enumerate(series):
        shift = SPREAD * ((i + 0.5) / len(series) - 0.5)
        _draw_means(ax, style, [epochs.index(mean.epoch) + shift for mean in means], means)
    ax.set_yscale(**signed_log_scale(every))
    if _is_logarithmic(every):
        readable_decades(ax.yaxis)
    else:
        ax.axhline(0, color="0.5", linewidth=0.8, linestyle=":", zorder=1)
    ax.set(xlim=(-0.5, len(epochs) - 0.5), xlabel="epoch (n: points measured in it)")
    ax.set_xticks(range(len(epochs)), epoch_names(epochs, every))


def _draw_means(ax: Axes, style: Style, places: Sequence[float], means: Sequence[EpochMean]) -> None:
    ax.plot(places, [mean.mean for mean in means], zorder=4, **(style.line() | {"linewidth": 0.9}), **style.points())
    ends = [_bar(mean) for mean in means]
    ax.vlines(places, [low for low, _ in ends], [high for _, high in ends], color=style.color, linewidth=1.0, zorder=3)
    for place, mean in zip(places, means, strict=True):
        if _is_cut(mean):
            arrow = CUT | {"marker": CARETDOWN if mean.mean > 0 else CARETUP}
            ax.plot(place, mean.mean / 4, color=style.color, zorder=3, **arrow)


def _bar(mean: EpochMean) -> tuple[float, float]:
    """The ends of the bar; towards zero as far as the axis can show it."""
    low, high = mean.ends
    if not _is_cut(mean):
        return low, high
    return (mean.mean / 4, high) if mean.mean > 0 else (low, mean.mean / 4)


def signed_log_scale(every: Iterable[Sequence[EpochMean]]) -> dict[str, Any]:
    """The scale of an axis: logarithmic; or, where a mean is not positive, linear around 0 and logarithmic beyond."""
    every = list(every)
    if _is_logarithmic(every):
        return {"value": "log"}
    smallest = min((abs(mean.mean) for means in every for mean in means if mean.mean), default=1.0)
    return {"value": "symlog", "linthresh": 10.0 ** math.floor(math.log10(smallest))}


def _is_logarithmic(every: Sequence[Sequence[EpochMean]]) -> bool:
    return all(mean.mean > 0 for means in every for mean in means)


def _is_cut(mean: EpochMean) -> bool:
    """Whether a bar comes near zero or crosses it, where it would fill a logarithmic axis."""
    nearer = mean.ends[0] if mean.mean > 0 else -mean.ends[1]
    return nearer < 0.25 * abs(mean.mean) and not _by_factors(mean)


def _by_factors(mean: EpochMean) -> bool:
    """Whether the bar is an interval of logarithms, which a logarithmic axis shows whole."""
    return mean.interval is not None and mean.interval[0] > 0


def any_cut(every: Iterable[Sequence[EpochMean]]) -> bool:
    """Whether a bar of `draw_epochs` ends in an arrow."""
    return any(_is_cut(mean) for means in every for mean in means)


def cut_key() -> Line2D:
    return key("bar cut short: its end is near 0 or beyond", color="0.35", **CUT)


def epochs_of(every: Iterable[Sequence[EpochMean]]) -> list[int]:
    return sorted({mean.epoch for means in every for mean in means})


def epoch_names(epochs: Sequence[int], every: Iterable[Sequence[EpochMean]]) -> list[str]:
    """Tick labels: the epoch, and how many points its means rest on."""
    names = []
    for epoch in epochs:
        counts = [mean.count for means in every for mean in means if mean.epoch == epoch]
        low, high = min(counts, default=0), max(counts, default=0)
        names.append(f"{epoch}\nn = {low}" + (f" to {high}" if high > low else ""))
    return names
