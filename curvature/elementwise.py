"""Functions of single elements: y = f(x),  dy = f'(x) dx,  D2y = f''(x) dx^2."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from curvature.operation import Operation, Rule, inner


def from_derivatives(derivatives: Callable, *, of_output: bool = False) -> Rule:
    """A rule from derivatives(x, other arguments) -> (f', f''), taken once for all directions. `of_output`: from y."""

    def prepare(op: Operation, adjoint: Tensor) -> tuple[Tensor, Tensor]:
        kept = op.results[0] if of_output else op.values[0]
        first, second = derivatives(kept, *op.values[1:], **op.kwargs)
        return first, adjoint * second

    def push(op: Operation, tangents: list):
        (first, weight), dx = op.prepared, tangents[0]
        return first * dx, inner(weight, dx * dx)

    return Rule(push, keep_output=of_output, keep_inputs=not of_output, prepare=prepare, only_prepared=True)


def gelu(x: Tensor, approximate: str = "none"):
    if approximate == "none":  # x Phi(x)
        density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density, density * (2 - x * x)
    scale, cubic = math.sqrt(2 / math.pi), 0.044715  # x (1 + tanh u) / 2,  u = scale (x + cubic x^3)
    t = torch.tanh(scale * (x + cubic * x**3))
    du, ddu = scale * (1 + 3 * cubic * x * x), scale * 6 * cubic * x
    slope = (1 - t * t) * du  # of tanh u
    return 0.5 * (1 + t) + 0.5 * x * slope, slope + 0.5 * x * ((1 - t * t) * ddu - 2 * t * slope * du)


def silu(x: Tensor):
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))


def power(x: Tensor, n: float):
    if n == 2:
        return 2 * x, 2
    return n * x ** (n - 1), n * (n - 1) * x ** (n - 2)


def tanh(y: Tensor):
    return 1 - y * y, -2 * y * (1 - y * y)


def sigmoid(y: Tensor):
    return y * (1 - y), y * (1 - y) * (1 - 2 * y)


def exp(y: Tensor):
    return y, y


def rsqrt(y: Tensor):
    return -0.5 * y**3, 0.75 * y**5


def sqrt(y: Tensor):
    return 0.5 / y, -0.25 / y**3


def log(x: Tensor):
    return 1 / x, -1 / (x * x)
