"""The figures of run_hessian.py: gradient against curvature of every tensor, along the model, as Lorenz curves; and
several runs in one figure.

A point is a parameter tensor: the mean over the batches of its gradient's norm and of its block's largest eigenvalue.
An eigenvalue that its residual cannot separate from 0 counts as 0. The axes are logarithmic: a negative eigenvalue
stands at its size with a bar through it. A tensor whose eigenvalue or gradient is 0 is left out, and the title counts
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures.run_tables import Row, RunTables
from figures.style import MARKERS, PALETTE, key, new_figure, readable_decades
from hessian.heterogeneity import gini, lorenz_curve, resolved, spearman

COLUMNS = "batch block kind layer numel gradient_norm eigenvalue residual converged"
Look = tuple[str, str]  # color and marker
KIND_LOOKS: dict[str, Look] = dict(
    zip(
        ("attention", "head", "norm", "mlp", "embedding", "convolution", "other"),
        zip(PALETTE, MARKERS, strict=True),
        strict=True,
    )
)
NEGATIVE = {"marker": "_", "markersize": 10, "markeredgewidth": 1.2, "linestyle": ""}
EQUAL = {"color": "0.6", "linewidth": 0.7}
GRADIENT, CURVATURE = "gradient norm of the tensor", "largest eigenvalue of its block"
ROUNDING = 1e-7  # an unconverged tensor whose gradient is a smaller share of the largest shows rounding errors only


@dataclass(frozen=True)
class TensorPoint:
    """One parameter tensor, averaged over the batches."""

    name: str
    kind: str
    layer: str
    numel: int
    gradient_norm: float
    eigenvalue: float  # 0 where it cannot be told from 0
    converged: bool
    rounding: bool  # zero up to rounding errors, as the bias of attention's keys

    @property
    def drawable(self) -> bool:
        return self.gradient_norm > 0 and self.eigenvalue != 0 and not self.rounding


def points_of(run: RunTables) -> list[TensorPoint]:
    """In the model's order; without tensors whose block is not finite. Empty where the run did not measure to its end.

    Raises: ValueError naming a column that is missing."""
    rows = [
        row
        for row in run.table("blocks", COLUMNS)
        if row["batch"] == "mean" and None not in (row["eigenvalue"], row["residual"], row["gradient_norm"])
    ]
    largest = max((row["gradient_norm"] for row in rows), default=0.0)
    return [_point(row, largest) for row in rows]


def _point(row: Row, largest: float) -> TensorPoint:
    return TensorPoint(
        row["block"],
        row["kind"] if row["kind"] in KIND_LOOKS else "other",
        row["layer"],
        row["numel"],
        row["gradient_norm"],
        resolved(row["eigenvalue"], row["residual"]),
        bool(row["converged"]),
        not row["converged"] and row["gradient_norm"] < ROUNDING * largest,
    )


def block_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """All figures of one run."""
    points = points_of(run)
    if any(point.drawable for point in points):
        yield "gradient_against_curvature", _scatter_figure(run, points)
        yield "along_depth", _depth_figure(run, points)
    if any(point.gradient_norm for point in points):
        yield "lorenz", _lorenz_figure(run, points)


# ---- one tensor ----------------------------------------------------------------------------------------------


def _draw_point(
    ax: Axes, name: str, x: float, value: float, look: Look, converged: bool = True, alpha: float = 1.0
) -> None:
    """At its size; hollow where it did not converge, with a bar through it where it is negative."""
    color, marker = look
    look_of_point = {"color": color, "markersize": 4.5, "markerfacecolor": color if converged else "white"}
    ax.plot(x, abs(value), marker, label=name, alpha=alpha, zorder=3, **look_of_point)
    if value < 0:
        ax.plot(x, abs(value), color=color, alpha=alpha, zorder=3, **NEGATIVE)


def _kind_keys(points: Sequence[TensorPoint]) -> list[Line2D]:
    present = {point.kind for point in points if point.drawable}
    looks = {kind: look for kind, look in KIND_LOOKS.items() if kind in present}
    return [key(kind, marker=mark, markersize=4.5, linestyle="", color=color) for kind, (color, mark) in looks.items()]


def _mark_keys(points: Sequence[TensorPoint]) -> list[Line2D]:
    """What hollow and a bar mean, as far as they occur."""
    drawn, keys = [point for point in points if point.drawable], []
    if any(not point.converged for point in drawn):
        hollow = {"marker": "o", "markersize": 4.5, "markerfacecolor": "white", "linestyle": ""}
        keys.append(key("hollow: not converged", color="0.35", **hollow))
    if any(point.eigenvalue < 0 for point in drawn):
        keys.append(key("bar: negative, at its size", color="0.35", **NEGATIVE))
    return keys


def _and_left_out(title: str, points: Sequence[TensorPoint]) -> str:
    """The title, and below it how many tensors a logarithmic plot cannot show."""
    left_out = sum(not point.drawable for point in points)
    return f"{title}\n{left_out} of zero curvature or gradient not shown" if left_out else title


# ---- gradient against curvature ------------------------------------------------------------------------------


def _scatter_figure(run: RunTables, points: Sequence[TensorPoint]) -> Figure:
    """The largest eigenvalue over the gradient norm, colored by kind (Tomihari & Sato, arXiv:2502.00213, figure 1)."""
    figure, (ax,) = new_figure(1, 1, _kind_keys(points) + _mark_keys(points), width=5.6, height=3.9)
    _scatter(ax, points, [KIND_LOOKS[point.kind] for point in points])
    ax.set(xlabel=GRADIENT, ylabel=CURVATURE, title=_and_left_out(f"{run.title}: {_correlation(points)}", points))
    return figure


def _scatter(ax: Axes, points: Sequence[TensorPoint], looks: Sequence[Look], alpha: float = 1.0) -> None:
    for point, look in zip(points, looks, strict=True):
        if point.drawable:
            _draw_point(ax, point.name, point.gradient_norm, point.eigenvalue, look, point.converged, alpha)
    ax.set(xscale="log", yscale="log")


def _correlation(points: Sequence[TensorPoint]) -> str:
    rank = spearman([point.gradient_norm for point in points], [point.eigenvalue for point in points])
    if math.isnan(rank.value):
        return f"{len(points)} tensors"
    return f"{len(points)} tensors, rank correlation {rank.value:.2f} (95 %: {rank.low:.2f} to {rank.high:.2f})"


# ---- along depth ---------------------------------------------------------------------------------------------


def _depth_figure(run: RunTables, points: Sequence[TensorPoint]) -> Figure:
    """Gradient norm above, largest eigenvalue below, of the tensors in the model's order."""
    width = min(12.0, max(6.0, 0.08 * len(points)))
    figure, (top, bottom) = new_figure(2, 1, _kind_keys(points) + _mark_keys(points), width=width, height=2.3)
    for place, point in enumerate(points):
        look = KIND_LOOKS[point.kind]
        if point.gradient_norm > 0 and not point.rounding:
            _draw_point(top, point.name, place, point.gradient_norm, look)
        if point.eigenvalue != 0 and not point.rounding:
            _draw_point(bottom, point.name, place, point.eigenvalue, look, point.converged)
    starts = [i for i, point in enumerate(points) if i == 0 or point.layer != points[i - 1].layer]
    for ax, label, title in ((top, "gradient norm", GRADIENT), (bottom, "largest eigenvalue", CURVATURE)):
        ax.set(yscale="log", ylabel=label, xlim=(-1, len(points)), title=title)
        ax.grid(axis="x", visible=False)
        for start in starts[1:]:
            ax.axvline(start - 0.5, color="#e6e6e6", linewidth=0.6, zorder=0)
        readable_decades(ax.yaxis)
    _label_layers(top, bottom, starts, points, width)
    bottom.set_xlabel("tensors in the model's order, a tick where a layer begins")
    figure.suptitle(_and_left_out(run.title, points))
    return figure


def _label_layers(top: Axes, bottom: Axes, starts: Sequence[int], points: Sequence[TensorPoint], width: float) -> None:
    """A tick where a layer begins, its name below the lower axes: upright only where it does not fit lying. Where two
    are too close, a numbered layer goes before a single tensor, and else the first one."""
    apart: list[int] = []
    for i in sorted(starts, key=lambda i: not any(map(str.isdigit, points[i].layer))):
        if all(abs(i - other) > 0.02 * len(points) for other in apart):
            apart.append(i)
    apart.sort()
    names = [points[i].layer for i in apart]
    if not any(name.startswith("decoder.") for name in names):
        names = [name.removeprefix("encoder.") for name in names]
    inches = 0.85 * width / len(points)  # a tensor's share of the axes
    needed = [0.07 * (len(left) + len(right)) / 2 + 0.05 for left, right in pairwise(names)]
    lying = all((b - a) * inches > need for (a, b), need in zip(pairwise(apart), needed, strict=True))
    top.set_xticks(apart, [])
    bottom.set_xticks(apart, names, rotation=0 if lying else 90, fontsize=7)


# ---- Lorenz curves -------------------------------------------------------------------------------------------


def _measures(points: Sequence[TensorPoint]) -> dict[str, list[float]]:
    """What is distributed over the tensors, each >= 0."""
    return {
        "gradient norm": [point.gradient_norm for point in points],
        "gradient norm / sqrt(size)": [point.gradient_norm / math.sqrt(point.numel) for point in points],
        "largest eigenvalue (negative as 0)": [max(point.eigenvalue, 0.0) for point in points],
    }


def _lorenz_figure(run: RunTables, points: Sequence[TensorPoint]) -> Figure:
    """Which share of the tensors holds which share of the total, the smallest first; equal tensors: the diagonal."""
    drawn = {name: values for name, values in _measures(points).items() if any(values)}
    lines = [{"color": color, "linestyle": dash} for color, dash in zip(PALETTE, ("-", "--", ":"), strict=False)]
    handles = [
        key(f"{name}: Gini {gini(values):.2f}", **line)
        for line, (name, values) in zip(lines, drawn.items(), strict=False)
    ]
    handles.append(key("all tensors equal", **EQUAL))
    figure, (ax,) = new_figure(1, 1, handles, width=4.6, height=4.2)
    for line, values in zip(lines, drawn.values(), strict=False):
        _draw_lorenz(ax, values, line)
    ax.set(ylabel="share of the total that they hold", title=f"{run.title}, {len(points)} tensors")
    return figure


def _draw_lorenz(ax: Axes, values: Sequence[float], line: Mapping) -> None:
    if any(values):
        ax.plot(*lorenz_curve(values), **line)
    ax.plot([0, 1], [0, 1], zorder=1, **EQUAL)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="share of the tensors, smallest first")


# ---- several runs --------------------------------------------------------------------------------------------


def overlay_blocks(runs: Mapping[str, RunTables]) -> Iterator[tuple[str, Figure]]:
    """Gradient against curvature, and the Lorenz curves of both, one color per run; pre-norm beside post-norm, say.

    Args:
        runs: by the name to write.

    Raises: ValueError naming a run without a measured block."""
    named = {name: points_of(run) for name, run in runs.items()}
    for name, points in named.items():
        if not any(point.drawable for point in points):
            raise ValueError(f"{runs[name].folder} has no blocks.csv of a finished run_hessian.py with a curvature")
    looks = {name: (PALETTE[i % len(PALETTE)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(named)}
    every = [point for points in named.values() for point in points]
    handles = [
        key(_summary(name, points), color=looks[name][0], marker=looks[name][1], markersize=4.5)
        for name, points in named.items()
    ]
    figure, (scatter, gradients, curvatures) = new_figure(1, 3, handles + _mark_keys(every), width=11.0, height=3.4)
    for name, points in named.items():
        _scatter(scatter, points, [looks[name]] * len(points), alpha=0.6)  # a run may lie over another
        of_gradient, _, of_curvature = _measures(points).values()
        line = {"color": looks[name][0], "marker": looks[name][1], "markersize": 4.5, "markevery": (0.1, 0.2)}
        _draw_lorenz(gradients, of_gradient, line)
        _draw_lorenz(curvatures, of_curvature, line)
    scatter.set(xlabel=GRADIENT, ylabel=CURVATURE, title=_and_left_out("every point is a tensor", every))
    gradients.set(title="gradient norms", ylabel="share of the total that they hold")
    curvatures.set(title="largest eigenvalues (negative as 0)")
    yield "heterogeneity_overlay", figure


def _summary(name: str, points: Sequence[TensorPoint]) -> str:
    of_gradient, _, of_curvature = map(gini, _measures(points).values())
    return f"{name}: Gini of gradients {of_gradient:.2f}, of eigenvalues {of_curvature:.2f}; {_correlation(points)}"
