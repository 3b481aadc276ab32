"""The largest eigenvalue of the Hessian, plain and in the norm of the optimizer that trains.

With the optimizer's step x' = x - lr P^-1 m, m an average of gradients and P a positive diagonal, the numbers are

    lambda_max(H)                    the sharpness of Cohen et al., arXiv:2103.00065
    lambda_max(P^-1 H)               the preconditioned sharpness of Cohen et al., arXiv:2207.14484

On a quadratic the optimizer diverges where lambda_max(P^-1 H) exceeds `stability_threshold`, P held fixed: 2 / lr
without momentum, 38 / lr for an average of gradients with beta = 0.9. P^-1 H has the eigenvalues of the symmetric
P^-1/2 H P^-1/2, on which Lanczos' method works.
"""

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from curvature.borrowing import measuring, twice_differentiable, within_memory
from curvature.gradient_graph import GradientGraph
from curvature.lanczos import ExtremeEigenvalues, extreme_eigenvalues
from curvature.objective import Batch, Objective, Params
from torch_optimizer.adafactor import Adafactor, inverse_root, rms
from torch_optimizer.adam_clip import AdamClip
from torch_optimizer.sgd_clip import SGDClip

log = logging.getLogger(__name__)

PLAIN, PRECONDITIONED = "H", "P^-1 H"

# ---- at a point of a run ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stability:
    """What the training optimizer's next step says of its stability at a point."""

    inverse: Params | None  # of `preconditioner_inverse`; None: P is the identity, or there is none
    learning_rate: float
    threshold: float | None  # of `stability_threshold`


def stability_of(optimizer: Optimizer, params: Params, lr: float) -> Stability:
    """With the gradients in place and the step not yet taken. `lr` is the rate of that step, in (0, inf)."""
    return Stability(preconditioner_inverse(optimizer, params), lr, stability_threshold(optimizer, lr))


@dataclass(frozen=True)
class TopEigenvalue:
    """The largest eigenvalue of one matrix at a point, with the thresholds in its unit."""

    matrix: str  # PLAIN or PRECONDITIONED
    found: ExtremeEigenvalues
    learning_rate: float
    threshold: float | None  # above it the training optimizer is unstable; None where it is of the other matrix


def top_eigenvalues(objective: Objective, stability: Stability, max_iterations: int = 100) -> list[TopEigenvalue]:
    """lambda_max(H) at the objective's point and, where the training optimizer has a P, lambda_max(P^-1 H).

    In the dtype of the objective. The graph of the gradient is kept where the examples are one micro-batch; else
    it is built again for every product, so that memory stays that of one micro-batch. Where loss, gradient or P is not
    finite, the result is a warning and no eigenvalue.
    """
    inverses = {PLAIN: None}
    if stability.inverse is not None:
        inverses[PRECONDITIONED] = {name: t.to(objective.params[name]) for name, t in stability.inverse.items()}
    last = list(inverses)[-1]

    def on(batches: list[Batch]) -> list[TopEigenvalue]:
        names, params = list(objective.params), objective.params
        graph = GradientGraph(objective.loss_fn, params, batches, names, keep_graphs=len(batches) == 1)
        return [
            TopEigenvalue(
                matrix,
                top_eigenvalue(
                    graph, inverse, max_iterations=max_iterations, generator=torch.Generator().manual_seed(0)
                ),
                stability.learning_rate,
                stability.threshold if matrix == last else None,
            )
            for matrix, inverse in inverses.items()
        ]

    try:
        with measuring(objective.model), twice_differentiable():
            return within_memory(on, objective.batches, objective.per_example)
    except (FloatingPointError, ValueError) as reason:
        log.warning("the largest eigenvalues of a point are left out: %s", reason)
        return []


# ---- the eigenvalue ---------------------------------------------------------------------------------------------


def top_eigenvalue(
    graph: GradientGraph,
    inverse: Params | None = None,
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
    generator: torch.Generator,
) -> ExtremeEigenvalues:
    """lambda_max of P^-1 H over all tensors of `graph.gradients` together, by Lanczos' method; H itself without
    `inverse`.

    Args:
        graph: the gradient's graph at the point (`GradientGraph`), built with the names of these tensors.
        inverse: name -> the diagonal of P^-1, >= 0, in the tensor's shape. Where it is 0 the optimizer moves nothing.
        tolerance, max_iterations, generator: as in `curvature.lanczos.extreme_eigenvalues`.

    Memory: one vector of all parameters per product, besides the graph.
    Returns: the value (its `eigenvalue`), its residual in the norm of P^-1/2 H P^-1/2, and the number of products.
    Raises: ValueError where `inverse` is negative, not finite or of another shape.
    """
    shapes = {name: gradient.shape for name, gradient in graph.gradients.items()}
    root = None if inverse is None else _flat(_roots(inverse, shapes))  # P^-1/2

    def product(u: Tensor) -> Tensor:
        pieces = (u if root is None else root * u).split([shape.numel() for shape in shapes.values()])
        rows = graph.product({name: p.view(shapes[name]) for name, p in zip(shapes, pieces, strict=True)})
        return _flat(rows) if root is None else root * _flat(rows)

    gradient = _flat(graph.gradients)
    return extreme_eigenvalues(
        product, gradient.numel(), tolerance=tolerance, max_iterations=max_iterations, generator=generator,
        like=gradient,
    )  # fmt: skip


def _flat(tensors: Params) -> Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


def _roots(inverse: Params, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    for name, shape in shapes.items():
        if name not in inverse or inverse[name].shape != shape:
            raise ValueError(f"the preconditioner has no tensor of shape {list(shape)} for {name}")
        if not (torch.isfinite(inverse[name]).all() and (inverse[name] >= 0).all()):
            raise ValueError(f"the preconditioner's inverse for {name} has elements that are negative or not finite")
    return {name: inverse[name].sqrt() for name in shapes}


# ---- the optimizer's preconditioner -----------------------------------------------------------------------------


def preconditioner_inverse(optimizer: Optimizer, params: Params) -> dict[str, Tensor] | None:
    r"""The diagonal P^-1 of the step that the optimizer takes next, its second moment advanced by the present gradient.

        Adam, AdamW     P = (1 - beta1^t) (sqrt(v^) + eps),  v^ = v_t / (1 - beta2^t), or its largest with amsgrad
        RMSprop         P = sqrt(v_t) + eps,  or sqrt(v_t - (mean g)^2) + eps if centered
        AdaGrad         P = sqrt(sum of g^2) + eps
        Adafactor       P = sqrt(v_t) max(1, RMS(U) / clip_threshold) / a_t,  U = g / sqrt(v_t), v_t factored,
                        a_t = max(eps2[1], RMS(x)) or 1

    Adam's first factor is its bias correction of m. The first moment itself belongs to `stability_threshold`.

    Args:
        optimizer: with the gradients in place and the step not yet taken. It is not changed: a copy takes the step.
        params: name -> parameter of the optimizer.

    Returns: name -> P^-1, zero where a parameter has no gradient; None for an optimizer without one (SGD, Lion, ...).
    """
    rule = next((rule for kinds, rule in RULES if isinstance(optimizer, kinds)), None)
    if rule is None:
        return None
    advanced = _advanced(optimizer)
    return {
        name: rule(*advanced[p], p).to(p.dtype) if p in advanced else torch.zeros_like(p.detach())
        for name, p in params.items()
    }


def _advanced(optimizer: Optimizer) -> dict[Tensor, tuple[Mapping, Mapping]]:
    """Parameter -> its state after the next step, and its group's options; without those that have no gradient."""
    ahead = copy.deepcopy(optimizer)
    places = {}
    for group, group_ahead in zip(optimizer.param_groups, ahead.param_groups, strict=True):
        for p, p_ahead in zip(group["params"], group_ahead["params"], strict=True):
            if p.grad is not None:
                p_ahead.grad = p.grad.clone()  # a deep copy of a parameter leaves its gradient behind
                places[p] = p_ahead, group_ahead
    ahead.step()
    return {p: (ahead.state[p_ahead], group) for p, (p_ahead, group) in places.items()}


def _adam(state: Mapping, group: Mapping, p: Tensor) -> Tensor:
    beta1, beta2 = (float(beta) for beta in group["betas"])
    t = int(state["step"])
    second = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return 1 / ((1 - beta1**t) * ((second / (1 - beta2**t)).sqrt() + group["eps"]))


def _rmsprop(state: Mapping, group: Mapping, p: Tensor) -> Tensor:
    second = state["square_avg"]
    if group["centered"]:
        second = second - state["grad_avg"].square()
    return 1 / (second.sqrt() + group["eps"])


def _adagrad(state: Mapping, group: Mapping, p: Tensor) -> Tensor:
    return 1 / (state["sum"].sqrt() + group["eps"])


def _adafactor(state: Mapping, group: Mapping, p: Tensor) -> Tensor:
    if "exp_avg_sq" in state:
        root = state["exp_avg_sq"].clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
    else:
        root = inverse_root(state["exp_avg_sq_row"], state["exp_avg_sq_col"])
    root = root / (rms(root * p.grad) / group["clip_threshold"]).clamp_min(1.0)
    return root * rms(p.detach()).clamp_min(group["eps2"][1]) if group["scale_parameter"] else root


RULES = [
    ((AdamClip, torch.optim.Adam, torch.optim.AdamW), _adam),
    ((torch.optim.RMSprop,), _rmsprop),
    ((torch.optim.Adagrad,), _adagrad),
    ((Adafactor,), _adafactor),
]
LINEAR = (SGDClip, torch.optim.SGD, *(kind for kinds, _ in RULES for kind in kinds))


# ---- the threshold ----------------------------------------------------------------------------------------------


def stability_threshold(optimizer: Optimizer, lr: float) -> float | None:
    r"""The largest lambda_max(P^-1 H) at which the optimizer is stable on a quadratic, P held fixed.

        m' = beta m + (1 - d) g,  x' = x - lr P^-1 m'            2 (1 + beta) / ((1 - d) lr)
        m' = beta m + g,  x' = x - lr P^-1 (g + beta m')         2 (1 + beta) / ((1 + 2 beta) lr)        Nesterov

    At the threshold both recursions alternate, x' = -x. beta is Adam's or Adafactor's beta1, or `momentum`. d is the
    dampening, which is beta where m is an average. So it is 2 / lr without momentum and, with beta = 0.9, 3.8 / lr for
    heavy ball, 1.357 / lr for Nesterov's step and 38 / lr for an average.

    Args:
        optimizer: its first group of parameters counts.
        lr: the rate of the step, in (0, inf), which a schedule or Adafactor's relative step may have set.

    Returns: a curvature; None for an optimizer whose step is not linear in the gradient with P fixed, such as Lion.
    """
    if type(optimizer) not in LINEAR:  # a subclass, such as SignSGD of SGDClip, may do something else
        return None
    group = optimizer.param_groups[0]
    if "betas" in group or group.get("beta1") is not None:
        beta = dampening = float(group["betas"][0] if "betas" in group else group["beta1"])
    else:
        beta = float(group.get("momentum", 0))
        dampening = float(group.get("dampening", 0)) if beta else 0.0
    share = 1 + 2 * beta if group.get("nesterov") else 1 - dampening
    return 2 * (1 + beta) / (share * lr) if share > 0 else math.inf
