"""Tables of the study beyond the papers' claims: how far steps go, whether flat rows are fast, later optimizers, clip
fractions, the curvature of Muon's step, and README's runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from claims.convergence import final_losses
from claims.folder import read_folder
from runs.config import is_finished
from runs.intervals import kendall_tau
from runs.tables import TEST, TRAINING, on_batch, read_table
from study.means import INTERVAL, finished, of_numbers, of_ratios
from study.plan import SOURCES, TUNED_ADAM

BEYOND = {
    "own_steps": ["data", "trajectory", "epoch", "measured_on", "edge", *INTERVAL],
    "flat_and_fast": ["data", "trajectory", "rows", "tau", *INTERVAL],
    "modern": ["algorithm", "quantity", "value", *INTERVAL],
    "eigenvalues": ["epoch", "quantity", "value", *INTERVAL],
    "clip_sweep": ["algorithm", "fraction", "quantity", "value", *INTERVAL, "lower", "higher", "of"],
    "curvature_by_size": ["fraction", "quantity", "value", *INTERVAL],
    "own_curvature": ["zipf", "measured_on", "quantity", "value", *INTERVAL],
    "readme": ["algorithm", "quantity", "value"],
}
README = "readme"  # as a set of data: generated translations, README's runs
NORMS = {"sharpness": "ratio", "sharpness_inf": "ratio, largest coordinate", "sharpness_spectral": "ratio, spectral"}
LOSS, RATE, EDGE = "loss", "learning rate", "edge at this rate"
SWEPT = ("sharpness", "predicted_decrease")
PARTS = {
    "share of the squared length": lambda row, whole: row["length_share"],
    "share of the curvature, alone": lambda row, whole: row["top"] / whole,
    "share, together with the others": lambda row, whole: row["cross"] / whole,
    "sharpness along what is left, over the whole": lambda row, whole: row["rest_sharpness"] / whole,
}
PRECONDITIONED = "largest eigenvalue of P^-1 H over 2 / lr"
THRESHOLD = "largest eigenvalue of P^-1 H over the threshold with momentum"
OWN_EDGE = "edge of the run's own step"
ADAM, MUON, QUOTIENT = "adam", "muon_adamw", "adam over muon_adamw"


class Beyond:
    """Every public method but `has` yields the rows of the table that it is called after."""

    def __init__(self, folder: Path):
        self.folder = folder

    def has(self, name: str) -> bool:
        """Whether this run is complete."""
        return is_finished(self.folder / name)

    def own_steps(self) -> Iterator[dict]:
        """Edge number of the step that each trajectory takes itself, by the loss, on the test batch and on its own. A
        seed whose step leads uphill has none. The quadratic number spreads over factors of hundreds here."""
        for data in SOURCES:
            for optimizer in ("adam", TUNED_ADAM, "sgd"):
                if self.has(name := f"{data}-{optimizer}"):
                    yield from (dict(data=data, trajectory=optimizer) | row for row in self._edges(name))

    def flat_and_fast(self) -> Iterator[dict]:
        """Kendall's tau over the rows, per seed: sharpness over SGD's in the last epoch against the final loss."""
        runs = [(data, optimizer, f"{data}-{optimizer}", f"{data}-convergence")
                for data in SOURCES for optimizer in ("adam", "sgd")]  # fmt: skip
        for data, optimizer, measured, trained in (*runs, (README, "adam", "readme-landscape", "readme-convergence")):
            if self.has(measured) and self.has(trained):
                ratios = self._last_ratios(measured)
                losses = final_losses(read_folder(self.folder / trained))
                taus, rows = [], 0
                for seed, by_label in ratios.items():
                    known = {label: loss[seed] for label, loss in losses.items() if seed in loss and label in by_label}
                    tau = kendall_tau([by_label[label] for label in known], list(known.values()))
                    taus += [] if tau is None else [tau]
                    rows = len(known)
                yield dict(data=data, trajectory=optimizer, rows=rows) | _named("tau", of_numbers(taus))

    def modern(self) -> Iterator[dict]:
        """Loss at the tuned rate; in the last epoch of Adam's run sharpness over SGD's in three norms, and the edge
        number at the tuned rate. A row that moves straight uphill has no edge number."""
        trained, measured = "modern-convergence", "modern-adam"
        if not (self.has(trained) and self.has(measured)):
            return
        rates = {row["algorithm"]: row["lr"] for row in read_table(self.folder / trained / "summary.csv")}
        points = defaultdict(dict)  # label -> seed -> its point in the last epoch
        for row in _last_epoch(on_batch(read_table(self.folder / measured / "sharpness.csv"), TEST)):
            points[row["algorithm"]][row["seed"]] = row
        for label, losses in final_losses(read_folder(self.folder / trained)).items():
            known = [row for row in points[label].values() if row["edge_quadratic"] is not None]
            edges = [row["edge_quadratic"] / row["learning_rate"] * rates[label] for row in known]
            yield _cells(label, RATE, of_numbers([rates[label]]))
            yield _cells(label, LOSS, of_numbers(finished(losses)))
            for column, quantity in NORMS.items():
                yield _cells(label, quantity, of_ratios([row[column] / points["sgd"][s][column]
                                                         for s, row in points[label].items()]))  # fmt: skip
            yield _cells(label, EDGE, of_ratios(edges))

    def eigenvalues(self) -> Iterator[dict]:
        """The usual sharpness of Adam's run in the unit of the step's edge: both are 1 at an edge."""
        if not self.has("modern-adam"):
            return
        rows = on_batch(read_table(self.folder / "modern-adam" / "eigenvalues.csv"), TEST)
        for epoch in dict.fromkeys(row["epoch"] for row in rows):
            here = [row for row in rows if (row["epoch"], row["matrix"]) == (epoch, "P^-1 H")]
            by_quantity = {
                PRECONDITIONED: [row["eigenvalue"] / row["two_over_lr"] for row in here],
                THRESHOLD: [row["eigenvalue"] / row["stability_threshold"] for row in here],
            }
            for quantity, values in by_quantity.items():
                yield dict(epoch=epoch, quantity=quantity) | _named("value", of_ratios(values))
            (own,) = (row for row in self._edges("modern-adam") if (row["epoch"], row["measured_on"]) == (epoch, TEST))
            numbers = {name: own[name] for name in INTERVAL}
            yield dict(epoch=epoch, quantity=OWN_EDGE, value=own["edge"]) | numbers

    def clip_sweep(self) -> Iterator[dict]:
        """Sharpness and predicted decrease of every clip fraction over those of k = 0, in the last epoch; and at how
        many points of all epochs they are lower and higher than at k = 0."""
        if not self.has("clip_sweep"):
            return
        rows = read_table(self.folder / "clip_sweep" / "clip_sweep.csv")
        last, fractions = max(row["epoch"] for row in rows), dict.fromkeys(row["fraction"] for row in rows)
        by = {(row["algorithm"], row["fraction"], row["epoch"], row["seed"]): row for row in rows}
        places = dict.fromkeys(key[2:] for key in by)
        for label in dict.fromkeys(row["algorithm"] for row in rows):
            for k in fractions:
                for quantity in SWEPT:
                    at = {place: (by[label, k, *place][quantity], by[label, 0, *place][quantity]) for place in places}
                    pairs = {place: pair for place, pair in at.items() if None not in pair}
                    factors = [a / b for (epoch, _), (a, b) in pairs.items() if epoch == last]
                    counts = dict(
                        lower=sum(a < b for a, b in pairs.values()),
                        higher=sum(a > b for a, b in pairs.values()),
                        of=len(places),
                    )
                    numbers = _named("value", of_ratios(factors))
                    yield dict(algorithm=label, fraction=k, quantity=quantity.replace("_", " ")) | numbers | counts

    def curvature_by_size(self) -> Iterator[dict]:
        """SGD's step cut in two by the size of its coordinates, in the last epoch."""
        if self.has("clip_sweep"):
            rows = _last_epoch(read_table(self.folder / "clip_sweep" / "curvature_by_size.csv"))
            for k in dict.fromkeys(row["fraction"] for row in rows):
                here = [(row, row["top"] + row["cross"] + row["rest"]) for row in rows if row["fraction"] == k]
                for quantity, part in PARTS.items():
                    numbers = _named("value", of_numbers([part(row, whole) for row, whole in here]))
                    yield dict(fraction=k, quantity=quantity) | numbers

    def own_curvature(self) -> Iterator[dict]:
        """Sharpness of the steps of Adam's and of Muon's own run, the mean over its points, on both batches."""
        for zipf in ("0", "0.5", "1"):
            names = [f"own_step{zipf}-{optimizer}" for optimizer in (ADAM, MUON)]
            if all(map(self.has, names)):
                for batch in (TEST, TRAINING):
                    adam, muon = (self._own_sharpness(name, batch) for name in names)
                    quotients = {seed: adam[seed] / muon[seed] for seed in adam if seed in muon}
                    for quantity, by_seed in ((ADAM, adam), (MUON, muon), (QUOTIENT, quotients)):
                        numbers = _named("value", of_ratios(list(by_seed.values())))
                        yield dict(zipf=zipf, measured_on=batch, quantity=quantity) | numbers

    def readme(self) -> Iterator[dict]:
        """What README shows: ratios of the first run, and the final losses of its figure."""
        if self.has("readme-landscape") and self.has("readme-convergence"):
            for row in on_batch(read_table(self.folder / "readme-landscape" / "ratios.csv"), TEST):
                if row["algorithm"] != TRAINING:
                    quantity = f"ratio, epoch {row['epoch']}"
                    yield dict(algorithm=row["algorithm"], quantity=quantity, value=row["mean_ratio"])
            for label, losses in final_losses(read_folder(self.folder / "readme-convergence")).items():
                yield dict(algorithm=label, quantity=LOSS, value=of_numbers(finished(losses))["mean"])

    # ---- parts of them ---------------------------------------------------------------------------------------------

    def _edges(self, name: str) -> Iterator[dict]:
        """Of the step that the run takes itself, every epoch, on both batches."""
        rows = read_table(self.folder / name / "seed_means.csv")
        own = {(row["epoch"], row["measured_on"], row["quantity"]): row for row in rows if row["algorithm"] == TRAINING}
        for (epoch, batch, quantity), row in own.items():
            if quantity == "edge_realized":
                numbers = {column: row[column] for column in INTERVAL}
                yield dict(epoch=epoch, measured_on=batch, edge=row["mean"]) | numbers

    def _last_ratios(self, name: str) -> dict[int, dict[str, float]]:
        """seed -> row of the list -> ratio in the last epoch."""
        found: dict[int, dict[str, float]] = defaultdict(dict)
        run = read_folder(self.folder / name)
        for row in _last_epoch(on_batch(run.table("ratios", "epoch algorithm measured_on mean_ratio"), TEST)):
            if row["algorithm"] != TRAINING:
                found[row["seed"]][row["algorithm"]] = row["mean_ratio"]
        return found

    def _own_sharpness(self, name: str, batch: str) -> dict[int, float]:
        """seed -> mean over the points of its run."""
        found = defaultdict(list)
        for row in read_table(self.folder / name / "sharpness.csv"):
            if (row["algorithm"], row["measured_on"]) == (TRAINING, batch):
                found[row["seed"]].append(row["sharpness"])
        return {seed: statistics.fmean(values) for seed, values in found.items()}


def _last_epoch(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    last = max(row["epoch"] for row in rows)
    return [row for row in rows if row["epoch"] == last]


def _cells(label: str, quantity: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    return dict(algorithm=label, quantity=quantity) | _named("value", numbers)


def _named(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of a mean, the mean under the name of its column."""
    return {name: numbers["mean"]} | {column: numbers[column] for column in INTERVAL}
