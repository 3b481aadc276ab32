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
from torch import Tensor

from curvature.objective import Batch, LossFunction, Params
from hessian.gelu import StoredGelu
from hessian.lanczos import ExtremeEigenvalues, check_limits, extreme_eigenvalues

log = logging.getLogger(__name__)

SUSPECT = 1000  # rounding errors of the loss: a block that changes it by less may be nothing but rounding
DISPLACEMENTS = 4  # points beside x at which such a block is measured again
DISPLACED_BY = 100  # their distance from x, in rounding errors of x


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
    gradient of <g_b, u> with respect to x_b alone, so it runs only through the layers above x_b.

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

    A block that is zero but for rounding (the bias of attention's keys, which softmax cancels) does not converge: its
    value is smaller than its residual. A block that is not finite is NaN, with a warning.

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
    graph = GradientGraph(loss_fn, params, batches, names, keep_graphs)
    return (_block_curvature(graph, name, tolerance, max_iterations, generator) for name in names)


def _block_curvature(
    graph: "GradientGraph", name: str, tolerance: float, max_iterations: int, generator: torch.Generator
) -> BlockCurvature:
    gradient = graph.gradients[name]
    extremes = extreme_eigenvalues(
        lambda u: graph.block_product(name, u.view_as(gradient)).flatten(),
        gradient.numel(),
        tolerance=tolerance,
        max_iterations=max_iterations,
        generator=generator,
        hint=gradient.flatten(),
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


class GradientGraph:
    """The gradient of f at one point, with the graph that lets it be differentiated again.

    points: name -> tensor, aliases of the given parameters; only those in `names` are differentiated.
    gradients: name -> gradient of the mean loss, without graph, for each of `names`."""

    def __init__(
        self, loss_fn: LossFunction, params: Params, batches: Sequence[Batch], names: list[str], keep_graphs: bool
    ):
        self.loss_fn, self.batches = loss_fn, batches
        self.points = {name: x.detach().requires_grad_(name in names) for name, x in params.items()}
        self.examples, total_loss = 0, 0.0
        self.kept = [] if keep_graphs else None  # per micro-batch, a dict of gradients with their graph
        self.gradients = {name: torch.zeros_like(self.points[name], requires_grad=False) for name in names}
        for batch in batches:
            gradients, losses = self._differentiate(batch, names)
            if not torch.isfinite(losses).all():
                raise FloatingPointError("the loss is not finite at these parameters, so it has no Hessian to measure")
            self.examples += len(losses)
            total_loss += losses.double().sum().item()
            for name, gradient in gradients.items():
                self.gradients[name] += gradient.detach()
            if keep_graphs:
                self.kept.append(gradients)
        self.loss = total_loss / self.examples
        for name, gradient in self.gradients.items():
            gradient /= self.examples
            if not torch.isfinite(gradient).all():
                raise FloatingPointError(f"the gradient of {name} is not finite: its Hessian block has no measure")
        how = "kept for all products" if keep_graphs else "rebuilt for every product"
        log.info("the gradient graphs of %d micro-batches are %s", len(batches), how)

    def _differentiate(
        self, batch: Batch, names: list[str], points: Params | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradient, with its graph, of the sum of one micro-batch's losses, for those of `names` that it depends on.

        `points`: where; by default at the object's. Returns also the losses [B]."""
        points = points or self.points
        with torch.enable_grad(), StoredGelu():
            losses = self.loss_fn(points, batch)  # [B]
            if losses.dim() != 1:
                raise ValueError(f"loss_fn must return one loss for each example, shape [B]; got {list(losses.shape)}")
            if not losses.requires_grad:
                return {}, losses
            xs = [points[name] for name in names]
            gradients = torch.autograd.grad(losses.sum(), xs, create_graph=True, allow_unused=True)
        return {name: g for name, g in zip(names, gradients, strict=True) if g is not None}, losses.detach()

    def block_product(self, name: str, u: Tensor, x: Tensor | None = None) -> Tensor:
        """H_bb u for the block of tensor `name`; u and the result have the tensor's shape.

        `x`: another value of the tensor, at which the product is taken with new graphs."""
        keep = self.kept is not None and x is None
        points = self.points if x is None else self.points | {name: x.detach().requires_grad_()}
        total = torch.zeros_like(points[name], requires_grad=False)
        for index, batch in enumerate(self.batches):
            gradients = self.kept[index] if keep else self._differentiate(batch, [name], points)[0]
            gradient = gradients.get(name)
            if gradient is None or not gradient.requires_grad:  # the loss does not depend on x, or only linearly
                continue
            (part,) = torch.autograd.grad(
                gradient, points[name], u.to(total.dtype), retain_graph=keep, allow_unused=True
            )
            if part is not None:  # None: linear in x, though not in what x is multiplied with
                total += part
        return total / self.examples

    def bends_little(self, name: str, eigenvalue: float) -> bool:
        """Whether this curvature, over the tensor's own length (at least 1), changes the loss by little more than
        rounding. An exact 0 is no rounding error."""
        x = self.points[name]
        square = max(1.0, torch.linalg.vector_norm(x.detach(), dtype=torch.float64).item() ** 2)
        return 0 < abs(eigenvalue) * square <= SUSPECT * torch.finfo(x.dtype).eps * abs(self.loss)

    def rounding_of_product(self, name: str) -> float:
        """A norm that the rounding error of H_bb u is unlikely to exceed, for u of length 1.

        Lanczos' method sees rounding errors where they break the block's symmetry. In a block of one element, or with
        errors on the diagonal only, they do not. So the product is repeated where x differs by some rounding errors:
        that changes every rounding error and hardly any curvature."""
        x = self.points[name].detach()
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, x.shape, generator=generator) * 2 - 1
        u = signs.to(x) / math.sqrt(x.numel())  # every element counts alike
        product = self.block_product(name, u)
        step = DISPLACED_BY * torch.finfo(x.dtype).eps
        changes = []
        for _ in range(DISPLACEMENTS):
            d = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) * x.abs().clamp_min(1)
            changes.append(self.block_product(name, u, x + step * d) - product)
        return 10 * max(torch.linalg.vector_norm(change, dtype=torch.float64).item() for change in changes)
