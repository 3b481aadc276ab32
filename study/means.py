"""Means over the seeds, with 95 % intervals, as cells of the study's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from runs.intervals import mean_and_interval

INTERVAL = ["low", "high", "seeds"]


def of_ratios(values: Sequence[float]) -> dict[str, Any]:
    """Geometric mean with interval; the arithmetic one where a number is not positive."""
    return over_seeds(values, by_factors=True)


def of_numbers(values: Sequence[float]) -> dict[str, Any]:
    """Arithmetic mean with interval."""
    return over_seeds(values, by_factors=False)


def over_seeds(values: Sequence[float], by_factors: bool) -> dict[str, Any]:
    """The cells of one number per seed; empty where every seed diverged."""
    mean, interval, _ = mean_and_interval(values, by_factors) if values else (None, None, None)
    low, high = interval or (None, None)
    return {"mean": mean, "low": low, "high": high, "seeds": len(values)}


def finished(losses: Mapping[int, float]) -> list[float]:
    """Of the seeds that did not diverge."""
    return [loss for loss in losses.values() if loss < math.inf]
