"""CSV tables kept in memory, written whole, read back and printed. Standard library only.

table = Table(folder / "training.csv", ["epoch", "iteration", "loss"])
table.append(epoch=1, iteration=1, loss=5.25)
table.save()
read_table(folder / "training.csv")      # [{"epoch": 1, "iteration": 1, "loss": 5.25}]
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runs.files import write_whole

# Columns of texts; in those of a place, a row without a number is nowhere.
TEXTS = {
    "algorithm", "measured_on", "matrix", "split", "metric", "batch", "block", "group", "grouping", "layer", "kind",
    "converged", "chosen",
}  # fmt: skip
PLACES = {"epoch", "iteration", "distance", "bin_low", "bin_high", "count"}
TEST, TRAINING = "test", "training"  # in a column `measured_on`: the batch whose loss was measured
NUMBER = re.compile(r"[+-]?\d+(?P<fraction>\.\d+)?(?P<exponent>[eE][+-]?\d+)?")


# ---- tables ------------------------------------------------------------------------------------------------


class Table:
    """A CSV table kept in memory and rewritten whole by `save`, so that the file on disk always parses.

    Floats are stored with the fewest digits that read back to the same number. None, NaN and inf become an
    empty cell, which `read_table` returns as None.

    Args:
        path: the .csv file.
        columns: the header, in order. Every row has exactly these.
        listener: called with the table's name and each new row, such as `runs.live.LiveLog.row`.
    """

    def __init__(self, path: str | Path, columns: Sequence[str], listener: Callable[[str, dict], None] | None = None):
        self.path = Path(path)
        self.columns = list(columns)
        self.listener = listener
        self.rows: list[dict[str, int | float | str | None]] = []

    def append(self, row: Mapping[str, Any] | None = None, /, **cells: Any) -> None:
        """Add one row, given as a mapping, as keywords, or both. Numbers: Python's, numpy's or 0-d tensors.

        Raises: ValueError naming the first column that is unknown, missing, or neither number nor text.
        """
        cells = {**(row or {}), **cells}
        for column in cells:
            if column not in self.columns:
                raise ValueError(f"{self.path.name} has no column {column!r}; it has {', '.join(self.columns)}")
        for column in self.columns:
            if column not in cells:
                raise ValueError(f"a row of {self.path.name} lacks its column {column!r}")
        self.rows.append({column: self._plain(column, cells[column]) for column in self.columns})
        if self.listener is not None:
            self.listener(self.path.stem, self.rows[-1])

    def _plain(self, column: str, value: Any) -> int | float | str | None:
        if hasattr(value, "item"):  # numpy scalars and 0-d tensors
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if value is None or isinstance(value, (int, float, str)):
            return value
        raise ValueError(f"column {column!r} of {self.path.name} takes a number or a text, got {value!r}")

    def save(self) -> Path:
        """Write header and rows; the same rows give the same bytes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(row[column]) for column in self.columns] for row in self.rows)
        return write_whole(self.path, text.getvalue())


def _cell(value: int | float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else str(int(value))


def read_table(path: str | Path) -> list[dict[str, int | float | str | None]]:
    """The rows of a table, numbers parsed (whole ones as int), empty cells as None.

    Raises: ValueError, in one line, if the file cannot be read or a row does not fit the header.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read table {path}: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise ValueError(f"table {path} is empty; its first line should name the columns")
    header, *body = lines
    for number, cells in enumerate(body, start=2):
        if len(cells) != len(header):
            raise ValueError(f"table {path}, line {number}: expected {len(header)} cells, got {len(cells)}")
    return [{column: _parse(cell) for column, cell in zip(header, cells, strict=True)} for cells in body]


def read_columns(path: str | Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table that must have these columns, with numbers where numbers belong; none where it is absent.

    Raises: ValueError, in one line, naming a missing column, a cell that should be a number, or as `read_table`.
    """
    path = Path(path)
    rows = read_table(path) if path.exists() else []
    for line, row in enumerate(rows, start=2):
        for column in columns:
            if column not in row:
                raise ValueError(f"{path} has no column {column!r}; it has {', '.join(row)}")
            empty = row[column] is None and column in PLACES
            if empty or isinstance(row[column], str) and column not in TEXTS:
                cell = "empty" if empty else repr(row[column])
                raise ValueError(f"{path}, line {line}: {column} is {cell}, expected a number")
    return rows


def _parse(cell: str) -> int | float | str | None:
    number = NUMBER.fullmatch(cell)
    if number is None:
        return cell or None
    return float(cell) if number["fraction"] or number["exponent"] else int(cell)


def first_batch(rows: Iterable[Mapping[str, Any]]) -> str:
    """The batch on which a run measures its whole list first: TEST, or TRAINING where it does no other. Tables of
    earlier versions do not say; they are of the test batch."""
    return TRAINING if all(row.get("measured_on", TEST) == TRAINING for row in rows) else TEST


def on_batch(rows: Iterable[Mapping[str, Any]], batch: str) -> list[dict[str, Any]]:
    """Those of the rows that were measured on this batch."""
    return [dict(row) for row in rows if row.get("measured_on", TEST) == batch]


def format_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table for the terminal: four significant digits, numbers to the right, "-" for an empty cell."""
    rows = list(rows)
    table = []  # column by column
    for column in columns:
        texts = [str(column), *(_short(row.get(column)) for row in rows)]
        width = max(map(len, texts))
        texts.insert(1, "-" * width)
        numeric = any(isinstance(row.get(column), (int, float)) for row in rows)
        table.append([text.rjust(width) if numeric else text.ljust(width) for text in texts])
    return "\n".join("  ".join(line).rstrip() for line in zip(*table, strict=True))


def markdown_table(columns: Sequence[str], lines: Iterable[Sequence[Any]], rule: Sequence[str] | None = None) -> str:
    """A table in Markdown, of cells as they are. `rule`: what stands below the columns, by default `---` each."""
    shown = [columns, rule or ["---"] * len(columns), *lines]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in shown)


def _short(value: Any) -> str:
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
