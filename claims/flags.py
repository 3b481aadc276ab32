"""The flags of `compare_with_paper.py`; they need no torch."""

from runs.flag_types import folder_name
from runs.flags import Parser


def make_parser(description: str = "") -> Parser:
    """The command line of the script."""
    parser = Parser(description)
    parser.add_argument(
        "folders",
        nargs="+",
        type=folder_name,
        metavar="FOLDER",
        help="run folders of any of the three scripts, all counted together",
    )
    parser.add_argument(
        "--output_dir",
        type=folder_name,
        metavar="FOLDER",
        help="write the tables and the figure here; by default they are only printed",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the tables and the figure in --output_dir")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    return parser
