"""Which figures a run folder gets, and drawing them all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from figures.clip_sweep import clip_sweep_figures, curvature_figures
from figures.convergence import learning_rate_figures, loss_figures, score_figures
from figures.decomposition import decomposition_figures
from figures.edges import edge_figures
from figures.heterogeneity import block_figures
from figures.landscape import histogram_figures, training_figures
from figures.run_tables import RunTables, read_run
from figures.scans import scan_figures
from figures.sharpness import ratio_figures, sharpness_figures
from figures.style import RC, save_figure

logger = logging.getLogger(__name__)

# ---- a whole run ---------------------------------------------------------------------------------------------

# Table -> its figures (file name, figure). A new kind of figure is one function and one line here.
FIGURES: dict[str, tuple[Callable[[RunTables], Iterator[tuple[str, Figure]]], ...]] = {
    "training": (training_figures,),
    "scan": (scan_figures,),
    "histogram": (histogram_figures,),
    "sharpness": (sharpness_figures, edge_figures),
    "ratios": (ratio_figures,),
    "decomposition": (decomposition_figures,),
    "clip_sweep": (clip_sweep_figures,),
    "curvature_by_size": (curvature_figures,),
    "losses": (loss_figures,),
    "tuned_learning_rates": (learning_rate_figures,),
    "scores": (score_figures,),
    "blocks": (block_figures,),
}


def draw_all(folder: str | Path, follow: Callable[[str, Figure], object] | None = None) -> list[Path]:
    """Draw every figure that the folder's tables allow into its figures/, as PNG and PDF; the paths of what was drawn.

    The same tables give the same bytes. `follow` is called with the name and each figure, laid out, after it is saved.

    Raises ValueError, in one line, if the folder is not a run folder, a table does not fit, or a figure cannot be
    written.
    """
    run = read_run(folder)
    paths: list[Path] = []
    with matplotlib.rc_context(RC):
        for stem, figure in every_figure(run):
            paths += save_figure(figure, run.folder / "figures" / stem)
            if follow is not None:
                follow(stem, figure)
    return paths


def every_figure(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """Name and figure, in order. Says which tables hold nothing to draw; each script writes tables of its own."""
    any_drawn = False
    for table, kinds in FIGURES.items():
        drawn = False
        for figures in kinds:
            for stem, figure in figures(run):
                drawn = any_drawn = True
                yield stem, figure
        if not drawn and (run.folder / f"{table}.csv").exists():
            logger.info("%s.csv holds nothing to draw", table)
    if not any_drawn:
        logger.info("%s holds no table to draw", run.folder)
