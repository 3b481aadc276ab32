"""Largest Hessian eigenvalue of every parameter tensor: the diagonal blocks H_bb = d2f / dx_b dx_b of the loss.

The question is Tomihari & Sato's (arXiv:2502.00213): are the tensors with a large gradient also those with a large
curvature? Their code measures each tensor by power iteration on a fresh gradient graph. Here one graph of the gradient
serves all tensors and all iterations of a batch, and Lanczos' method says how far each value can be from an eigenvalue.

Everything here takes a loss function and tensors, never a task; `heterogeneity.py` turns the values into statistics."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from measuring import Batch, LossFunction, Params

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The largest eigenvalue of a symmetric matrix and the one of largest magnitude (with its sign).

    Some eigenvalue lies within `residual` of `eigenvalue`, and one within `magnitude_residual` of
    `magnitude_eigenvalue`. `converged`: the residual is at most tolerance * |value|, or as small as rounding makes it
    beside the matrix' norm. `products`: matrix-vector products spent on both values together. NaN if a product was
    not finite."""

    eigenvalue: float
    residual: float
    converged: bool
    magnitude_eigenvalue: float
    magnitude_residual: float
    magnitude_converged: bool
    products: int


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

    f is the mean of `loss_fn` over all examples of `batches`, at `params`. A product with block b is the gradient of
    <g_b, u> with respect to x_b alone, so it runs only through the layers above x_b.

    Memory: the graph of every micro-batch until the last tensor is done, and one vector of x_b's size for each product
    spent on the tensor at hand. The exact GELU's derivatives are kept with the graph.

    Args:
        loss_fn: (params, batch) -> losses [B]. Deterministic (no dropout: `measuring.measuring`) and twice
            differentiable: fused attention kernels are not (`measuring.differentiable_attention`). With `keep_graphs`
            False the loop over the result belongs inside these contexts too.
        params: name -> tensor. Not modified, nor are their `.grad`s.
        batches: the micro-batches of one batch; their sizes may differ.
        names: the tensors to measure, in this order; None measures all.
        tolerance: largest residual of a converged value, relative to the value.
        max_iterations: most products spent on one tensor, for both of its eigenvalues together.
        generator: CPU generator of the start vectors; None starts one at seed 0. torch's global state is left alone.
        keep_graphs: True builds each micro-batch's graph once and keeps them all. False builds one afresh for every
            product and micro-batch: the memory of a single graph, for two to three times the time.

    A block that is zero but for rounding (the bias of attention's keys, which softmax cancels) does not converge: there
    the value is smaller than its residual. A block that is not finite is NaN, with a warning.

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
    _check_limits(tolerance, max_iterations)
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
        logger.warning("the Hessian block of %s is not finite; its eigenvalues are left out", name)
    gradient_norm = torch.linalg.vector_norm(gradient, dtype=torch.float64).item()
    return BlockCurvature(**vars(extremes), name=name, numel=gradient.numel(), gradient_norm=gradient_norm)


class GradientGraph:
    """The gradient of f at one point, with the graph that lets it be differentiated again.

    points: name -> tensor, aliases of the given parameters; only those in `names` are differentiated.
    gradients: name -> gradient of the mean loss, without graph, for each of `names`."""

    def __init__(
        self, loss_fn: LossFunction, params: Params, batches: Sequence[Batch], names: list[str], keep_graphs: bool
    ):
        self.loss_fn, self.batches = loss_fn, batches
        self.points = {name: x.detach().requires_grad_(name in names) for name, x in params.items()}
        self.examples = 0
        self.kept = [] if keep_graphs else None  # one dict of gradients with graph for each micro-batch
        self.gradients = {name: torch.zeros_like(self.points[name], requires_grad=False) for name in names}
        for batch in batches:
            gradients, losses = self._differentiate(batch, names)
            if not torch.isfinite(losses).all():
                raise FloatingPointError("the loss is not finite at these parameters, so it has no Hessian to measure")
            self.examples += len(losses)
            for name, gradient in gradients.items():
                self.gradients[name] += gradient.detach()
            if keep_graphs:
                self.kept.append(gradients)
        for name, gradient in self.gradients.items():
            gradient /= self.examples
            if not torch.isfinite(gradient).all():
                raise FloatingPointError(f"the gradient of {name} is not finite: its Hessian block has no measure")
        fate = "kept for all products" if keep_graphs else "built afresh for every product"
        logger.info("the gradient graphs of %d micro-batches are %s", len(batches), fate)

    def _differentiate(self, batch: Batch, names: list[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Gradient of the sum of one micro-batch's losses, with its graph, for those of `names` it depends on."""
        with torch.enable_grad(), _StoredGelu():
            losses = self.loss_fn(self.points, batch)  # [B]
            if losses.dim() != 1:
                raise ValueError(f"loss_fn must return one loss for each example, shape [B]; got {list(losses.shape)}")
            if not losses.requires_grad:
                return {}, losses
            xs = [self.points[name] for name in names]
            gradients = torch.autograd.grad(losses.sum(), xs, create_graph=True, allow_unused=True)
        return {name: g for name, g in zip(names, gradients, strict=True) if g is not None}, losses.detach()

    def block_product(self, name: str, u: Tensor) -> Tensor:
        """H_bb u for the block of tensor `name`; u and the result have the tensor's shape."""
        x = self.points[name]
        total = torch.zeros_like(x, requires_grad=False)
        for index, batch in enumerate(self.batches):
            gradients = self.kept[index] if self.kept is not None else self._differentiate(batch, [name])[0]
            gradient = gradients.get(name)
            if gradient is None or not gradient.requires_grad:  # the loss does not depend on x, or only linearly
                continue
            keep = self.kept is not None
            (part,) = torch.autograd.grad(gradient, x, u.to(x.dtype), retain_graph=keep, allow_unused=True)
            if part is not None:  # None: linear in x, though not in what x is multiplied with
                total += part
        return total / self.examples


class _StoredGelu(TorchFunctionMode):
    """While active, the exact GELU keeps its first two derivatives with the graph, instead of evaluating them anew for
    every product: on a CPU that takes about a sixth off the products of a small transformer."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.gelu and len(args) == 1 and not kwargs:
            return _Gelu.apply(args[0])[0]
        return func(*args, **(kwargs or {}))


class _Gelu(torch.autograd.Function):
    """gelu = x Phi(x), its slope Phi + x phi and its bend (2 - x^2) phi. The slope is a result of its own, so that the
    gradient's graph leads through it; there the graph ends, as to it the bend is a constant."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        below = (1 + torch.erf(x * math.sqrt(0.5))) / 2  # Phi
        density = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)  # phi
        return torch.nn.functional.gelu(x), torch.addcmul(below, x, density), (2 - x * x) * density

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        _, slope, bend = output
        ctx.mark_non_differentiable(bend)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(slope, bend)

    @staticmethod
    def backward(ctx, to_value: Tensor | None, to_slope: Tensor | None, _) -> Tensor | None:
        slope, bend = ctx.saved_tensors
        if to_slope is None:
            return None if to_value is None else to_value * slope
        return to_slope * bend if to_value is None else torch.addcmul(to_value * slope, to_slope, bend)


def extreme_eigenvalues(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    generator: torch.Generator,
    hint: Tensor,
) -> ExtremeEigenvalues:
    r"""Largest and largest-in-magnitude eigenvalue of a symmetric matrix H known by its products: Lanczos' method.

    Step m adds q_m to an orthonormal basis Q and a column to the projected matrix P = Q'HQ:

        H Q = Q P + beta q_{m+1} e_m'          (theta, s): an eigenpair of (P + P') / 2,  y = Q s its Ritz vector
        residual^2 = ||H y - theta y||^2 = ||P s - theta s||^2 + (beta s_m)^2

    and some eigenvalue of H lies within the residual of theta (H symmetric, ||y|| = 1). The textbook keeps only the
    last term [Parlett, The Symmetric Eigenvalue Problem, ch. 13]; the other is zero for an exactly symmetric H, and
    measures here, at no cost, what rounding does to the products. Where P is far from symmetric, the products are
    nothing but rounding errors (of an H that vanishes), and the residual is not below any value. The basis is
    orthogonalised in full, twice a step.

    The space is exhausted after `size` steps and the result is exact. If beta vanishes earlier, the basis spans an
    invariant subspace; a fresh random vector outside it continues the search, so that an eigenvalue hidden from the
    start vector is found; a second such breakdown ends it. Iteration also ends when rounding alone keeps a residual
    above the tolerance: such a value is not converged.

    Args:
        product: u [size] -> H u [size].
        size: order of H; the eigenvalues of order 0 are 0 by convention.
        tolerance, max_iterations, generator: as in `block_curvatures`.
        hint: [size], a vector thought to lie near the wanted eigenvectors. The start is its direction plus a random one
            of the same length, so a wrong or a zero hint hides nothing. The gradient saves about a sixth of the
            products. The basis takes its device and dtype (but float32 for half precisions).
    """
    _check_limits(tolerance, max_iterations)
    limit = min(size, max_iterations)
    if limit == 0:
        return ExtremeEigenvalues(0.0, 0.0, True, 0.0, 0.0, True, products=0)
    dtype = torch.promote_types(hint.dtype, torch.float32)
    hint = hint.to(dtype) / hint.to(dtype).norm().clamp_min(torch.finfo(dtype).tiny)
    basis = hint.new_empty(min(limit, 8), size)  # rows q_1, q_2, ...; grows by doubling
    projected = torch.zeros(limit, limit, dtype=torch.float64)  # P
    start = _random_unit(basis[:0], generator)
    start = hint - start if start @ hint < 0 else hint + start  # the two never cancel
    basis[0] = start / start.norm()
    chain_start, breakdowns = 0, 0
    for m in range(1, limit + 1):
        w = product(basis[m - 1]).to(dtype, copy=True)  # [size]
        coefficients = _orthogonalise(w, basis[:m])
        beta = 0.0 if m == size else w.norm().item()
        projected[:m, m - 1] = coefficients.double().cpu()
        if not (math.isfinite(beta) and torch.isfinite(coefficients).all()):
            return ExtremeEigenvalues(math.nan, math.nan, False, math.nan, math.nan, False, products=m)
        ritz = _RitzValues(projected[:m, :m], beta, torch.finfo(dtype).eps)
        broke_down = beta <= torch.finfo(dtype).eps * ritz.scale
        breakdowns += broke_down
        # one product of a chain cannot tell whether another eigenvalue is near
        finished = m - chain_start >= 2 and not broke_down and ritz.finished(tolerance)
        if finished or breakdowns == 2 or m == limit:
            break
        if m == len(basis):
            basis = torch.cat([basis, basis.new_empty(min(m, limit - m), size)])
        if broke_down:
            chain_start = m
            basis[m] = _random_unit(basis[:m], generator)
        else:
            projected[m, m - 1] = beta
            basis[m] = w / beta
    return ritz.result(tolerance, products=m)


class _RitzValues:
    """The outermost eigenvalues of the projected matrix [m, m], each with its residual; index 0: top, 1: bottom."""

    def __init__(self, projected: Tensor, beta: float, eps: float):
        theta, s = torch.linalg.eigh((projected + projected.T) / 2)  # ascending; columns s
        ends = [len(theta) - 1, 0]
        self.values = theta[ends].tolist()
        self.rounding = (projected @ s[:, ends] - s[:, ends] * theta[ends]).norm(dim=0).tolist()
        self.krylov = (beta * s[-1, ends].abs()).tolist()
        self.residuals = [math.hypot(a, b) for a, b in zip(self.rounding, self.krylov, strict=True)]
        self.scale = max(abs(self.values[0]), abs(self.values[1]), beta)  # of the order of ||H||
        if (projected - projected.T).norm() > 0.1 * projected.norm():  # no matrix: the products are rounding errors
            self.residuals = [max(residual, self.scale) for residual in self.residuals]
        self.floor = 10 * eps * self.scale  # no product resolves less
        self.strongest = 0 if abs(self.values[0]) >= abs(self.values[1]) else 1  # the end of larger magnitude

    def settled(self, end: int, tolerance: float) -> bool:
        return self.residuals[end] <= max(tolerance * abs(self.values[end]), self.floor)

    def finished(self, tolerance: float) -> bool:
        """Whether no further product is needed, or none would help."""
        for end in (0, 1):
            reach = abs(self.values[end]) + self.residuals[end]
            needed = end in (0, self.strongest) or reach > (1 + tolerance) * abs(self.values[self.strongest])
            hopeless = self.rounding[end] > max(self.krylov[end], tolerance * abs(self.values[end]))
            if needed and not self.settled(end, tolerance) and not hopeless:
                return False
        return True

    def result(self, tolerance: float, products: int) -> ExtremeEigenvalues:
        values, residuals, k = self.values, self.residuals, self.strongest
        return ExtremeEigenvalues(
            values[0], residuals[0], self.settled(0, tolerance),
            values[k], residuals[k], self.settled(k, tolerance), products,
        )  # fmt: skip


def _orthogonalise(w: Tensor, basis: Tensor) -> Tensor:
    """Remove from w [n], in place, its part in the span of the orthonormal rows of `basis` [m, n]; return that part's
    coefficients [m]. Twice: where little of w remains, the first pass' rounding errors are not small beside it."""
    total = torch.zeros(len(basis), dtype=w.dtype, device=w.device)
    for _ in range(2):
        coefficients = basis @ w
        w -= coefficients @ basis
        total += coefficients
    return total


def _random_unit(basis: Tensor, generator: torch.Generator) -> Tensor:
    """A random unit vector [n] orthogonal to the rows of `basis` [m, n]. Drawn on the CPU: the same on every device."""
    vector = torch.randn(basis.shape[1], generator=generator, dtype=basis.dtype).to(basis.device)
    vector /= vector.norm()
    _orthogonalise(vector, basis)
    return vector / vector.norm()


def _check_limits(tolerance: float, max_iterations: int) -> None:
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a relative residual in (0, 1), got {tolerance}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
