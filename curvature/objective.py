"""The objective at a point: a loss function of parameters and a batch, and the batches it is measured on."""

from collections.abc import Callable, Collection, Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from curvature.forgetting import forgetting, modules_with_memory
from curvature.ranks import ALONE, Ranks

Params = Mapping[str, Tensor]  # name -> tensor
Batch = Mapping[str, Any]  # one micro-batch, as the loss function takes it
LossFunction = Callable[[Params, Batch], Tensor]  # per-example losses [B]
ModelLosses = Callable[[Any, Any], Tensor]  # the same of a model and a micro-batch, see `functional_loss`


class Derivatives(NamedTuple):
    """Of the summed loss of one micro-batch along K directions v, which keep their lengths."""

    losses: Tensor  # [B]
    slopes: Tensor  # <grad f, v>, [K] in float64
    curvatures: Tensor  # v' H v, [K] in float64
    magnitudes: Tensor  # sum of |terms| that `curvatures` is the sum of, [K] in float64: large beside it, they cancel


class _LossOf(nn.Module):
    """A model and its losses as one module, so that `functional_call` exchanges the parameters for both."""

    def __init__(self, model: nn.Module, losses: ModelLosses) -> None:
        super().__init__()
        self.model, self.losses = model, losses

    def forward(self, batch: Batch) -> Tensor:
        return self.losses(self.model, batch)


def functional_loss(model: nn.Module, losses: ModelLosses) -> LossFunction:
    """The closure that the measurements take, for a module: `losses(model, batch)` are the per-example losses [B] of a
    micro-batch. While they are computed, the module holds the parameters that were passed in; the others stay its own.
    The module keeps nothing of a call, so that no call depends on an earlier one."""
    modules, both = modules_with_memory(model), _LossOf(model, losses)

    def loss_fn(params: Params, batch: Batch) -> Tensor:
        with forgetting(modules):
            return functional_call(both, {f"model.{name}": p for name, p in params.items()}, (batch,))

    return loss_fn


def trainable_parameters(model: nn.Module) -> Params:
    """name -> tensor of what the optimizers move: detached, sharing memory with the model."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def halves(batch: Batch, per_example: Collection[str]) -> list[Batch]:
    """The first and the second half of the examples. They lie along the first dimension of the entries `per_example`;
    both halves get the other entries whole. The batch itself where it has a single example, or none of these
    entries."""
    size = examples_of(batch, per_example)
    if size < 2:
        return [batch]
    middle = (size + 1) // 2
    return [
        {name: value[part] if name in per_example else value for name, value in batch.items()}
        for part in (slice(middle), slice(middle, None))
    ]


def examples_of(batch: Batch, per_example: Collection[str]) -> int:
    """How many examples a micro-batch has, by its entries `per_example`; 0 without such entries.

    Raises: ValueError if such an entry is missing, has no first dimension, or another length than the others.
    """
    sizes = {}
    for name in per_example:
        value = batch.get(name)
        if value is None or isinstance(value, Tensor) and not value.dim():
            raise ValueError(f"per_example names {name!r}, which holds no examples in this batch: it is {value}")
        sizes[name] = len(value)
    if len(set(sizes.values())) > 1:
        lengths = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(
            f"per_example names entries that hold one item per example, but their lengths differ: {lengths}"
        )
    return next(iter(sizes.values()), 0)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


@dataclass
class Objective:
    """The loss on a batch at the present parameters of `model`, as the measurements take it."""

    model: nn.Module
    losses: ModelLosses
    batches: list[Batch]
    shared: Collection[str] = ()  # entries of a batch that belong to all of its examples
    ranks: Ranks = ALONE  # the processes that measure together; each has all batches and evaluates its share
    loss_fn: LossFunction = field(init=False)
    params: Params = field(init=False)

    def __post_init__(self) -> None:
        self.loss_fn = functional_loss(self.model, self.losses)
        self.params = trainable_parameters(self.model)

    @property
    def per_example(self) -> list[str]:
        """The entries of a batch that hold one item per example. In a task's batch, every entry does."""
        return [name for name in self.batches[0] if name not in self.shared]

    def on(self, batches: Iterable[Batch] | None, dtype: torch.dtype) -> "Objective":
        """The same loss on other batches (None: on its own), with batches and model in `dtype`."""
        batches = self.batches if batches is None else batches
        cast: list[Batch] = [{name: t.to(dtype) if _is_real(t) else t for name, t in b.items()} for b in batches]
        return replace(objective_at(self.model, self.losses, cast, dtype), shared=self.shared, ranks=self.ranks)


def objective_at(
    model: nn.Module, losses: ModelLosses, batches: list[Batch], dtype: torch.dtype, ranks: Ranks = ALONE
) -> Objective:
    """The objective at the model's present parameters. Where these have another dtype it takes a copy of the model,
    buffers included."""
    if any(p.dtype != dtype for p in model.parameters()):
        model = deepcopy(model).to(dtype)
    return Objective(model, losses, batches, ranks=ranks)
