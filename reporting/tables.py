"""Tables as HTML, LaTeX and Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reporting.contents import View
from reporting.markup import Html, joined, tag
from reporting.numbers import short
from runs.folder import TABLES
from runs.tables import markdown_table, read_table

LARGEST = 6000  # cells of a file that the page shows whole
NEVER_WHOLE = {"training.csv", "losses.csv", "scan.csv", "histogram.csv"}  # figures show them; nobody reads them

Cells = Sequence[Mapping[str, Any]]


def whole_tables(folder: Path) -> Iterator[tuple[str, list[str], list[dict[str, Any]]]]:
    """(file name, columns, rows) of every table that is small enough to be read."""
    for name in TABLES:
        if name not in NEVER_WHOLE and (folder / name).exists():
            rows = read_table(folder / name)
            if rows and len(rows) * len(rows[0]) <= LARGEST:
                yield name, list(rows[0]), rows


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numeric(columns: Sequence[str], rows: Cells) -> set[str]:
    """The columns that hold numbers, which stand to the right."""
    return {column for column in columns if not any(isinstance(row.get(column), str) for row in rows)}


# ---- HTML ----------------------------------------------------------------------------------------------------


def html_table(columns: Sequence[str], rows: Cells, title: str, note: str = "", kind: str = "") -> Html:
    """A table that the script makes sortable, in a box that scrolls by itself where the screen is narrow."""
    numeric = _numeric(columns, rows)
    head = [tag("th", column, scope="col", class_="number" if column in numeric else None) for column in columns]
    table = tag(
        "table",
        tag("caption", title, class_="unseen"),
        tag("thead", tag("tr", *head)),
        tag("tbody", *(_row(columns, row, numeric) for row in rows)),
        class_=f"sorts {kind}".strip(),
    )
    box = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {title}")
    return joined(tag("p", note, class_="note"), box) if note else box


def _row(columns: Sequence[str], row: Mapping[str, Any], numeric: set[str]) -> Html:
    first, *others = columns
    cells = [_cell("th", row.get(first), first in numeric, scope="row")]
    return tag("tr", *cells, *(_cell("td", row.get(column), column in numeric) for column in others))


def _cell(name: str, value: Any, number: bool, **attributes: str) -> Html:
    text = short(value)
    exact = repr(value) if is_number(value) and repr(value) != text else None
    return tag(name, text, class_="number" if number else None, data_v=exact, **attributes)


# ---- LaTeX and Markdown --------------------------------------------------------------------------------------

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "–": "--", "“": "``", "”": "''", "’": "'", "|": r"\textbar{}",
}  # fmt: skip


def latex(view: View) -> str:
    """A table environment for a document that has the package booktabs."""
    numeric = _numeric(view.columns, view.rows)
    lines = [[_tex(column) for column in view.columns]]
    lines += [[_tex_number(row.get(column)) for column in view.columns] for row in view.rows]
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    places = "".join("r" if column in numeric else "l" for column in view.columns)
    caption = rf"\caption{{{_tex(view.title)}. {_tex(view.note)}}}"
    middle = [
        rf"\begin{{tabular}}{{{places}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join([r"\begin{table}", r"\centering", caption, *middle, r"\end{table}"]) + "\n"


def _tex(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def _tex_number(value: Any) -> str:
    """1.5e-07 becomes a power of ten."""
    text = short(value)
    digits, exponent, power = text.partition("e")
    if is_number(value) and exponent:
        return rf"${digits} \cdot 10^{{{int(power)}}}$"
    return f"${text}$" if is_number(value) and text.startswith("-") else _tex(text)


def markdown(view: View) -> str:
    numeric = _numeric(view.columns, view.rows)
    rule = ["---:" if column in numeric else "---" for column in view.columns]
    lines = ([_piped(short(row.get(c))) for c in view.columns] for row in view.rows)
    table = markdown_table(view.columns, lines, rule)
    return f"**{view.title}.** {view.note}\n\n{table}\n"


def _piped(text: str) -> str:
    """A cell as the text that it is: nothing in it is markup."""
    for character in "\\|*_`<[":
        text = text.replace(character, f"\\{character}")
    return text
