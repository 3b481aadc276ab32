"""Extreme eigenvalues of a symmetric operator by Lanczos with full reorthogonalization."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


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
