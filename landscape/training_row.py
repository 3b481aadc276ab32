"""The optimizer that really trains, as one more row: its next step, and the training batch that it comes from.

With plain SGD and without dropout the step's direction is -g_B, g_B the gradient of the loss f_B of the training batch,
and v'H_B v / |v|^2 is the batch sharpness of that batch [Andreyev & Beneventano, arXiv:2412.20553].
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from curvature.direction import Direction
from curvature.objective import Batch
from tasks.base import Task
from torch_optimizer.direction_optimizer import DirectionOptimizer
from torch_optimizer.exact_moves import ExactMoves
from training.loop import Point, TrainingPlan, examples_of_batch, micro_batches, step_seed

TRAINING = "training"  # label of the row


def next_step(optimizer: Optimizer, params: Mapping[str, nn.Parameter]) -> tuple[Direction, float]:
    """v and lr of the step that the optimizer takes next, x_{t+1} - x_t = lr v, taken on copies.

    Momentum, weight decay, the rate that a schedule has set, clipping: all is as it will be, since a copy of the
    optimizer with its whole state takes the step. Nothing of `optimizer` or of the parameters changes.

    Args:
        optimizer: with the gradients in place, clipped where the run clips them, and the step not yet taken.
        params: name -> parameter; those without a gradient, or that the optimizer has not, have v = 0.

    Returns: v as name -> tensor, and lr: that of the first parameter, 1 where the optimizer has none.
    """
    ahead, copies = copy_with_gradients(optimizer)
    if isinstance(ahead, DirectionOptimizer):
        moves = ahead.directions()
        lr = ahead.latest_rate()
    else:
        with torch.no_grad(), ExactMoves(copies.values()) as exact:
            ahead.step()
        lr = float(ahead.param_groups[0]["lr"] or 1.0)
        moves = {p: (exact.of(p) / lr).to(p.dtype) for p in copies.values() if p.grad is not None}
    of_param = {p: moves[p_ahead] for p, p_ahead in copies.items() if p_ahead in moves}
    return Direction({n: of_param[p] if p in of_param else torch.zeros_like(p) for n, p in params.items()}), lr


def copy_with_gradients(optimizer: Optimizer) -> tuple[Optimizer, dict[Tensor, Tensor]]:
    """The optimizer with its state on copies of its parameters, which hold the gradients; and parameter -> copy."""
    ahead = copy.deepcopy(optimizer)
    copies = {}
    for group, group_ahead in zip(optimizer.param_groups, ahead.param_groups, strict=True):
        for p, p_ahead in zip(group["params"], group_ahead["params"], strict=True):
            p_ahead.grad = None if p.grad is None else p.grad.clone()  # a deep copy leaves the gradient behind
            copies[p] = p_ahead
    return ahead, copies


def training_batch(
    task: Task,
    plan: TrainingPlan,
    point: Point,
    device: torch.device,
    dtype: torch.dtype,
    most: int | None = None,
) -> list[Batch]:
    """The micro-batches of the batch that the gradient at `point` was computed from, as the step saw them: pictures
    are the same random variants.

    most: measure at most so many of its examples, a random choice. It decides neither slope nor v'H v on average, since
        their mean over all choices is the number of the whole batch. None: all.
    """
    indices = examples_of_batch(plan, len(task.examples), point.epoch, point.batch)[:most]  # in random order already
    seed = step_seed(plan.seed, point.iteration)
    return list(micro_batches(task, indices, plan.micro_batch_size, device, dtype, augmentation_seed=seed))
