"""What the first paper claims about sharpness and loss scans, checked in the tables of run_landscape.py.

A *column* is one epoch of one seed, as in the paper's tables 3 to 6. It holds the mean of every row's ratio over the
measured points of the epoch. Without a reference row the sharpness itself is compared, which has the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from claims.folder import ListedRow, RunFolder
from claims.result import Claim, Trial
from runs.tables import first_batch, on_batch

CLIPPING_LOWERS_SHARPNESS = Claim(
    "clipping_lowers_sharpness",
    "Clipping lowers the directional sharpness of an optimizer.",
    "Pan & Li, OPT 2022, tables 3 to 6",
    "48 of 48",
    "sharpness of the clipped row over its partner's",
    "run_landscape.py, with a list that has clipped rows beside their partners",
    by_factors=True,
)
ADAM_BELOW_SGD = Claim(
    "adam_below_sgd",
    "Adam's sharpness is below that of SGD, clipped SGD, normalized SGD and clipped normalized SGD.",
    "Pan & Li, OPT 2022, tables 3 to 6",
    "16 of 16",
    "Adam's sharpness over SGD's",
    "run_landscape.py, with a list that has the rows adam and sgd, such as --algorithm_list workshop",
    by_factors=True,
)
CLIPPED_ADAFACTOR_LOWEST = Claim(
    "clipped_adafactor_lowest",
    "Clipped Adafactor has the lowest sharpness of the paper's seven rows.",
    "Pan & Li, OPT 2022, tables 3 to 6",
    "16 of 16",
    "clipped Adafactor's sharpness over the lowest of the others",
    "run_landscape.py, with a list that has a clipped adafactor row, such as --algorithm_list workshop",
    by_factors=True,
)
CLIPPED_SCANS_GO_LOWER = Claim(
    "clipped_scans_go_lower",
    "Along a clipped direction the loss reaches a lower minimum than along the unclipped one.",
    "Pan & Li, OPT 2022, figures 5 to 8",
    "",
    "fall of the loss along the clipped direction over the fall along its partner's",
    "run_landscape.py without --skip_search, with a list that has clipped rows beside their partners",
    by_factors=True,
)

# (optimizer, 1 if clipped): the paper clips all but Adam.
SGD_LIKE = (("sgd", 0), ("sgd", 1), ("normalized_sgd", 0), ("normalized_sgd", 1))
PAPER_ROWS = (*SGD_LIKE, ("adam", 0), ("adafactor", 0), ("adafactor", 1))


@dataclass(frozen=True)
class Cell:
    """A row in a column: its mean ratio, and a bound on the rounding error of that (0 where none was measured)."""

    ratio: float
    error: float = 0.0


@dataclass(frozen=True)
class Column:
    """One epoch of one seed of a folder."""

    folder: str
    seed: int
    epoch: int
    cells: Mapping[str, Cell]  # label -> cell

    def lowest(self, label: str, others: Sequence[str], effect: float | None) -> Trial:
        """Whether the row's ratio is below those of all the others."""
        low, rest = self.cells[label], {other: self.cells[other] for other in others}
        above = [self.shown(other) for other, cell in rest.items() if not low.ratio < cell.ratio]
        return Trial(
            self.folder,
            self.seed,
            holds=not above,
            text=f"seed {self.seed}, epoch {self.epoch}: {self.shown(label)} is not below {', '.join(above)}",
            effect=effect,
            blurred=any(abs(low.ratio - cell.ratio) <= low.error + cell.error for cell in rest.values()),
            negative=any(cell.ratio < 0 for cell in (low, *rest.values())),
        )

    def quotient(self, above: str, below: str) -> float | None:
        divisor = self.cells[below].ratio
        return self.cells[above].ratio / divisor if divisor > 0 else None

    def shown(self, label: str) -> str:
        return f"{label} ({self.cells[label].ratio:.4g})"


# ---- reading -------------------------------------------------------------------------------------------------


def columns_of(run: RunFolder) -> list[Column]:
    """The columns of a folder's sharpness.csv, on the batch on which the run measures its whole list."""
    points = run.table("sharpness", "epoch ratio sharpness algorithm")
    points = on_batch(points, first_batch(points))
    labels = {row.label for row in run.rows}
    kind = "ratio" if any(row["ratio"] is not None for row in points) else "sharpness"
    rows_at: dict[tuple[int, int], dict[str, list[dict]]] = {}
    for row in points:
        if row["algorithm"] in labels and row[kind] is not None:
            rows_at.setdefault((row["seed"], row["epoch"]), {}).setdefault(row["algorithm"], []).append(row)
    return [
        Column(run.name, seed, epoch, {label: _cell(rows, kind) for label, rows in cells.items()})
        for (seed, epoch), cells in rows_at.items()
    ]


def _cell(rows: Sequence[Mapping[str, Any]], kind: str) -> Cell:
    errors = [
        row["sharpness_error"] * abs(row[kind] / row["sharpness"])
        for row in rows
        if row.get("sharpness_error") is not None and row["sharpness"]
    ]
    return Cell(fmean(row[kind] for row in rows), sum(errors) / len(rows))


def first_of_kinds(rows: Sequence[ListedRow], labels: Mapping[str, Any]) -> dict[tuple[str, int], str]:
    """(optimizer, 1 if clipped) -> the label of its first row that has something to compare. Only `coordinate_clip`
    is the papers' clipping of these rows."""
    first_labels: dict[tuple[str, int], str] = {}
    for row in rows:
        if row.label in labels and (row.clip is None or row.clip[0] == "coordinate_clip"):
            first_labels.setdefault((row.name, int(row.clip is not None)), row.label)
    return first_labels


# ---- the claims ----------------------------------------------------------------------------------------------


def clipping_lowers_sharpness(run: RunFolder, columns: Sequence[Column]) -> Iterator[Trial]:
    for column in columns:
        for clipped, plain in run.pairs():
            if clipped.label in column.cells and plain.label in column.cells:
                effect = column.quotient(clipped.label, plain.label)
                yield column.lowest(clipped.label, [plain.label], effect)


def adam_below_sgd(run: RunFolder, columns: Sequence[Column]) -> Iterator[Trial]:
    for column in columns:
        kinds = first_of_kinds(run.rows, column.cells)
        adam, others = kinds.get(("adam", 0)), [kinds[kind] for kind in SGD_LIKE if kind in kinds]
        if adam is not None and ("sgd", 0) in kinds:
            effect = column.quotient(adam, kinds["sgd", 0])
            yield column.lowest(adam, others, effect)


def clipped_adafactor_lowest(run: RunFolder, columns: Sequence[Column]) -> Iterator[Trial]:
    for column in columns:
        kinds = first_of_kinds(run.rows, column.cells)
        others = [kinds[kind] for kind in PAPER_ROWS if kind in kinds and kind != ("adafactor", 1)]
        if ("adafactor", 1) in kinds and others:
            lowest = min(others, key=lambda label: column.cells[label].ratio)
            effect = column.quotient(kinds["adafactor", 1], lowest)
            yield column.lowest(kinds["adafactor", 1], others, effect)


def clipped_scans_go_lower(run: RunFolder) -> Iterator[Trial]:
    """One trial per scanned point and pair; a scan that leads uphill has its minimum at its start."""
    rows = run.table("scan", "epoch batch distance loss algorithm")
    scans: dict[tuple[int, int, int], dict[str, list[dict]]] = {}
    for row in on_batch(rows, first_batch(rows)):
        if row["loss"] is not None:
            point = scans.setdefault((row["seed"], row["epoch"], row["batch"]), {})
            point.setdefault(row["algorithm"], []).append(row)
    for (seed, epoch, batch), of_row in scans.items():
        lowest = {label: min(row["loss"] for row in points) for label, points in of_row.items()}
        for clipped, plain in run.pairs():
            if clipped.label in lowest and plain.label in lowest:
                a, b = lowest[clipped.label], lowest[plain.label]
                start = next(row["loss"] for row in of_row[plain.label] if row["distance"] == 0)
                where = f"seed {seed}, epoch {epoch}, batch {batch}"
                text = f"{where}: {clipped.label} ({a:.4g}) is not below {plain.label} ({b:.4g})"
                yield Trial(run.name, seed, a < b, text, (start - a) / (start - b) if b < start else None)
