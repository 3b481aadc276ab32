"""How long a micro-batch takes, tried on a copy of the model: a run that follows is the same bit for bit."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import Optimizer

from training.loop import TrainingPlan, examples_of_batch, gradient_of_batch, groups_of, micro_batches, step_seed

if TYPE_CHECKING:
    from tasks.base import Task

Clock = Callable[[], float]

WARM_UP = 2  # examples; batch norm wants more than one
PEAK = 1.4  # of forward and backward pass, or of a recording, over what a forward pass keeps: 1.35 and 1.33 on the toy
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


@contextmanager
def trial_of(task: "Task", device: torch.device) -> Iterator["Task"]:
    """The task with a copy of its model on `device`. The random state is put back at the end; the task's own model, its
    gradients and its buffers are never touched."""
    trial = copy.copy(task)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trial.model = copy.deepcopy(task.model).to(device)
        yield trial


def seconds(action: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """How long the action takes, until the device has finished."""
    _wait_for(device)
    began = clock()
    action()
    _wait_for(device)
    return clock() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def middle_micro_batch(task: "Task", plan: TrainingPlan) -> list[int]:
    """The examples of a micro-batch of the first update, of middle length."""
    indices = examples_of_batch(plan, len(task.examples), epoch=1, batch=1)
    return middle(groups_of(task, indices, plan.micro_batch_size))


def middle(groups: Sequence[list[int]]) -> list[int]:
    """The one of middle length, never the last of several, which may have fewer examples."""
    return groups[(len(groups) - 1) // 2]


def gradient_seconds(trial: "Task", plan: TrainingPlan, indices: Sequence[int], clock: Clock) -> float:
    """Forward and backward pass of training on these examples as one micro-batch; the gradients stay in place."""
    device = next(trial.model.parameters()).device

    def gradient(chosen: Sequence[int]) -> None:
        gradient_of_batch(trial, chosen, 1, replace(plan, micro_batch_size=len(chosen)), trial.model)

    gradient(indices[:WARM_UP])
    return seconds(lambda: gradient(indices), device, clock)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """name -> parameter that the optimizers move."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def with_random_gradients(params: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Parameters on the same storage with normal numbers as gradients, no coordinate of which is 0."""
    leaves = {name: nn.Parameter(p.detach()) for name, p in params.items()}
    for p in leaves.values():
        p.grad = torch.randn_like(p)
    return leaves


def second_time(action: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """How long the action takes the second time, when the state of an optimizer is there."""
    action()
    return seconds(action, device, clock)


# ---- memory -------------------------------------------------------------------------------------------------------


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors together."""
    return sum(t.nbytes for t in tensors.values())


def model_bytes(model: nn.Module) -> int:
    """Bytes of its parameters, each once, and of its buffers."""
    return sum(t.nbytes for t in (*model.parameters(), *model.buffers()))


def kept_bytes(action: Callable[[], object], model: nn.Module) -> int:
    """Bytes that autograd keeps for backward passes of what the action returns, beside the parameters of `model`. What
    is held for a moment only is not counted."""
    kept: dict[int, int] = {}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return t

    with saved_tensors_hooks(keep, lambda t: t):
        result = action()  # while it lives, so does what was kept, and no storage takes another one's place
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    total = sum(size for place, size in kept.items() if place not in own)
    del result
    return total


def activation_bytes(trial: "Task", plan: TrainingPlan, indices: Sequence[int]) -> int:
    """`kept_bytes` of a training forward pass of these examples."""
    device = next(trial.model.parameters()).device
    (batch,) = micro_batches(trial, indices, len(indices), device, augmentation_seed=step_seed(plan.seed, 1))
    trial.model.train()
    with torch.autocast(device.type, dtype=plan.autocast, enabled=plan.autocast is not None):
        return kept_bytes(lambda: trial.losses(trial.model, batch), trial.model)


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
