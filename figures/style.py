"""What all figures share: one look per optimizer, axes above a legend, saving."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from runs.files import write_whole

Row = Mapping[str, Any]  # one line of a table, as read_table returns it

# One color and one marker per optimizer, the same in all figures of all runs. The colors are the color-blind-safe sets
# of Okabe & Ito (first six) and Tol; the markers tell the optimizers apart without any color.
LOOKS = {
    "sgd": ("#D55E00", "o"),
    "adam": ("#0072B2", "s"),
    "adafactor": ("#009E73", "^"),
    "normalized_sgd": ("#E69F00", "D"),
    "sign_sgd": ("#CC79A7", "v"),
    "lion": ("#56B4E9", "P"),
    "adamw": ("#332288", "X"),
    "rmsprop": ("#882255", "p"),
    "adagrad": ("#999933", "h"),
    "nadam": ("#AA4499", "<"),
    "radam": ("#117733", ">"),
    "muon": ("#555555", "*"),
    "training": ("#000000", (6, 1, 0)),  # the optimizer that trains, whichever it is
}
# For names that are not in LOOKS, in order of appearance.
OTHER_LOOKS = (("#A6761D", "d"), ("#661100", "H"), ("#6699CC", "8"), ("#888888", (4, 1, 0)))
# For things that are not optimizers: the runs of an overlay, the kinds of tensors.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Line, and outline of a histogram, of an optimizer's first, second, ... row. The quadratic model alone is dashed.
VARIANTS = (("-", "-"), ("-.", "-"), (":", (0, (1.5, 0.7))), ((0, (7, 1, 1, 1, 1, 1)), ":"))
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
    "lines.linewidth": 1.6,
    "pdf.fonttype": 42,
    "savefig.dpi": 200,
}


# ---- looks ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Style:
    """How one row looks in every figure: color and marker are its optimizer's, line and filling its own."""

    name: str
    variant: int  # 0: the optimizer's first unclipped row, drawn filled; the others are outlines
    color: str
    marker: Any
    clipped: bool = False

    def line(self) -> dict[str, Any]:
        return {"color": self.color, "linestyle": VARIANTS[self.variant % len(VARIANTS)][0]}

    def points(self, size: float = 4.5) -> dict[str, Any]:
        """Marker of a line or of points: filled for the first unclipped row, hollow for the others."""
        face = "white" if self.variant else self.color
        return {
            "marker": self.marker,
            "markersize": size,
            "markerfacecolor": face,
            "markeredgecolor": self.color,
            "markeredgewidth": 1.0,
        }

    def bars(self) -> dict[str, Any]:
        if self.variant == 0:
            return {"facecolor": self.color + "60", "edgecolor": self.color, "linewidth": 0.5, "fill": True}
        outline = VARIANTS[self.variant % len(VARIANTS)][1]
        return {"edgecolor": self.color, "linewidth": 1.5, "linestyle": outline, "fill": False}

    @property
    def is_plain_sgd(self) -> bool:
        return self.name == "sgd" and not self.clipped


def styles_of(algorithms: Iterable[Row]) -> dict[str, Style]:
    """Label -> style for the rows of config.json (`label`, `name`, `options`), rows of one optimizer side by side."""
    by_name: dict[str, list[Row]] = {}
    for row in algorithms:
        by_name.setdefault(row["name"], []).append(row)
    others = [name for name in by_name if name not in LOOKS]
    looks = LOOKS | {name: OTHER_LOOKS[i % len(OTHER_LOOKS)] for i, name in enumerate(others)}
    styles = {}
    for name, rows in by_name.items():
        rows = sorted(rows, key=_is_clipped)
        first = int(_is_clipped(rows[0]))  # a clipped row is an outline, though its optimizer has no other row
        for variant, row in enumerate(rows, start=first):
            styles[row["label"]] = Style(name, variant, *looks[name], _is_clipped(row))
    return styles


def _is_clipped(row: Row) -> bool:
    return any(row["options"].get(option) for option in ("coordinate_clip", "clip_update"))


def key(label: str, **look: Any) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


# ---- axes ----------------------------------------------------------------------------------------------------


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
    """Name the x axis once per column, below its lowest panel, and the y axis once per row, left of its first."""
    for i, ax in enumerate(axes):
        ax.set(xlabel=xlabel if i + columns >= len(axes) else "", ylabel="" if i % columns else ylabel)


def whole_numbers() -> MaxNLocator:
    """Ticks of epochs and iterations."""
    return MaxNLocator(integer=True, steps=[1, 2, 5, 10])


def readable_decades(axis: Axis) -> None:
    """On a logarithmic axis: powers of ten, or 1, 2 and 5 times them where there are too few of them."""
    low, high = sorted(axis.get_view_interval())
    if high < 100 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


# ---- files ---------------------------------------------------------------------------------------------------


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write stem.png and stem.pdf, without the time of writing in them; their paths."""
    png = write_whole(stem.with_name(f"{stem.name}.png"), lambda file: figure.savefig(file, format="png"))
    figure.set_layout_engine("none")  # the axes stay where the first drawing put them: half the time
    pdf = write_whole(
        stem.with_name(f"{stem.name}.pdf"),
        lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None}),
    )
    return [png, pdf]
