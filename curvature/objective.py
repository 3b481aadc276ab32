"""The objective at a point: a loss function of parameters and a batch, and the batches it is measured on."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

Params = dict[str, Tensor]  # name -> tensor
Batch = dict[str, Tensor]  # one micro-batch: its examples lie along the first dimension of each tensor
LossFunction = Callable[[Params, Batch], Tensor]  # per-example losses [B]


def functional_loss(model: nn.Module, losses: Callable[[Callable, Batch], Tensor]) -> LossFunction:
    """The closure that the measurements take, for a module: `losses(forward, batch)` are the per-example losses [B] of
    a micro-batch when `forward(**inputs)` runs the model. Parameters that are not passed in stay the module's own."""

    def loss_fn(params: Params, batch: Batch) -> Tensor:
        return losses(lambda **inputs: functional_call(model, params, (), inputs), batch)

    return loss_fn


def trainable_parameters(model: nn.Module) -> Params:
    """name -> tensor of what the optimizers move: detached, sharing memory with the model."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def halves(batch: Batch) -> list[Batch]:
    """The first and the second half of the examples of a micro-batch, which lie along the first dimension of all its
    tensors; itself where they cannot be parted."""
    sizes = {len(t) if t.dim() else 0 for t in batch.values()}
    if len(sizes) != 1 or max(sizes) < 2:
        return [batch]
    return [dict(zip(batch, half, strict=True)) for half in zip(*(t.chunk(2) for t in batch.values()), strict=True)]


@dataclass
class Objective:
    """The loss on a batch at the parameters of `model`, as the measurements take it."""

    model: nn.Module
    loss_fn: LossFunction
    params: Params
    batches: list[Batch]


def objective_at(
    model: nn.Module, losses: Callable[[Callable, Batch], Tensor], batches: list[Batch], dtype: torch.dtype
) -> Objective:
    """The objective at the model's present parameters; in another number type on a copy, buffers included."""
    if dtype != torch.float32:
        model = deepcopy(model).to(dtype)
    return Objective(model, functional_loss(model, losses), trainable_parameters(model), batches)
