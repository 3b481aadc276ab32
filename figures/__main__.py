"""Draw the figures of a run folder again: `python -m figures FOLDER`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from figures.drawing import draw_all, draw_overlay
from runs.messages import start_logging


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("folder", nargs="?", help="a run folder, such as output/toy: holds config.json and the tables")
    chosen.add_argument("--overlay", nargs="+", metavar="FOLDER", help="run folders of run_hessian.py, in one figure")
    parser.add_argument("--output_dir", metavar="FOLDER", help="where the overlay goes; by default here")
    settings = parser.parse_args(arguments)
    if settings.folder and settings.output_dir:
        parser.error("--output_dir is for --overlay; the figures of a run go into its own folder")
    start_logging(verbose=False)
    try:
        overlaid = settings.overlay and draw_overlay(settings.overlay, settings.output_dir or ".")
        for path in overlaid or draw_all(settings.folder):
            print(path)
    except ValueError as error:
        print(f"python -m figures: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
