"""The flags of `check_known_cases.py`; they need no torch."""

from runs.flags import Parser


def make_parser(description: str = "") -> Parser:
    """The command line of the script."""
    parser = Parser(description)
    parser.add_argument(
        "--slow", action="store_true", help="also repeat the published training runs: minutes on two cores"
    )
    return parser
