"""How much memory an action takes, tried on a copy of the model."""

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from training.loop import TrainingPlan, batches_per_epoch, examples_of_batch, gradient_of_batch, groups_of

if TYPE_CHECKING:
    from tasks.base import Task

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors on `device` that are made while it is active, each storage once.

    What an operation allocates for itself alone, such as the workspace of a convolution, is not seen.

    Args:
        existing: what is deep-copied while it is active; other tensors that exist already are known by being read.
    """

    def __init__(self, device: torch.device, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.device = device
        self.now = self.peak = 0
        self.storages: dict[int, weakref.ref] = {}  # address of the storage's own record -> until it is freed
        for t in existing:
            self._count(t, size=0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for value in (*args, *(kwargs or {}).values()):
            for t in value if isinstance(value, (tuple, list)) else (value,):
                self._count(t, size=0)
        result = func(*args, **(kwargs or {}))
        for t in result if isinstance(result, (tuple, list)) else (result,):
            self._count(t)
        self.peak = max(self.peak, self.now)
        return result

    def _count(self, t: object, size: int | None = None) -> None:
        if not isinstance(t, Tensor) or t.device.type != self.device.type:
            return
        storage = t.untyped_storage()
        key = storage._cdata
        if key in self.storages:
            return
        nbytes = storage.nbytes() if size is None else size

        def freed(_) -> None:
            del self.storages[key]
            self.now -= nbytes

        self.storages[key] = weakref.ref(storage, freed)
        self.now += nbytes


def held_and_peak(
    action: Callable[[], object], device: torch.device, existing: Iterable[Tensor] = ()
) -> tuple[int, int]:
    """Bytes on `device` that the action allocates: what is held at its end, with what it returns, and at most.

    existing: as of `LiveBytes`."""
    with LiveBytes(device, existing) as live:
        result = action()
        held = live.now
    del result
    return held, live.peak


def peak_bytes(action: Callable[[], object], device: torch.device, existing: Iterable[Tensor] = ()) -> int:
    """The second of `held_and_peak`."""
    return held_and_peak(action, device, existing)[1]


def largest(groups: Sequence[list[int]], length: Callable[[int], int]) -> list[int]:
    """The micro-batch (of `groups_of`) with the most padded tokens."""
    return max(groups, key=lambda group: padded(group, length))


def peak_of_gradient(trial: "Task", plan: TrainingPlan) -> int:
    """Bytes beyond the gradients, in training, of forward and backward pass of the micro-batch that takes most."""
    device, examples = next(trial.model.parameters()).device, len(trial.examples)
    batches = range(1, 1 + batches_per_epoch(examples, plan.batch_size))  # of one epoch, which has all examples
    of_epoch = (examples_of_batch(plan, examples, 1, batch) for batch in batches)
    groups = [group for indices in of_epoch for group in groups_of(trial, indices, plan.micro_batch_size)]
    group = largest(groups, trial.length)
    whole = replace(plan, micro_batch_size=len(group))
    peak = peak_bytes(lambda: gradient_of_batch(trial, group, 1, whole, trial.model), device)
    return max(0, peak - sum(p.nbytes for p in trial.model.parameters() if p.requires_grad))


def padded(group: Sequence[int], length: Callable[[int], int]) -> int:
    """Its size times the length of its longest example; its size where examples have no length."""
    return len(group) * max(1, *map(length, group))


# ---- without running anything -------------------------------------------------------------------------------------


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(t.nbytes for t in tensors.values())


def model_bytes(model: nn.Module) -> int:
    """Bytes of its parameters, each once, and of its buffers."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def with_random_gradients(params: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Parameters on the same storage with normal numbers as gradients, no coordinate of which is 0."""
    leaves = {name: nn.Parameter(p.detach()) for name, p in params.items()}
    for p in leaves.values():
        p.grad = torch.randn_like(p)
    return leaves


def stand_ins(params: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Tiny parameters of the same names, each dimension a prime of its own, with random gradients."""
    tiny = {}
    for name, p in params.items():
        shape = [1 if d == 1 else prime for d, prime in zip(p.shape, PRIMES, strict=False)]
        tiny[name] = torch.zeros(shape, dtype=p.dtype)
    return with_random_gradients(tiny)


def state_bytes(optimizer: Optimizer, tiny: Sequence[Tensor], params: Sequence[Tensor]) -> int:
    """Bytes of an optimizer's state on `params`, from its state on their stand-ins `tiny`. Where a state tensor has a
    dimension as long as one of the stand-in, it is taken for that dimension of the parameter."""
    total = 0
    for small, p in zip(tiny, params, strict=True):
        full = dict(zip(small.shape, p.shape, strict=False))
        for value in optimizer.state.get(small, {}).values():
            if isinstance(value, Tensor):
                alike = value.numel() == small.numel() > 1
                numel = p.numel() if alike else math.prod(full.get(d, d) for d in value.shape)
                total += numel * value.element_size()
    return total
