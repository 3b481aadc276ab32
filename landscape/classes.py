"""Loss, slope and sharpness of each frequency class of the targets: do rare tokens separate the optimizers?

The targets of a task, token ids or labels, are sorted by their frequency in the training data, the most frequent first.
Then they are cut into classes that hold about as many targets each: a class of frequent tokens has few of them, one of
rare tokens many (arXiv:2402.19449). With f_k the part of the objective that comes from the targets of class k,

    f = sum_k f_k,    g = sum_k g_k,    H = sum_k H_k

so that loss, slope and sharpness along any step are sums over the classes. Each class costs what a measurement of the
slope and the sharpness costs.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.objective import Objective
from landscape.measurements import BAR
from landscape.sharded import at_hand
from landscape_core.measurement import quadratic_models
from tasks.base import Task


@dataclass(frozen=True)
class FrequencyClass:
    """Targets of about the same frequency."""

    number: int  # 1: the most frequent
    targets: Tensor  # [targets] of bool: which belong to it
    types: int  # how many these are
    tokens: int  # how often they occur in the test batch
    share: float  # their weight in the objective, where every example counts alike; 1 over all classes


@dataclass(frozen=True)
class ClassMeasurement:
    """What one class adds to loss, slope and sharpness along v / |v| of one algorithm's direction."""

    label: str
    of: FrequencyClass
    loss: float
    slope: float
    sharpness: float

    @property
    def token_loss(self) -> float:
        """Mean loss of a token of this class, weighted as in the objective; NaN if the test batch has none."""
        return self.loss / self.of.share if self.of.tokens else float("nan")


def frequency_classes(task: Task, test_examples: Sequence[int], count: int) -> list[FrequencyClass]:
    """At most `count` classes of the task's targets, the most frequent first.

    Args:
        test_examples: numbers of the examples that are measured on.
        count: a target is in class floor(count * s) + 1, s the share of all targets before the middle of its own, so a
            target that is more frequent than 1 / count may leave no room for the next class. Such a class is left out.

    Raises: ValueError for a task without targets.
    """
    frequencies = Counter(target for index in range(len(task.examples)) for target in task.targets(index))
    weights = Counter()  # of each target in the objective
    occurrences = Counter()
    for index in test_examples:
        targets = task.targets(index)
        occurrences.update(targets)
        for target in targets:
            weights[target] += 1 / len(targets) / len(test_examples)
    members: dict[int, list[int]] = {}
    before, total, size = 0, frequencies.total(), max(frequencies) + 1
    for target, frequency in sorted(frequencies.items(), key=lambda item: (-item[1], item[0])):
        place = count * (2 * before + frequency) // (2 * total)  # whole numbers: no rounding at an edge
        members.setdefault(place, []).append(target)
        before += frequency
    return [
        FrequencyClass(
            number,
            torch.zeros(size, dtype=torch.bool).index_fill(0, torch.tensor(targets), True),
            types=len(targets),
            tokens=sum(occurrences[target] for target in targets),
            share=sum(weights[target] for target in targets),
        )
        for number, targets in enumerate(members.values(), start=1)
    ]


def measure_classes(
    directions: Mapping[str, Direction], objective: Objective, classes: Sequence[FrequencyClass]
) -> list[ClassMeasurement]:
    """The contribution of every class to every direction, in the order of the directions."""
    measurements = {}
    for group, each in ((group, each) for group in at_hand(directions) for each in classes):
        losses = partial(objective.losses, only=each.targets)
        part = Objective(objective.model, losses, objective.batches, ranks=objective.ranks)
        with measuring(part.model):
            for label, model in quadratic_models(group, part, BAR).items():
                measurements[label, each.number] = ClassMeasurement(
                    label, each, model.loss, model.slope, model.sharpness
                )
    return [measurements[label, each.number] for label in directions for each in classes]
