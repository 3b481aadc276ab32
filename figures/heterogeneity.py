"""The figures of run_hessian.py: gradient against curvature of every tensor, along the model, as Lorenz curves; and
several runs in one figure.

A point is a parameter tensor: the mean over the batches of its gradient's norm and of its block's largest eigenvalue.
An eigenvalue that its residual does not tell from 0 counts as 0. The axes are logarithmic: a negative eigenvalue stands
at its size, as a triangle, and a tensor whose eigenvalue or gradient is 0 is left out and counted under the title."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from figures.run_tables import Row, RunTables
from figures.style import new_figure
from hessian.heterogeneity import gini, lorenz_curve, resolved, spearman

COLUMNS = "batch block kind layer numel gradient_norm eigenvalue residual converged"
# The colour-blind-safe set of Okabe & Ito: for the kinds of `heterogeneity.kind_of`, and for the runs of an overlay.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#888888")
KINDS = ("attention", "head", "norm", "mlp", "embedding", "convolution", "other")
KIND_COLORS = dict(zip(KINDS, PALETTE, strict=True))
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
    rounding: bool  # zero but for rounding errors, as the bias of attention's keys

    @property
    def drawable(self) -> bool:
        return self.gradient_norm > 0 and self.eigenvalue != 0 and not self.rounding

    def marker(self, color: str) -> dict:
        """Hollow where the eigenvalue did not converge, a triangle where it is negative."""
        return {"marker": "v" if self.eigenvalue < 0 else "o", "markersize": 4.5, "linestyle": "", "color": color,
                "markerfacecolor": color if self.converged else "white", "markeredgewidth": 0.9}


def points_of(run: RunTables) -> list[TensorPoint]:
    """In the model's order; without tensors whose block is not finite. Empty where the run did not measure to its end.

    Raises: ValueError naming a column that is missing."""
    rows = [row for row in run.table("blocks", COLUMNS)
            if row["batch"] == "mean" and None not in (row["eigenvalue"], row["residual"], row["gradient_norm"])]
    largest = max((row["gradient_norm"] for row in rows), default=0.0)
    return [_point(row, largest) for row in rows]


def _point(row: Row, largest: float) -> TensorPoint:
    value = resolved(row["eigenvalue"], row["residual"])
    kind = row["kind"] if row["kind"] in KINDS else "other"
    return TensorPoint(row["block"], kind, row["layer"], row["numel"], row["gradient_norm"], value,
                 bool(row["converged"]), not row["converged"] and row["gradient_norm"] < ROUNDING * largest)


def block_figures(run: RunTables) -> Iterator[tuple[str, Figure]]:
    """All figures of one run."""
    points = points_of(run)
    if any(point.drawable for point in points):
        yield "gradient_against_curvature", _scatter_figure(run, points)
        yield "along_depth", _depth_figure(run, points)
    if any(point.gradient_norm for point in points):
        yield "lorenz", _lorenz_figure(run, points)


# ---- gradient against curvature ------------------------------------------------------------------------------

def _scatter_figure(run: RunTables, points: Sequence[TensorPoint]) -> Figure:
    """The largest eigenvalue over the gradient norm, coloured by kind (Tomihari & Sato, figure 1)."""
    figure, (ax,) = new_figure(1, 1, _kind_handles(points) + _mark_handles(points), width=5.6, height=3.9)
    _draw_points(ax, points, [KIND_COLORS[point.kind] for point in points])
    ax.set(xlabel=GRADIENT, ylabel=CURVATURE, title=_and_left_out(f"{run.title}: {_correlation(points)}", points))
    return figure


def _correlation(points: Sequence[TensorPoint]) -> str:
    rank = spearman([point.gradient_norm for point in points], [point.eigenvalue for point in points])
    if math.isnan(rank.value):
        return f"{len(points)} tensors"
    return f"{len(points)} tensors, rank correlation {rank.value:.2f} (95 %: {rank.low:.2f} to {rank.high:.2f})"


def _draw_points(ax: Axes, points: Sequence[TensorPoint], colors: Sequence[str], alpha: float = 1.0) -> None:
    for point, color in zip(points, colors, strict=True):
        if point.drawable:
            ax.plot(point.gradient_norm, abs(point.eigenvalue), zorder=3, alpha=alpha, **point.marker(color))
    ax.set(xscale="log", yscale="log")


def _and_left_out(title: str, points: Sequence[TensorPoint]) -> str:
    """The title, and below it how many tensors a logarithmic plot cannot show."""
    left_out = sum(not point.drawable for point in points)
    return f"{title}\n{left_out} of zero curvature or gradient not shown" if left_out else title


def _kind_handles(points: Sequence[TensorPoint]) -> list[Line2D]:
    present = {point.kind for point in points if point.drawable}
    return [Line2D([], [], marker="o", markersize=4.5, linestyle="", color=color, label=kind)
            for kind, color in KIND_COLORS.items() if kind in present]


def _mark_handles(points: Sequence[TensorPoint]) -> list[Line2D]:
    """What hollow and a triangle mean, as far as they occur."""
    drawn, black = [point for point in points if point.drawable], {"color": "0.35", "linestyle": "", "markersize": 4.5}
    handles = []
    if any(not point.converged for point in drawn):
        handles.append(Line2D([], [], marker="o", markerfacecolor="white", label="not converged", **black))
    if any(point.eigenvalue < 0 for point in drawn):
        handles.append(Line2D([], [], marker="v", label="negative, at its size", **black))
    return handles


# ---- along depth ---------------------------------------------------------------------------------------------

def _depth_figure(run: RunTables, points: Sequence[TensorPoint]) -> Figure:
    """Gradient norm above, largest eigenvalue below, of the tensors in the model's order."""
    width = min(12.0, max(6.0, 0.08 * len(points)))
    figure, (top, bottom) = new_figure(2, 1, _kind_handles(points) + _mark_handles(points), width=width, height=2.2)
    for place, point in enumerate(points):
        marker = point.marker(KIND_COLORS[point.kind])
        if point.gradient_norm > 0 and not point.rounding:
            top.plot(place, point.gradient_norm, **(marker | {"marker": "o", "markerfacecolor": marker["color"]}))
        if point.eigenvalue != 0 and not point.rounding:
            bottom.plot(place, abs(point.eigenvalue), **marker)
    starts = [i for i, point in enumerate(points) if i == 0 or point.layer != points[i - 1].layer]
    for ax, label in ((top, "gradient norm"), (bottom, "largest eigenvalue")):
        ax.set(yscale="log", ylabel=label, xlim=(-1, len(points)))
        ax.grid(axis="x", visible=False)
        for start in starts[1:]:
            ax.axvline(start - 0.5, color="#e6e6e6", linewidth=0.6, zorder=0)
        _readable_decades(ax)
    _label_layers(top, bottom, starts, points, width)
    title = f"{run.title}: tensors in the model's order, a tick where a layer begins"
    figure.suptitle(_and_left_out(title, points))
    return figure


def _readable_decades(ax: Axes) -> None:
    """On a logarithmic y axis: powers of ten, or 1, 2 and 5 times them where there are too few of them."""
    low, high = ax.get_ylim()
    if high < 100 * low:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


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
    """What is shared out among the tensors, each >= 0."""
    return {"gradient norm": [point.gradient_norm for point in points],
            "gradient norm / sqrt(size)": [point.gradient_norm / math.sqrt(point.numel) for point in points],
            "largest eigenvalue (negative as 0)": [max(point.eigenvalue, 0.0) for point in points]}


def _lorenz_figure(run: RunTables, points: Sequence[TensorPoint]) -> Figure:
    """Which share of the tensors holds which share of the total, the smallest first; equal tensors: the diagonal."""
    drawn = {name: values for name, values in _measures(points).items() if any(values)}
    handles = [Line2D([], [], color=color, label=f"{name}: Gini {gini(values):.2f}")
               for color, (name, values) in zip(PALETTE, drawn.items(), strict=False)]
    figure, (ax,) = new_figure(1, 1, handles, width=4.6, height=3.9)
    for color, values in zip(PALETTE, drawn.values(), strict=False):
        _draw_lorenz(ax, values, color)
    ax.set(ylabel="share of the total that they hold", title=f"{run.title}, {len(points)} tensors")
    return figure


def _draw_lorenz(ax: Axes, values: Sequence[float], color: str) -> None:
    ax.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, zorder=1)
    ax.plot(*lorenz_curve(values), color=color)
    ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="share of the tensors, smallest first")


# ---- several runs --------------------------------------------------------------------------------------------

def overlay_figure(runs: Sequence[RunTables]) -> Figure:
    """Gradient against curvature, and the Lorenz curves of both, a colour a run; pre-norm beside post-norm, say.

    Raises: ValueError naming a run without a measured block."""
    named = dict(zip(_names(runs), map(points_of, runs), strict=True))
    for run, points in zip(runs, named.values(), strict=True):
        if not any(point.drawable for point in points):
            raise ValueError(f"{run.folder} has no blocks.csv of a finished run_hessian.py with a curvature to draw")
    colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(named)}
    handles = [Line2D([], [], marker="o", markersize=4.5, color=colors[name], label=_summary(name, points))
               for name, points in named.items()]
    every = [point for points in named.values() for point in points]
    handles += _mark_handles(every)
    figure, (scatter, gradients, curvatures) = new_figure(1, 3, handles, width=11.0, height=3.4)
    for name, points in named.items():
        _draw_points(scatter, points, [colors[name]] * len(points), alpha=0.6)  # a run may lie over another
        of_gradient, _, of_curvature = _measures(points).values()
        _draw_lorenz(gradients, of_gradient, colors[name])
        if any(of_curvature):
            _draw_lorenz(curvatures, of_curvature, colors[name])
    scatter.set(xlabel=GRADIENT, ylabel=CURVATURE, title=_and_left_out("a point is a tensor", every))
    gradients.set(title="gradient norms", ylabel="share of the total that they hold")
    curvatures.set(title="largest eigenvalues (negative as 0)")
    return figure


def _names(runs: Sequence[RunTables]) -> list[str]:
    """The folders' own names, or their whole paths where two are alike."""
    short = [run.folder.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.folder) for run in runs]


def _summary(name: str, points: Sequence[TensorPoint]) -> str:
    of_gradient, _, of_curvature = map(gini, _measures(points).values())
    return f"{name}: Gini of gradients {of_gradient:.2f}, of eigenvalues {of_curvature:.2f}; {_correlation(points)}"
