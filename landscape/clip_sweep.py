"""How sharpness, slope and predicted decrease of a step depend on the clip fraction k, and where SGD's curvature sits.

A run with `--clip_sweep` keeps further pseudo-updates: the first row without clipping of SGD, Adam, Adafactor and Lion,
each with every `coordinate_clip` of FRACTIONS. Each is an optimizer of its own. It has seen the gradients of the whole
trajectory, clipped at its own k from the first update on, as the rows of a list do. So at x_t its direction is the step
that this clipped optimizer would take, had it only watched. What k means is the optimizer's own affair: SGD and Lion
clip the gradient before it enters anything; Adam clips what enters its first moment, and Adafactor its numerator, while
their second moments see the raw gradient. k = 0 is the row of the list itself.

Beside that, v = the direction of the SGD row without clipping is cut in two by the size of its own coordinates: v_top,
the largest floor(k n) of all n, and v_rest, the others. With H the Hessian,

    v'Hv  =  v_top'H v_top  +  2 v_top'H v_rest  +  v_rest'H v_rest

and v_rest'H v_rest / |v_rest|^2 is the sharpness of what is left. Theorem 1 of Pan & Li (arXiv:2306.00204) supposes
that a small fraction of the coordinates can be removed such that a much smoother function is left; this measures it
along SGD's step. `run_hessian.py --robust_smoothness` measures the same hypothesis as their released code does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.objective import Objective
from curvature.quadratic import QuadraticModel
from landscape.measurements import BAR
from landscape_core.measurement import quadratic_models
from torch_optimizer import Algorithm
from torch_optimizer.clipping import clip_threshold

FRACTIONS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.9)
OPTIMIZERS = ("sgd", "adam", "adafactor", "lion")


@dataclass(frozen=True)
class SweptRow:
    """A row of the list at one clip fraction."""

    label: str  # of the row of the list
    fraction: float
    row: Algorithm


@dataclass(frozen=True)
class SweptStep:
    """What is measured along the step of a swept row; NaN where clipping has erased the step."""

    label: str
    fraction: float
    length: float  # of the step, per unit of learning rate
    quadratic: QuadraticModel


@dataclass(frozen=True)
class CurvatureBySize:
    """v'Hv / |v|^2 of SGD's step v, split by the size of its coordinates; the three parts sum to the sharpness."""

    label: str
    fraction: float  # k
    coordinates: int  # of v_top
    length_share: float  # |v_top|^2 / |v|^2
    top: float  # v_top'H v_top / |v|^2
    cross: float  # 2 v_top'H v_rest / |v|^2
    rest: float  # v_rest'H v_rest / |v|^2
    rest_sharpness: float  # v_rest'H v_rest / |v_rest|^2


def swept_rows(algorithms: Mapping[str, Algorithm]) -> dict[str, SweptRow]:
    """Label of a pseudo-update -> its row, for the first row without clipping of each of OPTIMIZERS that a list has.

    Raises: ValueError, in one line, if the list has none of them."""
    swept = {}
    for name in OPTIMIZERS:
        plain = (label for label, row in algorithms.items() if row.name == name and not is_clipped(row))
        if label := next(plain, None):
            for k in FRACTIONS:
                row = algorithms[label].with_options(coordinate_clip=k) if k else algorithms[label]
                swept[f"{label} | {k}"] = SweptRow(label, k, row)
    if not swept:
        raise ValueError(f"--clip_sweep takes rows of {', '.join(OPTIMIZERS)} without clipping; the list has none")
    return swept


def count_of_directions(rows: Mapping[str, SweptRow]) -> int:
    """How many directions are measured at a point: those of the rows, and SGD's with its parts."""
    return len(rows) + (2 * len(FRACTIONS) - 1) * any(one.row.name == "sgd" for one in rows.values())


def is_clipped(row: Algorithm) -> bool:
    return bool(row.options.get("coordinate_clip")) or row.options.get("clip_update") is not None


def sweep(
    directions: Mapping[str, Direction], rows: Mapping[str, SweptRow], objective: Objective
) -> tuple[list[SweptStep], list[CurvatureBySize]]:
    """What is measured along every direction, and the curvature of SGD's step by the size of its coordinates.

    Args:
        directions: as `rows`, of one point.
    """
    with measuring(objective.model):
        quadratics = quadratic_models(directions, objective, BAR)
    steps = [
        SweptStep(rows[label].label, rows[label].fraction, directions[label].length, quadratic)
        for label, quadratic in quadratics.items()
    ]
    plain_sgd = [label for label, one in rows.items() if one.row.name == "sgd" and not one.fraction]
    parts = [part for label in plain_sgd for part in curvature_by_size(rows[label].label, directions[label], objective)]
    return steps, parts


def curvature_by_size(label: str, v: Direction, objective: Objective) -> Iterator[CurvatureBySize]:
    """The parts of the curvature along v for every fraction but 0; nothing where v has no length."""
    if not v.has_length:
        return
    parts = {}
    for k in FRACTIONS[1:]:
        tau = clip_threshold(list(v.values()), k)  # the entry at index floor(k n): as many lie above it, ties aside
        parts[k, "top"] = Direction({name: torch.where(t.abs() > tau, t, 0) for name, t in v.items()})
        parts[k, "rest"] = Direction({name: torch.where(t.abs() > tau, 0, t) for name, t in v.items()})
    with measuring(objective.model):
        quadratics = quadratic_models({"v": v, **parts}, objective, BAR)
    curvature = {
        place: _curvature(parts.get(place, v), quadratic) / v.length**2 for place, quadratic in quadratics.items()
    }
    for k in FRACTIONS[1:]:
        top = parts[k, "top"]
        yield CurvatureBySize(
            label,
            k,
            coordinates=sum(int(torch.count_nonzero(t)) for t in top.values()),
            length_share=(top.length / v.length) ** 2,
            top=curvature[k, "top"],
            cross=curvature["v"] - curvature[k, "top"] - curvature[k, "rest"],
            rest=curvature[k, "rest"],
            rest_sharpness=quadratics[k, "rest"].sharpness,
        )


def _curvature(v: Direction, quadratic: QuadraticModel) -> float:
    """v'Hv, which is 0 for a part without a coordinate."""
    return quadratic.sharpness * v.length**2 if v.has_length else 0.0
