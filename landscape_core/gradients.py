"""The gradient on the test batch, and where a gradient is nothing but rounding."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from curvature.borrowing import measuring, within_memory
from curvature.direction import norm, numbers
from curvature.objective import Batch, Objective, Params, halves
from curvature.ranks import ALONE
from landscape_core.rounding import single_examples

UNUSED = (
    "the losses do not depend on the parameters: losses_of_batch(model, batch) has to compute them by the model that "
    "it is given, and not under torch.no_grad()"
)
NOISE = 1e-4  # a float32 gradient this many times larger than the float64 one is rounding


def gradient_norm(objective: Objective) -> float:
    """|grad f| of the mean loss over all examples of the objective's batches."""
    return within_memory(lambda batches: _length(objective, batches), objective.batches, objective.per_example)


def gradient(objective: Objective) -> dict[str, Tensor]:
    """grad f, name -> tensor, of the mean loss over all examples. Micro-batches are halved where memory runs out."""
    return within_memory(lambda batches: _gradient(objective, batches), objective.batches, objective.per_example)


def _length(objective: Objective, batches: Sequence[Batch]) -> float:
    """Of several ranks one gets the gradient and tells the others its length."""
    ranks = objective.ranks
    has_it = ranks.owner(len(batches) - 1)
    leaves, examples = _summed(objective, batches, everywhere=False)

    def length(rank: int) -> Tensor:
        return torch.tensor(norm(_mean(leaves, examples)) if rank == has_it else 0.0, dtype=torch.float64)

    return ranks.rows(length, range(ranks.world))[has_it].item()


def _gradient(objective: Objective, batches: Sequence[Batch]) -> dict[str, Tensor]:
    return _mean(*_summed(objective, batches))


def _mean(leaves: Params, examples: int) -> dict[str, Tensor]:
    grads = {name: leaf.grad for name, leaf in leaves.items()}
    return {name: torch.zeros_like(leaves[name]) if g is None else g / examples for name, g in grads.items()}


def _summed(objective: Objective, batches: Sequence[Batch], everywhere: bool = True) -> tuple[Params, int]:
    """(parameters with the gradient of the summed loss as `.grad`, how many examples).

    everywhere: False leaves it on one of several ranks, as `accumulate` does."""
    leaves = {name: p.detach().requires_grad_() for name, p in objective.params.items()}

    @torch.enable_grad()
    def backward(part: Batch) -> Tensor:
        losses = objective.loss_fn(leaves, part)
        if losses.requires_grad:
            losses.sum().backward(inputs=list(leaves.values()))
        if all(leaf.grad is None for leaf in leaves.values()):
            raise ValueError(UNUSED)
        return torch.tensor(len(losses))

    parts = partial(halves, per_example=objective.per_example)
    examples = int(objective.ranks.accumulate(backward, batches, leaves.values(), parts, everywhere).sum())
    return leaves, examples


def noise_share(direction: Mapping[str, Tensor], noisy: Mapping[str, Tensor]) -> float:
    """Share of |v|^2 in the coordinates `noisy` (of `noise_coordinates`); NaN for a direction without length."""
    totals, shares = [], []
    for name, v in direction.items():  # one square in float64 is held at a time
        square = v.detach().double().square()
        totals.append(square.sum())
        shares.append(square.masked_fill(~noisy[name].to(v.device), 0).sum())
    total = sum(numbers(totals))
    return sum(numbers(shares)) / total if total else math.nan


def noise_coordinates(objective: Objective, examples: int = 2) -> dict[str, Tensor]:
    """name -> whether each coordinate's gradient is 0 up to rounding, on all of a few single examples.

    The softmax of attention cancels the bias of its keys, so that their true gradient is 0. In float32 it is rounding
    noise, which methods that divide by a gradient's size (sign, Adam, normalized steps) raise to full size. There a
    gradient in float32 is more than 1 / `NOISE` times that in float64.

    Args:
        objective: in any dtype. Call outside of `measuring`: it would keep float64.

    Returns: no coordinate is noise where single examples cannot be had.
    """
    singles = single_examples(objective, examples)
    if not singles:
        return {name: torch.zeros_like(p, dtype=torch.bool) for name, p in objective.params.items()}
    same = [objective.on(singles, dtype) for dtype in (torch.float32, torch.float64)]
    noisy: dict[str, Tensor] = {}
    nonzero: dict[str, Tensor] = {}
    for place in range(len(singles)):  # the gradients of one example are held at a time
        single, double = (_gradient_of_one(each, place) for each in same)
        for name, g in single.items():
            is_noise = double[name].abs() <= NOISE * g.abs()
            noisy[name] = is_noise & noisy[name] if name in noisy else is_noise
            nonzero[name] = (g != 0) | nonzero[name] if name in nonzero else g != 0
    return {name: mask & nonzero[name] for name, mask in noisy.items()}


def _gradient_of_one(objective: Objective, place: int) -> dict[str, Tensor]:
    """Of one of the objective's batches, by this process alone."""
    with measuring(objective.model):
        return gradient(replace(objective, batches=[objective.batches[place]], ranks=ALONE))
