"""Checks of what callers pass in. Each error is a ValueError of one line that says what is wanted."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from curvature.direction import Direction
from curvature.leaves import graph_of
from curvature.memory import is_out_of_memory
from curvature.objective import Batch, LossFunction, Params, examples_of

ONCE = once_differentiable(lambda context: None).__code__  # of every `backward` that is marked so
NO_DEPENDENCE = (
    "the losses do not depend on the parameters: loss_fn(params, batch) has to compute them from `params`, "
    "such as by functional_loss(model, losses), and not under torch.no_grad()"
)


def check_losses(losses: Tensor) -> None:
    """Raises: ValueError unless `losses` are what a loss function returns, [B], and depend on what they were given."""
    wanted = "loss_fn returns one loss per example, a tensor of shape [B]"
    if not isinstance(losses, Tensor):
        raise ValueError(f"{wanted}; got {type(losses).__name__}")
    if losses.dim() == 0:
        raise ValueError(f"{wanted}; got a scalar: leave out the mean over the examples (reduction='none')")
    if losses.dim() > 1:
        raise ValueError(f"{wanted}; got shape {list(losses.shape)}: average each example's over the rest")
    if not losses.dtype.is_floating_point:
        raise ValueError(f"{wanted}, of real numbers; got {losses.dtype}")


@torch.inference_mode()
def check_repeatable(loss_fn: LossFunction, params: Params, batch: Batch, operation: str) -> None:
    """Raises: ValueError if two evaluations at the same point differ by more than rounding."""
    first, second = loss_fn(params, batch), loss_fn(params, batch)
    tolerance = math.sqrt(torch.finfo(first.dtype).eps)
    if not torch.allclose(first, second, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ValueError(
            f"the losses differ from one evaluation to the next, {operation} draws random numbers: switch dropout "
            f"off by model.eval(), or measure inside `with measuring(model)`"
        )


def checked_directions(params: Params, directions: Sequence[Params]) -> list[Direction]:
    if isinstance(directions, Mapping):
        one = all(isinstance(v, Tensor) for v in directions.values())
        wanted = "pass [direction]" if one else "pass list(directions.values())"
        raise ValueError(f"directions is a list of directions, each name -> tensor; got a dict: {wanted}")
    for direction in directions:
        is_part = isinstance(direction, Direction) and direction.is_part
        for name in direction.keys() if is_part else params.keys() | direction.keys():
            expected, got = (tuple(d[name].shape) if name in d else "no such tensor" for d in (params, direction))
            if expected != got:
                raise ValueError(
                    f"a direction has the names and shapes of the parameters: {name} is {expected}, got {got}"
                )
    return [Direction.of(v) for v in directions]


def checked_batches(batches: Sequence[Batch]) -> Sequence[Batch]:
    if isinstance(batches, Mapping):
        raise ValueError("batches is a list of micro-batches; got a single one: pass [batch]")
    return batches


def check_twice_differentiable(losses: Tensor) -> None:
    """Raises: ValueError if the losses pass through a custom function that is marked as differentiable once only.
    Autograd would treat its gradient as a constant, without an error."""
    for node in graph_of(losses):
        custom = getattr(node, "_forward_cls", None)
        if custom and getattr(custom.backward, "__code__", None) is ONCE:
            raise ValueError(
                f"the losses cannot be differentiated twice: {custom.__qualname__}, a custom function in them, "
                f"is marked as differentiable once only"
            )


@contextmanager
def twice_or_not_at_all() -> Iterator[None]:
    """Names the lack of a second derivative in a ValueError. Memory that runs out stays what it is."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"the losses cannot be differentiated twice: {reason}") from error


def check_count(losses: Tensor, batch: Batch, per_example: Collection[str]) -> None:
    size = examples_of(batch, per_example)
    if size and len(losses) != size:
        raise ValueError(
            f"loss_fn gave {len(losses)} losses for {size} examples: it returns one for each, [B], and a batch holds "
            f"them along the first dimension of the entries per_example"
        )
