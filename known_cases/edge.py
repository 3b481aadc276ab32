"""The edge numbers of a step (arXiv:2608.18415): how much of the slope's promise the curvature takes back.

    s                       the step, s = lr v
    edge_quadratic          -(1/2) s'Hs / (g's)
    edge_realized           1 - (f(x + s) - f(x)) / (g's)

Both are 1/2 at the best step of a quadratic loss, and below 1 where the loss falls. On a quadratic loss they agree.
"""

from landscape_utils import QuadraticModel


def edge_quadratic(model: QuadraticModel, length: float) -> float:
    """Of a step of this length (parameter distance) along the direction of `model`."""
    return -0.5 * model.sharpness * length / model.slope


def edge_realized(model: QuadraticModel, length: float, loss_after: float) -> float:
    """The same from the loss after the step, without the curvature."""
    return 1 - (loss_after - model.loss) / (model.slope * length)
