"""Largest Hessian eigenvalue of every parameter tensor: the diagonal blocks H_bb = d2f / dx_b dx_b of the loss.

The question is Tomihari & Sato's (arXiv 2502.00213): are the tensors with a large gradient also those with a large curvature?
Their code measures each tensor by power iteration on a fresh gradient graph. Here one graph of the gradient serves all
tensors and all iterations of a batch, and Lanczos' method says how far each value can be from an eigenvalue.

Everything here takes a loss function and tensors, never a task; `heterogeneity.py` turns the values into statistics."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Batch = dict[str, Tensor]
LossFunction = Callable[[dict[str, Tensor], Batch], Tensor]  # (params, batch) -> each example's loss, [B]


@dataclass(frozen=True)
class ExtremeEigenvalues:
    """The largest eigenvalue of a symmetric matrix and the one of largest magnitude (with its sign).

    Some eigenvalue lies within `residual` of `eigenvalue`, and one within `magnitude_residual` of `magnitude_eigenvalue`.
    `converged`: the residual is at most tolerance * |value|. `products`: matrix-vector products spent on both."""

    eigenvalue: float
    residual: float
    converged: bool
    magnitude_eigenvalue: float
    magnitude_residual: float
    magnitude_converged: bool
    products: int


@dataclass(frozen=True)
class BlockCurvature(ExtremeEigenvalues):
    """One tensor's row: its Hessian block's eigenvalues (loss per squared unit of parameter distance), the Euclidean norm of
    its gradient (loss per unit of distance, not divided by any size) and its number of elements."""

    name: str
    numel: int
    gradient_norm: float


def block_curvatures(
    loss_fn: LossFunction,
    params: dict[str, Tensor],
    batches: list[Batch],
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

    Memory: the graph of every micro-batch until the last tensor is done, and one vector of x_b's size per product spent on
    the tensor at hand.

    Args:
        loss_fn: (params, batch) -> losses [B]. Deterministic (no dropout) and twice differentiable: fused attention kernels
            are not, so attention goes through `sdpa_kernel(SDPBackend.MATH)` or eager code.
        params: name -> tensor. Not modified, nor are their `.grad`s.
        batches: the micro-batches of one batch; their sizes may differ.
        names: the tensors to measure, in this order; None measures all.
        tolerance: largest residual of a converged value, relative to the value.
        max_iterations: most products spent on one tensor, for both of its eigenvalues together.
        generator: CPU generator of the start vectors; None starts one at seed 0. torch's global state is left alone.
        keep_graphs: True builds each micro-batch's graph once and keeps them all. False builds one afresh for every product
            and micro-batch: the memory of a single graph for two to three times the time.

    Raises: ValueError for an unknown name, no batch, an argument out of range, or a loss or gradient that is not finite.

    Example:
        >>> def bowl(p, batch): return (1.5 * p["x"] ** 2).sum() - 2 * p["y"] ** 2      # H_xx = diag(3, 3), H_yy = -4
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


def _block_curvature(graph, name, tolerance, max_iterations, generator) -> BlockCurvature:
    x = graph.points[name]
    extremes = extreme_eigenvalues(
        lambda u: graph.block_product(name, u.view_as(x)).flatten(), x.numel(),
        tolerance=tolerance, max_iterations=max_iterations, generator=generator, dtype=x.dtype, device=x.device,
    )
    if not math.isfinite(extremes.eigenvalue):
        logger.warning("the Hessian block of %s is not finite; its eigenvalues are left out", name)
    return BlockCurvature(
        **vars(extremes), name=name, numel=x.numel(), gradient_norm=graph.gradients[name].double().norm().item()
    )


class GradientGraph:
    """The gradient of f at one point, with the graph that lets it be differentiated again.

    points: name -> tensor, aliases of the given parameters; only those in `names` are differentiated.
    gradients: name -> gradient of the mean loss, without graph, for each of `names`."""

    def __init__(self, loss_fn: LossFunction, params: dict[str, Tensor], batches: list[Batch], names: list[str],
                 keep_graphs: bool = True):
        self.loss_fn, self.batches, self.names = loss_fn, batches, names
        self.points = {name: x.detach().requires_grad_(name in set(names)) for name, x in params.items()}
        self.examples = 0
        self.kept = [] if keep_graphs else None  # one dict of gradients with graph for each micro-batch
        self.gradients = {name: torch.zeros_like(self.points[name], requires_grad=False) for name in names}
        for batch in batches:
            gradients, losses = self._differentiate(batch, names)
            if not torch.isfinite(losses).all():
                raise ValueError("the loss is not finite at these parameters, so it has no Hessian to measure")
            self.examples += len(losses)
            for name, gradient in gradients.items():
                self.gradients[name] += gradient.detach()
            if keep_graphs:
                self.kept.append(gradients)
        for name, gradient in self.gradients.items():
            gradient /= self.examples
            if not torch.isfinite(gradient).all():
                raise ValueError(f"the gradient of {name} is not finite, so its Hessian block cannot be measured")
        logger.info("gradient graphs of %d micro-batches are %s", len(batches),
                    "kept for all products" if keep_graphs else "built afresh for every product")

    def _differentiate(self, batch: Batch, names: list[str]) -> tuple[dict[str, Tensor], Tensor]:
        """Gradient of the sum of one micro-batch's losses, with its graph, for those of `names` it depends on."""
        with torch.enable_grad():
            losses = self.loss_fn(self.points, batch)  # [B]
            if losses.dim() != 1:
                raise ValueError(f"loss_fn must return one loss for each example, shape [B]; got {list(losses.shape)}")
            if not losses.requires_grad:
                return {}, losses
            xs = [self.points[name] for name in names]
            gradients = torch.autograd.grad(losses.sum(), xs, create_graph=True, allow_unused=True)
        return {name: g for name, g in zip(names, gradients) if g is not None}, losses.detach()

    def block_product(self, name: str, u: Tensor) -> Tensor:
        """H_bb u for the block of tensor `name`; u and the result have the tensor's shape."""
        x = self.points[name]
        total = torch.zeros_like(x, requires_grad=False)
        for index, batch in enumerate(self.batches):
            gradients = self.kept[index] if self.kept is not None else self._differentiate(batch, [name])[0]
            gradient = gradients.get(name)
            if gradient is None or not gradient.requires_grad:  # the loss does not depend on x, or is linear in everything
                continue
            (part,) = torch.autograd.grad(
                gradient, x, u.to(x.dtype), retain_graph=self.kept is not None, allow_unused=True)
            if part is not None:  # None: the loss is linear in x
                total += part
        return total / self.examples


def extreme_eigenvalues(
    product: Callable[[Tensor], Tensor],
    size: int,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> ExtremeEigenvalues:
    r"""Largest and largest-in-magnitude eigenvalue of a symmetric matrix H known by its products, by Lanczos' method.

    Step m adds q_m to an orthonormal basis Q and a column to the projected matrix P = Q'HQ:

        H Q = Q P + beta q_{m+1} e_m'          (theta, s): an eigenpair of (P + P') / 2,  y = Q s its Ritz vector
        residual^2 = ||H y - theta y||^2 = ||P s - theta s||^2 + (beta s_m)^2

    and some eigenvalue of H lies within the residual of theta (H symmetric, ||y|| = 1). The textbook keeps only the last term
    [Parlett, The Symmetric Eigenvalue Problem, ch. 13]; the other is zero for an exactly symmetric H and measures here, at
    no cost, what rounding does to the products. The basis is orthogonalised in full, twice a step.

    The space is exhausted after `size` steps and the result is exact. If beta vanishes earlier, the basis spans an invariant
    subspace; a fresh random vector outside it continues the search, so an eigenvalue that the start vector missed is
    found; a second such breakdown ends it. Iteration also ends when rounding alone keeps a residual above the tolerance
    (for instance on a block that would be zero in exact arithmetic): such a value is not converged.

    Args:
        product: u [size] -> H u [size].
        size: order of H; 0 has the eigenvalue 0 by convention.
        tolerance, max_iterations, generator: as in `block_curvatures`.
        dtype, device: of the basis vectors (half precisions are kept as float32).
    """
    _check_limits(tolerance, max_iterations)
    dtype = torch.promote_types(dtype, torch.float32)
    limit = min(size, max_iterations)
    if limit == 0:
        return ExtremeEigenvalues(0.0, 0.0, True, 0.0, 0.0, True, products=0)
    basis = torch.empty(min(limit, 8), size, dtype=dtype, device=device)  # rows q_1, q_2, ...; grows by doubling
    projected = torch.zeros(limit, limit, dtype=torch.float64)
    _set_random_row(basis, 0, generator)
    chain_start, breakdowns = 0, 0
    for m in range(1, limit + 1):
        w = product(basis[m - 1]).to(dtype)  # [size]
        coefficients = _orthogonalise(w, basis[:m])
        beta = 0.0 if m == size else w.norm().item()
        projected[:m, m - 1] = coefficients.double().cpu()
        if not (math.isfinite(beta) and torch.isfinite(coefficients).all()):
            return ExtremeEigenvalues(math.nan, math.nan, False, math.nan, math.nan, False, products=m)
        ritz = _RitzValues(projected[:m, :m], beta)
        if m == size:
            break
        broke_down = beta <= torch.finfo(dtype).eps * ritz.scale
        breakdowns += broke_down
        # a single product of a chain cannot tell whether another eigenvalue is near
        if breakdowns == 2 or (m - chain_start >= 2 and not broke_down and ritz.finished(tolerance)):
            break
        if m == limit:
            break
        if m == len(basis):
            basis = torch.cat([basis, torch.empty(min(m, limit - m), size, dtype=dtype, device=device)])
        if broke_down:
            chain_start = m
            _set_random_row(basis, m, generator)
        else:
            projected[m, m - 1] = beta
            basis[m] = w / beta
    return ritz.result(tolerance, products=m)


class _RitzValues:
    """The outermost eigenvalues of the projected matrix [m, m], with their residuals."""

    def __init__(self, projected: Tensor, beta: float):
        theta, s = torch.linalg.eigh((projected + projected.T) / 2)  # ascending; columns s
        ends = [len(theta) - 1, 0]
        (self.top, self.bottom) = theta[ends].tolist()
        self.rounding = (projected @ s[:, ends] - s[:, ends] * theta[ends]).norm(dim=0).tolist()  # [top, bottom]
        self.krylov = (beta * s[-1, ends].abs()).tolist()
        self.residuals = [math.hypot(a, b) for a, b in zip(self.rounding, self.krylov)]
        self.scale = max(abs(self.top), abs(self.bottom), beta)  # of the order of ||H||
        self.strongest = 0 if abs(self.top) >= abs(self.bottom) else 1  # which end has the larger magnitude

    def settled(self, end: int, tolerance: float) -> bool:
        return self.residuals[end] <= tolerance * abs((self.top, self.bottom)[end])

    def finished(self, tolerance: float) -> bool:
        """Whether no further product is needed, or would help."""
        value = (self.top, self.bottom)
        for end in (0, 1):
            other = 1 - end
            needed = end == 0 or end == self.strongest or (
                abs(value[end]) + self.residuals[end] > (1 + tolerance) * abs(value[other]))
            rounding_rules = self.rounding[end] > max(self.krylov[end], tolerance * abs(value[end]))
            if needed and not self.settled(end, tolerance) and not rounding_rules:
                return False
        return True

    def result(self, tolerance: float, products: int) -> ExtremeEigenvalues:
        value, k = (self.top, self.bottom), self.strongest
        return ExtremeEigenvalues(
            self.top, self.residuals[0], self.settled(0, tolerance),
            value[k], self.residuals[k], self.settled(k, tolerance), products,
        )


def _orthogonalise(w: Tensor, basis: Tensor) -> Tensor:
    """Remove from w [n], in place, its part in the span of the orthonormal rows of `basis` [m, n]; return that part's
    coefficients [m]. Done twice, because the first pass leaves rounding errors as large as what it removed."""
    total = torch.zeros(len(basis), dtype=w.dtype, device=w.device)
    for _ in range(2):
        coefficients = basis @ w
        w -= coefficients @ basis
        total += coefficients
    return total


def _set_random_row(basis: Tensor, m: int, generator: torch.Generator) -> None:
    """Put into row m a random unit vector orthogonal to the rows before it. Drawn on the CPU: the same on every device."""
    vector = torch.randn(basis.shape[1], generator=generator, dtype=basis.dtype).to(basis.device)
    vector /= vector.norm()
    _orthogonalise(vector, basis[:m])
    basis[m] = vector / vector.norm()


def _check_limits(tolerance: float, max_iterations: int) -> None:
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a relative residual in (0, 1), got {tolerance}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
