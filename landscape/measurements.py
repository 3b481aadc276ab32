"""What a landscape run measures at a point. Everything here returns numbers; tables.py writes them down."""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch

from curvature.borrowing import measuring, within_memory
from curvature.interpolation import ScanPoint
from curvature.objective import Objective
from landscape.saved_points import MeasuredPoint
from landscape.sharded import at_hand
from landscape_core.edges import loss_at
from landscape_core.gradients import gradient_norm, noise_coordinates
from landscape_core.measurement import Measurement, measure_steps
from landscape_utils import Direction, QuadraticModel, scan_loss, scan_spacing, update_histogram
from runs.messages import progress

BAR = partial(progress, desc="sharpness", leave=False)  # of the micro-batches


@dataclass(frozen=True)
class MeasurementPlan:
    """What is measured at every point."""

    dtype: torch.dtype
    sharpness: bool  # False: only where the loss is scanned, and for the scan alone
    scans: bool
    full_scans: bool  # every point of a scan is evaluated; False: some are interpolated
    spacing: dict[str, float | None]  # label -> distance between the points of its scan; None: from the curvature
    details: bool = True  # False: neither rounding errors, nor the gradient's norm and its share of noise


def measure_point(measured: MeasuredPoint, objective: Objective, plan: MeasurementPlan) -> list[Measurement]:
    """Slope and sharpness of every direction of the point, where `objective` is, and the loss scan where it is due.

    Where a row has no learning rate, its edge numbers stay empty."""
    details = plan.sharpness and plan.details
    noisy = noise_coordinates(objective) if details else None
    measurements = []
    with measuring(objective.model):
        start_loss = loss_at(objective)
        length = gradient_norm(objective) if details else None
        for directions in at_hand(measured.directions):
            of_group = measure_steps(
                directions,
                measured.learning_rates,
                objective,
                start_loss,
                noisy,
                steps=plan.sharpness,
                progress=BAR,
                length=length,
            )
            measurements += with_scans(of_group, directions, start_loss, objective, plan) if measured.scan else of_group
    return measurements


def with_scans(
    measurements: list[Measurement],
    directions: dict[str, Direction],
    start_loss: float,
    objective: Objective,
    plan: MeasurementPlan,
) -> list[Measurement]:
    """The measurements with loss scans and histograms, where they are asked for."""
    if not plan.scans:
        return measurements
    quadratics = {m.label: m.quadratic for m in measurements}
    scans = scan_point(directions, quadratics, start_loss, objective, plan)
    return [
        replace(m, histogram=update_histogram(directions[m.label]), scan=scans[m.label]) if m.label in scans else m
        for m in measurements
    ]


def scan_point(
    directions: dict[str, Direction],
    quadratics: dict[str, QuadraticModel],
    start_loss: float,
    objective: Objective,
    plan: MeasurementPlan,
) -> dict[str, list[ScanPoint]]:
    """label -> the loss along its direction, of every direction that has a length."""
    scans = {}
    for label, direction in progress(directions.items(), desc="scans", leave=False):
        quadratic = quadratics[label]
        if not math.isnan(quadratic.slope):
            scan = partial(
                scan_loss,
                objective.loss_fn,
                objective.params,
                direction,
                start_loss=start_loss,
                spacing=plan.spacing[label] or scan_spacing(quadratic, objective.params),
                refine=quadratic.slope < 0,
                quadratic=None if plan.full_scans else quadratic,
                ranks=objective.ranks,
            )
            scans[label] = within_memory(scan, objective.batches, objective.per_example)
    return scans
