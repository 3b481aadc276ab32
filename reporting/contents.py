"""What a page is made of: sentences and tables, each with the CSV files that it was worked out from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sentence:
    """Something that a run has found."""

    text: str
    sources: tuple[str, ...]  # files of the run folder, "ratios.csv"
    of_row: bool = False  # about one algorithm or group, one of a list; else about the run


@dataclass(frozen=True)
class View:
    """A table of the page."""

    name: str  # for links to it
    title: str
    note: str  # what its numbers are
    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]  # cells by column; None where there is no number
    source: str


def quoted(label: str) -> str:
    """A label in a sentence: in quotation marks where it has words of its own.

    >>> quoted("adam"), quoted("sgd, coordinate_clip=0.1")
    ('adam', '“sgd, coordinate_clip=0.1”')
    """
    return label if label.replace("_", "").isalnum() else f"“{label}”"
