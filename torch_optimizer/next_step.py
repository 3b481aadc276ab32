"""The step that a living optimizer would take next, without taking it."""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torch_optimizer.exact_moves import ExactMoves

LEFT_BEHIND = ("step", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
WRAPPERS = ("accelerate.", "lightning.", "pytorch_lightning.")  # whose optimizers hold the real one


def next_step(optimizer: Optimizer, params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """Where `optimizer.step()` would move the parameters on their present gradients: x_{t+1} - x_t = lr v.

    The step is taken on copies, by a copy of the optimizer with its state, options, rates and attributes. Parameters,
    gradients, state and random state stay as they are. Of group rates that differ, lr is the first and v holds the
    quotients. Step hooks are not run, since what they touch is not known.

    While it runs it holds, beside v: a copy of parameters, gradients and state, and two float64 copies of the
    parameters (see `ExactMoves`). For Adam in float32 that is 4 + 4 + 8 + 16 bytes per parameter.

    Args:
        optimizer: any torch.optim.Optimizer whose `step()` needs no closure; also one that Accelerate or Lightning has
            wrapped.
        params: name -> parameter of the model; those that the optimizer does not have stay where they are.

    Returns: (name -> v, float32 at least, zero where nothing moves; lr). lr is 1 where the optimizer's rate is None or
        0, and that of the latest step where it sets its own.
    Raises: ValueError, in one line, if no parameter has a gradient, or the optimizer cannot step on copies.
    """
    optimizer = unwrapped(optimizer)
    refuse_closures(optimizer)
    own = {id(p): p for p in chain(params.values(), _parameters(optimizer))}
    if all(p.grad is None for p in own.values()):
        raise ValueError("no parameter has a gradient: call backward() on the mean loss first")
    copies = {key: _copy_of(p) for key, p in own.items()}
    cuda = sorted({p.device.index for p in own.values() if p.is_cuda})
    with torch.random.fork_rng(devices=cuda):
        twin = _bound_to(optimizer, copies)
        moves = moves_of_step(twin, copies.values())
    lr = latest_rate(twin)
    direction = {}
    for name, p in params.items():
        move = moves.get(copies[id(p)])
        dtype = torch.promote_types(p.dtype, torch.float32)
        direction[name] = torch.zeros_like(p, dtype=dtype) if move is None else (move / lr).to(dtype)
    return direction, lr


def next_steps(optimizers: Sequence[Optimizer], params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """The step of several optimizers that share the parameters, as `next_step`; lr is the first one's."""
    direction, lr = next_step(optimizers[0], params)
    for optimizer in optimizers[1:]:
        more, rate = next_step(optimizer, params)
        for name, v in more.items():
            direction[name] = torch.add(direction[name], v, alpha=rate / lr)
    return direction, lr


def unwrapped(optimizer: Any) -> Optimizer:
    """The optimizer inside the wrapper of Accelerate or Lightning."""
    while type(optimizer).__module__.startswith(WRAPPERS) and isinstance(
        inside := getattr(optimizer, "optimizer", None), Optimizer
    ):
        optimizer = inside
    return optimizer


def refuse_closures(optimizer: Optimizer) -> None:
    """Raises: ValueError if `step` cannot be called without a closure, as LBFGS's cannot."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{type(optimizer).__name__} evaluates the loss within its step (step needs a closure), so its next step "
            f"does not follow from the gradient alone and cannot be measured"
        )


@torch.no_grad()
def moves_of_step(optimizer: Optimizer, copies: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    """Let the optimizer step. Returns: parameter -> x' - x in float64, of each of `copies` that it has and that has a
    gradient."""
    copies = list(copies)
    with ExactMoves(copies) as moves:
        optimizer.step()
    has = set(_parameters(optimizer))
    return {p: moves.of(p) for p in copies if p in has and p.grad is not None}


def latest_rate(optimizer: Optimizer) -> float:
    """The lr by which a step is divided to give v; 1 where the rate is None or 0."""
    own = getattr(optimizer, "latest_rate", None)  # a DirectionOptimizer may set its own
    if own is not None:
        return float(own()) or 1.0
    return float(optimizer.param_groups[0].get("lr") or 1.0)


def _parameters(optimizer: Optimizer) -> Iterable[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])


def _copy_of(p: Tensor) -> Tensor:
    made = torch.nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad)
    made.__dict__.update(p.__dict__)  # marks that some optimizers read  # pyright: ignore[reportAttributeAccessIssue]
    made.grad = None if p.grad is None else p.grad.detach().clone()
    return made


def _bound_to(optimizer: Optimizer, copies: Mapping[int, Tensor]) -> Optimizer:
    """A copy of the optimizer, its state and all its attributes, that moves `copies` (id of a parameter -> its copy).

    Not `deepcopy(optimizer)`: torch's own drops the attributes that a subclass adds. A `step` that a schedule has put
    on the instance belongs to the original, and so do its hooks.
    """
    memo: dict[int, Any] = dict(copies)
    made = type(optimizer).__new__(type(optimizer))
    memo[id(optimizer)] = made
    try:
        for name, value in optimizer.__dict__.items():
            if name not in LEFT_BEHIND:
                made.__dict__[name] = copy.deepcopy(value, memo)
    except Exception as error:  # an attribute of any kind may refuse
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{type(optimizer).__name__} cannot be copied, so its next step is unknown: {reason}"
        ) from error
    for name in LEFT_BEHIND[1:]:
        made.__dict__[name] = type(optimizer.__dict__.get(name, {}))()
    return made
