"""How many examples are measured at once."""

import logging
from argparse import Namespace
from collections.abc import Callable

import torch

from curvature.borrowing import measuring
from curvature.leaves import leaves_at
from curvature.memory import planned_bytes
from curvature.objective import functional_loss, trainable_parameters
from curvature.operation import NotTraceable
from curvature.tape import Tape, record
from tasks.base import Task
from training.loop import micro_batches

log = logging.getLogger(__name__)

RECORDED_TOKENS = 8192  # in so many, a GPU's arithmetic takes longer than its launches
HALVES = 2  # a micro-batch is recorded in two halves
MEANWHILE = 2  # what autograd holds during a recording, over what the recording keeps


def examples_at_once(task: Task, settings: Namespace, dtype: torch.dtype) -> int | Callable[[int], int]:
    """The size of the micro-batches that are measured, for `micro_batches`, with `device` and `micro_batch_size` of the
    run's settings.

    On a CPU it is `micro_batch_size`. A GPU wants large ones: as many tokens as a quarter of its memory records, at
    most `RECORDED_TOKENS` in each half. The longest example is recorded once to see what a token takes. The choice
    depends on the machine, the model and the data, and not on the memory that is free. It changes no number beyond
    rounding; where memory runs out nevertheless, micro-batches are halved (`within_memory`).
    """
    budget = planned_bytes(settings.device)
    if budget is None:
        return settings.micro_batch_size
    longest = max(range(len(task.examples)), key=task.length)
    try:
        used = _recorded_bytes(task, longest, settings.device) * torch.finfo(dtype).bits // 32
    except (NotTraceable, torch.OutOfMemoryError):
        return settings.micro_batch_size
    length = max(1, task.length(longest))
    tokens = min(length * (budget // max(1, MEANWHILE * used)), max(RECORDED_TOKENS, length))
    log.info("measuring up to %d tokens at once; the longest example has %d", HALVES * tokens, length)
    return lambda of_longest: HALVES * max(1, tokens // max(1, of_longest))


def _recorded_bytes(task: Task, index: int, device: torch.device) -> int:
    """What a recording of this example keeps, in the dtype of the model."""
    (batch,) = micro_batches(task, [index], 1, device)
    leaves = leaves_at(trainable_parameters(task.model))
    tape = Tape(leaves)
    with measuring(task.model), torch.enable_grad():
        tape.finish(record(tape, functional_loss(task.model, task.losses), leaves, batch))
    return tape.bytes_kept(besides=leaves.values())
