"""What all figures share: one look per algorithm, axes over a legend, saving."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from runs.files import write_whole

Row = Mapping[str, Any]  # one line of a table, as read_table returns it

# One colour a name in all figures of all runs: the colour-blind-safe sets of Okabe & Ito (first six) and Tol.
COLORS = {
    "sgd": "#D55E00",
    "adam": "#0072B2",
    "adafactor": "#009E73",
    "normalized_sgd": "#E69F00",
    "sign_sgd": "#CC79A7",
    "lion": "#56B4E9",
    "adamw": "#332288",
    "rmsprop": "#882255",
    "adagrad": "#999933",
    "nadam": "#AA4499",
    "radam": "#117733",
    "muon": "#555555",
}
OTHER_COLORS = ("#000000", "#661100", "#6699CC", "#888888")  # names we do not know, in order of appearance
# Line, opacity, marker and outline of a name's first, second, ... row; "--" on lines is left to the quadratic model.
VARIANTS = (
    ("-", 1.0, "o", "-"),
    ("-.", 0.75, "s", "-"),
    (":", 0.75, "^", (0, (1.5, 0.7))),
    ((0, (7, 1, 1, 1, 1, 1)), 0.6, "D", ":"),
)
RC = {
    "font.size": 9,
    "figure.titlesize": 10,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.7,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


@dataclass(frozen=True)
class Style:
    """How one algorithm looks in every figure: its name's colour; line, opacity, marker, outline of its row."""

    name: str
    variant: int  # 0 for the first row of a name, unclipped before clipped
    color: str
    clipped: bool = False

    def line(self) -> dict[str, Any]:
        linestyle, alpha, _, _ = VARIANTS[self.variant % len(VARIANTS)]
        return {"color": self.color, "linestyle": linestyle, "alpha": alpha}

    @property
    def marker(self) -> str:
        return VARIANTS[self.variant % len(VARIANTS)][2]

    @property
    def is_plain_sgd(self) -> bool:
        return self.name == "sgd" and not self.clipped

    def bars(self) -> dict[str, Any]:
        if self.variant == 0:
            return {"facecolor": self.color + "60", "edgecolor": self.color, "linewidth": 0.5, "fill": True}
        outline = VARIANTS[self.variant % len(VARIANTS)][3]
        return {"edgecolor": self.color, "linewidth": 1.5, "linestyle": outline, "fill": False}


def styles_of(algorithms: Iterable[Row]) -> dict[str, Style]:
    """Label -> style for the rows of config.json (`label`, `name`, `options`), rows of one name side by side."""
    by_name: dict[str, list[Row]] = {}
    for row in algorithms:
        by_name.setdefault(row["name"], []).append(row)
    others = [name for name in by_name if name not in COLORS]
    colors = COLORS | {name: OTHER_COLORS[i % len(OTHER_COLORS)] for i, name in enumerate(others)}
    return {
        row["label"]: Style(name, variant, colors[name], _is_clipped(row))
        for name, rows in by_name.items()
        for variant, row in enumerate(sorted(rows, key=_is_clipped))
    }


def _is_clipped(row: Row) -> bool:
    return any(row["options"].get(option) for option in ("coordinate_clip", "clip_update"))


def new_figure(
    rows: int, columns: int, handles: Sequence[Any], width: float, height: float
) -> tuple[Figure, list[Axes]]:
    """Axes, and the legend below in as many columns as fit; `width` of all, `height` of one row, in inches."""
    longest = max(len(handle.get_label()) for handle in handles)
    legend_columns = max(1, min(4, int(width / (0.062 * longest + 0.75))))
    legend_height = 0.17 * math.ceil(len(handles) / legend_columns)
    figure = Figure(figsize=(width, rows * height + legend_height + 0.6), layout="constrained")
    FigureCanvasAgg(figure)  # needs neither a display nor pyplot's global state
    figure.legend(handles=handles, loc="outside lower center", ncols=legend_columns)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def label_outside(axes: Sequence[Axes], columns: int, xlabel: str, ylabel: str) -> None:
    """Name the axes once a column, below its lowest panel, and once a row, left of its first."""
    for i, ax in enumerate(axes):
        ax.set(xlabel=xlabel if i + columns >= len(axes) else "", ylabel="" if i % columns else ylabel)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write stem.png and stem.pdf, without the time of writing in them; their paths."""
    png = write_whole(stem.with_name(f"{stem.name}.png"), lambda file: figure.savefig(file, format="png"))
    figure.set_layout_engine("none")  # the axes stay where the first drawing put them: half the time
    pdf = write_whole(
        stem.with_name(f"{stem.name}.pdf"),
        lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None}),
    )
    return [png, pdf]
