"""How much of a device's memory a measurement plans with, and what happens where it runs out."""

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

log = logging.getLogger(__name__)

T = TypeVar("T")
SHARE = 4  # what is planned for takes a quarter of the device's memory; model, states and recordings have the rest
WORDS = "allocate memory", "out of memory", "not enough memory", "ALLOC_FAILED"  # of torch, cuBLAS and cuDNN
_said: set[str] = set()


def planned_bytes(device: torch.device) -> int | None:
    """A quarter of the memory of a GPU, in bytes; None on a CPU. It depends on the machine alone and not on what is
    free at the moment, so that a resumed run plans alike."""
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // SHARE
    return 2**30  # a device that does not report it


# ---- where it runs out ------------------------------------------------------------------------------------------


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in Python, a library or torch, on any device."""
    words = isinstance(error, RuntimeError) and any(word in str(error) for word in WORDS)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or words


def retried(attempt: Callable[[], T], less: Callable[[], str | None]) -> T:
    """attempt(), again and again while memory runs out.

    Args:
        attempt: can start again after an error, and gives the same result.
        less: makes the next attempt need less memory. Returns how it goes on, for the log, such as "micro-batches of
            at most 4 examples"; None where nothing is left to be made smaller.

    Returns: what the first attempt returned that found enough memory. If it was not the first one, the log has one
        line, a warning: how it went on. The same line is a warning only once.
    Raises: the error of memory where `less` returns None; any other error of an attempt.
    """
    continuing = None
    while True:
        try:
            result = attempt()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            continuing = less()
            if continuing is None:
                raise
        else:
            if continuing is not None:
                say_once(f"out of memory: continuing with {continuing}")
            return result
        # outside of `except`: the error is gone, and with its traceback what it held
        torch.cuda.empty_cache()


def say_once(message: str, level: int = logging.WARNING) -> None:
    """Log a message, which repeats itself at a lower level."""
    log.log(logging.DEBUG if message in _said else level, "%s", message)
    _said.add(message)


def has_room_for(copies: int, tensors: Iterable[Tensor]) -> bool:
    """Whether a GPU can hold so many copies of the tensors, tried and given back. On a CPU: True.

    What cannot be done twice, such as the step of an optimizer's state, must not run out of memory half way."""
    tensors = [t for t in tensors if not t.is_cpu]
    try:
        _empty_copies(copies, tensors)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _empty_copies(copies: int, tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(t) for t in tensors for _ in range(copies)]
