"""The tables of a landscape run: measurements are written down here."""

import json
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

from landscape.classes import ClassMeasurement
from landscape.clip_sweep import CurvatureBySize, SweptStep
from landscape.decomposition import Contribution
from landscape.seed_means import seed_means
from landscape.top_eigenvalues import TopEigenvalue
from landscape_core.measurement import Measurement
from runs.tables import TEST, Table
from training.loop import Point

log = logging.getLogger(__name__)

COLUMNS = {
    "training": "seed epoch iteration loss",
    "sharpness": "seed epoch batch iteration algorithm measured_on loss slope sharpness ratio step_norm step_max "
    "best_distance predicted_decrease sharpness_error gradient_norm cosine noise_share "
    "sharpness_inf sharpness_spectral learning_rate edge_quadratic edge_realized edge_quotient critical_lr best_lr",
    "ratios": "seed epoch algorithm measured_on mean_ratio std count mean_slope mean_predicted_decrease "
    "mean_edge_quadratic mean_edge_realized mean_sharpness",
    "seed_means": "epoch algorithm measured_on quantity seeds mean low high scale",
    "scan": "seed epoch batch iteration algorithm measured_on distance loss evaluated",
    "histogram": "seed epoch batch iteration algorithm bin_low bin_high count",
    "decomposition": "seed epoch batch iteration algorithm measured_on grouping group parameters step_share slope "
    "within cross",
    "classes": "seed epoch batch iteration algorithm class types tokens share loss token_loss slope sharpness",
    "clip_sweep": "seed epoch batch iteration algorithm measured_on fraction step_norm loss slope sharpness "
    "best_distance predicted_decrease",
    "curvature_by_size": "seed epoch batch iteration algorithm measured_on fraction coordinates length_share top cross "
    "rest rest_sharpness",
    "eigenvalues": "seed epoch batch iteration measured_on matrix eigenvalue residual converged products learning_rate "
    "two_over_lr stability_threshold",
}

BESIDE = ("slope", "predicted_decrease", "edge_quadratic", "edge_realized", "sharpness")  # to be read beside a ratio


def mean(rows: Iterable[dict], column: str) -> float | None:
    """The mean of a column over the rows that have a number there; None if none has."""
    values = [row[column] for row in rows if row[column] is not None]
    return statistics.fmean(values) if values else None


def _without_seed(listener: Callable[[str, dict], None], name: str, row: dict) -> None:
    listener(name, {column: cell for column, cell in row.items() if column != "seed"})


class PointTables:
    """The rows of every measured point. Rows are of the seed `seed`, which the run sets.

    Args:
        folder: the run folder.
        reference: label of the row whose sharpness the others are divided by; None: the ratios stay empty.
        absent: names of the tables that this run does not write, such as training.csv of a run that does not train.
        listener: called with each new row (see `runs.tables.Table`), without its seed where there is one seed.
        seeds: of the run.
    """

    def __init__(
        self,
        folder: Path,
        reference: str | None,
        absent: Collection[str] = (),
        listener: Callable[[str, dict], None] | None = None,
        seeds: Sequence[int] = (0,),
    ):
        absent = set(absent) | ({"seed_means"} if len(seeds) == 1 else set())
        names = [name for name in COLUMNS if name not in absent]
        if listener is not None and len(seeds) == 1:
            listener = partial(_without_seed, listener)
        self.tables = {name: Table(folder / f"{name}.csv", COLUMNS[name].split(), listener) for name in names}
        self.reference = reference
        self.seeds, self.seed = seeds, seeds[0]
        self.warned: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Whether no point is written down yet."""
        return not (self.tables["sharpness"].rows or self.tables["scan"].rows)

    def _at(self, point: Point) -> dict:
        """The cells that say where a row belongs."""
        return dict(seed=self.seed, epoch=point.epoch, batch=point.batch, iteration=point.iteration)

    def _where(self, point: Point) -> str:
        """The same in words."""
        seed = f"seed {self.seed}, " if len(self.seeds) > 1 else ""
        return f"{seed}epoch {point.epoch}, batch {point.batch}"

    def add_training(self, point: Point) -> None:
        self.tables["training"].append(seed=self.seed, epoch=point.epoch, iteration=point.iteration, loss=point.loss)

    def add(
        self, point: Point, measurements: Sequence[Measurement], sharpness: bool = True, measured_on: str = TEST
    ) -> None:
        """Rows for all measurements of one point on one batch; without `sharpness`, of their scans alone."""
        at, where = self._at(point), self._where(point)
        of_label = {m.label: abs(m.quadratic.sharpness) for m in measurements}
        reference = of_label.get(self.reference, math.nan)
        for m in measurements:
            if math.isnan(m.quadratic.slope) and m.label not in self.warned:
                self.warned.add(m.label)
                log.warning(
                    "%s: its step is zero or not finite in %s; such cells stay empty (reported once)", m.label, where
                )
            if sharpness:
                self.tables["sharpness"].append(**at, measured_on=measured_on, **m.row(reference))
            self._add_scan(at, m, measured_on, where)

    def _add_scan(self, at: dict, m: Measurement, measured_on: str, where: str) -> None:
        for low, high, count in m.histogram:
            self.tables["histogram"].append(**at, algorithm=m.label, bin_low=low, bin_high=high, count=count)
        for distance, loss, evaluated in m.scan:
            self.tables["scan"].append(
                **at,
                algorithm=m.label,
                measured_on=measured_on,
                distance=distance,
                loss=loss,
                evaluated=int(evaluated),
            )
        if m.scan and not m.scan[1].loss <= m.scan[0].loss:
            log.info("%s: its step leads uphill in %s", m.label, where)

    def add_contributions(
        self, point: Point, contributions: Iterable[Contribution], grouping: str, measured_on: str = TEST
    ) -> None:
        for each in contributions:
            numbers = {name: value for name, value in vars(each).items() if name != "label"}
            self.tables["decomposition"].append(
                numbers | self._at(point),
                algorithm=each.label,
                measured_on=measured_on,
                grouping=grouping,
            )

    def add_classes(self, point: Point, measurements: Iterable[ClassMeasurement]) -> None:
        for each in measurements:
            self.tables["classes"].append(
                {"class": each.of.number} | self._at(point),
                algorithm=each.label,
                types=each.of.types,
                tokens=each.of.tokens,
                share=each.of.share,
                loss=each.loss,
                token_loss=each.token_loss,
                slope=each.slope,
                sharpness=each.sharpness,
            )

    def add_clip_sweep(
        self, point: Point, steps: Iterable[SweptStep], parts: Iterable[CurvatureBySize], measured_on: str
    ) -> None:
        for each in steps:
            q = each.quadratic
            self.tables["clip_sweep"].append(
                self._at(point),
                algorithm=each.label,
                measured_on=measured_on,
                fraction=each.fraction,
                step_norm=each.length,
                loss=q.loss,
                slope=q.slope,
                sharpness=q.sharpness,
                best_distance=q.best_distance,
                predicted_decrease=q.predicted_decrease,
            )
        for each in parts:
            numbers = {name: value for name, value in vars(each).items() if name != "label"}
            self.tables["curvature_by_size"].append(
                numbers | self._at(point), algorithm=each.label, measured_on=measured_on
            )

    def add_eigenvalues(self, point: Point, eigenvalues: Iterable[TopEigenvalue], measured_on: str) -> None:
        for each in eigenvalues:
            self.tables["eigenvalues"].append(
                self._at(point),
                measured_on=measured_on,
                matrix=each.matrix,
                eigenvalue=each.found.eigenvalue,
                residual=each.found.residual,
                converged=int(each.found.converged),
                products=each.found.products,
                learning_rate=each.learning_rate,
                two_over_lr=2 / each.learning_rate,
                stability_threshold=each.threshold,
            )

    def mark_lost(self, point: Point, label: str, sharpness: bool = True, measured_on: str = TEST) -> None:
        """An algorithm whose step or state is not finite has a last row, with nothing in it."""
        where = self._where(point)
        log.warning("%s: its step or its state is not finite in %s; it is dropped, the others continue", label, where)
        if sharpness:
            at = self._at(point) | dict(algorithm=label, measured_on=measured_on)
            self.tables["sharpness"].append({**dict.fromkeys(self.tables["sharpness"].columns), **at})

    def add_ratios(self) -> None:
        """ratios.csv: over a seed's measured points of an epoch, mean and sample std of sharpness / |sharpness of SGD|,
        and means of what it should be read beside. On a batch where SGD was not measured there are only the latter.
        seed_means.csv: means of those over the seeds."""
        self.tables["ratios"].rows.clear()
        measured = self.tables["sharpness"].rows
        with_reference = {row["measured_on"] for row in measured if row["ratio"] is not None}
        points = defaultdict(list)
        for row in measured:
            if row["ratio" if row["measured_on"] in with_reference else "sharpness"] is not None and with_reference:
                points[row["seed"], row["epoch"], row["algorithm"], row["measured_on"]].append(row)
        for (seed, epoch, algorithm, measured_on), rows in points.items():
            ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
            self.tables["ratios"].append(
                {f"mean_{column}": mean(rows, column) for column in BESIDE},
                seed=seed,
                epoch=epoch,
                algorithm=algorithm,
                measured_on=measured_on,
                mean_ratio=mean(rows, "ratio"),
                std=statistics.stdev(ratios) if len(ratios) > 1 else None,
                count=len(rows),
            )
        if "seed_means" in self.tables:
            self.tables["seed_means"].rows.clear()
            for mean_row in seed_means(self.tables["ratios"].rows):
                self.tables["seed_means"].append(mean_row)

    def save(self) -> None:
        for table in self.tables.values():
            table.save()

    def state_dict(self) -> str:
        """The rows of all tables, as JSON: every float reads back as it was."""
        return json.dumps({name: table.rows for name, table in self.tables.items()})

    def load_state_dict(self, state: str) -> None:
        for name, rows in json.loads(state).items():
            if name in self.tables:  # after --allow_changes a table may be gone
                has_seed = "seed" in self.tables[name].columns  # versions with one seed did not write it
                self.tables[name].rows = [{"seed": self.seed} | row if has_seed else row for row in rows]
