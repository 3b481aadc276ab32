"""Curves over the seeds of a convergence run: mean, band, and the seeds that diverged.

A curve is the mean over the seeds that finished; its band runs from the lowest to the highest of them. A seed that
diverged is left out of both. It is a thin line of its own, with an x where it ended, on the upper edge if above it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from figures.run_tables import Row, RunTables
from figures.style import Style, key

SeedCurve = dict[int, float]  # epoch or iteration -> value of one seed, ascending
CROSS = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6, "linestyle": ""}


def curves_by_seed(rows: Iterable[Row], x: str, y: str) -> dict[str, dict[int, SeedCurve]]:
    """Algorithm -> seed -> curve. Rows of one x are averaged: with x = "epoch", over the examples of the epoch."""
    cells: dict[str, dict[int, dict[int, list[tuple]]]] = {}
    for row in rows:
        if row[y] is not None:
            value = row[y], row.get("examples", 1)
            cells.setdefault(row["algorithm"], {}).setdefault(row["seed"], {}).setdefault(row[x], []).append(value)
    return {
        label: {
            seed: {at: fmean(*zip(*values, strict=True)) for at, values in sorted(curve.items())}
            for seed, curve in seeds.items()
        }
        for label, seeds in cells.items()
    }


def running_mean(curve: SeedCurve, width: int) -> SeedCurve:
    """Each value becomes the mean of the `width` values around it, of fewer at the two ends; `width` is odd."""
    places, values, half = list(curve), list(curve.values()), width // 2
    return {place: fmean(values[max(0, i - half) : i + half + 1]) for i, place in enumerate(places)}


def seeds_note(rows: Iterable[Row]) -> str:
    """For an axis or a title: what line and band are, where there is more than one seed."""
    seeds = len({row["seed"] for row in rows})
    return f"\nmean over {seeds} seeds, band: lowest to highest" if seeds > 1 else ""


# ---- what became of the seeds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlgorithmCurves:
    """One algorithm's losses or scores, seed by seed."""

    style: Style
    finished: list[SeedCurve]
    diverged: list[SeedCurve]  # those that left at least one value
    verdict: str  # for the legend: "", " (diverged)" or " (1/3 diverged)"


def diverged_seeds(run: RunTables) -> dict[str, list[int]]:
    """Algorithm -> its seeds that diverged: as many as the summary counts, namely those whose losses end first (where
    several end together, highest). An algorithm that the summary does not list yet is still training."""
    rows = run.table("losses", "algorithm seed iteration loss")
    seeds, curves = list(dict.fromkeys(row["seed"] for row in rows)), curves_by_seed(rows, "iteration", "loss")

    def first_to_end(label: str) -> list[int]:
        of_one = {seed: curves.get(label, {}).get(seed) or {0: 0.0} for seed in seeds}
        return sorted(seeds, key=lambda seed: (max(of_one[seed]), -of_one[seed][max(of_one[seed])]))

    return {
        row["algorithm"]: first_to_end(row["algorithm"])[: row["diverged"] or 0]
        for row in run.table("summary", "algorithm diverged")
    }


def algorithm_curves(
    styles: Mapping[str, Style], diverged: Mapping[str, list[int]], rows: Sequence[Row], x: str, y: str, width: int = 1
) -> dict[str, AlgorithmCurves]:
    """Algorithm -> its curves, for those that have one or diverged before they could.

    Args:
        diverged: as `diverged_seeds` gives it.
        x, y: columns of the rows.
        width: of the running mean over each curve; odd.
    """
    all_seeds, curves, curves_of = len({row["seed"] for row in rows}), curves_by_seed(rows, x, y), {}
    for label, style in styles.items():
        lost, seeds = diverged.get(label, []), curves.get(label, {})
        if lost or seeds:
            share = "" if len(lost) >= all_seeds else f"{len(lost)}/{all_seeds} "
            smooth = {seed: running_mean(curve, width) for seed, curve in seeds.items()}
            curves_of[label] = AlgorithmCurves(
                style,
                [curve for seed, curve in smooth.items() if seed not in lost],
                [curve for seed, curve in smooth.items() if seed in lost],
                f" ({share}diverged)" if lost else "",
            )
    return curves_of


# ---- drawing -------------------------------------------------------------------------------------------------


def curve_keys(curves: Mapping[str, AlgorithmCurves]) -> list[Line2D]:
    """Entries of the legend, with what became of seeds that diverged."""
    keys = [key(label + one.verdict, **one.style.line(), **one.style.points()) for label, one in curves.items()]
    if any(one.diverged for one in curves.values()):
        keys.append(key("where a diverged seed ended", color="0.35", **CROSS))
    return keys


def draw_curves(ax: Axes, curves: Iterable[AlgorithmCurves], top: float = math.inf) -> None:
    """Mean, band and diverged seeds of every algorithm; what ends above `top` is marked there."""
    curves = list(curves)
    for i, one in enumerate(curves):
        _draw_band(ax, one.style, one.finished, first_mark=i / len(curves))
        for curve in one.diverged:
            last_x = max(curve)
            ax.plot(list(curve), list(curve.values()), **(one.style.line() | {"linewidth": 0.8}))
            ax.plot(last_x, min(curve[last_x], top), color=one.style.color, clip_on=False, zorder=5, **CROSS)


def _draw_band(ax: Axes, style: Style, curves: Sequence[SeedCurve], first_mark: float) -> None:
    """Mean and range over the seeds, as far as all of them came, so that an unfinished run has no false steps."""
    places = sorted(set.intersection(*map(set, curves))) if curves else []
    columns = [[curve[place] for curve in curves] for place in places]
    if len(curves) > 1:
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        ax.fill_between(places, low, high, color=style.color, alpha=0.13, linewidth=0, zorder=2)
    step = max(1, len(places) // 8)  # about eight markers per curve, those of two curves at different places
    marks = style.points() | {"markevery": (int(first_mark * step), step)}
    ax.plot(places, [fmean(column) for column in columns], zorder=3, **style.line(), **marks)
