"""The largest eigenvalue of the Hessian of a trajectory's full-batch loss, by Lanczos' method."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from curvature.lanczos import extreme_eigenvalues
from known_cases.trajectory import Trajectory


def largest_eigenvalue(trajectory: Trajectory, diagonal: Mapping[str, Tensor] | None = None) -> float:
    """lambda_max(P^-1 H) at the parameters, by way of the symmetric P^-1/2 H P^-1/2, which has the same eigenvalues.

    Args:
        diagonal: of P, name -> tensor; None: the identity.

    Returns: NaN if Lanczos' method did not converge to a thousandth.
    """
    leaves = list(trajectory.params.values())
    loss = trajectory.loss_fn(trajectory.params, trajectory.batch).mean()
    gradient = _flat(torch.autograd.grad(loss, leaves, create_graph=True))
    root = torch.ones_like(gradient) if diagonal is None else _flat(diagonal.values()).rsqrt()

    def product(u: Tensor) -> Tensor:
        return root * _flat(torch.autograd.grad(gradient, leaves, root * u, retain_graph=True))

    top = extreme_eigenvalues(
        product,
        len(root),
        max_iterations=200,
        generator=torch.Generator().manual_seed(0),
        like=root,
    )
    return top.eigenvalue if top.converged else math.nan


def _flat(tensors) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
