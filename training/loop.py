"""The one training loop, which the scripts drive step by step:

    training = Training(task, optimizer, TrainingPlan(num_epochs=20, batch_size=1024, micro_batch_size=32))
    for point in training:
        ...                       # the gradients of the batch are in place, the step is not yet taken
        training.step()           # x_{t+1}

Random numbers depend on the seed and the place in the run alone: the order of an epoch on (seed, epoch), the
augmentation of a step on (seed, iteration), the dropout masks on (seed, iteration, micro-batch). So nothing done
between two steps can change the run, and every algorithm sees the same data and the same masks. A run can be resumed at
any iteration. Several processes that share the micro-batches (`curvature.ranks`) train to the same bits as one.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from curvature.memory import retried
from curvature.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from tasks.base import Task

ORDER, SAMPLE, TEST_BATCH, STEP = range(4)  # what a stream of random numbers is for
BATCH_NORM = (
    "the model has batch norm, whose running statistics follow the order of the micro-batches: train it with one "
    "process"
)


@dataclass(frozen=True)
class Point:
    """x_t of a training run, with the gradient of its batch in `.grad`. All counts start at 1."""

    epoch: int
    batch: int  # within the epoch
    iteration: int  # over all epochs
    loss: float  # objective on the batch, in train mode
    learning_rate: float
    examples: int  # of this batch; the last one of an epoch may have fewer
    ends_epoch: bool = False


def random_stream(seed: int, purpose: int, epoch: int = 0, part: int = 0) -> np.random.Generator:
    """Independent random numbers for one purpose and epoch (of STEP: iteration, and micro-batch as `part`) of a run."""
    return np.random.default_rng((seed, purpose, epoch, part))


def batches_per_epoch(num_examples: int, batch_size: int) -> int:
    return math.ceil(num_examples / batch_size)


def micro_batches(
    task: "Task",
    indices: Sequence[int],
    micro_batch_size: int | Callable[[int], int],
    device: torch.device,
    dtype: torch.dtype | None = None,
    augmentation_seed: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The examples in padded groups of at most `micro_batch_size`, neighbors in length together: little padding.

    A `micro_batch_size` may be a function of the length of a group's longest example, such as tokens over length.
    `dtype` replaces the type of floating-point inputs such as images. With an `augmentation_seed` the examples are the
    task's random variants of them, if it has any; None leaves every example as it is.
    """
    for group in groups_of(task, indices, micro_batch_size):
        yield micro_batch(task, group, device, dtype, augmentation_seed)


def groups_of(task: "Task", indices: Sequence[int], micro_batch_size: int | Callable[[int], int]) -> list[list[int]]:
    """The examples of each micro-batch of `micro_batches`, by their numbers."""
    return list(_groups(sorted(indices, key=task.length), task.length, micro_batch_size))


def micro_batch(
    task: "Task", group: Sequence[int], device: torch.device, dtype: torch.dtype | None, augmentation_seed: int | None
) -> dict[str, Tensor]:
    """One of `micro_batches`, of these examples."""
    examples = [task.examples[i] for i in group]
    batch = task.collate(examples) if augmentation_seed is None else task.training_collate(examples, augmentation_seed)
    return _to_device(batch, device, dtype)


def _groups(ordered: Sequence[int], length: Callable[[int], int], size: int | Callable[[int], int]) -> Iterator[list]:
    group = []
    for index in ordered:  # the longest so far
        if group and len(group) >= (size if isinstance(size, int) else size(length(index))):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _to_device(batch: dict[str, Tensor], device: torch.device, dtype: torch.dtype | None) -> dict[str, Tensor]:
    if device.type == "cuda":  # a copy from pinned memory overlaps with the computation
        batch = {k: t.pin_memory() for k, t in batch.items()}
    return {k: t.to(device, dtype if t.is_floating_point() else None, non_blocking=True) for k, t in batch.items()}


@dataclass(frozen=True)
class TrainingPlan:
    """How long a run trains and on what. Counts: epochs, examples per update, examples per forward pass."""

    num_epochs: int
    batch_size: int
    micro_batch_size: int
    seed: int = 0
    max_grad_norm: float | None = None  # longer gradients are scaled down to this Euclidean norm; None: never
    autocast: torch.dtype | None = None  # dtype of the matrix products; None: float32 throughout


def examples_of_batch(plan: TrainingPlan, num_examples: int, epoch: int, batch: int) -> list[int]:
    """The examples of a training batch, in the random order of their epoch. `epoch` and `batch` count from 1."""
    order = random_stream(plan.seed, ORDER, epoch).permutation(num_examples)
    return order[(batch - 1) * plan.batch_size : batch * plan.batch_size].tolist()


def step_seed(seed: int, iteration: int, part: int = 0) -> int:
    """Of dropout in that iteration and micro-batch of a run, counted from 0; that of the first is the augmentation's,
    too. On a CPU its low 32 bits count."""
    return int(random_stream(seed, STEP, iteration, part).integers(2**63))


class Training:
    """Train `task.model`, stopping at every iteration between the gradient and the step.

    The objective of a batch is the mean over its examples of each example's loss, however they are grouped into
    micro-batches; the last batch of an epoch may be smaller. Batch norm is the exception: in train mode it normalizes
    each micro-batch by itself, so there the gradients depend on the micro-batch size.

    Args:
        optimizer: moves the parameters at `step`.
        scheduler: stepped after every update.
        forward: what stands in for calling the model, such as a compiled one; None: the model itself.
        first_iteration: where a stored run is resumed; the caller has restored model, optimizer and scheduler.
        ranks: the processes that train together, each with the same task and optimizer. Each has its share of the
            micro-batches, and all have the whole gradient.

    Iterating gives a `Point` per iteration. Raises: FloatingPointError at the first loss that is not finite, before its
    step; RuntimeError if the caller asks for the next point without `step`. ValueError for a model with batch norm on
    several ranks: its running statistics follow the order of the micro-batches.
    """

    def __init__(
        self,
        task: "Task",
        optimizer: torch.optim.Optimizer,
        plan: TrainingPlan,
        *,
        scheduler=None,
        forward: Callable | None = None,
        first_iteration: int = 1,
        ranks: Ranks = ALONE,
    ):
        if ranks.world > 1 and task.has_batch_norm:
            raise ValueError(f"{task.name}: {BATCH_NORM}")
        self.task, self.optimizer, self.plan, self.scheduler = task, optimizer, plan, scheduler
        self.forward = task.model if forward is None else forward
        self.first_iteration, self.ranks = first_iteration, ranks
        self.micro_batch_size = plan.micro_batch_size
        self.steps = 0

    def __len__(self) -> int:
        """Iterations of the run from its start, so those before `first_iteration` count."""
        return self.plan.num_epochs * batches_per_epoch(len(self.task.examples), self.plan.batch_size)

    def __iter__(self) -> Iterator[Point]:
        plan, examples = self.plan, len(self.task.examples)
        num_batches = batches_per_epoch(examples, plan.batch_size)
        for iteration in range(self.first_iteration, len(self) + 1):
            epoch, batch = (iteration - 1) // num_batches + 1, (iteration - 1) % num_batches + 1
            indices = examples_of_batch(plan, examples, epoch, batch)
            loss = self._gradient(indices, iteration)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the training loss is {loss} in epoch {epoch}, batch {batch}")
            if plan.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.task.model.parameters(), plan.max_grad_norm)
            lr = self.optimizer.param_groups[0]["lr"]
            lr = math.nan if lr is None else float(lr)
            steps_before = self.steps
            yield Point(epoch, batch, iteration, loss, lr, len(indices), ends_epoch=batch == num_batches)
            if self.steps != steps_before + 1:
                raise RuntimeError(f"iteration {iteration}: call step() once before asking for the next point")

    def step(self) -> None:
        """Move the parameters from x_t to x_{t+1}."""
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        self.steps += 1

    def _gradient(self, indices: Sequence[int], iteration: int) -> float:
        """Set the gradients to those of the objective on the examples `indices`; returns its value. If memory runs out,
        micro-batches are halved from then on, and the gradient is computed again."""

        def gradient() -> float:
            plan = replace(self.plan, micro_batch_size=self.micro_batch_size)
            return gradient_of_batch(self.task, indices, iteration, plan, self.forward, self.ranks)

        def smaller() -> str | None:
            if self.micro_batch_size == 1:
                return None
            self.micro_batch_size = math.ceil(self.micro_batch_size / 2)
            return f"micro-batches of {self.micro_batch_size} examples in training"

        return retried(gradient, smaller)


def seed_generators(seed: int, device: torch.device) -> None:
    """As `torch.manual_seed`, for a model on `device`. On a CPU alone that one is slow: it formats the call stack."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def gradient_of_batch(
    task: "Task", indices: Sequence[int], iteration: int, plan: TrainingPlan, forward: Callable, ranks: Ranks = ALONE
) -> float:
    """Set the gradients to those of the objective on the examples `indices`; returns its value."""
    device, augmentation_seed = next(task.model.parameters()).device, step_seed(plan.seed, iteration)
    task.model.train()
    task.model.zero_grad(set_to_none=True)  # not the optimizer's: Muon has the matrices only

    def backward(numbered: tuple[int, list[int]]) -> Tensor:
        place, group = numbered
        inputs = micro_batch(task, group, device, None, augmentation_seed)
        # each micro-batch has its own masks, whoever computes it
        seed_generators(step_seed(plan.seed, iteration, place), device)
        with torch.autocast(device.type, dtype=plan.autocast, enabled=plan.autocast is not None):
            part = task.losses(forward, inputs).sum() / len(indices)
        part.backward()
        return part.detach()

    groups = list(enumerate(groups_of(task, indices, plan.micro_batch_size)))
    params = [p for p in task.model.parameters() if p.requires_grad]
    loss = torch.zeros((), dtype=torch.float64)
    for part in ranks.accumulate(backward, groups, params):
        loss = loss + part
    return loss.item()  # of an ordinary run the only wait for the device in an iteration
