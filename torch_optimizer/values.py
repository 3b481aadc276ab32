"""Comparing the options of rows and optimizers by what they are, not by how they print."""

import math
import numbers
import sys
from collections.abc import Hashable, Mapping
from typing import Any

LARGEST = (2 - 2.0**-23) * 2.0**127  # of float32
SMALLEST = 2.0**-149


def value_key(value: Any) -> Hashable:
    """Equal for two values if they are equal: numbers, words, and tensors, lists and dicts of them at any depth.

    A tensor prints 4 digits, and beyond a thousand entries three at each end. Here every entry counts, in full. An
    object of another kind equals what it says it equals; if it cannot be hashed, itself alone.

    Example:
        >>> value_key({"betas": (0.9, 0.99), "lr": 1}) == value_key({"lr": 1.0, "betas": (0.9, 0.99)})
        True
        >>> import torch
        >>> value_key(torch.tensor(0.1)) == value_key(torch.tensor(0.10001))
        False
    """
    if is_tensor(value):
        return "tensor", str(value.dtype), tuple(value.shape), tuple(value.detach().flatten().tolist())
    if isinstance(value, Mapping):
        return "mapping", frozenset((key, value_key(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "sequence", tuple(value_key(item) for item in value)
    try:
        hash(value)
    except TypeError:
        return Itself(value)
    return value


def is_tensor(value: Any) -> bool:
    """Whether this is a tensor of torch; nothing is one as long as torch is not imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


class Itself:
    """Stands for an object that has no hash: equal if it is the same object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def brief(value: Any) -> str:
    """How a value prints, in one line of at most 40 characters."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of more than 4300 digits
        return "a huge integer"
    return text if len(text) <= 40 else text[:37] + "..."


def require_written_number(name: str, value: Any) -> None:
    """Raise ValueError, in one line, for a number that a row cannot have, alone or in a list: one that is no int or
    float (the tables and config.json could not record it), or that is 0 or infinite in the parameters' float32."""
    if isinstance(value, (list, tuple)):
        for item in value:
            require_written_number(name, item)
    if is_tensor(value) or isinstance(value, numbers.Number) and not isinstance(value, (int, float)):
        raise ValueError(f"{name} is written as a number like 0.1, got {brief(value)}")
    if not isinstance(value, (int, float)) or value in (0, math.inf, -math.inf) or value != value:
        return
    if not SMALLEST <= abs(value) <= LARGEST:
        limits = f"{SMALLEST:.0e} to {LARGEST:.0e}"
        raise ValueError(f"{name} must be a number that float32 can hold, {limits}, got {brief(value)}")
