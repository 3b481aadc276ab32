"""A run folder read for drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from figures.style import Row, Style, styles_of
from runs.config import read_config
from runs.tables import read_table

TEXTS = {"algorithm", "split", "metric", "batch", "block", "layer", "kind", "converged", "chosen", "diverged"}
PLACES = {"epoch", "iteration", "distance", "bin_low", "bin_high", "count"}  # what has none cannot be drawn


@dataclass(frozen=True)
class RunTables:
    """A run folder as the figures need it."""

    folder: Path
    styles: dict[str, Style]
    title: str

    def table(self, name: str, columns: str) -> list[Row]:
        """The rows of a table, which must have these columns; none where the run did not write it.

        Raises: ValueError naming a column that is missing, a cell that is no number where one belongs, or an algorithm
            that config.json does not list.
        """
        path = self.folder / f"{name}.csv"
        rows = read_table(path) if path.exists() else []
        for line, row in enumerate(rows, start=2):
            for column in columns.split():
                if column not in row:
                    raise ValueError(f"{path} has no column {column!r}; it has {', '.join(row)}")
                empty = row[column] is None and column in PLACES
                if empty or isinstance(row[column], str) and column not in TEXTS:
                    cell = "empty" if empty else repr(row[column])
                    raise ValueError(f"{path}, line {line}: {column} is {cell}, expected a number")
            if "algorithm" in row and row["algorithm"] not in self.styles:
                raise ValueError(f"{path} has rows of {row['algorithm']!r}, which config.json does not list")
        return rows

    def points(self, name: str, columns: str) -> dict[tuple[int, int], dict[str, list[Row]]]:
        """The rows of a table by measured point (epoch, batch), then by algorithm, in the order of the styles."""
        points: dict[tuple[int, int], dict[str, list[Row]]] = {}
        for row in self.table(name, f"epoch batch algorithm {columns}"):
            points.setdefault((row["epoch"], row["batch"]), {}).setdefault(row["algorithm"], []).append(row)
        return {point: {label: rows[label] for label in self.styles if label in rows} for point, rows in points.items()}


def read_run(folder: str | Path) -> RunTables:
    """Raises ValueError, in one line, if the folder is none of a run."""
    config, folder = read_config(folder), Path(folder)
    settings = config["settings"]
    by = f", trained by {settings['train_optimizer']}" if "train_optimizer" in settings else ""
    rows = [*config["algorithms"], *config.get("gone", [])]
    return RunTables(folder, styles_of(rows), settings.get("task", folder.name) + by)
