"""What loss, slope and curvature along a direction say about a step."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class QuadraticModel:
    """The loss at a point and its first two derivatives along one unit direction: the quadratic model
    f + slope s + sharpness s^2 / 2 of the loss at distance s.

    Units: loss; loss per unit of parameter distance; loss per squared unit. NaN for a direction without length.
    magnitude: the sum of the absolute values of the terms that `sharpness` is the sum of, in its unit. Rounding errors
        are a share of it: where it is far above |sharpness|, the terms cancel and digits are lost.
    """

    loss: float
    slope: float
    sharpness: float
    magnitude: float = math.nan

    @property
    def best_distance(self) -> float:
        """Where the quadratic model is lowest, -slope / sharpness; inf where it falls for ever, 0 where it rises."""
        if math.isnan(self.slope) or math.isnan(self.sharpness):
            return math.nan
        if self.slope >= 0:
            return 0.0
        return -self.slope / self.sharpness if self.sharpness > 0 else math.inf

    @property
    def predicted_decrease(self) -> float:
        """How far the quadratic model falls up to there, slope^2 / (2 sharpness); inf where that exceeds a float."""
        best = self.best_distance
        return best if best in (0.0, math.inf) else -self.slope * best / 2

    @property
    def critical_distance(self) -> float:
        """Where the quadratic model is back at its start, -2 slope / sharpness; NaN uphill or without curvature."""
        return -2 * self.slope / self.sharpness if self.slope < 0 < self.sharpness else math.nan

    def edge(self, distance: float) -> float:
        """How near a step of this length comes to the edge, -(1/2) s'Hs / (g's) [arXiv:2608.18415].

        Below 1 the quadratic model is lower after the step than before; 1/2 is its best step, 1 its edge. NaN uphill.
        """
        return -0.5 * distance * self.sharpness / self.slope if self.slope < 0 else math.nan

    def realized_edge(self, distance: float, change: float) -> float:
        """The same number from the loss itself, 1 - (f(x + s) - f(x)) / (g's), with `change` = f(x + s) - f(x).

        It equals `edge` for a quadratic loss. NaN uphill."""
        return 1 - change / (self.slope * distance) if self.slope * distance < 0 else math.nan
