"""`python -m study.tables output/study --output_dir docs/study`: the study's folders in small tables.

Each number is a mean over the seeds, with its 95 % interval (`low`, `high`; empty for one seed): Student's t over one
number per seed, of logarithms where the numbers are ratios. A part of the study that was not run gives no rows.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from claims import check
from claims.convergence import final_losses
from claims.folder import read_folder
from runs.tables import TEST, Table, on_batch, read_table
from study.beyond import BEYOND, Beyond
from study.means import INTERVAL, finished, of_numbers, of_ratios
from study.plan import SOURCES, TUNED_ADAM

COLUMNS = {
    "claims": ["claim", "data", "paper", "holds", "of", "low", "high", "seeds", "effect", "effect_low", "effect_high"],
    "exceptions": ["claim", "exception"],
    "scans": ["data", "pairs", "flatter", "predicted_further", "fell_further", "as_predicted"],
    "ratios": ["data", "trajectory", "epoch", "algorithm", "ratio", *INTERVAL],
    "losses": ["data", "algorithm", "lr", "loss", *INTERVAL, "diverged"],
    "batch_sizes": ["batch_size", "equal", "updates", "sgd", "adam", "gap", *INTERVAL],
    "batch_ratios": ["batch_size", "epoch", "ratio", *INTERVAL],
    "class_imbalance": ["zipf", "quantity", "value", *INTERVAL],
    "parameter_scaling": ["algorithm", "epoch", "ratio", *INTERVAL],
    "pretraining": ["data", "start", "quantity", "value", *INTERVAL],
    "batches_compared": ["trajectory", "epoch", "algorithm", "train_over_test", *INTERVAL],
    **BEYOND,
}
ALL = "all"
GAP = "loss of SGD less that of Adam"
FROM_FIRST = ", momentum from the first gradient"  # as run_landscape.py trains; in the lists it starts from zero
CLASSES = ("frequent", "rare")  # of tokens: the first and the last
TUNED = f"translation-{TUNED_ADAM}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m study.tables", description=__doc__)
    parser.add_argument("study", type=Path, help="the folder that python -m study filled")
    parser.add_argument("--output_dir", type=Path, default=Path("docs/study"), metavar="FOLDER")
    settings = parser.parse_args()
    study = Study(settings.study)
    for name, columns in COLUMNS.items():
        table = Table(settings.output_dir / f"{name}.csv", columns)
        for row in getattr(study, name)():
            table.append(row)
        settings.output_dir.mkdir(parents=True, exist_ok=True)
        table.save()
        print(f"{settings.output_dir / name}.csv: {len(table.rows)} rows")
    return 0


def _mean(rows: Sequence[dict], column: str, algorithm: str | None = None) -> float:
    """Over points, of one algorithm or of all."""
    return statistics.fmean(row[column] for row in rows if algorithm in (None, row["algorithm"]))


def _scanned_pairs(folder: Path) -> Iterator[tuple[bool, bool, bool]]:
    """(flatter, predicted to fall further, fell further) of every clipped row and its partner where both were scanned.

    A step along which the loss bends down has no predicted minimum: such pairs are left out."""
    if not (folder / "scan.csv").exists():
        return
    lowest: dict[tuple, float] = defaultdict(lambda: math.inf)
    for row in on_batch(read_table(folder / "scan.csv"), TEST):
        key = row["seed"], row["epoch"], row["batch"], row["algorithm"]
        lowest[key] = min(lowest[key], row["loss"])
    measured = {
        (row["seed"], row["epoch"], row["batch"], row["algorithm"]): row
        for row in on_batch(read_table(folder / "sharpness.csv"), TEST)
    }
    pairs = [(a.label, b.label) for a, b in read_folder(folder).pairs()]
    for place in dict.fromkeys(key[:3] for key in lowest):
        for clipped, plain in pairs:
            here = [(*place, label) for label in (clipped, plain)]
            if all(key in lowest and measured[key]["predicted_decrease"] is not None for key in here):
                (a, b), (low_a, low_b) = ([values[key] for key in here] for values in (measured, lowest))
                further = a["predicted_decrease"] > b["predicted_decrease"]
                yield a["sharpness"] < b["sharpness"], further, low_a < low_b


class Study(Beyond):
    """The finished folders of a study. Every method yields the rows of the table that it is called after."""

    def claims(self) -> Iterator[dict]:
        """Each claim on each data set, and on all of them together."""
        for data in (*SOURCES, TUNED, ALL):
            for claim in check(self._of_claims(data)):
                if claim.measured:
                    low, high = claim.interval or (None, None)
                    effect = claim.effect
                    effect_low, effect_high = (effect and effect.interval) or (None, None)
                    yield dict(
                        claim=claim.name,
                        data=data,
                        paper=claim.paper,
                        holds=claim.holds,
                        of=claim.of,
                        low=low,
                        high=high,
                        seeds=len(claim.seeds),
                        effect=effect and effect.value,
                        effect_low=effect_low,
                        effect_high=effect_high,
                    )

    def exceptions(self) -> Iterator[dict]:
        for claim in check(self._of_claims(ALL)):
            for exception in claim.exceptions:
                yield dict(claim=claim.name, exception=exception.replace(f"{self.folder}/", ""))

    def scans(self) -> Iterator[dict]:
        """Clipped rows beside their partners at the scanned points: how often the clipped step is flatter, should let
        the loss fall further by its quadratic model, lets it fall further along the scan, and does as predicted."""
        for data in (*SOURCES, TUNED):
            pairs = [pair for folder in self._of_claims(data) for pair in _scanned_pairs(folder)]
            if pairs:
                flatter, predicted, fell = (sum(column) for column in zip(*pairs, strict=True))
                agree = sum(by_model == by_scan for _, by_model, by_scan in pairs)
                yield dict(
                    data=data,
                    pairs=len(pairs),
                    flatter=flatter,
                    predicted_further=predicted,
                    fell_further=fell,
                    as_predicted=agree,
                )

    def ratios(self) -> Iterator[dict]:
        """Sharpness over that of SGD's step on the test batch."""
        for data in SOURCES:
            for optimizer in ("adam", TUNED_ADAM, "sgd"):
                if self.has(f"{data}-{optimizer}"):
                    for row in self._seed_means(f"{data}-{optimizer}"):
                        yield dict(data=data, trajectory=optimizer) | row

    def losses(self) -> Iterator[dict]:
        """Training loss of the last epoch, at the rates that were chosen on the first seed."""
        for data in SOURCES:
            name = f"{data}-convergence"
            if self.has(name):
                rates = {row["algorithm"]: row["lr"] for row in read_table(self.folder / name / "summary.csv")}
                for label, by_seed in final_losses(read_folder(self.folder / name)).items():
                    numbers = of_numbers(known := finished(by_seed))
                    numbers["loss"] = numbers.pop("mean")
                    lost = len(by_seed) - len(known)
                    yield dict(data=data, algorithm=label, lr=rates[label], diverged=lost) | numbers

    def batch_sizes(self) -> Iterator[dict]:
        """Final losses of SGD and Adam at each batch size, after equally many updates or on equally many examples."""
        for name in self._names("batch*-convergence"):
            batch, equal = name.removeprefix("batch").removesuffix("-convergence").split("-")
            updates = max(row["iteration"] for row in read_table(self.folder / name / "losses.csv"))
            yield dict(batch_size=int(batch), equal=equal, updates=updates) | self._gap(name)

    def batch_ratios(self) -> Iterator[dict]:
        for name in self._names("batch*-adam"):
            batch = int(name.removeprefix("batch").removesuffix("-adam"))
            for row in self._seed_means(name):
                if row.pop("algorithm") == "adam":
                    yield dict(batch_size=batch) | row

    def class_imbalance(self) -> Iterator[dict]:
        for name in self._names("zipf*-convergence"):
            zipf, run = name.removeprefix("zipf").removesuffix("-convergence"), name.replace("convergence", "adam")
            yield dict(zipf=zipf) | self._quantity(GAP, self._gaps(name), of_numbers)
            if self.has(trainers := f"zipf{zipf}-trainers"):
                yield dict(zipf=zipf) | self._quantity(f"{GAP}{FROM_FIRST}", self._gaps(trainers), of_numbers)
            trained = [f"zipf{zipf}-{optimizer}" for optimizer in ("sgd", TUNED_ADAM)]
            if all(map(self.has, trained)):
                for quantity, by_seed in self._class_gaps(*trained).items():
                    yield dict(zipf=zipf) | self._quantity(quantity, by_seed, of_numbers)
            if self.has(run):
                for quantity, by_seed in self._class_ratios(run).items():
                    yield dict(zipf=zipf) | self._quantity(quantity, by_seed, of_ratios)

    def parameter_scaling(self) -> Iterator[dict]:
        if self.has("scaling"):
            yield from self._seed_means("scaling")

    def pretraining(self) -> Iterator[dict]:
        for data in ("snli", "imdb"):
            for start in ("pretrained", "fresh"):
                name, run = f"{start}-{data}-convergence", f"{start}-{data}-adam"
                if self.has(name):
                    gap = self._quantity(GAP, self._gaps(name), of_numbers)
                    yield dict(data=data, start=start) | gap
                    losses = final_losses(read_folder(self.folder / name))
                    for label in ("sgd", "adam"):
                        loss = self._quantity(f"loss of {label}", finished(losses[label]), of_numbers)
                        yield dict(data=data, start=start) | loss
                if self.has(run):
                    for row in self._seed_means(run):
                        if row["algorithm"] == "adam":
                            value = dict(quantity=f"Adam's ratio, epoch {row['epoch']}", value=row["ratio"])
                            yield dict(data=data, start=start) | value | {name: row[name] for name in INTERVAL}

    def batches_compared(self) -> Iterator[dict]:
        """Sharpness of each row's step on the training batch over that on the test batch."""
        for optimizer in ("adam", TUNED_ADAM, "sgd"):
            name = f"translation-{optimizer}"
            if self.has(name):
                values = defaultdict(dict)
                for row in read_table(self.folder / name / "ratios.csv"):
                    key = row["epoch"], row["algorithm"]
                    values[key].setdefault(row["measured_on"], {})[row["seed"]] = row["mean_sharpness"]
                for (epoch, label), on in values.items():
                    ratios = [on["training"][s] / on["test"][s] for s in on.get("training", {}) if s in on["test"]]
                    if ratios and label != "training":
                        numbers = of_ratios(ratios)
                        numbers["train_over_test"] = numbers.pop("mean")
                        yield dict(trajectory=optimizer, epoch=epoch, algorithm=label) | numbers

    # ---- parts of them ---------------------------------------------------------------------------------------------

    def _of_claims(self, data: str) -> list[Path]:
        """The folders that the claims are checked in."""
        names = list(SOURCES) if data == ALL else [data] if data in SOURCES else []
        kinds = ("convergence", "adam", "sgd", *(f"hessian{seed}" for seed in range(10)))
        runs = [f"{name}-{kind}" for name in names for kind in kinds]
        runs += [TUNED] * (data in (ALL, TUNED))
        return [self.folder / run for run in runs if self.has(run)]

    def _names(self, pattern: str) -> list[str]:
        names = [path.name for path in self.folder.glob(pattern) if self.has(path.name)]
        return sorted(names, key=lambda name: (float(name.split("-")[0].lstrip("abchipftz")), name))

    def _seed_means(self, name: str) -> Iterator[dict]:
        """Ratios of the rows of the list on the test batch, every epoch."""
        for row in read_table(self.folder / name / "seed_means.csv"):
            if (row["quantity"], row["measured_on"]) == ("ratio", "test") and row["algorithm"] != "training":
                numbers = {column: row[column] for column in INTERVAL}
                yield dict(epoch=row["epoch"], algorithm=row["algorithm"], ratio=row["mean"]) | numbers

    def _gaps(self, name: str) -> list[float]:
        """Final loss of SGD less that of Adam, per seed in which neither diverged."""
        losses = final_losses(read_folder(self.folder / name))
        pairs = [(losses["sgd"][seed], losses["adam"][seed]) for seed in losses["sgd"]]
        return [sgd - adam for sgd, adam in pairs if max(sgd, adam) < math.inf]

    def _gap(self, name: str) -> dict[str, Any]:
        losses = final_losses(read_folder(self.folder / name))
        numbers = of_numbers(self._gaps(name))
        numbers["gap"] = numbers.pop("mean")
        return {label: of_numbers(finished(losses[label]))["mean"] for label in ("sgd", "adam")} | numbers

    def _class_gaps(self, by_sgd: str, by_adam: str) -> dict[str, list[float]]:
        """Loss per token along SGD's trajectory less that along Adam's, on the test batch: a number per seed."""
        sgd, adam = map(self._outer_classes, (by_sgd, by_adam))
        return {
            f"{GAP}, per {which} token": [
                _mean(rows, "token_loss") - _mean(adam[which][seed], "token_loss") for seed, rows in by_seed.items()
            ]
            for which, by_seed in sgd.items()
        }

    def _class_ratios(self, name: str) -> dict[str, list[float]]:
        """Sharpness of Adam's step over SGD's, of classes of tokens and of the whole loss, in the last measured epoch:
        a number per seed."""
        ratios = {
            f"Adam's ratio, {which} tokens": [
                _mean(rows, "sharpness", "adam") / _mean(rows, "sharpness", "sgd") for rows in by_seed.values()
            ]
            for which, by_seed in self._outer_classes(name).items()
        }
        means = read_table(self.folder / name / "ratios.csv")
        last = max(row["epoch"] for row in means)
        ratios["Adam's ratio, all tokens"] = [
            row["mean_ratio"] for row in means
            if (row["epoch"], row["algorithm"], row["measured_on"]) == (last, "adam", "test")
        ]  # fmt: skip
        return ratios

    def _outer_classes(self, name: str) -> dict[str, dict[int, list[dict]]]:
        """The rows of the most and of the least frequent class of tokens in the last measured epoch, by seed."""
        rows = read_table(self.folder / name / "classes.csv")
        last, classes = max(row["epoch"] for row in rows), max(row["class"] for row in rows)
        outer = dict(zip((1, classes), CLASSES, strict=True))
        found = {which: defaultdict(list) for which in CLASSES}
        for row in rows:
            if row["epoch"] == last and row["class"] in outer:
                found[outer[row["class"]]][row["seed"]].append(row)
        return found

    @staticmethod
    def _quantity(quantity: str, values: Sequence[float], mean) -> dict[str, Any]:
        numbers = mean(values)
        numbers["value"] = numbers.pop("mean")
        return dict(quantity=quantity) | numbers


if __name__ == "__main__":
    sys.exit(main())
