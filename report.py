"""Write the page of a run again, or one page of several runs side by side; nothing is measured or loaded again.

    python report.py output/landscape-toy-adam                 # output/landscape-toy-adam/report.html
    python report.py output/landscape-toy-adam output/convergence-toy --output both.html
    python report.py output/landscape-toy-adam --latex         # its tables, printed; also --markdown

A page is one file: sentences, tables, figures, settings and links to the tables' CSV files. It loads nothing from the
network. Figures are drawn for the page alone; python -m figures FOLDER writes them as files.
"""

import runs.start_up  # noqa: F401  an old Python is answered here
from reporting.flags import make_parser

if __name__ == "__main__":
    make_parser(__doc__ or "").parse_args()  # at once: the imports below take a second

import sys
from collections.abc import Sequence

from reporting.writing import tables_as_text, write_comparison, write_report, write_text
from runs.messages import answering_input_errors, say, start_logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or print the tables. Returns the exit status."""
    parser = make_parser(__doc__ or "")
    flags = parser.parse_args(arguments)
    start_logging(verbose=False)
    with answering_input_errors(parser):
        if flags.latex or flags.markdown:
            text = tables_as_text(flags.folders, "latex" if flags.latex else "markdown")
            say(write_text(flags.output, text) if flags.output else text)
        elif len(flags.folders) == 1:
            say(write_report(flags.folders[0], flags.output))
        else:
            say(write_comparison(flags.folders, flags.output or "report.html"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
