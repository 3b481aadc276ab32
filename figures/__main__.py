"""Draw the figures of a run folder again, or several runs in one figure; nothing is measured or loaded again.

    python -m figures output/landscape-toy-adam     # output/landscape-toy-adam/figures/*.png and *.pdf
    python -m figures --overlay output/landscape-toy-adam output/landscape-toy-sgd --names "Adam run" "SGD run"
    python -m figures --overlay output/landscape-toy-adam output/convergence-toy      # sharpness beside speed

report.html has figures of its own: python report.py FOLDER writes it again.

training.csv: training_loss. scan.csv (and sharpness.csv): scan_epoch2_batch6, ... histogram.csv:
histogram_epoch2_batch6, ... sharpness.csv: directional_sharpness, edge_numbers, critical_learning_rates, training_step.
ratios.csv: sharpness_ratios. decomposition.csv: decomposition_epoch2, ... losses.csv (and summary.csv): loss_by_epoch
and loss_by_iteration. tuned_learning_rates.csv: learning_rates. scores.csv: scores. blocks.csv:
gradient_against_curvature, along_depth, lorenz. A table that is absent or has no rows is skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from figures.drawing import draw_all
from figures.overlay import draw_overlay
from runs.messages import start_logging


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("folder", nargs="?", help="a run folder, such as output/landscape-toy-adam")
    chosen.add_argument(
        "--overlay",
        nargs="+",
        metavar="FOLDER",
        help="run folders of one script in one figure, or one of run_landscape.py beside one of run_convergence.py",
    )
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="what to call the overlaid runs, one name per folder"
    )
    parser.add_argument("--output_dir", metavar="FOLDER", help="folder of the overlay; by default the current one")
    settings = parser.parse_args(arguments)
    if settings.folder and settings.output_dir:
        parser.error("--output_dir is for --overlay; the figures of a run go into its own folder")
    if settings.folder and settings.names:
        parser.error("--names is for --overlay; a run by itself needs no name")
    start_logging(verbose=False)
    try:
        if settings.overlay:
            paths = draw_overlay(settings.overlay, settings.output_dir or ".", settings.names)
        else:
            paths = draw_all(settings.folder)
    except ValueError as error:
        print(f"python -m figures: {error}", file=sys.stderr)
        return 2
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
