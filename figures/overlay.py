"""Several runs in one figure: what can be compared, and drawing it.

Runs of one script lie over each other, one color and marker per run and one panel per algorithm. A landscape run and a
convergence run of the same rows stand side by side: sharpness against speed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.comparing import common_labels, named_runs, script_of_all, title_of
from figures.convergence import loss_axis, losses_by, shown_losses
from figures.heterogeneity import overlay_blocks
from figures.run_tables import RunTables, read_run
from figures.seeds import CROSS, draw_curves, seeds_note
from figures.sharpness import (
    SHARPNESS,
    EpochMean,
    Means,
    any_cut,
    cut_key,
    draw_epochs,
    epochs_of,
    negative_note,
    ratio_means,
    sharpness_means,
)
from figures.speed import speed_figures
from figures.style import MARKERS, PALETTE, RC, Style, key, label_outside, new_figure, save_figure


def draw_overlay(folders: Sequence[str | Path], output: str | Path, names: Sequence[str] | None = None) -> list[Path]:
    """Draw several runs in one figure, as PNG and PDF in the folder `output`; the paths of what was drawn.

    Args:
        folders: run folders of one script, or one of run_landscape.py and one of run_convergence.py.
        names: how to call the runs in the legend; by default as their folders are called.

    Raises: ValueError, in one line, if a folder is not a run folder, or naming the runs that cannot be compared.
    """
    runs = named_runs([read_run(folder) for folder in folders], names)
    figures = OVERLAYS[script_of_all(runs)]
    output = Path(output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot create folder {output}: {error.strerror or error}") from error
    with matplotlib.rc_context(RC):
        drawn = list(figures(runs))  # all of them before the first is written: a run may be refused
        return [path for stem, figure in drawn for path in save_figure(figure, output / stem)]


# ---- landscape runs ------------------------------------------------------------------------------------------


def overlay_sharpness(runs: Mapping[str, RunTables]) -> Iterator[tuple[str, Figure]]:
    """Directional sharpness over the epochs, and the same relative to the references, one panel per algorithm."""
    yield "sharpness_overlay", _means_figure(runs, {n: sharpness_means(run) for n, run in runs.items()}, SHARPNESS)
    ratios = {name: ratio_means(run) for name, run in runs.items()}
    if all(ratios.values()):
        references = " or ".join(dict.fromkeys(run.reference or "the reference" for run in runs.values()))
        ylabel = f"directional sharpness / |that of {references}|"
        yield "sharpness_ratios_overlay", _means_figure(runs, ratios, ylabel, relative=True)


def _means_figure(
    runs: Mapping[str, RunTables], means: Mapping[str, Means], ylabel: str, relative: bool = False
) -> Figure:
    notes = {name: negative_note(run, means[name]) if relative else "" for name, run in runs.items()}
    labels = common_labels(runs, means)
    looks = run_styles(runs)
    every = [of_run[label] for of_run in means.values() for label in labels]
    handles = [key(name + notes[name], **look.line(), **look.points()) for name, look in looks.items()]
    if any_cut(every):
        handles.append(cut_key())
    figure, axes, columns = _panels(labels, handles)
    for ax, label in zip(axes, labels, strict=False):
        series: list[tuple[Style, Sequence[EpochMean]]] = [(looks[name], means[name][label]) for name in runs]
        draw_epochs(ax, series, epochs_of(every))
        ax.set_title(label)
        if relative:
            ax.axhline(1, color="0.5", linewidth=0.8, zorder=1)
    label_outside(axes[: len(labels)], columns, "epoch (n: points measured in it)", "")
    bars = (
        "mean and std; of several seeds, 95 % interval"
        if any(mean.interval for one in every for mean in one)
        else "mean and std"
    )
    figure.supylabel(f"{ylabel}, {bars}", fontsize=9)
    figure.suptitle(title_of(runs))
    return figure


def _panels(labels: Sequence[str], handles: Sequence) -> tuple[Figure, list[Axes], int]:
    """One panel per algorithm, in up to three columns; and how many columns."""
    columns = min(3, len(labels))
    figure, axes = new_figure(math.ceil(len(labels) / columns), columns, handles, max(3.1 * columns, 6), height=2.1)
    for ax in axes[len(labels) :]:
        ax.set_axis_off()
    return figure, axes, columns


def run_styles(names: Sequence[str] | Mapping) -> dict[str, Style]:
    """One look per run: color, marker and line."""
    return {name: Style(name, i, PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}


# ---- convergence runs ----------------------------------------------------------------------------------------


def overlay_losses(runs: Mapping[str, RunTables]) -> Iterator[tuple[str, Figure]]:
    """The training loss by iteration, one panel per algorithm: mean over the seeds, band and diverged seeds."""
    looks = run_styles(runs)
    curves, xlabels = {}, {}
    for name, run in runs.items():
        rows = run.table("losses", "loss")
        if not rows:
            raise ValueError(f"{run.folder} has nothing to compare: its tables have no numbers yet")
        of_run, xlabels[name] = losses_by(run, "iteration")
        curves[name] = {label: replace(one, style=looks[name]) for label, one in of_run.items()}
    labels = common_labels(runs, curves)
    handles = [key(name, **look.line(), **look.points()) for name, look in looks.items()]
    drawn = [of_run[label] for of_run in curves.values() for label in labels]
    if any(one.diverged for one in drawn):
        handles.append(key("where a diverged seed ended", color="0.35", **CROSS))
    figure, axes, columns = _panels(labels, handles)
    for ax, label in zip(axes, labels, strict=False):
        top = loss_axis(ax, shown_losses(drawn))
        draw_curves(ax, [of_run[label] for of_run in curves.values()], top)
        ax.set_title(label)
    alike = len(set(xlabels.values())) == 1  # runs of very different lengths are smoothed differently
    xlabel = xlabels.popitem()[1] if alike else "iteration (one update each; running means)"
    note = next(filter(None, (seeds_note(run.table("losses", "seed")) for run in runs.values())), "")
    label_outside(axes[: len(labels)], columns, xlabel, "training loss")
    figure.suptitle(title_of(runs) + note)
    yield "loss_overlay", figure


# By script; a landscape run beside a convergence run has none of its own.
OVERLAYS: dict[str | None, Callable[[Mapping[str, RunTables]], Iterator[tuple[str, Figure]]]] = {
    "run_convergence.py": overlay_losses,
    "run_landscape.py": overlay_sharpness,
    "run_hessian.py": overlay_blocks,
    None: speed_figures,
}
