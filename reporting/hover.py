"""The values in a figure: where each stands on the page, and what to say of it; and a text that sums them up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle, StepPatch
from matplotlib.ticker import FixedLocator

from reporting.numbers import short

GREY = "#595959"  # of a legend's entry that explains a mark of any color
DASHES = {"-": "solid", "--": "dashed", "-.": "dashdot", ":": "dotted"}  # matplotlib keeps either word
MOST = 60  # values per line: with more they would lie upon each other
MATH = re.compile(r"\$[^$]*\$")


@dataclass(frozen=True)
class Mark:
    """A value and its place in points, from the figure's lower left corner; with a width and a height, a bar."""

    panel: str
    name: str
    x_text: str  # "epoch 5"
    y_name: str
    y_value: float
    x: float
    y: float
    width: float | None = None
    height: float = 0.0

    @property
    def text(self) -> str:
        return f"{self.where}\n{self.x_text}\n{self.y_name} {short(self.y_value)}"

    @property
    def where(self) -> str:
        """The panel's title and the name, unless one says both."""
        return self.name if self.name.startswith(self.panel) else f"{self.panel}: {self.name}"


def marks_of(figure: Figure) -> list[Mark]:
    """Every value of a line, a histogram or a stack of bars that lies inside its axes.

    The figure is laid out already, so that every place is final."""
    names = _names(figure)
    return [mark for ax in figure.axes if ax.axison for mark in _in_axes(figure, ax, names)]


def _in_axes(figure: Figure, ax: Axes, names: Sequence[tuple[tuple, str]]) -> Iterator[Mark]:
    x_name, y_name = (_axis_name(figure, ax, axis) for axis in ("x", "y"))
    panel = ax.get_title() if len(figure.axes) > 1 else ""
    scale = 72 / figure.dpi

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = ax.transData.transform((x, y))
        return across * scale, up * scale

    box = ax.get_window_extent()
    left, right, low, high = (edge * scale for edge in (box.x0 - 1, box.x1 + 1, box.y0 - 1, box.y1 + 1))
    for line in ax.lines:
        name = _name_of(line, names)
        if name is None or line.get_transform() != ax.transData:  # a line across the axes is no value
            continue
        points = list(zip(line.get_xdata(), line.get_ydata(), strict=True))
        step = max(1, -(-len(points) // MOST))
        for x, y in points[::step]:
            across, up = place(x, y)
            if left <= across <= right and low <= up <= high:
                yield Mark(panel, name, _at(ax, x_name, x), y_name, float(y), across, up)
    for patch in ax.patches:
        yield from _bars(ax, panel, patch, names, place, x_name, y_name)


def _bars(ax: Axes, panel: str, patch: Patch, names: Sequence, place, x_name: str, y_name: str) -> Iterator[Mark]:
    name = _name_of(patch, names)
    if name is None:
        return
    if isinstance(patch, StepPatch):
        values, edges, _ = patch.get_data()
        for value, low, high in zip(values, edges, edges[1:], strict=False):
            if value:
                (x0, y0), (x1, y1) = place(low, ax.get_ylim()[0]), place(high, value)
                between = f"{x_name} {short(low)} to {short(high)}"
                yield Mark(panel, name, between, y_name, float(value), x0, y0, x1 - x0, max(y1 - y0, 1.0))
    elif isinstance(patch, Rectangle) and patch.get_data_transform() == ax.transData and patch.get_width():
        (x0, y0), (x1, y1) = place(*patch.xy), place(*(a + b for a, b in zip(patch.xy, _size(patch), strict=True)))
        row = _tick(ax.yaxis, patch.get_y() + patch.get_height() / 2) or ""
        across, up = sorted((x0, x1)), sorted((y0, y1))
        size = across[1] - across[0], up[1] - up[0]
        yield Mark(panel, name, row, x_name, float(patch.get_width()), across[0], up[0], *size)


def _size(patch: Rectangle) -> tuple[float, float]:
    return patch.get_width(), patch.get_height()


# ---- what things are called ----------------------------------------------------------------------------------


def _look(artist: Line2D | Patch) -> tuple:
    """What tells one entry of a legend from another: kind, color, marker or hatch, filling, dashes."""
    if isinstance(artist, Line2D):
        marker = artist.get_marker() if artist.get_marker() not in ("None", "", " ", None) else None
        face = artist.get_markerfacecolor() if marker else None
        face = face if face in (None, "none") else to_hex(face)
        dashes = artist.get_linestyle()
        dashes = None if dashes in ("None", "", " ") else dashes
        return "line", to_hex(artist.get_color()), marker, face, dashes
    face = to_hex(artist.get_facecolor(), keep_alpha=True) if artist.get_fill() else None
    line = str(artist.get_linestyle())
    return "patch", to_hex(artist.get_edgecolor()), artist.get_hatch(), face, DASHES.get(line, line)


def _names(figure: Figure) -> list[tuple[tuple, str]]:
    """The looks that the legends explain."""
    return [
        (_look(handle), text.get_text())
        for legend in figure.legends
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
        if isinstance(handle, (Line2D, Patch))
    ]


def _name_of(artist: Line2D | Patch, names: Sequence[tuple[tuple, str]]) -> str | None:
    """Its own label; else that of the legend's entry which looks most like it; None where none does."""
    own = str(artist.get_label())
    if own and not own.startswith("_"):
        return own
    kind, color, marker, face, line = _look(artist)
    ways = [lambda other: other == (kind, color, marker, face, line)]
    if kind == "patch" and face:
        ways += [lambda other: (other[0], other[3]) == (kind, face)]  # hatched, it is still that group's color
    elif kind == "line" and marker:
        ways += [
            lambda other: other[:4] == (kind, color, marker, face),  # a marker by itself, as at a minimum
            lambda other: other[:3] == (kind, GREY, marker),  # what a mark means in any color
            lambda other: other[:2] == (kind, GREY) and other[4] == line,
        ]
    return next((name for way in ways for look, name in names if way(look)), None)


def _axis_name(figure: Figure, ax: Axes, axis: str) -> str:
    """The axis' label without formulas and remarks; an inner panel has that of the others."""
    labels = [getattr(each, f"get_{axis}label")() for each in (ax, *figure.axes)]
    labels += [getattr(figure, f"get_sup{axis}label")()]
    label = next((label for label in labels if label), axis)
    return plain_text(label)


def plain_text(label: str) -> str:
    """
    >>> plain_text("directional sharpness, $v^T H v$\\nmean and std")
    'directional sharpness'
    """
    first = MATH.sub(_formula, label.split("\n")[0]).split(" (")[0].split(";")[0]
    return " ".join(first.split()).strip(" ,:")


def _formula(match: re.Match) -> str:
    """A symbol is kept, a formula is not."""
    return match[0].strip("$").replace("_i", "") if "\\" not in match[0] and len(match[0]) < 9 else ""


def _at(ax: Axes, name: str, x: float) -> str:
    return f"{name} {_tick(ax.xaxis, x) or short(x)}"


def _tick(axis, at: float) -> str | None:
    """The text of the tick that is nearest, where an axis has places instead of numbers."""
    labels = [label.get_text() for label in axis.get_ticklabels()]
    places = isinstance(axis.get_major_locator(), FixedLocator) and list(axis.get_ticklocs()) == list(
        range(len(labels))
    )
    if not places or not 0 <= round(at) < len(labels):
        return None
    return labels[round(at)].split("\n")[0]


# ---- in words ------------------------------------------------------------------------------------------------


def summary(marks: Sequence[Mark], most: int = 16) -> str:
    """What a reader hears who does not see the figure: each line's first and last value."""
    lines: dict[str, list[Mark]] = {}
    for mark in marks:
        lines.setdefault(mark.where, []).append(mark)
    said = []
    for where, values in list(lines.items())[:most]:
        first, last = values[0], values[-1]
        to = f" to {short(last.y_value)} at {last.x_text}" if len(values) > 1 else ""
        said.append(f"{where}: {first.y_name} {short(first.y_value)} at {first.x_text}{to}.")
    if len(lines) > most:
        said.append(f"And {len(lines) - most} more.")
    return " ".join(said)
