"""The answer of run_landscape.py: how flat each algorithm's next step is, and how near it comes to its edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from figures.run_tables import RunTables
from reporting.contents import Sentence, View, quoted
from reporting.numbers import between, count, listed, said
from runs.intervals import mean_interval
from runs.tables import TRAINING, first_batch, on_batch

Row = Mapping[str, Any]
ALIKE = 0.05  # closer to 1, a ratio is no difference worth a number of times
BLURRED = 0.1  # of a sharpness: more than that, and its rounding error is said


@dataclass(frozen=True)
class Estimate:
    """A number of one algorithm in the last epoch."""

    value: float
    bounds: tuple[float, float] | None  # 95 % over the seeds; of one seed, the lowest and the highest point
    seeds: int
    points: int  # of one seed

    def basis(self, bounds: str) -> str:
        """What the number rests on, for brackets."""
        rests = count(self.seeds, "seed") if self.seeds > 1 else count(self.points, "point")
        return f"{bounds}, {rests}" if self.bounds and bounds else rests


@dataclass(frozen=True)
class LastEpoch:
    """The rows of the last epoch that was measured, on the batch on which the whole list was."""

    run: RunTables
    epoch: int
    batch: str  # test or training
    points: Sequence[Row]  # of sharpness.csv
    means: Sequence[Row]  # of seed_means.csv, which only a run of several seeds has

    @property
    def source(self) -> str:
        return "seed_means.csv" if self.means else "sharpness.csv"

    def estimates(self, quantity: str) -> dict[str, Estimate]:
        """Label -> its estimate, of labels that have one; `quantity` is a column of sharpness.csv."""
        estimates = {label: self._estimate(label, quantity) for label in self.run.styles}
        return {label: estimate for label, estimate in estimates.items() if estimate}

    def _estimate(self, label: str, quantity: str) -> Estimate | None:
        own = [row for row in self.points if row["algorithm"] == label and row.get(quantity) is not None]
        if not own:
            return None
        values = [row[quantity] for row in own]
        by_seed = {seed: [row[quantity] for row in own if row.get("seed") == seed] for seed in seeds_of(own)}
        for row in self.means:
            if (row["algorithm"], row["quantity"]) == (label, quantity):
                bounds = None if row["low"] is None else (row["low"], row["high"])
                return Estimate(row["mean"], bounds, row["seeds"], len(values))
        if len(by_seed) > 1:
            means = [fmean(of_seed) for of_seed in by_seed.values()]
            return Estimate(fmean(means), mean_interval(means), len(means), len(values))
        return Estimate(fmean(values), (min(values), max(values)) if len(values) > 1 else None, 1, len(values))


def seeds_of(rows: Sequence[Row]) -> list[Any]:
    return list(dict.fromkeys(row.get("seed") for row in rows))


def last_epoch(run: RunTables) -> LastEpoch | None:
    """None where no sharpness was measured."""
    points = run.table("sharpness", "epoch algorithm slope sharpness")
    batch = first_batch(points)
    points = on_batch(points, batch)
    if not points:
        return None
    epoch = max(row["epoch"] for row in points)

    def of_epoch(rows: Sequence[Row]) -> list[dict[str, Any]]:
        return [row for row in on_batch(rows, batch) if row["epoch"] == epoch]

    means = run.table("seed_means", "epoch algorithm mean low high")
    return LastEpoch(run, epoch, batch, of_epoch(points), of_epoch(means))


# ---- sentences -----------------------------------------------------------------------------------------------


def answer(run: RunTables) -> Iterator[Sentence]:
    last = last_epoch(run)
    yield from _what_was_measured(run)
    if last is None:
        yield from _deepest_scan(run)
        return
    ratios, of_edge = last.estimates("ratio"), last.estimates("edge_realized")
    labels = [label for label in run.styles if label != TRAINING]
    kind = ratios if any(label in ratios for label in labels) else last.estimates("sharpness")
    yield from _flattest(last, {label: kind[label] for label in labels if label in kind}, relative=kind is ratios)
    yield from _own_step(last, of_edge)
    yield from _beyond(last, {label: of_edge[label] for label in labels if label in of_edge})
    yield from _deepest_scan(run)
    yield from _cautions(last, kind)
    for label in labels:
        text = _of_row(last, label, kind.get(label), of_edge.get(label), relative=kind is ratios)
        if text:
            yield Sentence(text, (last.source,), of_row=True)


def _what_was_measured(run: RunTables) -> Iterator[Sentence]:
    name = "sharpness" if run.table("sharpness", "epoch algorithm") else "scan"
    rows = run.table(name, "epoch algorithm")
    if not rows:
        return
    rows = on_batch(rows, first_batch(rows))
    algorithms = {row["algorithm"] for row in rows} - {TRAINING}
    points = {(row.get("seed"), row["iteration"]) for row in rows}
    epochs = sorted({row["epoch"] for row in rows})
    seeds = len(seeds_of(rows))
    by = f" that {run.settings['train_optimizer']} trained" if "train_optimizer" in run.settings else ""
    of_runs = "one run" if seeds == 1 else f"{seeds} runs, one per seed,"
    where = f"{count(len(points), 'point')} of {of_runs}{by}"
    when = f"in {'epoch' if len(epochs) == 1 else 'epochs'} {listed([str(epoch) for epoch in epochs])}"
    yield Sentence(
        f"The next steps of {count(len(algorithms), 'algorithm')} were measured at {where}, {when}.", (f"{name}.csv",)
    )


def _flattest(last: LastEpoch, kind: Mapping[str, Estimate], relative: bool) -> Iterator[Sentence]:
    if not kind:
        yield Sentence(f"No algorithm has a sharpness in epoch {last.epoch}.", ("sharpness.csv",))
        return
    label = min(kind, key=lambda label: kind[label].value)
    value = kind[label].value
    of = f"{said(value)} of that of {quoted(last.run.reference or '')}" if relative else said(value)
    text = f"In epoch {last.epoch} the step of {quoted(label)} is the flattest: its directional sharpness is {of}."
    yield Sentence(text, (last.source,))
    if not relative:
        text = "No row serves as reference, so sharpness stands for itself here and not relative to that of SGD."
        yield Sentence(text, ("sharpness.csv",))


def _own_step(last: LastEpoch, edges: Mapping[str, Estimate]) -> Iterator[Sentence]:
    if TRAINING in edges:
        by = last.run.settings.get("train_optimizer", "")
        text = f"The step that the run itself takes{f' ({by})' if by else ''} {_edge(edges[TRAINING])}."
        yield Sentence(text, (last.source,))


def _edge(edge: Estimate) -> str:
    """Where a step ends, in units of the edge beyond which the loss is higher than at its start."""
    if edge.value > 1:
        return f"ends beyond its edge, at {said(edge.value)} of it: the loss rises"
    if edge.value < 0:
        return f"has the edge number {said(edge.value)}: the loss falls faster than its slope says"
    return f"ends at {said(edge.value)} of its edge"


def _beyond(last: LastEpoch, edges: Mapping[str, Estimate]) -> Iterator[Sentence]:
    beyond = [quoted(label) for label, edge in edges.items() if edge.value > 1]
    if edges:
        who = f": {listed(beyond)}" if beyond else ""
        rows = count(len(edges), "algorithm")
        yield Sentence(f"At their learning rates, {len(beyond)} of {rows} step beyond their edge{who}.", (last.source,))


def _deepest_scan(run: RunTables) -> Iterator[Sentence]:
    rows = [row for row in run.table("scan", "epoch batch algorithm distance loss") if row["algorithm"] != TRAINING]
    rows = [row for row in on_batch(rows, first_batch(rows)) if row["loss"] is not None]
    if not rows:
        return
    epoch = max(row["epoch"] for row in rows)
    seed = seeds_of(rows)[0]
    rows = [row for row in rows if row["epoch"] == epoch and row.get("seed") == seed]
    start, lowest = (row for row in (min(rows, key=_distance), min(rows, key=lambda row: row["loss"])))
    of_seed = "" if seed is None or len(seeds_of(run.table("scan", "loss"))) == 1 else f" of seed {seed}"
    yield Sentence(
        f"In the scans of epoch {epoch}{of_seed} the loss falls furthest along the step of "
        f"{quoted(lowest['algorithm'])}: from {start['loss']:.4g} to {lowest['loss']:.4g}, at distance "
        f"{said(lowest['distance'])}.",
        ("scan.csv",),
    )


def _distance(row: Row) -> float:
    return row["distance"]


# ---- what a reader must know ---------------------------------------------------------------------------------


def _cautions(last: LastEpoch, kind: Mapping[str, Estimate]) -> Iterator[Sentence]:
    seeds = max((estimate.seeds for estimate in kind.values()), default=1)
    if seeds == 1:
        text = (
            "One seed was measured, so nothing is known of the differences between seeds: brackets below go from the "
        )
        yield Sentence(text + "lowest to the highest of the epoch's points.", ("sharpness.csv",))
    else:
        text = f"Brackets below are 95 % intervals over {seeds} seeds."
        yield Sentence(text, (last.source,))
    own = [row for row in last.points if row["algorithm"] == last.run.reference and row["sharpness"] is not None]
    negative = sum(row["sharpness"] < 0 for row in own)
    if negative:
        text = f"The loss bends down along the step of {quoted(last.run.reference or '')} itself at {negative} of "
        text += f"{count(len(own), 'point')}; ratios divide by the size of its sharpness there."
        yield Sentence(text, ("sharpness.csv",))


def _of_row(last: LastEpoch, label: str, flat: Estimate | None, edge: Estimate | None, relative: bool) -> str:
    own = [row for row in last.points if row["algorithm"] == label]
    step = f"The step of {quoted(label)}"
    if not own:
        return ""
    if flat is None:
        if all(row.get("loss") is None for row in own):
            return f"{step} or its state is not finite in epoch {last.epoch}; it was dropped."
        return f"{step} has no sharpness in epoch {last.epoch}: its length is zero, or the loss is not finite."
    if relative and label == last.run.reference:
        text = f"{step} is what the others are compared with"
    elif relative:
        text = f"{step} {_compared(flat, quoted(last.run.reference or ''))}"
    else:
        text = f"{step} has the directional sharpness {said(flat.value)} ({flat.basis(_range(flat))})"
    if edge is not None:
        text += f"; with its learning rate of {own[-1]['learning_rate']:.3g} it {_edge(edge)}"
    elif any((row["slope"] or 0) > 0 for row in own):
        uphill = sum((row["slope"] or 0) > 0 for row in own)
        text += f"; it leads uphill at {uphill} of {count(len(own), 'point')}"
    blurred = sum(row.get("sharpness_error") is not None and _is_blurred(row) for row in own)
    if blurred:
        text += f"; rounding may change its sharpness by more than 10 % at {blurred} of {count(len(own), 'point')}"
    return f"{text}."


def _is_blurred(row: Row) -> bool:
    return row["sharpness"] is not None and row["sharpness_error"] > BLURRED * abs(row["sharpness"])


def _compared(ratio: Estimate, reference: str) -> str:
    """In times flatter or sharper; brackets in the same unit where all of them is positive."""
    value, bounds = ratio.value, ratio.bounds
    if value <= 0:
        return f"bends the loss down: its ratio to {reference} is {said(value)} ({ratio.basis(_range(ratio))})"
    if abs(value - 1) < ALIKE:
        return f"is about as sharp as that of {reference}: {value:.2f} of it ({ratio.basis(_range(ratio))})"
    flatter = value < 1
    if bounds is None or bounds[0] <= 0:
        brackets = f"ratio {_range(ratio)}" if bounds else ""
    else:
        brackets = between([1 / bounds[0], 1 / bounds[1]] if flatter else bounds)
    times = said(1 / value if flatter else value)
    text = f"is {times} times {'flatter' if flatter else 'sharper'} than that of {reference} ({ratio.basis(brackets)})"
    if ratio.seeds > 1 and bounds and bounds[0] <= 1 <= bounds[1]:
        text += ", which the seeds do not tell from no difference"
    return text


def _range(estimate: Estimate) -> str:
    return between(estimate.bounds) if estimate.bounds else ""


# ---- tables --------------------------------------------------------------------------------------------------


def views(run: RunTables) -> Iterator[View]:
    last = last_epoch(run)
    if last is None:
        return
    title, note = "Directional sharpness by epoch", "Means over the measured points of each epoch."
    if last.means:
        note = "Means over the points of each epoch and over the seeds, of logarithms where all are positive."
    relative = any(row.get("ratio") is not None for row in last.points)
    title += f", relative to {quoted(run.reference or '')}" if relative else ""
    columns, rows, source = _by_epoch(run, last, "ratio" if relative else "sharpness")
    yield View("by-epoch", title, note, columns, rows, source)
    yield View("last-epoch", f"Epoch {last.epoch} in detail", DETAILS, *_details(last), last.source)


DETAILS = (
    "Means over the points. A low sharpness alone does not make a good step: a direction can be flat because the loss "
    "hardly changes along it. “slope” is the fall per distance, “decrease” how far the quadratic model falls, and "
    "“edge” says where the row’s own step ends: 0.5 is the best place, 1 the edge."
)


def _by_epoch(run: RunTables, last: LastEpoch, quantity: str) -> tuple[list[str], list[dict[str, Any]], str]:
    """Columns, rows and the file that they are from."""
    if last.means:
        rows = run.table("seed_means", "epoch algorithm mean")
        rows, column = [row for row in rows if row["quantity"] == quantity], "mean"
    else:
        rows, column = run.table("sharpness", f"epoch algorithm {quantity}"), quantity
    cells: dict[str, dict[int, list[float]]] = {}
    for row in on_batch(rows, last.batch):
        if row[column] is not None:
            cells.setdefault(row["algorithm"], {}).setdefault(row["epoch"], []).append(row[column])
    epochs = sorted({epoch for of_one in cells.values() for epoch in of_one})
    table = [
        {"algorithm": label, **{f"epoch {epoch}": fmean(cells[label][epoch]) for epoch in cells[label]}}
        for label in run.styles
        if label in cells
    ]
    return ["algorithm", *(f"epoch {epoch}" for epoch in epochs)], table, last.source


def _details(last: LastEpoch) -> tuple[list[str], list[dict[str, Any]]]:
    quantities = {"ratio": "ratio", "sharpness": "sharpness", "slope": "slope", "decrease": "predicted_decrease"}
    quantities |= {"edge": "edge_realized", "edge of the model": "edge_quadratic", "learning rate": "learning_rate"}
    estimates = {name: last.estimates(column) for name, column in quantities.items()}
    estimates = {name: of_rows for name, of_rows in estimates.items() if of_rows}
    several = any(estimate.seeds > 1 for of_rows in estimates.values() for estimate in of_rows.values())
    rows = []
    for label in last.run.styles:
        own = [row for row in last.points if row["algorithm"] == label]
        if own:
            cells = {name: of_rows[label].value if label in of_rows else None for name, of_rows in estimates.items()}
            ratio = estimates.get("ratio", {}).get(label)
            if several:
                low, high = ratio.bounds if ratio and ratio.bounds else (None, None)
                cells |= {"ratio from": low, "ratio to": high}
            rows.append({"algorithm": label, **cells, "points": len(own)})
    interval = ["ratio from", "ratio to"] if several else []
    first, *others = estimates
    return ["algorithm", first, *interval, *others, "points"], rows


def headline(run: RunTables) -> tuple[str, dict[str, float]]:
    """(what it is, label -> number): the one number that tells two runs apart."""
    last = last_epoch(run)
    if last is None:
        return "No sharpness was measured", {}
    ratios = last.estimates("ratio")
    what = f"Sharpness in epoch {last.epoch}" + (f" relative to {quoted(run.reference or '')}" if ratios else "")
    estimates = ratios or last.estimates("sharpness")
    return what, {label: estimate.value for label, estimate in estimates.items()}
