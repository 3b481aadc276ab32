"""How far float32 arithmetic may put a measured sharpness off."""

import math
from collections.abc import Mapping

import numpy as np
import torch

from curvature.borrowing import measuring
from curvature.objective import Batch, Objective, Params, examples_of
from landscape_utils import directional_sharpness


def rounding_errors(directions: Mapping[str, Params], objective: Objective, examples: int = 2) -> dict[str, float]:
    """An estimate of how far float32 arithmetic puts each directional sharpness off: label -> error, in the same unit.
    It is NaN for a direction without length, and where single examples cannot be had. It tells the order of magnitude
    and is no bound.

    On a few single examples of the test batch, e is the sharpness in float32 minus that in float64. The estimate is
    sqrt(mean(e)^2 + var(e) / n): what the examples have in common stays in the mean over the whole test batch, and what
    they do not have in common shrinks at least as far. Two examples stand for all: the true error was .2 to .5 times
    the estimate in the median and 15 times at most on fresh models, and up to 559 times on perturbed ones, where few
    examples carry the sharpness. `--dtype float64` measures without such an error.
    """
    singles = single_examples(objective, examples)
    if not singles:
        return dict.fromkeys(directions, math.nan)
    exact = objective.on(singles, torch.float64)
    vectors = list(directions.values())
    differences = []  # [n][K]
    for one, same in zip(singles, exact.batches, strict=True):
        with measuring(objective.model):
            rounded = directional_sharpness(objective.loss_fn, objective.params, vectors, [one])
        with measuring(exact.model):
            true = directional_sharpness(exact.loss_fn, exact.params, vectors, [same])
        differences.append([r.sharpness - t.sharpness for r, t in zip(rounded, true, strict=True)])
    e = np.array(differences)
    spread = e.std(axis=0, ddof=1) / math.sqrt(len(e)) if len(e) > 1 else 0.0
    return dict(zip(directions, np.hypot(e.mean(axis=0), spread).tolist(), strict=True))


def single_examples(objective: Objective, examples: int) -> list[Batch]:
    """So many examples of the objective's batches, evenly spaced, each as a batch of its own; none if its batches have
    no entry per example."""
    split = objective.per_example
    places = [(batch, i) for batch in objective.batches for i in range(examples_of(batch, split))]
    places = places[:: max(1, len(places) // examples)][:examples]
    return [{name: t[i : i + 1] if name in split else t for name, t in batch.items()} for batch, i in places]
