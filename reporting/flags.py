"""The flags of `report.py`; they need neither torch nor matplotlib."""

from runs.flags import Parser


def make_parser(description: str = "") -> Parser:
    """The command line of the script."""
    parser = Parser(description)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run folder, such as output/landscape-toy-adam")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="file of the page; by default report.html in the run folder, or in the current folder for several runs",
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--latex", action="store_true", help="write the tables as LaTeX instead of the page; printed without --output"
    )
    kinds.add_argument(
        "--markdown",
        action="store_true",
        help="write the tables as Markdown instead of the page; printed without --output",
    )
    return parser
