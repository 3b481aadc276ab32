"""What a landscape run does, before it does it."""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from curvature.ranks import ALONE, Ranks
from landscape.classes import FrequencyClass, frequency_classes
from landscape.clip_sweep import SweptRow, swept_rows
from landscape.measurements import MeasurementPlan
from landscape.saved_points import MeasuredPoint, iteration_of, point_files
from landscape.training_row import parts_of
from runs.flag_types import DTYPES
from runs.tables import TRAINING
from tasks.base import Task
from torch_optimizer import Algorithm
from training.loop import SAMPLE, TEST_BATCH, Point, TrainingPlan, batches_per_epoch, random_stream


@dataclass(frozen=True)
class Plan:
    """What a run does from one seed, resolved from its settings and checked; `of_seed` is the same from another one."""

    settings: argparse.Namespace  # its `seed` is that of this plan
    train_row: Algorithm
    algorithms: dict[str, Algorithm]  # label -> row
    reference: str | None  # label of the row that ratios refer to
    training: TrainingPlan
    measuring: MeasurementPlan
    sampled: dict[int, tuple[list[int], int]]  # test epoch -> (measured batches, the one that is scanned)
    classes: list[FrequencyClass]  # of the targets; none unless asked for
    ranks: Ranks = ALONE  # the processes at work on this run
    swept: dict[str, SweptRow] = field(default_factory=dict)  # rows at other clip fractions; none unless asked for

    @property
    def pseudo_rows(self) -> dict[str, Algorithm]:
        """Label -> every row that keeps a state along the trajectory, those at other clip fractions too."""
        return self.algorithms | {label: one.row for label, one in self.swept.items()}

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def seeds(self) -> list[int]:
        """All seeds of the run, in their order."""
        return self.settings.seeds or [self.settings.seed]


def plan_of(
    task: Task,
    settings: argparse.Namespace,
    train_row: Algorithm,
    algorithms: dict[str, Algorithm],
    reference: str | None,
    ranks: Ranks = ALONE,
) -> Plan:
    """The plan of the run's first seed. Raises ValueError naming the flag that does not fit."""
    measured_rows = {**algorithms, TRAINING: train_row}
    measuring = MeasurementPlan(
        DTYPES[settings.dtype],
        sharpness=not settings.skip_sharpness,
        scans=not settings.skip_search,
        full_scans=settings.scan == "full",
        spacing={label: settings.step_size or row.step_size for label, row in measured_rows.items()},
    )
    training = TrainingPlan(settings.num_epochs, settings.batch_size, settings.micro_batch_size, settings.seed)
    sampled = sampled_batches(settings, batches_per_epoch(len(task.examples), settings.batch_size))
    classes, swept = classes_of(task, settings), swept_rows(algorithms) if settings.clip_sweep else {}
    return Plan(settings, train_row, algorithms, reference, training, measuring, sampled, classes, ranks, swept)


def of_seed(plan: Plan, task: Task, seed: int) -> Plan:
    """The same from another seed: of data order, dropout, measured batches and, without --test_seed, test batch."""
    if seed == plan.seed:
        return plan
    settings = argparse.Namespace(**{**vars(plan.settings), "seed": seed})
    return replace(
        plan,
        settings=settings,
        training=replace(plan.training, seed=seed),
        sampled=sampled_batches(settings, batches_per_epoch(len(task.examples), settings.batch_size)),
        classes=classes_of(task, settings),
    )


def test_examples(task: Task, settings: argparse.Namespace) -> list[int]:
    """Their numbers: a random subset of the training data, drawn once."""
    seed = settings.seed if settings.test_seed is None else settings.test_seed
    return random_stream(seed, TEST_BATCH).permutation(len(task.examples))[: settings.test_batch_size].tolist()


def most_of_training_batch(settings: argparse.Namespace) -> int | None:
    """How many examples of a training batch are measured on: by default at most half as many as the test batch has, a
    bound for the time. None: all."""
    return None if settings.measure_on else math.ceil(settings.test_batch_size / 2)


def planned_parts(plan: Plan, examples: int, seed: int) -> Iterator[tuple[str, MeasuredPoint, MeasurementPlan]]:
    """What `parts_of` will give at every measured point of that seed, with None for every direction; `examples` of the
    data."""
    settings, per_epoch = plan.settings, batches_per_epoch(examples, plan.training.batch_size)
    sampled = plan.sampled
    if seed != plan.seed:
        sampled = sampled_batches(argparse.Namespace(**{**vars(settings), "seed": seed}), per_epoch)
    kept = None
    if settings.from_points:  # their run may have ended early
        kept = {iteration_of(path) for path in point_files(settings.from_points, seed)}
    directions: dict[str, Any] = dict.fromkeys([*plan.algorithms, TRAINING])
    for epoch, (batches, scanned) in sampled.items():
        for batch in batches if plan.measuring.sharpness else [scanned]:
            iteration = (epoch - 1) * per_epoch + batch
            if kept is None or iteration in kept:
                point = Point(epoch, batch, iteration, math.nan, math.nan, plan.training.batch_size)
                measured = MeasuredPoint(point, directions, scan=batch == scanned)
                yield from parts_of(measured, plan.measuring, settings.measure_on)


def sampled_batches(settings: argparse.Namespace, num_batches: int) -> dict[int, tuple[list[int], int]]:
    """test epoch -> (its measured batches in order, the one that is scanned); drawn from (seed, epoch)."""
    if settings.sample_iterations and max(settings.sample_iterations) > num_batches:
        raise ValueError(
            f"--sample_iterations {max(settings.sample_iterations)} is past the last batch: an epoch has {num_batches}"
        )
    chosen = {}
    for epoch in settings.test_epochs:
        batches = (
            settings.sample_iterations
            or [int(b) + 1 for b in random_stream(settings.seed, SAMPLE, epoch).permutation(num_batches)][
                : settings.num_sample_sharpness
            ]
        )
        chosen[epoch] = sorted(set(batches)), batches[0]
    return chosen


def classes_of(task: Task, settings: argparse.Namespace) -> list[FrequencyClass]:
    """The frequency classes of the targets; none unless asked for. Raises ValueError for a task without targets."""
    count = settings.frequency_classes
    return frequency_classes(task, test_examples(task, settings), count) if count else []
