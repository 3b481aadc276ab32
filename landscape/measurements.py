"""What a landscape run measures at a point. Everything here returns numbers; tables.py writes them down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from curvature.borrowing import within_memory
from curvature.objective import Objective
from landscape.gradients import gradient_norm, noise_shares
from landscape.rounding import rounding_errors
from landscape_utils import (
    Direction,
    QuadraticModel,
    directional_sharpness,
    mean_loss,
    scan_loss,
    scan_spacing,
    update_histogram,
)
from runs.messages import progress


@dataclass(frozen=True)
class MeasurementPlan:
    """What is measured at every point."""

    dtype: torch.dtype
    sharpness: bool  # False: only where the loss is scanned, and for the scan alone
    scans: bool
    spacing: dict[str, float | None]  # label -> distance between the points of its scan; None: from the curvature


@dataclass(frozen=True)
class Measurement:
    """The numbers of one algorithm's direction v at one point."""

    label: str
    quadratic: QuadraticModel  # loss, slope and sharpness along v / |v|
    step_norm: float  # |v|
    step_max: float  # largest |v_i|
    sharpness_error: float  # of float32 rounding, in the unit of the sharpness; NaN if measured in float64
    gradient_norm: float  # |grad f| on the test batch
    noise_share: float  # of |v|^2, in coordinates whose gradient is 0 but for rounding
    histogram: Sequence[tuple[float, float, int]] = ()  # (lower end, upper end, coordinates in between)
    scan: Sequence[tuple[float, float]] = ()  # (distance, loss)

    @property
    def cosine(self) -> float:
        """Of the angle between the gradient and v: -1 is steepest descent."""
        return self.quadratic.slope / self.gradient_norm if self.gradient_norm else math.nan


def measure_point(
    directions: dict[str, Direction], objective: Objective, task, plan: MeasurementPlan, scan: bool
) -> list[Measurement]:
    """Slope and sharpness of every direction at the point of `objective`, and its loss scan if `scan`.

    Args:
        directions: label -> update direction.
        task: whose model and losses are measured on single examples in float64, for the rounding error.
    """
    found = within_memory(
        lambda batches: directional_sharpness(
            objective.loss_fn, objective.params, list(directions.values()), batches,
            per_example=objective.per_example, progress=lambda each: progress(each, desc="sharpness", leave=False),
        ),
        objective.batches, objective.per_example,
    )  # fmt: skip
    quadratics = dict(zip(directions, found, strict=True))
    errors = dict.fromkeys(directions, math.nan)
    if plan.sharpness and plan.dtype == torch.float32:
        errors = dict(zip(directions, rounding_errors(directions, objective, task), strict=True))
    length, shares = math.nan, dict.fromkeys(directions, math.nan)
    if plan.sharpness:
        length, shares = gradient_norm(objective), noise_shares(directions, task, objective.batches)
    scans = scan_point(directions, quadratics, objective, plan) if scan and plan.scans else {}
    return [
        Measurement(
            label,
            quadratics[label],
            step_norm=direction.length,
            step_max=direction.largest,
            sharpness_error=errors[label],
            gradient_norm=length,
            noise_share=shares[label],
            histogram=update_histogram(direction) if label in scans else (),
            scan=scans.get(label, ()),
        )
        for label, direction in directions.items()
    ]


def scan_point(
    directions: dict[str, Direction], quadratics: dict[str, QuadraticModel], objective: Objective, plan: MeasurementPlan
) -> dict[str, list[tuple[float, float]]]:
    """label -> the loss along its direction, of every direction that has a length."""
    start_loss = mean_loss(objective.loss_fn, objective.params, objective.batches)
    scans = {}
    for label, direction in progress(directions.items(), desc="scans", leave=False):
        quadratic = quadratics[label]
        if not math.isnan(quadratic.slope):
            scans[label] = scan_loss(
                objective.loss_fn, objective.params, direction, objective.batches, start_loss=start_loss,
                spacing=plan.spacing[label] or scan_spacing(quadratic, objective.params),
                refine=quadratic.slope < 0,
            )  # fmt: skip
    return scans
