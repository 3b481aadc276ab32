"""What a landscape run measures at a point. Everything here returns numbers; tables.py writes them down."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from curvature.borrowing import measuring, within_memory
from curvature.interpolation import ScanPoint
from curvature.objective import Batch, Objective
from landscape.edges import Edge, edge_of, spectral_length
from landscape.gradients import gradient_norm, noise_coordinates, noise_share
from landscape.rounding import rounding_errors
from landscape.saved_points import MeasuredPoint
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

K = TypeVar("K")


@dataclass(frozen=True)
class MeasurementPlan:
    """What is measured at every point."""

    dtype: torch.dtype
    sharpness: bool  # False: only where the loss is scanned, and for the scan alone
    scans: bool
    full_scans: bool  # every point of a scan is evaluated; False: some are interpolated
    spacing: dict[str, float | None]  # label -> distance between the points of its scan; None: from the curvature
    details: bool = True  # False: neither rounding errors, nor the gradient's norm and its share of noise


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
    spectral_length: float = math.nan  # largest singular value of any of its matrices, length of any of its vectors
    edge: Edge = Edge()
    histogram: Sequence[tuple[float, float, int]] = ()  # (lower end, upper end, coordinates in between)
    scan: Sequence[ScanPoint] = ()

    @property
    def sharpness_inf(self) -> float:
        """v'Hv / max |v_i|^2, for steps that move every coordinate alike."""
        return self._in_norm(self.step_max)

    @property
    def sharpness_spectral(self) -> float:
        """v'Hv / max |v_b|_2^2 over the matrices b, for steps that move every singular direction alike (Muon)."""
        return self._in_norm(self.spectral_length)

    def _in_norm(self, length: float) -> float:
        return self.quadratic.sharpness * (self.step_norm / length) ** 2 if length else math.nan

    @property
    def cosine(self) -> float:
        """Of the angle between the gradient and v: -1 is steepest descent."""
        return self.quadratic.slope / self.gradient_norm if self.gradient_norm else math.nan


def measure_point(measured: MeasuredPoint, objective: Objective, plan: MeasurementPlan) -> list[Measurement]:
    """Slope and sharpness of every direction of the point, where `objective` is, and the loss scan where it is due.

    Where a row has no learning rate, its edge numbers stay empty."""
    directions = measured.directions
    details = plan.sharpness and plan.details
    noisy = noise_coordinates(objective) if details else {}
    with measuring(objective.model):
        quadratics = quadratic_models(directions, objective)
        errors = dict.fromkeys(directions, math.nan)
        if details and plan.dtype == torch.float32:
            errors = rounding_errors(directions, objective)
        length = gradient_norm(objective) if details else math.nan
        start_loss = mean_loss(objective.loss_fn, objective.params, objective.batches)
        edges = dict.fromkeys(directions, Edge())
        if plan.sharpness:
            for label, direction in directions.items():
                lr = measured.learning_rates.get(label, math.nan)
                edges[label] = edge_of(direction, quadratics[label], lr, start_loss, objective)
        scans = scan_point(directions, quadratics, start_loss, objective, plan) if measured.scan and plan.scans else {}
    return [
        Measurement(
            label,
            quadratics[label],
            step_norm=direction.length,
            step_max=direction.largest,
            sharpness_error=errors[label],
            gradient_norm=length,
            noise_share=noise_share(direction, noisy) if details else math.nan,
            spectral_length=spectral_length(direction) if plan.sharpness else math.nan,
            edge=edges[label],
            histogram=update_histogram(direction) if label in scans else (),
            scan=scans.get(label, ()),
        )
        for label, direction in directions.items()
    ]


def quadratic_models(directions: Mapping[K, Direction], objective: Objective) -> dict[K, QuadraticModel]:
    """Loss, slope and sharpness along every direction. Micro-batches are halved where memory runs out."""

    def along(batches: list[Batch]) -> list[QuadraticModel]:
        return directional_sharpness(
            objective.loss_fn,
            objective.params,
            list(directions.values()),
            batches,
            per_example=objective.per_example,
            progress=partial(progress, desc="sharpness", leave=False),
        )

    found = within_memory(along, objective.batches, objective.per_example)
    return dict(zip(directions, found, strict=True))


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
            scans[label] = scan_loss(
                objective.loss_fn,
                objective.params,
                direction,
                objective.batches,
                start_loss=start_loss,
                spacing=plan.spacing[label] or scan_spacing(quadratic, objective.params),
                refine=quadratic.slope < 0,
                quadratic=None if plan.full_scans else quadratic,
            )
    return scans
