"""Check the two papers' claims in any run folders, and set measured ratios beside the first paper's tables.

    python compare_with_paper.py output/landscape-toy-adam output/convergence-toy output/hessian-toy
    python compare_with_paper.py output/* --output_dir output/claims    # also as tables and as a figure

Each claim holds in n of m comparisons: epochs, scanned points, seeds or pairs of runs. Its interval is over the seeds,
and its exceptions are named. A claim that the folders do not measure says what would. Ratios stand beside those of
tables 3 to 6 of Pan & Li's workshop paper, with data and model of both. --output_dir gets claims.csv,
paper_ratios.csv, paper_orderings.csv, claims.md and measured_against_paper.png and .pdf.

The exit status is 0 whether or not the claims hold, and 2 for a wrong flag or a folder that is not a run folder.
"""

import runs.start_up  # noqa: F401  an old Python is answered here
from claims.flags import make_parser

if __name__ == "__main__":
    make_parser(__doc__ or "").parse_args()

import sys
from collections.abc import Sequence
from pathlib import Path

from claims.checks import checks_of, read_folders
from claims.page import CLAIMS, PAPER_ORDERINGS, PAPER_RATIOS, claim_rows, dataclass_rows, page
from claims.paper import beside_the_paper, orderings, why_none
from runs.files import write_whole
from runs.messages import answering_input_errors, say, start_logging
from runs.tables import Table

TABLES = {"claims": CLAIMS, "paper_ratios": PAPER_RATIOS, "paper_orderings": PAPER_ORDERINGS}
PAGE, FIGURE = "claims.md", "measured_against_paper"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and write where it is asked for. Returns the exit status."""
    parser = make_parser(__doc__ or "")
    settings = parser.parse_args(arguments)
    start_logging(verbose=False)
    with answering_input_errors(parser):
        runs_read = read_folders(settings.folders)
        checks = checks_of(runs_read)
        ratios = [one for run in runs_read for one in beside_the_paper(run)]
        orders = [one for run in runs_read for one in orderings(run)]
        left_out = [line for run in runs_read if (line := why_none(run)) is not None]
        if settings.output_dir:
            folder = free_folder(Path(settings.output_dir), settings.overwrite)
            rows = {
                "claims": claim_rows(checks),
                "paper_ratios": dataclass_rows(ratios),
                "paper_orderings": dataclass_rows(orders),
            }
            for name, of_table in rows.items():
                table = Table(folder / f"{name}.csv", TABLES[name])
                for row in of_table:
                    table.append(row)
                table.save()
            write_whole(folder / PAGE, page(checks, ratios, orders, left_out, markdown=True) + "\n")
            from figures.against_paper import draw_against_paper  # matplotlib takes a second to import

            draw_against_paper(ratios, folder / FIGURE)
    say(page(checks, ratios, orders, left_out, settings.markdown))
    return 0


def free_folder(folder: Path, overwrite: bool) -> Path:
    """The folder, made if it is not there. Raises ValueError, in one line, if it holds tables of ours already."""
    there = [name for name in (*(f"{table}.csv" for table in TABLES), PAGE) if (folder / name).exists()]
    if there and not overwrite:
        raise ValueError(
            f"{folder} has a {there[0]} already; --overwrite replaces it, --output_dir takes another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot create folder {folder}: {error.strerror or error}") from error
    return folder


if __name__ == "__main__":
    sys.exit(main())
