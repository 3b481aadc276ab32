"""What run_hessian.py will do, how long that takes and how much memory it needs."""

import argparse
import math
import time
from collections.abc import Sequence

import torch

from curvature.borrowing import measuring, twice_differentiable
from curvature.gradient_graph import GradientGraph
from curvature.memory import is_out_of_memory
from curvature.objective import Batch, Objective, objective_at
from runs.estimate import LEFT_OUT, NO_TIME, Estimate, Part, free_for_run
from runs.flag_types import DTYPES
from tasks.base import Task
from training.loop import groups_of, micro_batches
from training.timing import Clock, kept_bytes, middle, model_bytes, seconds, trial_of

PRODUCTS = 15  # with H per tensor: 14.5 on the toy task at the default tolerance, from 1 to 24
TIMED = "estimated from one timed micro-batch of {} examples and one Hessian-vector product, at {} per tensor"


def estimate(
    task: Task,
    settings: argparse.Namespace,
    names: Sequence[str],
    batches: Sequence[Sequence[int]],
    memory: bool = True,
    clock: Clock = time.perf_counter,
) -> Estimate:
    """Of the whole run, on a copy of the model.

    Args:
        task: with its model on the CPU.
        names: the tensors that are measured.
        batches: the examples of each batch.
        memory: False leaves it out.
        clock: tells the seconds.
    """
    device, dtype = settings.device, DTYPES[settings.dtype]
    groups = groups_of(task, batches[0], settings.micro_batch_size)
    indices = middle(groups)
    free = free_for_run([device], model_bytes(task.model)) if memory else {}
    graph = product = kept = None
    try:
        with trial_of(task, device) as trial:
            inputs: list[Batch] = list(micro_batches(trial, indices, len(indices), device, dtype))
            objective = objective_at(trial.model, trial.losses, inputs, dtype)
            with measuring(objective.model), twice_differentiable():
                graph, product = pace(objective, list(names), clock)
                kept = kept_bytes(lambda: graph_of(objective, list(names)), objective.model) if memory else 0
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        graph = None
    each = min(PRODUCTS, settings.max_iterations)
    basis = NO_TIME.format(len(indices), device)
    took = None
    if graph is not None and product is not None:
        smoothness = ", robust smoothness" if settings.robust_smoothness else ""
        basis = f"{TIMED.format(len(indices), each)}, {LEFT_OUT.format(smoothness)}"
        rebuilt = graph if settings.rebuild_graphs else 0.0
        of_batch = graph + len(names) * each * (product + rebuilt)
        took = of_batch * sum(map(len, batches)) / len(indices)
    parts = [
        Part("batches", len(batches)),
        Part("tensors", len(names)),
        Part("tensors measured, of all batches", len(names) * len(batches), took),
    ]
    held = held_in_memory(task, settings, names, kept, len(groups)) if memory else []
    return Estimate([*parts, *held], free, basis)


def graph_of(objective: Objective, names: list[str]) -> GradientGraph:
    return GradientGraph(objective.loss_fn, objective.params, objective.batches, names, keep_graphs=True)


def pace(objective: Objective, names: list[str], clock: Clock) -> tuple[float, float]:
    """Seconds of a gradient with its graph, and of a product with the block of the tensor in the middle: that one goes
    through half of the layers."""
    device = next(iter(objective.params.values())).device
    name, made = names[len(names) // 2], []
    u = {name: torch.randn_like(objective.params[name])}
    objective.loss_fn(objective.params, objective.batches[0])  # the first pass is slower
    first = seconds(lambda: made.append(graph_of(objective, names)), device, clock)
    return first, seconds(lambda: made[0].product(u), device, clock)


def held_in_memory(
    task: Task, settings: argparse.Namespace, names: Sequence[str], kept: int | None, micro_batches: int
) -> list[Part]:
    """What is held in the middle of a batch. `kept`: bytes of a micro-batch's graph, None where it did not fit."""
    device, wider = str(settings.device), 2 if settings.dtype == "float64" else 1
    sizes = {name: wider * p.nbytes for name, p in task.model.named_parameters() if name in names}
    parts = [Part("model", nbytes=model_bytes(task.model), device=device)]
    if wider > 1:
        parts.append(Part("model in float64", nbytes=2 * model_bytes(task.model), device=device))
    parts.append(Part("gradients", nbytes=sum(sizes.values()), device=device))
    steps = min(settings.max_iterations, math.ceil(max(sizes.values()) / 4))
    parts.append(Part(f"at most {steps} vectors of the largest tensor", nbytes=steps * max(sizes.values()),
                      device=device))  # fmt: skip
    if kept is not None:
        count = 1 if settings.rebuild_graphs else micro_batches
        parts.append(Part(f"gradient graphs, micro-batches: {count}", nbytes=count * kept, device=device))
    return parts
