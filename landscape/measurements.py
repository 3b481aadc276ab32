"""What a landscape run measures at a point, and the tables it goes to."""

import argparse
import json
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from curvature.borrowing import within_memory
from curvature.objective import Objective
from landscape.rounding import rounding_errors
from landscape_utils import (
    Direction,
    QuadraticModel,
    directional_sharpness,
    mean_loss,
    scan_loss,
    scan_spacing,
    update_histogram,
)
from runs.messages import progress
from runs.tables import Table, format_table, read_table
from torch_optimizer.rows import plain_sgd
from training.loop import Point

log = logging.getLogger(__name__)

COLUMNS = {
    "training": "epoch iteration loss",
    "sharpness": "epoch batch iteration algorithm loss slope sharpness ratio step_norm step_max best_distance "
    "predicted_decrease sharpness_error",
    "ratios": "epoch algorithm mean_ratio std count",
    "scan": "epoch batch iteration algorithm distance loss",
    "histogram": "epoch batch iteration algorithm bin_low bin_high count",
}


class Recorder:
    """Measures at points of the trajectory and adds the rows to the tables."""

    def __init__(self, settings: argparse.Namespace, folder: Path):
        self.settings, self.algorithms = settings, settings.algorithms
        self.tables = {name: Table(folder / f"{name}.csv", columns.split()) for name, columns in COLUMNS.items()}
        if settings.from_points:
            del self.tables["training"]
        self.reference = plain_sgd(self.algorithms)
        if self.reference is None:
            log.warning("the list has no sgd row without clipping: the sharpness ratios stay empty")
        self.warned = set()

    def measure(self, point: Point, directions: dict[str, Direction], objective: Objective, task, scan: bool) -> None:
        """Slope and sharpness of every direction at a point, and its loss scans if `scan`."""
        at = dict(epoch=point.epoch, batch=point.batch, iteration=point.iteration)
        found = within_memory(
            lambda batches: directional_sharpness(
                objective.loss_fn, objective.params, list(directions.values()), batches,
                per_example=objective.per_example,
                progress=lambda each: progress(each, desc="sharpness", leave=False),
            ),
            objective.batches, objective.per_example,
        )  # fmt: skip
        derivatives = dict(zip(directions, found, strict=True))
        for label, d in derivatives.items():
            if math.isnan(d.slope) and label not in self.warned:
                self.warned.add(label)
                where = f"epoch {point.epoch}, batch {point.batch}"
                log.warning("%s: its step is zero or not finite in %s; such cells stay empty (said once)", label, where)
        if not self.settings.skip_sharpness:
            single = self.settings.dtype == "float32"
            errors = rounding_errors(directions, objective, task) if single else [math.nan] * len(directions)
            self.add_sharpness(at, directions, derivatives, dict(zip(directions, errors, strict=True)))
        if scan:
            self.add_scans(at, directions, derivatives, objective)

    def add_sharpness(
        self, at: dict, directions: dict, derivatives: dict[str, QuadraticModel], errors: dict[str, float]
    ) -> None:
        reference = abs(derivatives[self.reference].sharpness) if self.reference in derivatives else math.nan
        for label, d in derivatives.items():
            self.tables["sharpness"].append(
                **at, algorithm=label, loss=d.loss, slope=d.slope, sharpness=d.sharpness,
                ratio=d.sharpness / reference if reference else math.nan,
                step_norm=directions[label].length,
                step_max=directions[label].largest,
                best_distance=d.best_distance, predicted_decrease=d.predicted_decrease,
                sharpness_error=errors[label],
            )  # fmt: skip

    def mark_lost(self, point: Point, label: str) -> None:
        """An algorithm whose step or state is not finite has a last row, with nothing in it."""
        where = f"epoch {point.epoch}, batch {point.batch}"
        log.warning("%s: its step or its state is not finite in %s; it is dropped, the others go on", label, where)
        if not self.settings.skip_sharpness:
            at = dict(epoch=point.epoch, batch=point.batch, iteration=point.iteration, algorithm=label)
            self.tables["sharpness"].append({**dict.fromkeys(self.tables["sharpness"].columns), **at})

    def add_scans(self, at: dict, directions: dict, derivatives: dict, objective: Objective) -> None:
        start_loss = mean_loss(objective.loss_fn, objective.params, objective.batches)
        for label, direction in progress(directions.items(), desc="scans", leave=False):
            d = derivatives[label]
            if math.isnan(d.slope):
                continue
            for low, high, count in update_histogram(direction):
                self.tables["histogram"].append(**at, algorithm=label, bin_low=low, bin_high=high, count=count)
            points = scan_loss(
                objective.loss_fn, objective.params, direction, objective.batches, start_loss=start_loss,
                spacing=self.settings.step_size or self.algorithms[label].step_size
                or scan_spacing(d, objective.params),
                refine=d.slope < 0,
            )  # fmt: skip
            if not points[1][1] <= start_loss:
                log.info("%s: uphill in epoch %d, batch %d", label, at["epoch"], at["batch"])
            for distance, loss in points:
                self.tables["scan"].append(**at, algorithm=label, distance=distance, loss=loss)

    def add_ratios(self) -> None:
        """ratios.csv: over an epoch's measured points, mean and sample std of sharpness / |sharpness of SGD|."""
        self.tables["ratios"].rows.clear()
        ratios = defaultdict(list)
        for row in self.tables["sharpness"].rows:
            if row["ratio"] is not None:
                ratios[row["epoch"], row["algorithm"]].append(row["ratio"])
        for (epoch, algorithm), values in ratios.items():
            self.tables["ratios"].append(
                epoch=epoch, algorithm=algorithm, mean_ratio=statistics.fmean(values),
                std=statistics.stdev(values) if len(values) > 1 else None, count=len(values),
            )  # fmt: skip

    def save(self) -> None:
        for table in self.tables.values():
            table.save()

    def state_dict(self) -> str:
        """The rows of all tables, as JSON: every float reads back as it was."""
        return json.dumps({name: table.rows for name, table in self.tables.items()})

    def load_state_dict(self, state: str) -> None:
        for name, rows in json.loads(state).items():
            self.tables[name].rows = rows


# ---- what is printed ------------------------------------------------------------------------------------------------


def ratio_table(folder: Path, labels: Iterable[str]) -> str:
    """The paper's tables 3 to 6, an algorithm a row and a test epoch a column; "~" marks what rounding blurs."""
    blurred = blurred_cells(read_table(folder / "sharpness.csv"))
    cells = {}
    for row in read_table(folder / "ratios.csv"):
        cell = row["algorithm"], row["epoch"]
        cells[cell] = f"~{row['mean_ratio']:.4g}" if cell in blurred else row["mean_ratio"]
    epochs = sorted({epoch for _, epoch in cells})
    rows = [{"algorithm": label, **{f"epoch {e}": cells.get((label, e)) for e in epochs}} for label in labels]
    table = format_table(rows, ["algorithm", *(f"epoch {e}" for e in epochs)])
    return f"{table}\n~: rounding errors above 10 %; --dtype float64 measures exactly" if blurred else table


def blurred_cells(rows: list[dict]) -> set[tuple[str, int]]:
    """(algorithm, epoch) where the estimated rounding errors of sharpness are more than 10 % of it."""
    sizes = defaultdict(float)
    for row in rows:
        if row["sharpness_error"] is not None:
            sizes[row["algorithm"], row["epoch"]] += row["sharpness_error"] - 0.1 * abs(row["sharpness"])
    return {cell for cell, excess in sizes.items() if excess > 0}
