"""The one training loop, which both scripts drive:

    for point in trajectory(task, optimizer, num_epochs=20, batch_size=1024):
        ...                       # here the gradients of the batch are in place and the step is not yet taken

Random numbers depend on the seed and the iteration alone: the order of an epoch on (seed, epoch), the dropout masks and
the augmentation of a step on (seed, iteration). So nothing done between two steps can change the run, every algorithm
sees the same data and the same masks, and a run can be taken up at any iteration.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

log = logging.getLogger(__name__)

ORDER, SAMPLE, TEST_BATCH, STEP = range(4)  # what a stream of random numbers is for


@dataclass(frozen=True)
class Point:
    """x_t of a training run, with the gradient of its batch in `.grad`. All counts start at 1."""

    epoch: int
    batch: int  # within the epoch
    iteration: int  # over all epochs
    loss: float  # objective on the batch, in train mode
    learning_rate: float
    examples: int  # of this batch; the last one of an epoch may have fewer


def random_stream(seed: int, purpose: int, epoch: int = 0) -> np.random.Generator:
    """Independent random numbers for one purpose and epoch (of STEP: iteration) of a run."""
    return np.random.default_rng((seed, purpose, epoch))


def batches_per_epoch(num_examples: int, batch_size: int) -> int:
    return math.ceil(num_examples / batch_size)


def micro_batches(
    task,
    indices: Sequence[int],
    micro_batch_size: int,
    device: torch.device,
    dtype: torch.dtype | None = None,
    augmentation_seed: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """The examples in padded groups of at most `micro_batch_size`, neighbours in length together: little padding.

    `dtype` replaces the type of floating-point inputs such as images. With an `augmentation_seed` the examples are the
    task's random variants of them, if it has any; None leaves every example as it is.
    """
    ordered = sorted(indices, key=task.length)
    for start in range(0, len(ordered), micro_batch_size):
        group = [task.examples[i] for i in ordered[start : start + micro_batch_size]]
        batch = task.collate(group) if augmentation_seed is None else task.training_collate(group, augmentation_seed)
        yield _to_device(batch, device, dtype)


def _to_device(batch: dict[str, Tensor], device: torch.device, dtype: torch.dtype | None) -> dict[str, Tensor]:
    if device.type == "cuda":  # a copy from pinned memory runs beside the computation
        batch = {k: t.pin_memory() for k, t in batch.items()}
    return {k: t.to(device, dtype if t.is_floating_point() else None, non_blocking=True) for k, t in batch.items()}


def trajectory(
    task,
    optimizer: torch.optim.Optimizer,
    *,
    num_epochs: int,
    batch_size: int,
    micro_batch_size: int,
    seed: int = 0,
    scheduler=None,
    max_grad_norm: float | None = None,
    autocast: torch.dtype | None = None,
    forward: Callable | None = None,
    first_iteration: int = 1,
    after_step: Callable[[Point], None] | None = None,
) -> Iterator[Point]:
    """Train `task.model`, stopping at every iteration between the gradient and the step.

    The objective of a batch is the mean over its examples of each example's loss, however they are grouped into
    micro-batches; the last batch of an epoch may be smaller.

    Args:
        scheduler: stepped after every update.
        max_grad_norm: gradients are scaled down to at most this Euclidean norm over all parameters; None: never.
        autocast: number type of the matrix products, parameters staying float32; None: float32 throughout.
        forward: what stands in for calling the model, such as a compiled one; None: the model itself.
        first_iteration: where a stored run is taken up, its model, optimizer and scheduler restored by the caller.
        after_step: called with each point when its step has been taken: there a run can be stored.

    Raises: FloatingPointError at the first loss that is not finite; no step is taken there.
    """
    model, examples = task.model, len(task.examples)
    device = next(model.parameters()).device
    iteration = 0
    for epoch in range(1, num_epochs + 1):
        order = random_stream(seed, ORDER, epoch).permutation(examples)
        for batch in range(1, batches_per_epoch(examples, batch_size) + 1):
            iteration += 1
            if iteration < first_iteration:
                continue
            indices = order[(batch - 1) * batch_size : batch * batch_size].tolist()
            step_seed = int(random_stream(seed, STEP, iteration).integers(2**63))  # on a CPU its low 32 bits count
            loss = None
            while loss is None:  # anew with half the micro-batch size where memory ran out
                try:
                    loss = _gradient(task, indices, micro_batch_size, step_seed, device, autocast, forward or model)
                except torch.OutOfMemoryError:
                    if micro_batch_size == 1:
                        raise
                if loss is None:
                    micro_batch_size = math.ceil(micro_batch_size / 2)
                    torch.cuda.empty_cache()
                    log.warning("out of memory: going on with micro-batches of %d examples", micro_batch_size)
            if not math.isfinite(loss):
                raise FloatingPointError(f"the training loss is {loss} in epoch {epoch}, batch {batch}")
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            lr = optimizer.param_groups[0]["lr"]
            lr = math.nan if lr is None else float(lr)
            point = Point(epoch, batch, iteration, loss, lr, len(indices))
            yield point
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            if after_step is not None:
                after_step(point)


def _gradient(task, indices, micro_batch_size, seed, device, autocast, forward) -> float:
    """Set the gradients to those of the objective on the examples `indices`; returns its value."""
    torch.manual_seed(seed)
    task.model.train()
    task.model.zero_grad(set_to_none=True)  # not the optimizer's: Muon has the matrices only
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for inputs in micro_batches(task, indices, micro_batch_size, device, augmentation_seed=seed):
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            part = task.losses(forward, inputs).sum() / len(indices)
        part.backward()
        loss += part.detach()
    return loss.item()  # the only wait for the device in an iteration
