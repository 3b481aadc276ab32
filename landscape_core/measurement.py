"""What is measured of each optimizer's step at a point, by a run and by the probe alike."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from curvature.borrowing import within_memory
from curvature.direction import Direction
from curvature.interpolation import ScanPoint
from curvature.objective import Batch, Objective
from curvature.quadratic import QuadraticModel
from landscape_core.edges import Edge, edge_of, spectral_length
from landscape_core.gradients import gradient_norm, noise_share
from landscape_core.rounding import rounding_errors
from landscape_utils import directional_sharpness

K = TypeVar("K", bound=Hashable)
TRAINING = "training"  # label of the optimizer that trains
Progress = Callable[[Sequence[Batch]], Iterable[Batch]]  # wraps the iteration over micro-batches, such as tqdm


@dataclass(frozen=True)
class Measurement:
    """The numbers of one algorithm's direction v at one point."""

    label: str
    quadratic: QuadraticModel  # loss, slope and sharpness along v / |v|
    step_norm: float  # |v|
    step_max: float  # largest |v_i|
    sharpness_error: float  # bound on float32 rounding, in the unit of the sharpness; NaN if measured in float64
    gradient_norm: float  # |grad f| on the test batch
    noise_share: float  # of |v|^2, in coordinates whose gradient is 0 up to rounding
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

    @classmethod
    def without_numbers(cls, label: str) -> "Measurement":
        """Of an algorithm whose step or state is not finite."""
        nothing = QuadraticModel(math.nan, math.nan, math.nan)
        return cls(label, nothing, math.nan, math.nan, math.nan, math.nan, math.nan)

    def row(self, reference: float) -> dict[str, Any]:
        """The columns of sharpness.csv from `algorithm` on, without its scan and histogram.

        reference: the absolute sharpness of the row that ratios refer to; NaN or 0 where there is none."""
        q, edge = self.quadratic, self.edge
        return dict(
            algorithm=self.label,
            loss=q.loss,
            slope=q.slope,
            sharpness=q.sharpness,
            ratio=q.sharpness / reference if reference else math.nan,
            step_norm=self.step_norm,
            step_max=self.step_max,
            best_distance=q.best_distance,
            predicted_decrease=q.predicted_decrease,
            sharpness_error=self.sharpness_error,
            gradient_norm=self.gradient_norm,
            cosine=self.cosine,
            noise_share=self.noise_share,
            sharpness_inf=self.sharpness_inf,
            sharpness_spectral=self.sharpness_spectral,
            learning_rate=edge.learning_rate,
            edge_quadratic=edge.quadratic,
            edge_realized=edge.realized,
            edge_quotient=edge.quotient,
            critical_lr=edge.critical_lr,
            best_lr=edge.best_lr,
        )


def measure_steps(
    directions: Mapping[str, Direction],
    learning_rates: Mapping[str, float],
    objective: Objective,
    start_loss: float,
    noisy: Mapping[str, Tensor] | None = None,
    *,
    steps: bool = True,
    progress: Progress = iter,
    length: float | None = None,
) -> list[Measurement]:
    """Every direction at the point of `objective`. Call inside of `measuring(objective.model)`.

    Args:
        directions: label -> update direction.
        learning_rates: label -> lr of the row's real step, lr v; where there is none, the edge numbers stay NaN.
        start_loss: of `mean_loss` at the point.
        noisy: of `noise_coordinates`; None leaves out the gradient's norm, the share of noise and rounding errors.
        steps: False leaves out all but loss, slope and sharpness.
        progress: wraps the iteration over micro-batches, such as tqdm.
        length: of the gradient, where it is known already.
    """
    quadratics = quadratic_models(directions, objective, progress)
    errors, edges = dict.fromkeys(directions, math.nan), dict.fromkeys(directions, Edge())
    if noisy is not None:
        length = gradient_norm(objective) if length is None else length
        if all(p.dtype == torch.float32 for p in objective.params.values()):
            errors = rounding_errors(directions, quadratics, objective)
    if steps:
        for label, direction in directions.items():
            lr = learning_rates.get(label, math.nan)
            edges[label] = edge_of(direction, quadratics[label], lr, start_loss, objective)
    return [
        Measurement(
            label,
            quadratics[label],
            step_norm=direction.length,
            step_max=direction.largest,
            sharpness_error=errors[label],
            gradient_norm=math.nan if length is None else length,
            noise_share=math.nan if noisy is None else noise_share(direction, noisy),
            spectral_length=spectral_length(direction) if steps else math.nan,
            edge=edges[label],
        )
        for label, direction in directions.items()
    ]


def quadratic_models(
    directions: Mapping[K, Direction], objective: Objective, progress: Progress = iter
) -> dict[K, QuadraticModel]:
    """Loss, slope and sharpness along every direction. Micro-batches are halved where memory runs out."""

    def along(batches: list[Batch]) -> list[QuadraticModel]:
        return directional_sharpness(
            objective.loss_fn,
            objective.params,
            list(directions.values()),
            batches,
            per_example=objective.per_example,
            progress=progress,
            ranks=objective.ranks,
        )

    models = within_memory(along, objective.batches, objective.per_example)
    return dict(zip(directions, models, strict=True))
