"""`python -m study.figures`: two figures of the study's tables, study_results.png and study_objections.png."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures.style import PALETTE, RC, Style, key, new_figure, readable_decades, styles_of
from runs.config import described
from runs.files import write_whole
from study.lists import WORKSHOP
from study.markdown import DATA, Tables
from study.page import read
from study.plan import SOURCES, TUNED_ADAM
from study.tables import CLASSES, FROM_FIRST, GAP
from torch_optimizer.rows import labeled

SMALLEST = 1e-3  # ratios nearer to zero are drawn on a linear scale


def main() -> int:
    import matplotlib

    parser = argparse.ArgumentParser(prog="python -m study.figures", description=__doc__)
    parser.add_argument("tables", type=Path, nargs="?", default=Path("docs/study"), metavar="FOLDER")
    parser.add_argument("--output_dir", type=Path, default=Path("docs"), metavar="FOLDER")
    settings = parser.parse_args()
    tables = read(settings.tables)
    with matplotlib.rc_context(RC):
        for name, draw in (("study_results", results), ("study_objections", objections)):
            figure = draw(tables)
            path = settings.output_dir / f"{name}.png"
            write_whole(path, lambda file, figure=figure: figure.savefig(file, format="png", dpi=130))
            print(path)
    return 0


# ---- the claims ------------------------------------------------------------------------------------------------------


def results(tables: Tables) -> Figure:
    """A column per data set: the sharpness of each row's step over that of SGD's in the last epoch of each trajectory,
    and the training losses at tuned rates. A last column has Adam's trajectory at its tuned rate."""
    styles = styles_of(described(labeled(WORKSHOP)))
    data = list(dict.fromkeys(row["data"] for row in tables["losses"]))
    columns = [(name, "adam", DATA[name]) for name in data]
    columns += [(name, TUNED_ADAM, f"{DATA[name]}, tuned") for name in SOURCES if _last(tables, name, TUNED_ADAM)]
    keys = [key(label, linestyle="", **style.points()) for label, style in styles.items()]
    figure, axes = new_figure(3, len(columns), keys, 2.1 * len(columns), 1.7)
    for i, (name, optimizer, title) in enumerate(columns):
        of_adam, of_sgd, losses = axes[i :: len(columns)]
        of_adam.set_title(title)
        _ratios(of_adam, _last(tables, name, optimizer), styles)
        own = optimizer == "adam"  # the tuned run is another trajectory, and nothing else is new
        _ratios(of_sgd, _last(tables, name, "sgd") if own else [], styles)
        _losses(losses, [row for row in tables["losses"] if own and row["data"] == name], styles)
    for ax, ylabel in zip(axes[:: len(columns)], ("Adam's trajectory", "SGD's trajectory", "trained"), strict=True):
        ax.set_ylabel(ylabel)
    return figure


def _last(tables: Tables, data: str, trajectory: str) -> list[dict[str, Any]]:
    """Ratios of the last epoch."""
    rows = [row for row in tables["ratios"] if (row["data"], row["trajectory"]) == (data, trajectory)]
    return [row for row in rows if row["epoch"] == max(row["epoch"] for row in rows)]


def _ratios(ax: Axes, rows: Sequence[dict[str, Any]], styles: dict[str, Style]) -> None:
    if not rows:
        ax.set_axis_off()  # no such trajectory
        return
    _intervals(ax, rows, "ratio", styles)
    if any(row["ratio"] <= 0 or row["low"] is not None and row["low"] <= 0 for row in rows):
        ax.set_xscale("symlog", linthresh=SMALLEST, linscale=0.3)
        ax.set_xticks([-1, 0, 1])
        ax.axvline(0, color="black", linewidth=0.7)
    else:
        ax.set_xscale("log")
        readable_decades(ax.xaxis)
    ax.set_xlabel("sharpness over SGD's")


def _losses(ax: Axes, rows: Sequence[dict[str, Any]], styles: dict[str, Style]) -> None:
    if not rows:
        ax.set_axis_off()
        return
    _intervals(ax, [row for row in rows if row["loss"] is not None], "loss", styles)
    ax.set_xlabel("loss at tuned rates")


def _intervals(ax: Axes, rows: Sequence[dict[str, Any]], value: str, styles: dict[str, Style]) -> None:
    """A line per row of the list, the first on top: mean and 95 % interval over the seeds."""
    for row in rows:
        style = styles[row["algorithm"]]
        height = -list(styles).index(row["algorithm"])
        if row["low"] is not None:
            ax.hlines(height, row["low"], row["high"], color=style.color, linewidth=1.2)
        ax.plot(row[value], height, **style.points())
    ax.set_yticks([])
    ax.margins(y=0.08)


# ---- the objections --------------------------------------------------------------------------------------------------


def objections(tables: Tables) -> Figure:
    """SGD's final loss less Adam's: against the batch size, against the Zipf exponent of the words, and from pretrained
    and fresh weights."""
    looks = [{"color": color, "marker": marker} for color, marker in zip(PALETTE, "os^DvP", strict=False)]
    panels = {x: lines for x, lines in (of(tables) for of in (_of_batch_size, _of_imbalance, _of_start)) if lines}
    figure = Figure(figsize=(3.4 * len(panels), 3.3), layout="constrained")
    for ax, (xlabel, lines) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        places = list(dict.fromkeys(place for points in lines.values() for place in points))
        for shift, (look, (label, points)) in enumerate(zip(looks, lines.items(), strict=False)):
            at = [places.index(place) + 0.08 * (shift - (len(lines) - 1) / 2) for place in points]
            for x, row in zip(at, points.values(), strict=True):
                if row["low"] is not None:
                    ax.vlines(x, row["low"], row["high"], color=look["color"], linewidth=1.2)
            gaps = [row.get("gap", row.get("value")) for row in points.values()]
            ax.plot(at, gaps, label=label, linewidth=0.8, markersize=4.5, **look)
        ax.axhline(0, color="black", linewidth=0.7)
        ax.set_xticks(range(len(places)), places)
        ax.margins(x=0.15)
        ax.set_xlabel(xlabel)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    figure.axes[0].set_ylabel("SGD's loss less Adam's")
    return figure


Lines = dict[str, dict[str, dict[str, Any]]]  # label -> place on the x axis -> row


def _of_batch_size(tables: Tables) -> tuple[str, Lines]:
    rows = sorted(tables["batch_sizes"], key=lambda row: row["batch_size"])
    return "batch size", _lines(rows, lambda row: f"equally many {row['equal']}", lambda row: str(row["batch_size"]))


def _of_imbalance(tables: Tables) -> tuple[str, Lines]:
    said = {GAP: "training loss", f"{GAP}{FROM_FIRST}": "the same, momentum from the first gradient"}
    said |= {f"{GAP}, per {which} token": f"test loss, {which} tokens" for which in CLASSES}
    rows = [row for row in tables["class_imbalance"] if row["quantity"] in said]
    return "Zipf exponent of the words", _lines(rows, lambda row: said[row["quantity"]], lambda row: str(row["zipf"]))


def _of_start(tables: Tables) -> tuple[str, Lines]:
    rows = [row for row in tables["pretraining"] if row["quantity"] == GAP]
    return "weights to start from", _lines(rows, lambda row: DATA[row["data"]], lambda row: row["start"])


def _lines(rows: Sequence[dict[str, Any]], label: Callable[[dict], str], place: Callable[[dict], str]) -> Lines:
    lines: Lines = {}
    for row in rows:
        lines.setdefault(label(row), {})[place(row)] = row
    return lines


if __name__ == "__main__":
    sys.exit(main())
