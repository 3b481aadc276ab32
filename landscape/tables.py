"""The tables of a landscape run: measurements are written down here, and printed."""

import json
import logging
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from landscape.classes import ClassMeasurement
from landscape.decomposition import Contribution
from landscape.top_eigenvalues import TopEigenvalue
from landscape_core.measurement import Measurement
from runs.tables import TEST, TRAINING, Table, first_batch, format_table, on_batch, read_table
from training.loop import Point

log = logging.getLogger(__name__)

COLUMNS = {
    "training": "epoch iteration loss",
    "sharpness": "epoch batch iteration algorithm measured_on loss slope sharpness ratio step_norm step_max "
    "best_distance predicted_decrease sharpness_error gradient_norm cosine noise_share "
    "sharpness_inf sharpness_spectral learning_rate edge_quadratic edge_realized edge_quotient critical_lr best_lr",
    "ratios": "epoch algorithm measured_on mean_ratio std count mean_slope mean_predicted_decrease mean_edge_quadratic "
    "mean_edge_realized mean_sharpness",
    "scan": "epoch batch iteration algorithm measured_on distance loss evaluated",
    "histogram": "epoch batch iteration algorithm bin_low bin_high count",
    "decomposition": "epoch batch iteration algorithm measured_on grouping group parameters step_share slope within "
    "cross",
    "classes": "epoch batch iteration algorithm class types tokens share loss token_loss slope sharpness",
    "eigenvalues": "epoch batch iteration measured_on matrix eigenvalue residual converged products learning_rate "
    "two_over_lr stability_threshold",
}

BESIDE = ("slope", "predicted_decrease", "edge_quadratic", "edge_realized", "sharpness")  # to be read beside a ratio


def mean(rows: Iterable[dict], column: str) -> float | None:
    """The mean of a column over the rows that have a number there; None if none has."""
    values = [row[column] for row in rows if row[column] is not None]
    return statistics.fmean(values) if values else None


class PointTables:
    """The rows of every measured point.

    Args:
        folder: the run folder.
        reference: label of the row whose sharpness the others are divided by; None: the ratios stay empty.
        absent: names of the tables that this run does not write, such as training.csv of a run that does not train.
        listener: called with each new row (see `runs.tables.Table`).
    """

    def __init__(
        self,
        folder: Path,
        reference: str | None,
        absent: Collection[str] = (),
        listener: Callable[[str, dict], None] | None = None,
    ):
        names = [name for name in COLUMNS if name not in absent]
        self.tables = {name: Table(folder / f"{name}.csv", COLUMNS[name].split(), listener) for name in names}
        self.reference = reference
        self.warned: set[str] = set()

    @property
    def is_empty(self) -> bool:
        """Whether no point is written down yet."""
        return not (self.tables["sharpness"].rows or self.tables["scan"].rows)

    def add_training(self, point: Point) -> None:
        self.tables["training"].append(epoch=point.epoch, iteration=point.iteration, loss=point.loss)

    def add(
        self, point: Point, measurements: Sequence[Measurement], sharpness: bool = True, measured_on: str = TEST
    ) -> None:
        """Rows for all measurements of one point on one batch; without `sharpness`, of their scans alone."""
        at = dict(epoch=point.epoch, batch=point.batch, iteration=point.iteration)
        where = f"epoch {point.epoch}, batch {point.batch}"
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
            log.info("%s: uphill in %s", m.label, where)

    def add_contributions(
        self, point: Point, found: Iterable[Contribution], grouping: str, measured_on: str = TEST
    ) -> None:
        for each in found:
            numbers = {name: value for name, value in vars(each).items() if name != "label"}
            self.tables["decomposition"].append(
                numbers,
                epoch=point.epoch,
                batch=point.batch,
                iteration=point.iteration,
                algorithm=each.label,
                measured_on=measured_on,
                grouping=grouping,
            )

    def add_classes(self, point: Point, found: Iterable[ClassMeasurement]) -> None:
        for each in found:
            self.tables["classes"].append(
                {"class": each.of.number},
                epoch=point.epoch,
                batch=point.batch,
                iteration=point.iteration,
                algorithm=each.label,
                types=each.of.types,
                tokens=each.of.tokens,
                share=each.of.share,
                loss=each.loss,
                token_loss=each.token_loss,
                slope=each.slope,
                sharpness=each.sharpness,
            )

    def add_eigenvalues(self, point: Point, found: Iterable[TopEigenvalue], measured_on: str) -> None:
        for each in found:
            self.tables["eigenvalues"].append(
                epoch=point.epoch,
                batch=point.batch,
                iteration=point.iteration,
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
        where = f"epoch {point.epoch}, batch {point.batch}"
        log.warning("%s: its step or its state is not finite in %s; it is dropped, the others continue", label, where)
        if sharpness:
            at = dict(epoch=point.epoch, batch=point.batch, iteration=point.iteration)
            at |= dict(algorithm=label, measured_on=measured_on)
            self.tables["sharpness"].append({**dict.fromkeys(self.tables["sharpness"].columns), **at})

    def add_ratios(self) -> None:
        """ratios.csv: over an epoch's measured points, mean and sample std of sharpness / |sharpness of SGD|, and means
        of what it should be read beside. On a batch where SGD was not measured there are only the latter."""
        self.tables["ratios"].rows.clear()
        measured = self.tables["sharpness"].rows
        with_reference = {row["measured_on"] for row in measured if row["ratio"] is not None}
        points = defaultdict(list)
        for row in measured:
            if row["ratio" if row["measured_on"] in with_reference else "sharpness"] is not None and with_reference:
                points[row["epoch"], row["algorithm"], row["measured_on"]].append(row)
        for (epoch, algorithm, measured_on), rows in points.items():
            ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
            self.tables["ratios"].append(
                {f"mean_{column}": mean(rows, column) for column in BESIDE},
                epoch=epoch,
                algorithm=algorithm,
                measured_on=measured_on,
                mean_ratio=mean(rows, "ratio"),
                std=statistics.stdev(ratios) if len(ratios) > 1 else None,
                count=len(rows),
            )

    def save(self) -> None:
        for table in self.tables.values():
            table.save()

    def state_dict(self) -> str:
        """The rows of all tables, as JSON: every float reads back as it was."""
        return json.dumps({name: table.rows for name, table in self.tables.items()})

    def load_state_dict(self, state: str) -> None:
        for name, rows in json.loads(state).items():
            if name in self.tables:  # after --allow_changes a table may be gone
                self.tables[name].rows = rows


# ---- what is printed ------------------------------------------------------------------------------------------------


def answer(folder: Path, labels: Iterable[str], reference: str | None, trained_by: str = "") -> str:
    """What a run prints at its end: the mean ratio of every algorithm in every test epoch, the paper's tables 3 to 6;
    without a reference, the mean directional sharpness. `trained_by` names the optimizer of the row `training`."""
    points = read_table(folder / "sharpness.csv")
    if not points:
        return "The loss was scanned; no sharpness was asked for."
    of_reference = "" if reference is None else f" / |directional sharpness of {reference}|"
    title = f"Mean over the measured points of an epoch of directional sharpness{of_reference}"
    where = "" if first_batch(points) == TEST else ", on the training batches"
    parts = [f"{title}{where}\n{ratio_table(folder, labels, reference, trained_by)}"]
    if rows := read_table(folder / "ratios.csv"):
        parts.append(last_epoch(rows, reference, trained_by))
    return "\n\n".join(parts)


def shown_name(label: str, trained_by: str) -> str:
    return f"{label} ({trained_by})" if label == TRAINING and trained_by else label


def last_epoch(rows: list[dict], reference: str | None, trained_by: str = "") -> str:
    """The ratio, and what it leaves open: how steep the direction is, how far the loss could fall along it, and how
    near the row's own step is to its edge."""
    epoch = max(row["epoch"] for row in rows)
    rows = [row for row in rows if row["epoch"] == epoch]
    batches = [first_batch(rows)]
    batches += [TRAINING] if batches[0] == TEST and on_batch(rows, TRAINING) else []
    shown = [
        {
            "algorithm": shown_name(row["algorithm"], trained_by),
            "batch": batch,
            "ratio": row["mean_ratio"],
            "std": row["std"],
            "slope": row["mean_slope"],
            "predicted decrease": row["mean_predicted_decrease"],
            "edge": row["mean_edge_quadratic"],
            "realized edge": row["mean_edge_realized"],
            "n": row["count"],
        }
        for batch in batches
        for row in on_batch(rows, batch)
    ]
    columns = [column for column in shown[0] if column != "batch" or len(batches) > 1]
    title = f"Epoch {epoch}: the ratio beside slope, the quadratic model's decrease and the edge of the row's own step"
    return "\n".join([title, format_table(shown, columns), verdict(epoch, rows, reference, trained_by)])


def verdict(epoch: int, rows: list[dict], reference: str | None, trained_by: str = "") -> str:
    """One sentence on the last epoch, and one on the step that the run itself takes."""
    first = [row for row in on_batch(rows, first_batch(rows)) if row["algorithm"] != TRAINING]
    flattest = min((row for row in first if row["mean_ratio"] is not None), key=lambda row: row["mean_ratio"])
    said = f"{flattest['algorithm']} is flattest ({flattest['mean_ratio']:.2g} of {reference})"
    falling = [row for row in first if row["mean_predicted_decrease"] is not None]
    if falling:
        best = max(falling, key=lambda row: row["mean_predicted_decrease"])
        said += f", {best['algorithm']} could fall furthest ({best['mean_predicted_decrease']:.2g})"
    stepped = [row for row in first if row["mean_edge_realized"] is not None]
    beyond = [row["algorithm"] for row in stepped if row["mean_edge_realized"] > 1]
    if stepped:
        whose = f" ({', '.join(beyond)})" if beyond else ""
        said += f"; {len(beyond)} of {len(stepped)} rows step beyond their edge{whose}"
    own = {
        batch: row["mean_edge_realized"]
        for batch in (TEST, TRAINING)
        for row in on_batch(rows, batch)
        if row["algorithm"] == TRAINING and row["mean_edge_realized"] is not None
    }
    edges = ", ".join(f"{edge:.2g} on the {batch} batch" for batch, edge in own.items())
    by = f" ({trained_by})" if trained_by else ""
    return f"In epoch {epoch}, {said}." + (
        f" The step that the run takes{by} has a realized edge of {edges}." * bool(own)
    )


def ratio_table(folder: Path, labels: Iterable[str], reference: str | None, trained_by: str = "") -> str:
    """A row per algorithm, a column per test epoch; "~" marks what rounding blurs."""
    points = read_table(folder / "sharpness.csv")
    points = on_batch(points, first_batch(points))
    blurred = blurred_cells(points)
    column = "sharpness" if reference is None else "ratio"
    values = defaultdict(list)
    for row in points:
        if row[column] is not None:
            values[row["algorithm"], row["epoch"]].append(row[column])
    cells = {}
    for cell, numbers in values.items():
        mean = statistics.fmean(numbers)
        cells[cell] = f"~{mean:.4g}" if cell in blurred else mean
    epochs = sorted({row["epoch"] for row in points})
    labels = [*labels, *([TRAINING] if any(row["algorithm"] == TRAINING for row in points) else [])]
    rows = [
        {"algorithm": shown_name(label, trained_by), **{f"epoch {e}": cells.get((label, e)) for e in epochs}}
        for label in labels
    ]
    table = format_table(rows, ["algorithm", *(f"epoch {e}" for e in epochs)])
    notes = []
    if TRAINING in labels:
        notes.append(f"{shown_name(TRAINING, trained_by)}: the step that the run itself takes")
    if blurred:
        notes.append("~: rounding errors may exceed 10 %; --dtype float64 avoids them")
    below = sorted({row["epoch"] for row in points if row["algorithm"] == reference and (row["sharpness"] or 0) < 0})
    if below:
        where = ", ".join(map(str, below))
        notes.append(f"{reference} itself has a negative sharpness in epoch {where}: ratios there are to its size")
    return "\n".join([table, *notes])


def blurred_cells(rows: list[dict]) -> set[tuple[str, int]]:
    """(algorithm, epoch) where the bound on the rounding errors of sharpness is more than 10 % of it."""
    sizes = defaultdict(float)
    for row in rows:
        if row["sharpness_error"] is not None:
            sizes[row["algorithm"], row["epoch"]] += row["sharpness_error"] - 0.1 * abs(row["sharpness"])
    return {cell for cell, excess in sizes.items() if excess > 0}
