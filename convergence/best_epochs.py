"""The test accuracy of each run's best epoch, which Tomihari & Sato's code reports."""

from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = ["algorithm", "seed", "epoch", "evaluation_accuracy", "test_accuracy"]


def best_epochs(scores: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row of COLUMNS per run: its first epoch with the highest accuracy on the evaluation examples.

    `scores`: rows of scores.csv.

    >>> values = [("evaluation", 1, 0.5), ("test", 1, 0.4), ("evaluation", 2, 0.7), ("test", 2, 0.3)]
    >>> run = dict(algorithm="adam", seed=0, metric="accuracy")
    >>> best_epochs([run | dict(split=split, epoch=epoch, value=value) for split, epoch, value in values])
    [{'algorithm': 'adam', 'seed': 0, 'epoch': 2, 'evaluation_accuracy': 0.7, 'test_accuracy': 0.3}]
    """
    by_run: dict[tuple, dict[int, dict[str, float]]] = {}
    for row in scores:
        if row["metric"] == "accuracy":
            epochs = by_run.setdefault((row["algorithm"], row["seed"]), {})
            epochs.setdefault(row["epoch"], {})[row["split"]] = row["value"]
    rows = []
    for (algorithm, seed), epochs in by_run.items():
        best = max(sorted(epochs), key=lambda epoch: epochs[epoch]["evaluation"])  # of equal ones the first
        values = epochs[best]["evaluation"], epochs[best]["test"]
        rows.append(dict(zip(COLUMNS, (algorithm, seed, best, *values), strict=True)))
    return rows
