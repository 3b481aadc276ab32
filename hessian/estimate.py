"""What run_hessian.py will do, how long that takes and how much memory it needs."""

import argparse
import time
from collections.abc import Sequence

import torch

from curvature.borrowing import measuring, twice_differentiable
from curvature.gradient_graph import GradientGraph
from curvature.lanczos import TRIED_PRODUCTS
from curvature.memory import is_out_of_memory
from curvature.objective import Batch, Objective, objective_at
from hessian.blocks import block_curvature
from runs.estimate import LEFT_OUT, NO_TIME, Estimate, Part, free_for_run
from runs.flag_types import DTYPES
from tasks.base import Task
from training.loop import groups_of, micro_batches
from training.memory import held_and_peak, largest, model_bytes, padded, peak_bytes
from training.timing import Clock, middle, seconds, trial_of

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
    graph = product = None
    graphs: list[Part] = []
    try:
        with trial_of(task, device) as trial:
            inputs: list[Batch] = list(micro_batches(trial, indices, len(indices), device, dtype))
            objective = objective_at(trial.model, trial.losses, inputs, dtype)
            with measuring(objective.model), twice_differentiable():
                graph, product = pace(objective, list(names), clock)
        graphs = held_by_graphs(task, settings, names, batches) if memory else []
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
    held = [*held_in_memory(task, settings), *graphs] if memory else []
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


def held_in_memory(task: Task, settings: argparse.Namespace) -> list[Part]:
    """What is counted without running anything."""
    device, wider = str(settings.device), 2 if settings.dtype == "float64" else 1
    parts = [Part("model", nbytes=model_bytes(task.model), device=device)]
    if wider > 1:
        parts.append(Part("model in float64", nbytes=2 * model_bytes(task.model), device=device))
    return parts


def held_by_graphs(
    task: Task, settings: argparse.Namespace, names: Sequence[str], batches: Sequence[Sequence[int]]
) -> list[Part]:
    """The gradient's graphs of the batch that takes most, and what is done with them: a product with the block of the
    first tensor, and the eigenvalues of the largest, for which Lanczos' method holds most. The micro-batch that takes
    most is tried; the others count by their padded tokens. Raises where memory runs out."""
    device, dtype, names = settings.device, DTYPES[settings.dtype], list(names)
    of_batches = [groups_of(task, batch, settings.micro_batch_size) for batch in batches]
    most = max(of_batches, key=lambda groups: sum(padded(group, task.length) for group in groups))
    tried = largest([group for groups in of_batches for group in groups], task.length)
    shares = sum(padded(group, task.length) for group in most) / padded(tried, task.length)
    with trial_of(task, device) as trial:
        inputs: list[Batch] = list(micro_batches(trial, tried, len(tried), device, dtype))
        objective = objective_at(trial.model, trial.losses, inputs, dtype)
        largest_of_all = max(names, key=lambda name: objective.params[name].numel())
        products = min(settings.max_iterations, TRIED_PRODUCTS)
        made: list[GradientGraph] = []
        with measuring(objective.model), twice_differentiable():
            kept, built = held_and_peak(lambda: made.append(graph_of(objective, names)), device)
            u = {names[0]: torch.randn_like(objective.params[names[0]])}
            multiplied = peak_bytes(lambda: made[0].product(u), device)
            of_block = largest_of_all, settings.tolerance, products, torch.Generator().manual_seed(settings.seed)
            eigenvalues = peak_bytes(lambda: block_curvature(made[0], *of_block), device)
    moments = {"a product": multiplied, "eigenvalues of the largest tensor": eigenvalues}
    if settings.rebuild_graphs:
        moments = {f"{what}, with a new graph": built + nbytes for what, nbytes in moments.items()}
    else:
        moments["building a graph"] = built - kept
    what = max(moments, key=moments.__getitem__)
    moment = Part(what, nbytes=moments[what], device=str(device))
    gradients = sum(objective.params[name].nbytes for name in names)
    held = round(shares * (kept - gradients)) + gradients
    if settings.rebuild_graphs:
        return [Part("gradients", nbytes=gradients, device=str(device)), moment]
    return [Part(f"gradient graphs, micro-batches: {len(most)}", nbytes=held, device=str(device)), moment]
