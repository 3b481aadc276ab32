"""How long a micro-batch takes, tried on a copy of the model: a run that follows is the same bit for bit."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from training.loop import TrainingPlan, examples_of_batch, gradient_of_batch, groups_of, seed_generators

if TYPE_CHECKING:
    from tasks.base import Task

Clock = Callable[[], float]

WARM_UP = 2  # examples; batch norm wants more than one


@contextmanager
def trial_of(task: "Task", device: torch.device) -> Iterator["Task"]:
    """The task with a copy of its model on `device`. Random numbers begin anew, and their state is put back at the end;
    the task's own model, its gradients and its buffers are never touched."""
    trial = copy.copy(task)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_generators(0, device)  # what is tried depends on nothing that was drawn before
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


def second_time(action: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """How long the action takes the second time, when the state of an optimizer is there."""
    action()
    return seconds(action, device, clock)
