"""The types of the flags: what each takes, and the line that answers anything else.

torch is imported only where a device or a dtype is asked for, so that wrong input is answered at once.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.processes import local_rank, world_size
from torch_optimizer.rows import is_place

if TYPE_CHECKING:
    import torch


class NumberTypes(Mapping):
    """Name of a dtype -> torch's."""

    NAMES = ("float32", "float64")

    def __getitem__(self, name: str) -> torch.dtype:
        import torch

        return {each: getattr(torch, each) for each in self.NAMES}[name]

    def __contains__(self, name: object) -> bool:
        return name in self.NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(self.NAMES)

    def __len__(self) -> int:
        return len(self.NAMES)


DTYPES = NumberTypes()


LARGEST = {int: 10**9, float: 1e30}  # beyond them float32, or the memory of any machine, overflows
SMALLEST = 1e-30  # below it float32 has no number but 0


def number(kind: type, low: float, high: float | None = None) -> Callable[[str], Any]:
    """An argparse type: an int or float in [low, high]; the answer names the range. `high` left out: `LARGEST`."""
    high = LARGEST[kind] if high is None else high

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {kind.__name__} in [{low}, {high}], got {shortened(text)!r}")
        return value

    return parse


def shortened(text: str, most: int = 60) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= most else f"{text[:most]}..."


positive_int = number(int, 1)
positive_float = number(float, SMALLEST)
seed_number = number(int, 0, 2**31 - 1)


def list_name(lists: Any) -> Callable[[str], str]:
    """The type of a flag that names one of these algorithm lists, or a list in a Python file, FILE.py:NAME."""
    known = one_of("algorithm list", lists)

    return lambda text: text if is_place(text) else known(text)


def one_of(kind: str, known: Any) -> Callable[[str], str]:
    """An argparse type: one of the known names; a wrong one is answered with them and the closest match."""

    def parse(text: str) -> str:
        if text not in known:
            near = get_close_matches(text, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise argparse.ArgumentTypeError(f"unknown {kind} {text!r}; {hint}known: {', '.join(known)}")
        return text

    return parse


def nonempty(text: str) -> str:
    """An argparse type: text that is not empty, as an unset variable of the shell is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a name, got nothing")
    return text


def name_or_path(text: str) -> str:
    """An argparse type: a name, or a path whose ~user, if it has one, is a user of this machine."""
    if nonempty(text).startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            raise argparse.ArgumentTypeError(f"{text!r} names the home of no user of this machine") from None
    return text


def folder_name(text: str) -> str:
    """An argparse type: a folder, with ~ and ~user replaced by that user's home."""
    return str(Path(name_or_path(text)).expanduser())


def device(text: str) -> torch.device:
    """An argparse type: a device of this machine; "auto" is a CUDA device if there is one, else the CPU.

    "cuda" is the device of this process: of those that torchrun or srun started on one machine, each has its own."""
    import torch

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cuda" and world_size() > 1 and torch.cuda.device_count():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())  # srun may show each process its own alone
    try:
        if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", text):
            raise RuntimeError("known are cpu, cuda, cuda:N, mps")
        chosen = torch.device(text)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise argparse.ArgumentTypeError(
            f"device {shortened(text)!r} cannot be used ({str(error).splitlines()[0]}); "
            f"this machine has {', '.join(here)}"
        ) from None
    return chosen
