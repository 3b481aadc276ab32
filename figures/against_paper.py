"""Measured sharpness ratios against those of the paper's tables: do its numbers come back, or at least its order?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import RC, Style, key, label_outside, new_figure, save_figure, styles_of

if TYPE_CHECKING:
    from claims.paper import Beside

SGD = "sgd"  # what the ratios refer to


def draw_against_paper(ratios: Sequence[Beside], stem: Path) -> list[Path]:
    """Draw `against_paper` as stem.png and stem.pdf; their paths, none where no row but SGD is in both."""
    if all(one.paper_algorithm == SGD for one in ratios):
        return []
    with matplotlib.rc_context(RC):
        return save_figure(against_paper(ratios), stem)


def against_paper(ratios: Sequence[Beside]) -> Figure:
    """One panel per run, one point per row and epoch, on logarithmic axes; a bar is the interval over the seeds.

    SGD itself, 1 in both, is left out. A ratio of 0 or below has no logarithm: the panel's title counts it.
    """
    shown = [one for one in ratios if one.paper_algorithm != SGD]
    styles = _styles(shown)
    handles = [key(_legend(name), color=style.color, linestyle="", **style.points(6)) for name, style in styles.items()]
    handles.append(key("as in the paper", color="0.5", linewidth=1.0))
    folders = list(dict.fromkeys(one.folder for one in shown))
    columns = min(3, len(folders))
    rows = math.ceil(len(folders) / columns)
    figure, axes = new_figure(rows, columns, handles, width=max(6.5, 4.3 * columns), height=3.6)
    for ax, folder in zip(axes, folders, strict=False):
        _draw_run(ax, [one for one in shown if one.folder == folder], styles)
    for ax in axes[len(folders) :]:
        ax.set_axis_off()
    label_outside(axes[: len(folders)], columns, "ratio to SGD's sharpness in the paper", "ratio measured here")
    return figure


def _legend(paper_algorithm: str) -> str:
    """The clip fractions here and there differ, so that the legend leaves them out."""
    optimizer, comma, _ = paper_algorithm.partition(",")
    return f"{optimizer}, clipped" if comma else optimizer


def _styles(ratios: Sequence[Beside]) -> dict[str, Style]:
    """The paper's name of a row -> its look."""
    names = dict.fromkeys(one.paper_algorithm for one in ratios)
    rows = []
    for name in names:
        optimizer, _, clip = name.partition(", coordinate_clip=")
        rows.append({"label": name, "name": optimizer, "options": {"coordinate_clip": float(clip)} if clip else {}})
    return styles_of(rows)


def _draw_run(ax: Axes, ratios: Sequence[Beside], styles: dict[str, Style]) -> None:
    drawn = [one for one in ratios if one.ratio > 0]
    for one in drawn:
        style = styles[one.paper_algorithm]
        if one.ratio_low is not None and one.ratio_high is not None:
            low = max(one.ratio_low, one.ratio / 1e3)  # an interval that reaches 0 has no lower end on this axis
            ax.plot([one.paper_ratio] * 2, [low, one.ratio_high], color=style.color, linewidth=1.0, zorder=3)
        ax.plot(one.paper_ratio, one.ratio, color=style.color, linestyle="", zorder=4, **style.points(6))
    ends = [number for one in drawn for number in (one.ratio, one.paper_ratio)] or [0.1]
    line = [min(*ends, 1.0), max(*ends, 1.0)]
    ax.plot(line, line, color="0.5", linewidth=1.0, zorder=2)
    ax.set(xscale="log", yscale="log")
    first, missing = ratios[0], len(ratios) - len(drawn)
    epochs = ", ".join(dict.fromkeys(f"{one.epoch} ({one.paper_epoch})" for one in ratios))
    ax.set_title(
        f"{Path(first.folder).name}: {Path(first.dataset).name} data, {Path(first.model).name} model\n"
        f"Pan & Li, {first.paper_table}: {first.paper_dataset}, {first.paper_model}\n"
        f"run of {first.train_optimizer}, epochs here (in the paper): {epochs}"
        + (f"\nnot shown: {missing} at or below 0" if missing else ""),
        fontsize=8,
    )
