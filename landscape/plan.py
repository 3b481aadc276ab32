"""What a landscape run does, before it does it."""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from landscape.classes import FrequencyClass
from landscape.measurements import MeasurementPlan
from landscape.saved_points import MeasuredPoint, point_files
from landscape.training_row import parts_of
from runs.tables import TRAINING
from tasks.base import Task
from torch_optimizer import Algorithm
from training.loop import TEST_BATCH, Point, TrainingPlan, batches_per_epoch, random_stream


@dataclass(frozen=True)
class Plan:
    """What a run does, resolved from its settings and checked."""

    settings: argparse.Namespace
    train_row: Algorithm
    algorithms: dict[str, Algorithm]  # label -> row
    reference: str | None  # label of the row that ratios refer to
    training: TrainingPlan
    measuring: MeasurementPlan
    sampled: dict[int, tuple[list[int], int]]  # test epoch -> (measured batches, the one that is scanned)
    classes: list[FrequencyClass]  # of the targets; none unless asked for


def test_examples(task: Task, settings: argparse.Namespace) -> list[int]:
    """Their numbers: a random subset of the training data, drawn once."""
    seed = settings.seed if settings.test_seed is None else settings.test_seed
    return random_stream(seed, TEST_BATCH).permutation(len(task.examples))[: settings.test_batch_size].tolist()


def most_of_training_batch(settings: argparse.Namespace) -> int | None:
    """How many examples of a training batch are measured on: by default at most half as many as the test batch has, a
    bound for the time. None: all."""
    return None if settings.measure_on else math.ceil(settings.test_batch_size / 2)


def planned_parts(plan: Plan, examples: int) -> Iterator[tuple[str, MeasuredPoint, MeasurementPlan]]:
    """What `parts_of` will give at every measured point, with None for every direction; `examples` of the data."""
    settings, per_epoch = plan.settings, batches_per_epoch(examples, plan.training.batch_size)
    kept = None
    if settings.from_points:  # their run may have ended early
        kept = {int(path.stem.removeprefix("point-")) for path in point_files(settings.from_points)}
    directions: dict[str, Any] = dict.fromkeys([*plan.algorithms, TRAINING])
    for epoch, (batches, scanned) in plan.sampled.items():
        for batch in batches if plan.measuring.sharpness else [scanned]:
            iteration = (epoch - 1) * per_epoch + batch
            if kept is None or iteration in kept:
                point = Point(epoch, batch, iteration, math.nan, math.nan, plan.training.batch_size)
                measured = MeasuredPoint(point, directions, scan=batch == scanned)
                yield from parts_of(measured, plan.measuring, settings.measure_on)
