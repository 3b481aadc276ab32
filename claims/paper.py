"""Measured ratios beside those of the first paper's tables 3 to 6, which `docs/paper_protocols.json` holds.

The paper's runs are of other models and data than most runs here, so both are named with every number.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from claims.folder import RunFolder
from claims.landscape import Column, columns_of, first_of_kinds
from runs.intervals import kendall_tau, mean_and_interval, mean_interval

PROTOCOLS = Path(__file__).resolve().parent.parent / "docs" / "paper_protocols.json"
# Task here -> the paper's task whose tables it stands beside. The toy task is a small T5 on generated pairs.
TASKS = {
    "machine_translation": "machine_translation",
    "translation": "machine_translation",
    "toy": "machine_translation",
    "masked_language_modeling": "masked_language_modeling",
}
Kind = tuple[str, int]  # optimizer, and 1 if clipped


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables: the ratio to SGD's sharpness, by kind of row and epoch."""

    name: str  # "table 3"
    data: str
    model: str
    train_optimizer: str
    clip: float
    ratios: Mapping[Kind, Mapping[int, float]]  # of SGD itself, too: 1

    def nearest(self, epoch: int) -> int:
        """The table's epoch at the smallest ratio to this one, the earlier of two."""
        epochs = sorted(self.ratios["sgd", 0])
        return min(epochs, key=lambda other: abs(math.log(other / epoch)))


@dataclass(frozen=True)
class Beside:
    """One measured ratio, a mean over the seeds as in seed_means.csv, and the paper's. The fields are the columns of
    paper_ratios.csv."""

    folder: str
    task: str
    dataset: str
    model: str
    train_optimizer: str
    algorithm: str  # the row's label
    epoch: int
    seeds: int
    ratio: float
    ratio_low: float | None  # t interval over the seeds
    ratio_high: float | None
    paper_table: str
    paper_dataset: str
    paper_model: str
    paper_algorithm: str
    paper_epoch: int
    paper_ratio: float
    over_paper: float  # ratio / paper_ratio


@dataclass(frozen=True)
class Ordering:
    """How far one column has the paper's order of rows. The fields are the columns of paper_orderings.csv."""

    folder: str
    dataset: str
    model: str
    epoch: int
    seeds: int
    rows: int  # how many are ordered
    tau: float  # Kendall's tau-b, mean over the seeds
    tau_low: float | None  # t interval over the seeds
    tau_high: float | None
    paper_table: str
    paper_dataset: str
    paper_model: str
    paper_epoch: int


# ---- the paper's numbers -------------------------------------------------------------------------------------


@cache
def paper_tables() -> dict[tuple[str, str], PaperTable]:
    """(task, training optimizer) -> the paper's table."""
    protocols = json.loads(PROTOCOLS.read_text(encoding="utf-8"))
    setting = {(entry["task"], entry["setting"]): entry["paper"] for entry in protocols["task_settings"]}
    return {
        (entry["task"], entry["train_optimizer"]): _paper_table(entry, setting)
        for entry in protocols["sharpness_ratios"]
    }


def _paper_table(entry: Mapping[str, Any], setting: Mapping[tuple[str, str], str]) -> PaperTable:
    ratios = {("sgd", 0): dict.fromkeys(entry["epochs"], 1.0)}
    for row in entry["ratios"]:
        kind = row["algorithm"], int("coordinate_clip" in row)
        ratios[kind] = dict(zip(entry["epochs"], row["values"], strict=True))
    (clip,) = {row["coordinate_clip"] for row in entry["ratios"] if "coordinate_clip" in row}
    data, model = setting[entry["task"], "dataset"], setting[entry["task"], "model"]
    return PaperTable(entry["table"].removeprefix("W "), data, model, entry["train_optimizer"], clip, ratios)


def table_for(run: RunFolder) -> PaperTable | None:
    """The paper's table of the run's task and training optimizer, if it has one."""
    return paper_tables().get((TASKS.get(run.settings.get("task", ""), ""), run.settings.get("train_optimizer", "")))


def why_none(run: RunFolder) -> str | None:
    """Why a run with sharpness stands beside none of the paper's tables; None if it does, or has no sharpness."""
    columns = columns_of(run)
    if not columns:
        return None
    if table_for(run) is None:
        task, by = run.settings.get("task"), run.settings.get("train_optimizer")
        return f"{run.name}: the paper has no table of the task {task}, trained by {by}"
    if not _relative_to_sgd(run):
        return f"{run.name}: its ratios are not to plain SGD, as the paper's are"
    return None


def _relative_to_sgd(run: RunFolder) -> bool:
    reference = run.settings.get("reference")
    plain = [row.label for row in run.rows if row.name == "sgd" and row.clip is None]
    return bool(plain) and reference in (None, plain[0])


# ---- beside them ---------------------------------------------------------------------------------------------


def beside_the_paper(run: RunFolder) -> list[Beside]:
    """The run's ratios that the paper has too, epoch by epoch, each beside the paper's epoch that is nearest to it."""
    return [
        _beside(run, table, kind, columns) for table, columns in _epochs(run) for kind in _common(run, table, columns)
    ]


def orderings(run: RunFolder) -> list[Ordering]:
    """Kendall's tau of the run's order of rows with the paper's, epoch by epoch, SGD among them."""
    return [ordering for table, columns in _epochs(run) if (ordering := _ordering(run, table, columns)) is not None]


def _epochs(run: RunFolder) -> Iterator[tuple[PaperTable, list[Column]]]:
    """The columns of one epoch, a column per seed; with the paper's table."""
    table, columns = table_for(run), columns_of(run)
    if table is not None and _relative_to_sgd(run):
        for epoch in dict.fromkeys(column.epoch for column in columns):
            yield table, [column for column in columns if column.epoch == epoch]


def _common(run: RunFolder, table: PaperTable, columns: Sequence[Column]) -> dict[Kind, str]:
    """kind -> label of the rows that the paper has, and every seed."""
    labels = set.intersection(*(set(column.cells) for column in columns))
    return {
        kind: label for kind, label in first_of_kinds(run.rows, dict.fromkeys(labels)).items() if kind in table.ratios
    }


def _beside(run: RunFolder, table: PaperTable, kind: Kind, columns: Sequence[Column]) -> Beside:
    label = _common(run, table, columns)[kind]
    ratios = [column.cells[label].ratio for column in columns]
    ratio, interval, _ = mean_and_interval(ratios, by_factors=True)
    low, high = interval or (None, None)
    epoch = table.nearest(columns[0].epoch)
    paper = table.ratios[kind][epoch]
    return Beside(
        run.name, *_data_and_model(run, "task"), run.settings["train_optimizer"], label, columns[0].epoch, len(columns),
        ratio, low, high, table.name, table.data, table.model,
        f"{kind[0]}, coordinate_clip={table.clip}" if kind[1] else kind[0],
        epoch, paper, ratio / paper,
    )  # fmt: skip


def _ordering(run: RunFolder, table: PaperTable, columns: Sequence[Column]) -> Ordering | None:
    kinds, epoch = _common(run, table, columns), table.nearest(columns[0].epoch)
    paper = [table.ratios[kind][epoch] for kind in kinds]
    taus = [kendall_tau([column.cells[label].ratio for label in kinds.values()], paper) for column in columns]
    taus = [tau for tau in taus if tau is not None]
    if not taus:
        return None
    low, high = mean_interval(taus) or (None, None)
    return Ordering(
        run.name, *_data_and_model(run), columns[0].epoch, len(taus), len(kinds), fmean(taus),
        None if low is None else max(-1.0, low), None if high is None else min(1.0, high),
        table.name, table.data, table.model, epoch,
    )  # fmt: skip


def _data_and_model(run: RunFolder, *before: str) -> list[str]:
    return [str(run.settings.get(name)) for name in (*before, "dataset", "model")]
