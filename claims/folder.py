"""A run folder as the checks need it: its rows by optimizer and options, and its tables, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs.config import read_config
from runs.tables import read_columns
from torch_optimizer.algorithm import CLIPPING_OPTIONS

ASIDE = {*CLIPPING_OPTIONS, "lr"}  # options in which a clipped row may differ from its partner


@dataclass(frozen=True)
class ListedRow:
    """A row of config.json. The label is only what its tables call it; name and options say what it is."""

    label: str
    name: str  # of the optimizer
    options: Mapping[str, Any]
    clip: tuple[str, Any] | None  # option and value; None for a row without clipping


@dataclass(frozen=True)
class RunFolder:
    """A folder that a script wrote."""

    path: Path
    settings: Mapping[str, Any]
    rows: Sequence[ListedRow]

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def seed(self) -> int:
        """Of tables without a column `seed`, which hold one."""
        seeds = self.settings.get("seeds") or [self.settings.get("seed")]
        return seeds[0] if isinstance(seeds[0], int) else 0

    def table(self, name: str, columns: str) -> list[dict[str, Any]]:
        """The rows of a table, which must have these columns; none where the run did not write it.

        Every row has a `seed`: a table without that column is of one seed.

        Raises: as `runs.tables.read_columns`, and for a seed that is no whole number.
        """
        path = self.path / f"{name}.csv"
        rows = [{"seed": self.seed, **row} for row in read_columns(path, columns.split())]
        for line, row in enumerate(rows, start=2):
            if not isinstance(row["seed"], int):
                raise ValueError(f"{path}, line {line}: seed is {row['seed']!r}, expected a whole number")
        return rows

    def pairs(self) -> list[tuple[ListedRow, ListedRow]]:
        """Every clipped row with its partner: the row of the same optimizer without clipping that shares most of its
        other options, the first of several. A clipped row without one is left out."""
        pairs = []
        for row in self.rows:
            plain = [other for other in self.rows if other.name == row.name and other.clip is None]
            if row.clip is not None and plain:
                pairs.append((row, max(plain, key=lambda other: _shared_options(row, other))))
        return pairs


def read_folder(folder: str | Path) -> RunFolder:
    """Raises: ValueError, in one line, if the folder is not a run folder."""
    config = read_config(folder)
    listed = [*config["algorithms"], *config.get("gone", [])]
    rows = [ListedRow(row["label"], row["name"], row["options"], _clip(row)) for row in listed]
    return RunFolder(Path(folder), config["settings"], rows)


def _clip(row: Mapping[str, Any]) -> tuple[str, Any] | None:
    given = [row["options"], *row.get("groups", [])]
    clips = [(name, options[name]) for options in given for name in CLIPPING_OPTIONS if options.get(name)]
    return clips[0] if clips else None


def _shared_options(row: ListedRow, other: ListedRow) -> int:
    """How many options the two agree in, less those in which they differ."""
    names = {*row.options, *other.options} - ASIDE
    return sum(1 if row.options.get(name) == other.options.get(name) else -1 for name in names)
