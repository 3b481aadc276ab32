"""A run folder read for drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from figures.style import Row, Style, styles_of
from runs.config import read_config
from runs.tables import TRAINING, read_columns


class Place(NamedTuple):
    """A measured point of a run."""

    epoch: int
    batch: int
    seed: int | None  # None where the run has one seed

    @property
    def stem(self) -> str:
        """For the name of a file."""
        return ("" if self.seed is None else f"seed{self.seed}_") + f"epoch{self.epoch}_batch{self.batch}"

    def __str__(self) -> str:
        return ("" if self.seed is None else f"seed {self.seed}, ") + f"epoch {self.epoch}, batch {self.batch}"


@dataclass(frozen=True)
class RunTables:
    """A run folder as the figures need it."""

    folder: Path
    settings: Mapping[str, Any]  # of config.json
    styles: dict[str, Style]

    @property
    def title(self) -> str:
        by = f", trained by {self.settings['train_optimizer']}" if "train_optimizer" in self.settings else ""
        return self.task + by

    @property
    def task(self) -> str:
        return self.settings.get("task", self.folder.name)

    @property
    def reference(self) -> str | None:
        """Label of the row that the sharpness ratios divide by: the run's own choice, or its first plain SGD row."""
        chosen = self.settings.get("reference")
        return chosen or next((label for label, style in self.styles.items() if style.is_plain_sgd), None)

    def table(self, name: str, columns: str) -> list[Row]:
        """The rows of a table, which must have these columns; none where the run did not write it.

        Raises: ValueError naming a missing column, a cell that should be a number, or an algorithm that config.json
            does not list.
        """
        path = self.folder / f"{name}.csv"
        rows = read_columns(path, columns.split())
        for row in rows:
            if "algorithm" in row and row["algorithm"] not in self.styles:
                raise ValueError(f"{path} has rows of {row['algorithm']!r}, which config.json does not list")
        return rows

    def points(self, name: str, columns: str) -> dict[Place, dict[str, list[Row]]]:
        """The rows of a table by measured point, then by algorithm, in the order of the styles."""
        points: dict[Place, dict[str, list[Row]]] = {}
        rows = self.table(name, f"epoch batch algorithm {columns}")
        several = len(seeds_of(rows)) > 1
        for row in rows:
            place = Place(row["epoch"], row["batch"], row["seed"] if several else None)
            points.setdefault(place, {}).setdefault(row["algorithm"], []).append(row)
        return {point: {label: rows[label] for label in self.styles if label in rows} for point, rows in points.items()}


def seeds_of(rows: Iterable[Row]) -> list[int | None]:
    """The seeds of the rows, in their order; [None] for a table of before a landscape run had several."""
    return list(dict.fromkeys(row.get("seed") for row in rows))


def read_run(folder: str | Path) -> RunTables:
    """Raises ValueError, in one line, if the folder is not a run folder."""
    config = read_config(folder)
    rows = [*config["algorithms"], *config.get("gone", [])]
    if "train_optimizer" in config["settings"]:  # its next step is a row of its own
        rows.append({"label": TRAINING, "name": TRAINING, "options": {}})
    return RunTables(Path(folder), config["settings"], styles_of(rows))
