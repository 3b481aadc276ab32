"""The figures of a convergence run: loss by epoch and by iteration, tuned learning rates, scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from figures.run_tables import Row, RunTables
from figures.seeds import (
    CROSS,
    AlgorithmCurves,
    algorithm_curves,
    curve_keys,
    diverged_seeds,
    draw_curves,
    seeds_note,
)
from figures.style import Style, key, new_figure, whole_numbers

CHOSEN = {"marker": "o", "markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.4, "linestyle": ""}
SGD_END = {"color": "0.35", "linewidth": 0.8}
LOSS_COLUMNS = "algorithm seed epoch iteration examples loss"

# ---- loss ----------------------------------------------------------------------------------------------------


def loss_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """The training loss of every algorithm, by epoch and by iteration, with the loss at which plain SGD ended."""
    rows = run.table("losses", LOSS_COLUMNS)
    if all(row["loss"] is None for row in rows):
        return
    sgd_end = _plain_sgd_end(run)
    for x in ("epoch", "iteration"):
        curves, xlabel = losses_by(run, x)
        figure = _loss_figure(curves, sgd_end)
        (ax,) = figure.axes
        ax.set(xlabel=xlabel, ylabel=f"training loss{seeds_note(rows)}")
        ax.set_title(f"{run.title}: training loss of every optimizer", pad=9)  # clear of a cross on the upper edge
        ax.xaxis.set_major_locator(whole_numbers())
        yield f"loss_by_{x}", figure


def losses_by(run: RunTables, x: str) -> tuple[dict[str, AlgorithmCurves], str]:
    """Every algorithm's loss by "epoch" or "iteration", and what to write at that axis."""
    rows = run.table("losses", LOSS_COLUMNS)
    # About 100 points per curve can be told apart; a wiggle finer than that only thickens 12 lines.
    width = 1 if x == "epoch" else max(row["iteration"] for row in rows) // 100 | 1
    smoothed = f"; running mean over {width}" if width > 1 else ""
    xlabel = "epoch (mean over its examples)" if x == "epoch" else f"iteration (one update each{smoothed})"
    return algorithm_curves(run.styles, diverged_seeds(run), rows, x, "loss", width), xlabel


def _plain_sgd_end(run: RunTables) -> tuple[str, float] | None:
    """Label and final loss of the first plain SGD row, as the column steps_to_sgd_loss has it."""
    for row in run.table("summary", "algorithm final_loss_mean"):
        if run.styles[row["algorithm"]].is_plain_sgd:
            return None if row["final_loss_mean"] is None else (row["algorithm"], row["final_loss_mean"])
    return None


def _loss_figure(curves: dict[str, AlgorithmCurves], sgd_end: tuple[str, float] | None) -> Figure:
    handles = curve_keys(curves)
    if sgd_end:
        handles.append(key(f"where {sgd_end[0]} ended", **SGD_END))
    figure, (ax,) = new_figure(1, 1, handles, width=7.8, height=3.8)
    top = loss_axis(ax, shown_losses(curves.values()) + ([sgd_end[1]] if sgd_end else []))
    draw_curves(ax, curves.values(), top)
    if sgd_end:
        ax.axhline(sgd_end[1], zorder=1, **SGD_END)
    return figure


def shown_losses(curves: Iterable[AlgorithmCurves]) -> list[float]:
    """The losses that the axis must hold. What diverged may not raise its scale: it would flatten the others."""
    curves = list(curves)
    finished = [loss for one in curves for curve in one.finished for loss in curve.values()]
    diverged = [loss for one in curves for curve in one.diverged for loss in curve.values()]
    ceiling = max(finished, default=math.inf)
    return finished + [loss for loss in diverged if loss <= ceiling]


def loss_axis(ax: Axes, losses: Sequence[float], factor: float = 3.0) -> float:
    """Limits with a margin, logarithmic where the losses differ by more than `factor`; the upper limit.

    Raises: ValueError if there is no loss."""
    if not losses:
        raise ValueError("these runs have no finite loss to draw")
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
    trials = {
        label: sorted((row for row in rows if row["algorithm"] == label), key=lambda row: row["lr"])
        for label in run.styles
    }
    trials = {label: of_one for label, of_one in trials.items() if of_one}
    handles = [key(label, **run.styles[label].line(), **run.styles[label].points()) for label in trials]
    handles.append(key("chosen", color="0.35", **CHOSEN))
    if any(_is_lost(row) for row in rows):
        handles.append(key("diverged", color="0.35", **CROSS))
    figure, (ax,) = new_figure(1, 1, handles, width=7.8, height=3.8)
    top = loss_axis(ax, losses, factor=1.0)
    for label, of_one in trials.items():
        _draw_trials(ax, run.styles[label], of_one, top)
    ax.set(xscale="log", xlabel="learning rate", ylabel="final training loss of the trial")
    ax.set_title(f"{run.title}: trials of the learning rate", pad=9)
    yield "learning_rates", figure


def _is_lost(row: Row) -> bool:
    return bool(row["diverged"]) or row["final_loss"] is None


def _draw_trials(ax: Axes, style: Style, rows: Sequence[Row], top: float) -> None:
    """One algorithm's trials in order of their rate; a diverged one is an x on the upper edge, where a line leads."""
    heights = [top if _is_lost(row) else row["final_loss"] for row in rows]
    ax.plot([row["lr"] for row in rows], heights, **(style.line() | {"linewidth": 1.1}))
    for row, height in zip(rows, heights, strict=True):
        mark = CROSS if _is_lost(row) else style.points() | {"linestyle": ""}
        ax.plot(row["lr"], height, color=style.color, clip_on=False, zorder=4, **mark)
        if row["chosen"]:
            ax.plot(row["lr"], height, color=style.color, zorder=5, **CHOSEN)


# ---- scores --------------------------------------------------------------------------------------------------


def score_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Every metric by epoch: one row of panels per metric, one column per split of the data."""
    rows = [row for row in run.table("scores", "algorithm seed epoch split metric value") if row["value"] is not None]
    if not rows:
        return
    splits, metrics = (list(dict.fromkeys(row[column] for row in rows)) for column in ("split", "metric"))
    diverged = diverged_seeds(run)
    handles = curve_keys(algorithm_curves(run.styles, diverged, rows, "epoch", "value"))
    figure, axes = new_figure(len(metrics), len(splits), handles, width=max(3.6 * len(splits), 7.8), height=2.7)
    for place, ax in enumerate(axes):
        metric, split = metrics[place // len(splits)], splits[place % len(splits)]
        here = [row for row in rows if (row["metric"], row["split"]) == (metric, split)]
        draw_curves(ax, algorithm_curves(run.styles, diverged, here, "epoch", "value").values())
        ax.set(title=f"{metric}, {split}", ylabel="" if place % len(splits) else metric)
        ax.set(xlabel="epoch" if place >= len(axes) - len(splits) else "")
        ax.xaxis.set_major_locator(whole_numbers())
    figure.suptitle(run.title + seeds_note(rows))
    yield "scores", figure
