"""A batch as the user's loop has it, whatever its shape, as the micro-batch that the measurements take."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from curvature.memory import is_out_of_memory
from curvature.objective import Batch

WHOLE = "whole batch"  # entry that keeps what is no tensor, and the shape of the rest


def micro_batch(batch: Any) -> Batch:
    """The tensors of `batch`, by their place in it, and the batch itself, from which `restored` makes it again.

    A batch is a tensor, or any nesting of mappings, lists and tuples.
    """
    tensors: list[Tensor] = []
    _changed(batch, lambda t: tensors.append(t) or t)
    return {**{str(place): t for place, t in enumerate(tensors)}, WHOLE: batch}


def restored(batch: Batch) -> Any:
    """The user's batch with the tensors of this micro-batch."""
    tensors = iter([t for name, t in batch.items() if name != WHOLE])
    return _changed(batch[WHOLE], lambda _: next(tensors))


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor changed; what else it holds stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        made = copy.copy(value)  # keeps the class, such as the BatchEncoding of a tokenizer
        for key, item in value.items():
            made[key] = _changed(item, change)  # pyright: ignore[reportIndexIssue]
        return made
    if isinstance(value, (list, tuple)):
        items = [_changed(item, change) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def first_example(batch: Batch, size: int) -> tuple[Batch | None, list[str]]:
    """The first of `size` examples as a micro-batch of its own, and the entries that belong to all of them; no
    micro-batch where no tensor has an item per example."""
    shared = [k for k, t in batch.items() if not (isinstance(t, Tensor) and t.dim() and len(t) == size) or k == WHOLE]
    if len(shared) == len(batch):
        return None, shared
    return {name: t if name in shared else t[:1] for name, t in batch.items()}, shared


@torch.no_grad()
def entries_of_all(loss_fn: Callable[[Batch], Tensor], batch: Batch, losses: Tensor) -> list[str]:
    """The entries of a micro-batch that belong to all of its examples, found by measuring its first one alone.

    All of its entries do where that one has another loss then: examples may see each other, as in a contrastive loss.

    Args:
        losses: of the whole batch, [B].
    """
    one, shared = first_example(batch, len(losses))
    if one is None:
        return list(batch)
    try:
        alone = loss_fn(one)
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError) as error:  # it does not go alone
        if is_out_of_memory(error):
            raise
        return list(batch)
    tolerance = torch.finfo(losses.dtype).eps ** 0.5
    agrees = alone.shape == (1,) and torch.allclose(alone, losses[:1], rtol=tolerance, atol=tolerance, equal_nan=True)
    return shared if agrees else list(batch)
