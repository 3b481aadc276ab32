"""Largest Hessian eigenvalue of every parameter tensor: the diagonal blocks H_bb = d2f / dx_b dx_b of the loss.

The question is Tomihari & Sato's (arXiv:2502.00213): are the tensors with a large gradient also those with a large
curvature? Their code measures each tensor by power iteration on a fresh gradient graph. Here one graph of the gradient
serves all tensors and all iterations of a batch. Lanczos' method states how far each value can be from an eigenvalue.
`heterogeneity.py` turns the values into statistics."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from curvature.gradient_graph import GradientGraph
from curvature.lanczos import ExtremeEigenvalues, check_limits, extreme_eigenvalues
from curvature.objective import Batch, LossFunction, Params

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockCurvature(ExtremeEigenvalues):
    """One tensor's row: its Hessian block's eigenvalues (loss per squared unit of parameter distance), the Euclidean
    norm of its gradient (loss per unit of distance, not divided by any size) and its number of elements."""

    name: str
    numel: int
    gradient_norm: float


def block_curvatures(
    loss_fn: LossFunction,
    params: Params,
    batches: Sequence[Batch],
    names: Iterable[str] | None = None,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    generator: torch.Generator | None = None,
    keep_graphs: bool = True,
) -> Iterator[BlockCurvature]:
    r"""Yield the extreme eigenvalues of each tensor's diagonal Hessian block, one tensor at a time.

    f is the mean of `loss_fn` over all examples of `batches`, at `params`. A Hessian-vector product with block b is the
    gradient of <g_b, u> with respect to x_b alone. It runs only through the layers above x_b.

    Memory: the graph of every micro-batch until the last tensor is done, and one vector of x_b's size per product spent
    on the current tensor. The exact GELU's derivatives are kept with the graph.

    Args:
        loss_fn: (params, batch) -> losses [B]. Deterministic (no dropout: `measuring` of curvature/borrowing.py), twice
            differentiable: fused attention kernels are not (`twice_differentiable` there). With `keep_graphs` False
            the loop over the result belongs inside these contexts too.
        params: name -> tensor. Not modified, nor are their `.grad`s.
        batches: the micro-batches of one batch; their sizes may differ.
        names: the tensors to measure, in this order; None measures all.
        tolerance: largest residual of a converged value, relative to the value.
        max_iterations: most products spent on one tensor, for both of its eigenvalues together.
        generator: CPU generator of the start vectors; None starts one at seed 0. torch's global state is left alone.
        keep_graphs: True builds each micro-batch's graph once and keeps them all. False rebuilds one for every product
            and micro-batch: the memory of a single graph, for two to three times the time.

    A block that is zero up to rounding does not converge: its value is smaller than its residual. The bias of
    attention's keys is such a block, since softmax cancels it. A block that is not finite is NaN, with a warning.

    Raises: ValueError for an unknown name, no batch, an argument out of range; FloatingPointError for a loss or
        gradient that is not finite.

    Example:
        >>> def bowl(p, batch): return (1.5 * p["x"] ** 2).sum() - 2 * p["y"] ** 2    # H_xx = diag(3, 3), H_yy = -4
        >>> for block in block_curvatures(bowl, dict(x=torch.ones(2), y=torch.ones(1)), [{}]):
        ...     print(block.name, round(block.eigenvalue, 4), block.products)
        x 3.0 2
        y -4.0 1
    """
    names = list(params) if names is None else list(names)
    unknown = [name for name in names if name not in params]
    if unknown:
        raise ValueError(f"no parameter is called {unknown[0]!r}; there are {', '.join(params)}")
    if not batches:
        raise ValueError("batches is empty; at least one micro-batch is needed")
    check_limits(tolerance, max_iterations)
    generator = generator or torch.Generator().manual_seed(0)
    graph = gradient_graph(loss_fn, params, batches, names, keep_graphs)
    return (block_curvature(graph, name, tolerance, max_iterations, generator) for name in names)


def gradient_graph(
    loss_fn: LossFunction, params: Params, batches: Sequence[Batch], names: list[str], keep_graphs: bool
) -> GradientGraph:
    """What `block_curvature` measures the tensors `names` with."""
    how = "kept for all products" if keep_graphs else "rebuilt for every product"
    log.info("the gradient graphs of %d micro-batches are %s", len(batches), how)
    return GradientGraph(loss_fn, params, batches, names, keep_graphs)


def block_curvature(
    graph: GradientGraph, name: str, tolerance: float, max_iterations: int, generator: torch.Generator
) -> BlockCurvature:
    """The extreme eigenvalues of one tensor's block; arguments as of `block_curvatures`."""
    gradient = graph.gradients[name]
    extremes = extreme_eigenvalues(
        lambda u: graph.product({name: u.view_as(gradient)})[name].flatten(),
        gradient.numel(),
        tolerance=tolerance,
        max_iterations=max_iterations,
        generator=generator,
        like=gradient,
    )
    if math.isnan(extremes.eigenvalue):
        log.warning("the Hessian block of %s is not finite; its eigenvalues are left out", name)
    elif graph.bends_little(name, extremes.magnitude_eigenvalue):
        extremes = _with_rounding(extremes, graph.rounding_of_product(name), tolerance)
    gradient_norm = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
    return BlockCurvature(**vars(extremes), name=name, numel=gradient.numel(), gradient_norm=gradient_norm)


def _with_rounding(extremes: ExtremeEigenvalues, rounding: float, tolerance: float) -> ExtremeEigenvalues:
    """The same values, with residuals that are at least the rounding error of a product."""
    return replace(
        extremes,
        residual=max(extremes.residual, rounding),
        converged=extremes.converged and rounding <= tolerance * abs(extremes.eigenvalue),
        magnitude_residual=max(extremes.magnitude_residual, rounding),
        magnitude_converged=extremes.magnitude_converged and rounding <= tolerance * abs(extremes.magnitude_eigenvalue),
    )
