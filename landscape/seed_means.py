"""Means over the seeds of a landscape run, with 95 % intervals.

A seed is one independent sample; the points of one seed are not, since they lie on one trajectory. So every seed gives
one number per epoch, the mean over its points as in ratios.csv, and the interval is Student's t over those numbers. Of
ratios, sharpness and predicted decrease, which differ by factors, mean and interval are taken of their logarithms where
all are positive: then the mean is the geometric one.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from runs.intervals import mean_and_interval

QUANTITIES = ("ratio", "sharpness", "slope", "predicted_decrease", "edge_quadratic", "edge_realized")
BY_FACTORS = ("ratio", "sharpness", "predicted_decrease")
LOG, LINEAR = "log", "linear"
NONE = None, None  # the interval of a single seed


def over_seeds(quantity: str, values: Sequence[float]) -> tuple[float, float | None, float | None, str]:
    """(mean, low, high, scale) of one number per seed; low and high are None for a single seed."""
    mean, interval, of_logs = mean_and_interval(values, quantity in BY_FACTORS)
    return mean, *(interval or NONE), LOG if of_logs else LINEAR


def seed_means(ratios: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows of seed_means.csv from those of ratios.csv."""
    for (epoch, algorithm, measured_on), rows in _grouped(ratios, "epoch", "algorithm", "measured_on").items():
        for quantity in QUANTITIES:
            values = [row[f"mean_{quantity}"] for row in rows if row[f"mean_{quantity}"] is not None]
            if values:
                mean, low, high, scale = over_seeds(quantity, values)
                yield dict(
                    epoch=epoch,
                    algorithm=algorithm,
                    measured_on=measured_on,
                    quantity=quantity,
                    seeds=len(values),
                    mean=mean,
                    low=low,
                    high=high,
                    scale=scale,
                )


def pooled(ratios: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as those of ratios.csv, one for all seeds: means over the seeds, their std, and all points counted."""
    pooled_rows = []
    for (epoch, algorithm, measured_on), rows in _grouped(ratios, "epoch", "algorithm", "measured_on").items():
        if len(rows) == 1:
            pooled_rows += map(dict, rows)
            continue
        row = dict(epoch=epoch, algorithm=algorithm, measured_on=measured_on, count=sum(row["count"] for row in rows))
        for quantity in QUANTITIES:
            values = [row[f"mean_{quantity}"] for row in rows if row[f"mean_{quantity}"] is not None]
            row[f"mean_{quantity}"] = over_seeds(quantity, values)[0] if values else None
        ratio = [row["mean_ratio"] for row in rows if row["mean_ratio"] is not None]
        pooled_rows.append(row | {"std": statistics.stdev(ratio) if len(ratio) > 1 else None})
    return pooled_rows


def _grouped(rows: Iterable[Mapping[str, Any]], *columns: str) -> dict[tuple, list[Mapping[str, Any]]]:
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[column] for column in columns)].append(row)
    return groups
