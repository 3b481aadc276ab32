"""docs/results.md as its tests read it: the sentences that somebody wrote by hand, and the cells of docs/study."""

import csv
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
ASIDE = re.compile(
    r"```.*?```|<!-- (\w+): begin -->.*?<!-- \1: end -->|^!\[[^\n]*$|^#[^\n]*$", re.DOTALL | re.MULTILINE
)
END = re.compile(r"(?<=[.:]) (?=[A-Z*\[\"])")


def sentences(page):
    """In order, each on one line: without headings, pictures, code, and what lies between two marks."""
    found = []
    for paragraph in re.split(r"\n\s*\n|^- ", ASIDE.sub("", page), flags=re.MULTILINE):
        found += [sentence for sentence in END.split(" ".join(paragraph.split())) if sentence]
    return found


def cells(table, **where):
    """The rows of a table in which these columns have these values; numbers as floats, empty cells None."""
    with (ROOT / "docs/study" / f"{table}.csv").open() as file:
        rows = [{column: _value(cell) for column, cell in row.items()} for row in csv.DictReader(file)]
    return [row for row in rows if all(row[column] == value for column, value in where.items())]


def cell(table, column, **where):
    (row,) = cells(table, **where)
    return row[column]


def column(table, name, **where):
    return [row[name] for row in cells(table, **where)]


def _value(text):
    try:
        return float(text) if text else None
    except ValueError:
        return text
