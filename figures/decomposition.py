"""Which layers, or kinds of tensors, hold the slope and the curvature of every optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from figures.run_tables import Row, RunTables
from figures.style import PALETTE, key, new_figure
from runs.tables import first_batch, on_batch

NUMBERS = ("slope", "within", "cross")
HATCHED = {"hatch": "//////", "edgecolor": "white", "linewidth": 0}
NET = {"color": "black", "marker": "|", "markersize": 9, "markeredgewidth": 1.6, "linestyle": ""}
Sums = dict[str, dict[str, float]]  # group -> slope, within and cross, each summed over an epoch's points


def decomposition_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Stacked bars for every epoch: the share of each group in the slope, and beside it in the curvature."""
    rows = run.table("decomposition", "epoch algorithm measured_on grouping group slope within cross")
    rows = on_batch(rows, first_batch(rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    for epoch in dict.fromkeys(row["epoch"] for row in rows):
        sums = sums_by_group(run, [row for row in rows if row["epoch"] == epoch], groups)
        if sums:
            yield f"decomposition_epoch{epoch}", _figure(run, epoch, rows[0]["grouping"], sums)


def sums_by_group(run: RunTables, rows: Sequence[Row], groups: Sequence[str]) -> dict[str, Sums]:
    """label -> its sums, of labels whose numbers are all there."""
    sums = {}
    for label in run.styles:
        own = [row for row in rows if row["algorithm"] == label]
        if own and all(row[number] is not None for row in own for number in NUMBERS):
            sums[label] = {
                group: {number: sum(row[number] for row in own if row["group"] == group) for number in NUMBERS}
                for group in groups
            }
    return sums


def shares(values: Mapping[str, float]) -> dict[str, float]:
    """Each value over the sum of all magnitudes: however much they cancel, no bar is longer than 1."""
    total = sum(abs(value) for value in values.values())
    return {name: value / total if total else 0.0 for name, value in values.items()}


def colors_of(groups: Sequence[str]) -> dict[str, str]:
    """Colors that color-blind people tell apart: a set of seven, or a scale from the first group to the last."""
    if len(groups) <= len(PALETTE):
        return dict(zip(groups, PALETTE, strict=False))
    scale = colormaps["viridis"]
    return {group: to_hex(scale(i / (len(groups) - 1))) for i, group in enumerate(groups)}


def _figure(run: RunTables, epoch: int, grouping: str, sums: dict[str, Sums]) -> Figure:
    colors = colors_of(list(next(iter(sums.values()))))
    handles = [
        *(Patch(label=group, facecolor=color) for group, color in colors.items()),
        Patch(label="of the group alone", facecolor="0.55"),
        Patch(label="together with other groups", facecolor="0.55", **HATCHED),
        key("net: 1 if nothing cancels", **NET),
    ]
    figure, (left, right) = new_figure(1, 2, handles, width=8.4, height=0.6 + 0.3 * len(sums))
    for place, of_one in enumerate(sums.values()):
        # downhill is to the right
        slope = {(group, "slope"): -numbers["slope"] for group, numbers in of_one.items()}
        curvature = {(group, n): numbers[n] for n in ("within", "cross") for group, numbers in of_one.items()}
        _stack(left, place, slope, colors)
        _stack(right, place, curvature, colors)
    left.set_yticks(range(len(sums)), list(sums))
    right.set_yticks([])
    for ax, what in ((left, "downhill slope"), (right, "curvature")):
        low, high = ax.get_xlim()
        ax.set(xlabel=f"share of the {what}", xlim=(min(low, -0.05), max(high, 0.05)), ylim=(len(sums) - 0.5, -0.5))
        ax.axvline(0, color="0.35", linewidth=0.8)
        ax.grid(axis="y", visible=False)
    figure.suptitle(f"{run.title}, epoch {epoch}: slope and curvature of every step by {grouping}")
    return figure


def _stack(ax: Axes, place: int, values: Mapping[tuple[str, str], float], colors: Mapping[str, str]) -> None:
    """One bar: what is positive from 0 to the right, what is negative from 0 to the left, and a mark at the sum."""
    ends = {True: 0.0, False: 0.0}
    for (group, number), share in shares(values).items():
        look = HATCHED if number == "cross" else {"edgecolor": "white", "linewidth": 0.3}
        ax.barh(place, share, left=ends[share > 0], height=0.68, facecolor=colors[group], **look)
        ends[share > 0] += share
    ax.plot(sum(ends.values()), place, zorder=4, **NET)
