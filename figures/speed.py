"""Why one optimizer trains faster than another: a convergence run beside a landscape run with the same rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.comparing import common_labels, script_of
from figures.convergence import loss_axis, losses_by, shown_losses
from figures.run_tables import RunTables
from figures.seeds import AlgorithmCurves, curve_keys, draw_curves, seeds_note
from figures.sharpness import EpochMean, negative_note, ratio_means, sharpness_means, signed_log_scale
from figures.style import new_figure, whole_numbers
from hessian.heterogeneity import spearman
from runs.tables import TRAINING


def speed_figures(runs: Mapping[str, RunTables]) -> Iterator[tuple[str, Figure]]:
    """Left, the training loss of every optimizer; right, its last loss against the sharpness that its steps meet.

    Both panels have one loss axis: the curve of an optimizer ends at the height of its point.

    Args:
        runs: one of run_landscape.py and one of run_convergence.py, by name, in either order.
    """
    by_script = {script_of(run): run for run in runs.values()}
    landscape, convergence = by_script["run_landscape.py"], by_script["run_convergence.py"]
    ratios = ratio_means(landscape)
    means = dict(ratios or sharpness_means(landscape))
    means.pop(TRAINING, None)  # no row of the list that a convergence run trains
    curves, xlabel = losses_by(convergence, "epoch")
    by_name = {name: means if run is landscape else curves for name, run in runs.items()}
    labels = common_labels(runs, by_name)
    curves = {label: curves[label] for label in labels}
    figure, (left, right) = new_figure(1, 2, curve_keys(curves), width=9.0, height=3.7)
    top = [loss_axis(ax, shown_losses(curves.values())) for ax in (left, right)][0]
    draw_curves(left, curves.values(), top)
    note = seeds_note(convergence.table("losses", "seed"))
    left.set(xlabel=xlabel, ylabel=f"training loss{note}", title="How fast each optimizer trains")
    left.xaxis.set_major_locator(whole_numbers())
    correlation = _draw_points(right, curves, {label: means[label] for label in labels})
    relative = f" / |that of {landscape.reference}|{negative_note(landscape, ratios)}" if ratios else ""
    by = landscape.settings.get("train_optimizer")
    where = f"along a run of {by}" if by else "over the points"
    right.set_xlabel(f"directional sharpness{relative}\nmean {where}, bar: lowest to highest epoch")
    right.set_ylabel("training loss of the last epoch")
    right.set_title(f"How sharply the loss bends along its steps\n{correlation}")
    figure.suptitle(f"{convergence.task}: does an optimizer train faster if the loss bends less along its steps?")
    yield "speed_and_sharpness", figure


def _draw_points(ax: Axes, curves: Mapping[str, AlgorithmCurves], means: Mapping[str, list[EpochMean]]) -> str:
    """One point per optimizer with a seed that finished; how the two quantities go together, for the title."""
    placed = []
    for label, one in curves.items():
        if one.finished:
            loss = fmean(curve[max(curve)] for curve in one.finished)
            epochs = [mean.mean for mean in means[label]]
            sharpness = fmean(epochs, weights=[mean.count for mean in means[label]])
            ax.plot(sharpness, loss, color=one.style.color, linestyle="", zorder=4, **one.style.points(7))
            ax.hlines(loss, min(epochs), max(epochs), color=one.style.color, linewidth=1.0, zorder=3)
            placed.append((sharpness, loss))
    ax.set_xscale(**signed_log_scale(means.values()))
    rank = spearman(*zip(*placed, strict=True)) if placed else None
    if rank is None or math.isnan(rank.value):
        return f"{len(placed)} row{'s' * (len(placed) != 1)}"
    return f"rank correlation {rank.value:.2f} (95 %: {rank.low:.2f} to {rank.high:.2f}) over {len(placed)} rows"
