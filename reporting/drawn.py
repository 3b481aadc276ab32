"""Figures for a page: drawn in memory, as SVG with a caption and an alternative text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from figures.drawing import every_figure
from figures.overlay import OVERLAYS, script_of_all
from figures.run_tables import RunTables
from figures.style import RC
from reporting.captions import caption
from reporting.hover import marks_of, plain_text, summary
from reporting.markup import slug
from reporting.svg import inline_svg


@dataclass(frozen=True)
class Drawn:
    """A figure of the page."""

    stem: str  # of its files in figures/
    svg: str
    caption: str
    title: str


def drawn(stem: str, figure: Figure, prefix: str = "") -> Drawn:
    """`figure` is laid out, with `figures.style.RC` in force. `prefix`: of this run's identifiers on the page."""
    marks = marks_of(figure)
    said = caption(stem)
    title = title_of(figure) or stem
    svg = inline_svg(figure, f"{prefix}{slug(stem)}", f"{title}. {said} {summary(marks)}", marks)
    return Drawn(stem, svg, said, title)


def title_of(figure: Figure) -> str:
    """The figure's own title in one line; that of its only axes where it has none."""
    title = figure.get_suptitle() or (figure.axes[0].get_title() if len(figure.axes) == 1 else "")
    return plain_text(" ".join(title.split("\n")[:1])) if title else ""


def lay_out(figure: Figure) -> None:
    """Place the axes as saving the figure's files does, so that a page is the same whenever it is written."""
    dpi = figure.dpi
    figure.dpi = matplotlib.rcParams["savefig.dpi"]
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    figure.dpi = dpi


def figures_of(run: RunTables, prefix: str = "") -> list[Drawn]:
    """Every figure of a run, without writing a file."""
    return _all(lambda: every_figure(run), prefix)


def overlays_of(runs: Mapping[str, RunTables]) -> list[Drawn]:
    """The figures that show all of the runs. Raises: ValueError naming what cannot be compared."""
    return _all(lambda: OVERLAYS[script_of_all(runs)](runs), "all-")


def _all(figures: Callable[[], Iterator[tuple[str, Figure]]], prefix: str) -> list[Drawn]:
    found = []
    with matplotlib.rc_context(RC):
        for stem, figure in figures():
            lay_out(figure)
            found.append(drawn(stem, figure, prefix))
    return found
