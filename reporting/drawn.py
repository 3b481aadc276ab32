"""Figures for a page: drawn in memory, as SVG with a caption and an alternative text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from figures.drawing import every_figure
from figures.overlay import OVERLAYS, script_of_all
from figures.run_tables import RunTables
from figures.style import RC
from reporting.captions import place_of, title_and_caption
from reporting.hover import marks_of, summary
from reporting.markup import slug
from reporting.svg import inline_svg


@dataclass(frozen=True)
class Drawn:
    """A figure of the page."""

    stem: str  # of its files in figures/
    svg: str
    title: str
    caption: str


def drawn(stem: str, figure: Figure, prefix: str = "") -> Drawn:
    """`figure` is laid out, with `figures.style.RC` in force. `prefix`: of this run's identifiers on the page."""
    title, caption = title_and_caption(stem)
    marks = marks_of(figure)
    svg = inline_svg(figure, f"{prefix}{slug(stem)}", f"{title}. {caption} {summary(marks)}", marks)
    return Drawn(stem, svg, title, caption)


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
    figures_drawn = []
    with matplotlib.rc_context(RC):
        for stem, figure in figures():
            lay_out(figure)
            figures_drawn.append(drawn(stem, figure, prefix))
    return in_page_order(figures_drawn)


def in_page_order(figures: Iterable[Drawn]) -> list[Drawn]:
    return sorted(figures, key=lambda figure: place_of(figure.stem))
