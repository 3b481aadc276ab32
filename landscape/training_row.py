"""The optimizer that trains, as one more row: its next step, and the training batch that it comes from.

With plain SGD and without dropout the step's direction is -g_B, where g_B is the gradient of the training batch's loss
f_B. Then v'H_B v / |v|^2 is the batch sharpness of that batch [Andreyev & Beneventano, arXiv:2412.20553].
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.optim import Optimizer

from curvature.direction import Direction
from curvature.objective import Batch, Params
from landscape.measurements import MeasurementPlan
from landscape.saved_points import MeasuredPoint
from landscape.top_eigenvalues import stability_of
from runs.tables import TEST, TRAINING
from tasks.base import Task
from torch_optimizer.next_step import next_step
from training.loop import Point, TrainingPlan, examples_of_batch, micro_batches, step_seed


def with_training_row(measured: MeasuredPoint, optimizer: Optimizer, params: Params, stability: bool) -> MeasuredPoint:
    """The point with the step that the run itself takes next; and, if `stability`, what largest eigenvalues are
    compared with. The gradients are in place, clipped where the run clips them."""
    direction, lr = next_step(optimizer, params)
    return replace(
        measured,
        directions={**measured.directions, TRAINING: Direction(direction)},
        learning_rates={**measured.learning_rates, TRAINING: lr},
        stability=stability_of(optimizer, params, lr) if stability else None,
    )


def parts_of(
    measured: MeasuredPoint, plan: MeasurementPlan, measure_on: str | None
) -> list[tuple[str, MeasuredPoint, MeasurementPlan]]:
    """What is measured at a point on which batch, TEST or TRAINING, and how; the one with the scan comes first.

    measure_on: a value of --measure_on. None: all rows on the test batch, and the row `training` on the training batch,
        where the time is bounded.
    """
    if measure_on in (TEST, TRAINING):
        return [(measure_on, measured, plan)]
    labels = measured.directions if measure_on == "both" else {TRAINING} & measured.directions.keys()
    again = replace(measured, directions={n: measured.directions[n] for n in labels}, scan=False, lost=[])
    brief = replace(plan, details=measure_on == "both")
    return [(TEST, measured, plan), *([(TRAINING, again, brief)] if plan.sharpness else [])]


def training_batch(
    task: Task,
    plan: TrainingPlan,
    point: Point,
    device: torch.device,
    dtype: torch.dtype,
    most: int | None = None,
    micro_batch_size: int | Callable[[int], int] | None = None,
) -> list[Batch]:
    """The micro-batches of the batch that the gradient at `point` was computed from, as the step saw them: pictures
    are the same random variants.

    most: measure at most this many of its examples, a random choice. It decides neither slope nor v'H v on average,
        since their mean over all choices is the number of the whole batch. None: all.
    micro_batch_size: as in `micro_batches`; by default the plan's.
    """
    indices = examples_of_batch(plan, len(task.examples), point.epoch, point.batch)[:most]  # in random order already
    seed = step_seed(plan.seed, point.iteration)
    size = micro_batch_size or plan.micro_batch_size
    return list(micro_batches(task, indices, size, device, dtype, augmentation_seed=seed))
