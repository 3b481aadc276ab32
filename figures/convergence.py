"""The figures of a convergence run: loss by epoch and by iteration, tuned learning rates, scores.

Every curve is the mean over the seeds that finished, its band runs from the lowest to the highest of them. A seed that
diverged is left out of both: it is a thin line of its own, with an x where it ended (on the upper edge if above it)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from figures.run_tables import Row, RunTables
from figures.style import Style, new_figure

Curve = dict[int, float]  # epoch or iteration -> value of one seed, ascending
CHOSEN = {"marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.4, "linestyle": ""}
CROSS = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6, "linestyle": ""}


def curves_by_seed(rows: Iterable[Row], x: str, y: str) -> dict[str, dict[int, Curve]]:
    """Algorithm -> seed -> curve. Rows of one x are averaged: with x = "epoch", over the examples of the epoch."""
    cells: dict[str, dict[int, dict[int, list[tuple]]]] = {}
    for row in rows:
        if row[y] is not None:
            value = row[y], row.get("examples", 1)
            cells.setdefault(row["algorithm"], {}).setdefault(row["seed"], {}).setdefault(row[x], []).append(value)
    return {label: {seed: {at: fmean(*zip(*values, strict=True)) for at, values in sorted(curve.items())}
                    for seed, curve in seeds.items()}
            for label, seeds in cells.items()}


def running_mean(curve: Curve, width: int) -> Curve:
    """Each value becomes the mean of the `width` values around it, of fewer at the two ends; `width` is odd."""
    places, values, half = list(curve), list(curve.values()), width // 2
    return {place: fmean(values[max(0, i - half):i + half + 1]) for i, place in enumerate(places)}


def _seeds_note(rows: Iterable[Row]) -> str:
    """For an axis or a title: what line and band are, where there is more than one seed."""
    seeds = len({row["seed"] for row in rows})
    return f"\nmean over {seeds} seeds, band: lowest to highest" if seeds > 1 else ""


# ---- seeds ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Progress:
    """One algorithm's losses or scores, seed by seed."""
    style: Style
    finished: list[Curve]
    diverged: list[Curve]  # those that left at least one value
    verdict: str  # for the legend: "", " (diverged)" or " (1/3 diverged)"


def diverged_seeds(run: RunTables) -> dict[str, list[int]]:
    """Algorithm -> its seeds that diverged: as many as the summary counts, namely those whose losses end first (where
    several end together, highest). An algorithm that the summary does not list yet is still training."""
    rows = run.table("losses", "algorithm seed iteration loss")
    seeds, curves = list(dict.fromkeys(row["seed"] for row in rows)), curves_by_seed(rows, "iteration", "loss")

    def first_to_end(label: str) -> list[int]:
        of_one = {seed: curves.get(label, {}).get(seed) or {0: 0.0} for seed in seeds}
        return sorted(seeds, key=lambda seed: (max(of_one[seed]), -of_one[seed][max(of_one[seed])]))

    return {row["algorithm"]: first_to_end(row["algorithm"])[:row["diverged"] or 0]
            for row in run.table("summary", "algorithm diverged")}


def _progress(styles: dict[str, Style], diverged: dict[str, list[int]], rows: Sequence[Row], x: str, y: str,
              width: int = 1) -> dict[str, Progress]:
    """Algorithm -> its curves, for those that have one or diverged before they could."""
    all_seeds, curves, progress = len({row["seed"] for row in rows}), curves_by_seed(rows, x, y), {}
    for label, style in styles.items():
        lost, seeds = diverged.get(label, []), curves.get(label, {})
        if lost or seeds:
            share = "" if len(lost) >= all_seeds else f"{len(lost)}/{all_seeds} "
            smooth = {seed: running_mean(curve, width) for seed, curve in seeds.items()}
            progress[label] = Progress(style, [curve for seed, curve in smooth.items() if seed not in lost],
                                       [curve for seed, curve in smooth.items() if seed in lost],
                                       f" ({share}diverged)" if lost else "")
    return progress


def _handles(progress: dict[str, Progress], markers: bool) -> list[Line2D]:
    handles = [_handle(one.style, label + one.verdict, markers) for label, one in progress.items()]
    if any(one.diverged for one in progress.values()):
        handles.append(Line2D([], [], color="0.35", label="a diverged seed's end", **CROSS))
    return handles


def _handle(style: Style, label: str, markers: bool) -> Line2D:
    return Line2D([], [], label=label, marker=style.marker if markers else "", markersize=4, **style.line())


def _draw_progress(ax: Axes, progress: Progress, markers: bool, top: float = math.inf) -> None:
    style = progress.style
    _draw_band(ax, style, progress.finished, markers)
    for curve in progress.diverged:
        end = max(curve)
        ax.plot(list(curve), list(curve.values()), **(style.line() | {"linewidth": 0.8}))
        ax.plot(end, min(curve[end], top), color=style.color, clip_on=False, zorder=5, **CROSS)


def _draw_band(ax: Axes, style: Style, curves: Sequence[Curve], markers: bool) -> None:
    """Mean and range over the seeds, as far as all of them came: so a run that still goes on has no false steps."""
    places = sorted(set.intersection(*map(set, curves))) if curves else []
    columns = [[curve[place] for curve in curves] for place in places]
    if len(curves) > 1:
        ax.fill_between(places, [min(column) for column in columns], [max(column) for column in columns],
                        color=style.color, alpha=0.13, linewidth=0, zorder=2)
    ax.plot(places, [fmean(column) for column in columns], marker=style.marker if markers else "", markersize=3.5,
            markevery=max(1, len(places) // 10), zorder=3, **style.line())


# ---- loss ----------------------------------------------------------------------------------------------------

def loss_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """The training loss of every algorithm, by epoch and by iteration, with the loss at which plain SGD ended."""
    rows = run.table("losses", "algorithm seed epoch iteration examples loss")
    if all(row["loss"] is None for row in rows):
        return
    diverged, summary = diverged_seeds(run), run.table("summary", "algorithm final_loss_mean")
    plain = [row for row in summary if run.styles[row["algorithm"]].is_plain_sgd][:1]  # as steps_to_sgd_loss has it
    sgd_end = [(row["algorithm"], row["final_loss_mean"]) for row in plain if row["final_loss_mean"] is not None]
    # About 100 points a curve can be told apart; a wiggle finer than that only thickens 12 lines.
    width = max(row["iteration"] for row in rows) // 100 | 1
    smoothed = f"; running mean over {width}" if width > 1 else ""
    for x, name, window in (("epoch", "epoch (mean over its examples)", 1),
                            ("iteration", f"iteration (one update each{smoothed})", width)):
        progress = _progress(run.styles, diverged, rows, x, "loss", window)
        figure = _loss_figure(progress, sgd_end, markers=x == "epoch")
        figure.axes[0].set(xlabel=name, ylabel=f"training loss{_seeds_note(rows)}")
        figure.axes[0].set_title(run.title, pad=9)  # clear of a cross on the upper edge
        figure.axes[0].xaxis.set_major_locator(_whole_numbers())
        yield f"loss_by_{x}", figure


def _whole_numbers() -> MaxNLocator:
    """Ticks of epochs and iterations."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


def _loss_figure(progress: dict[str, Progress], sgd_end: list[tuple[str, float]], markers: bool) -> Figure:
    handles = _handles(progress, markers)
    handles += [Line2D([], [], color="0.35", linewidth=0.8, label=f"where {label} ended") for label, _ in sgd_end]
    figure, (ax,) = new_figure(1, 1, handles, width=7.8, height=3.8)
    finished = [loss for one in progress.values() for curve in one.finished for loss in curve.values()]
    diverged = [loss for one in progress.values() for curve in one.diverged for loss in curve.values()]
    ceiling = max(finished, default=math.inf)  # what diverged may not raise the scale: it would flatten the others
    top = _loss_axis(ax, finished + [loss for loss in diverged if loss <= ceiling] + [loss for _, loss in sgd_end])
    for one in progress.values():
        _draw_progress(ax, one, markers, top)
    for _, loss in sgd_end:
        ax.axhline(loss, color="0.35", linewidth=0.8, zorder=1)
    return figure


def _loss_axis(ax: Axes, losses: Sequence[float], factor: float = 3.0) -> float:
    """Limits with a margin, logarithmic where the losses differ by more than `factor`; the upper limit."""
    low, high = min(losses), max(losses)
    if low > 0 and high > factor * low:
        margin = (high / low) ** 0.04
        ax.set(yscale="log", ylim=(low / margin, high * margin))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        margin = 0.04 * (high - low) or 0.01 * abs(high) or 0.01
        ax.set_ylim(low - margin, high + margin)
    return ax.get_ylim()[1]


# ---- learning rates ------------------------------------------------------------------------------------------

def learning_rate_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """The final loss of every trial of the tuning against its learning rate, with the chosen ones."""
    rows = [row for row in run.table("tuned_learning_rates", "algorithm lr final_loss diverged chosen") if row["lr"]]
    losses = [row["final_loss"] for row in rows if not _is_lost(row)]
    if not losses:
        return
    trials = {label: sorted((row for row in rows if row["algorithm"] == label), key=lambda row: row["lr"])
              for label in run.styles}
    trials = {label: of_one for label, of_one in trials.items() if of_one}
    handles = [_handle(run.styles[label], label, markers=True) for label in trials]
    handles.append(Line2D([], [], label="chosen", color="0.35", **CHOSEN))
    if any(_is_lost(row) for row in rows):
        handles.append(Line2D([], [], label="diverged", color="0.35", **CROSS))
    figure, (ax,) = new_figure(1, 1, handles, width=7.8, height=3.8)
    top = _loss_axis(ax, losses, factor=1.0)
    for label, of_one in trials.items():
        _draw_trials(ax, run.styles[label], of_one, top)
    ax.set(xscale="log", xlabel="learning rate", ylabel="final training loss of the trial")
    ax.set_title(run.title, pad=9)
    yield "learning_rates", figure


def _is_lost(row: Row) -> bool:
    return bool(row["diverged"]) or row["final_loss"] is None


def _draw_trials(ax: Axes, style: Style, rows: Sequence[Row], top: float) -> None:
    """One algorithm's trials in order of their rate; a diverged one is an x on the upper edge, where a line leads."""
    heights = [top if _is_lost(row) else row["final_loss"] for row in rows]
    ax.plot([row["lr"] for row in rows], heights, **(style.line() | {"linewidth": 1.1}))
    for row, height in zip(rows, heights, strict=True):
        mark = CROSS if _is_lost(row) else {"marker": style.marker, "markersize": 3.5}
        ax.plot(row["lr"], height, color=style.color, clip_on=False, zorder=4, **mark)
        if row["chosen"]:
            ax.plot(row["lr"], height, color=style.color, zorder=5, **CHOSEN)


# ---- scores --------------------------------------------------------------------------------------------------

def score_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Every metric by epoch, a row of panels a metric and a column a split of the data."""
    rows = [row for row in run.table("scores", "algorithm seed epoch split metric value") if row["value"] is not None]
    if not rows:
        return
    splits, metrics = (list(dict.fromkeys(row[column] for row in rows)) for column in ("split", "metric"))
    diverged = diverged_seeds(run)
    handles = _handles(_progress(run.styles, diverged, rows, "epoch", "value"), markers=True)
    figure, axes = new_figure(len(metrics), len(splits), handles, width=max(3.6 * len(splits), 7.8), height=2.7)
    for place, ax in enumerate(axes):
        metric, split = metrics[place // len(splits)], splits[place % len(splits)]
        here = [row for row in rows if (row["metric"], row["split"]) == (metric, split)]
        for one in _progress(run.styles, diverged, here, "epoch", "value").values():
            _draw_progress(ax, one, markers=True)
        ax.set(title=split if place < len(splits) else "", ylabel="" if place % len(splits) else metric,
               xlabel="epoch" if place >= len(axes) - len(splits) else "")
        ax.xaxis.set_major_locator(_whole_numbers())
    figure.suptitle(run.title + _seeds_note(rows))
    yield "scores", figure
