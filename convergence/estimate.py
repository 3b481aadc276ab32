"""What run_convergence.py will do, how long that takes and how much memory it needs."""

import argparse
import time
from collections.abc import Mapping, Sequence

import torch

from convergence.learning_rates import grid
from curvature.memory import is_out_of_memory
from runs.estimate import LEFT_OUT, NO_TIME, Estimate, Part, free_for_run
from tasks.base import Task
from torch_optimizer import Algorithm
from training.loop import TrainingPlan, batches_per_epoch
from training.memory import (
    model_bytes,
    peak_bytes,
    peak_of_gradient,
    size_of,
    stand_ins,
    state_bytes,
    with_random_gradients,
)
from training.timing import (
    Clock,
    gradient_seconds,
    middle_micro_batch,
    second_time,
    trainable,
    trial_of,
)

TIMED = "estimated from one timed micro-batch of {} examples and one step of every row"
FORWARD = 3  # times a forward pass that forward and backward pass take


def trials_at_least(row: Algorithm, factors: Sequence[float] | None) -> int:
    """Learning rates of a row that --tune_lr tries in any case: its grid. None: no search."""
    return 0 if factors is None or row.lr is None else len(grid(row.lr, factors))


def estimate(
    task: Task,
    settings: argparse.Namespace,
    algorithms: Mapping[str, Algorithm],
    plan: TrainingPlan,
    memory: bool = True,
    clock: Clock = time.perf_counter,
) -> Estimate:
    """Of all runs and trials, on a copy of the model.

    Args:
        task: with its model on the CPU.
        plan: of a run.
        memory: False leaves it out.
        clock: tells the seconds.
    """
    device, indices = settings.device, middle_micro_batch(task, plan)
    free = free_for_run({device, torch.device("cpu")}, model_bytes(task.model)) if memory else {}
    gradient, steps, moment = None, {}, []
    try:
        with trial_of(task, device) as trial:
            gradient = gradient_seconds(trial, plan, indices, clock) / len(indices)
            params = with_random_gradients(trainable(trial.model))
            for label, row in algorithms.items():
                steps[label] = second_time(row.build(params).step, device, clock)
        if memory:
            moment = held_for_a_moment(task, settings, algorithms, plan)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        gradient = None
    basis = NO_TIME.format(len(indices), device)
    if gradient is not None:
        compiled = ", the compiler" if settings.compile else ""
        basis = f"{TIMED.format(len(indices))}, {LEFT_OUT.format(compiled)}"
    parts = counted(task, settings, algorithms, plan, gradient, steps)
    held = [*held_in_memory(task, settings, algorithms), *moment] if memory else []
    searched = settings.tune_lr and len(set(settings.lr_grid)) > 1
    return Estimate([*parts, *held], free, basis, at_least=bool(searched))


def counted(
    task: Task,
    settings: argparse.Namespace,
    algorithms: Mapping[str, Algorithm],
    plan: TrainingPlan,
    gradient: float | None,
    steps: Mapping[str, float],
) -> list[Part]:
    """What is done, with its time where there is a pace.

    Args:
        gradient: seconds of a forward and backward pass, per example.
        steps: label -> seconds of a step.
    """
    examples, seeds = len(task.examples), len(settings.seeds)
    per_epoch = batches_per_epoch(examples, plan.batch_size)

    def updates(what: str, epochs: Mapping[str, int]) -> Part:
        """This many epochs of each row."""
        of_all = None
        if gradient is not None:
            of_all = sum(n * (examples * gradient + per_epoch * steps[label]) for label, n in epochs.items())
        return Part(what, per_epoch * sum(epochs.values()), of_all)

    parts = []
    if settings.tune_lr:
        trials = {label: trials_at_least(row, settings.lr_grid) for label, row in algorithms.items()}
        parts.append(Part("trials of learning rates, at least", sum(trials.values())))
        parts.append(updates("updates of trials", {label: n * settings.tune_epochs for label, n in trials.items()}))
    parts.append(Part("runs", len(algorithms) * seeds))
    parts.append(updates("updates", dict.fromkeys(algorithms, plan.num_epochs * seeds)))
    scored = sum(len(split) for split in task.evaluation.values()) * plan.num_epochs * seeds * len(algorithms)
    if scored:
        parts.append(Part("examples scored", scored, None if gradient is None else scored * gradient / FORWARD))
    return parts


@torch.random.fork_rng(devices=[])
def held_in_memory(task: Task, settings: argparse.Namespace, algorithms: Mapping[str, Algorithm]) -> list[Part]:
    """What is counted without running anything; of the rows' states, one at a time."""
    params, model, device = trainable(task.model), model_bytes(task.model), str(settings.device)
    states = {}
    for label, row in algorithms.items():
        tiny = stand_ins(params)
        optimizer = row.build(tiny)
        optimizer.step()
        states[label] = state_bytes(optimizer, list(tiny.values()), list(params.values()))
    largest = max(states, key=states.__getitem__)
    return [
        Part("model", nbytes=model, device=device),
        Part("model at the start of each run", nbytes=model, device=device),
        Part("gradients", nbytes=size_of(params), device=device),
        Part(f"state of {largest}, the largest", nbytes=states[largest], device=device),
        Part(
            "copy of model and state for a checkpoint", nbytes=model + states[largest], device="cpu", during="storing"
        ),
    ]


def held_for_a_moment(
    task: Task, settings: argparse.Namespace, algorithms: Mapping[str, Algorithm], plan: TrainingPlan
) -> list[Part]:
    """What the part of an update that takes most holds beyond all that. Raises where memory runs out."""
    device = settings.device
    with trial_of(task, device) as trial:
        moments = {"one micro-batch": peak_of_gradient(trial, plan)}
    with trial_of(task, device) as trial:
        params = with_random_gradients(trainable(trial.model))
        for label, row in algorithms.items():
            optimizer = row.build(params)
            optimizer.step()
            moments[f"a step of {label}"] = peak_bytes(optimizer.step, device)
    most = max(moments, key=moments.__getitem__)
    return [Part(most, nbytes=moments[most], device=str(device), during="training")]
