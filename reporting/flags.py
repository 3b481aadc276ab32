"""The flags of `report.py`; they need neither torch nor matplotlib."""

from runs.flags import Parser


def make_parser(description: str = "") -> Parser:
    """The command line of the script."""
    parser = Parser(description)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a run folder, such as output/landscape-toy-adam")
    parser.add_argument(
        "--output", metavar="FILE", help="where the page goes; by default report.html, of one run in its own folder"
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--latex", action="store_true", help="the tables as LaTeX instead, printed without --output")
    kinds.add_argument("--markdown", action="store_true", help="the tables as Markdown instead, printed likewise")
    return parser
