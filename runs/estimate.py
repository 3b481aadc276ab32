"""What a run will do, how long that takes and how much memory it needs, told before it begins.

Each wing counts the parts of its own script (landscape/estimate.py, ...). Here they become a table and a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runs.messages import duration
from runs.tables import format_table

if TYPE_CHECKING:
    import torch

MEMORY = Path("/proc/meminfo")
NOTHING_WRITTEN = "Nothing was written."
LEFT_OUT = "without checkpoints, figures{} and waiting for other processes"
NO_TIME = "since a micro-batch of {} examples does not fit into the memory of {}; --micro_batch_size makes it smaller"


@dataclass(frozen=True)
class Part:
    """A row of the table: a count of something, or something that is held in memory. None: does not apply.

    seconds: of all of them together.  nbytes: on `device`.  during: the only time when it is held; "": always. What is
    held during one time has its place at another.
    """

    what: str
    number: int | None = None
    seconds: float | None = None
    nbytes: int | None = None
    device: str = ""
    during: str = ""


@dataclass(frozen=True)
class Estimate:
    """The parts of a run.

    parts: those that take time in the order of the run, and those that take memory in the order in which they come to
        be held.
    free: device -> bytes that the run could have; without an entry where the device does not tell.
    basis: what the time was estimated from, and what it leaves out; or why there is none.
    at_least: whether the run may do more than is counted.
    """

    parts: Sequence[Part]
    free: Mapping[str, int]
    basis: str
    at_least: bool = False

    @property
    def seconds(self) -> float | None:
        """Of the whole run; None if nothing was timed."""
        known = [part.seconds for part in self.parts if part.seconds is not None]
        return sum(known) if known else None

    def line(self) -> str:
        """What is logged when a run begins: "About 3 min in all: 50 updates, 6 measured points"."""
        counted = ", ".join(f"{part.number:,} {part.what}" for part in self.parts if part.number is not None)
        return f"{self.time()}{'' if self.seconds is None else ' in all'}: {counted}"

    def time(self) -> str:
        if self.seconds is None:
            return "Time not known"
        return f"{'At least' if self.at_least else 'About'} {duration(self.seconds)}"

    def report(self) -> str:
        """What a dry run prints."""
        columns = ["what", "number", "time", "memory", "during", "device"]
        table = format_table([_cells(part) for part in self.parts], columns)
        return f"{table}\n\n{self.time()}, {self.basis}. {' '.join(self.fit())} {NOTHING_WRITTEN}"

    def needed(self, device: str) -> int:
        """Bytes on this device, at the time when most of them are held."""
        return max(sum(part.nbytes or 0 for part in parts) for parts in self._held(device))

    def _held(self, device: str) -> list[list[Part]]:
        """The parts on this device that are held at the same time, for every such time."""
        here = [part for part in self.parts if part.nbytes is not None and part.device == device]
        times = dict.fromkeys(part.during for part in here if part.during) or [""]
        return [[part for part in here if part.during in ("", time)] for time in times]

    def fit(self) -> list[str]:
        """A sentence per device: how much memory it has, and what would not fit."""
        sentences = []
        for device in dict.fromkeys(part.device for part in self.parts if part.nbytes is not None):
            free, missing = self.free.get(device), self.would_not_fit(device)
            needs = f"On {device} about {in_bytes(self.needed(device))} are needed"
            if free is None:
                sentences.append(f"{needs}; how much is free is not known.")
            elif missing:
                sentences.append(f"{needs}, {in_bytes(free)} are free: no room for {', '.join(missing)}.")
            else:
                sentences.append(f"{needs}, {in_bytes(free)} are free.")
        return sentences

    def would_not_fit(self, device: str) -> list[str]:
        """The parts that find no room any more, if memory is given out in the order of the table."""
        missing: dict[str, None] = {}
        for parts in self._held(device):
            room = self.free.get(device, math.inf)
            for part in parts:
                size = part.nbytes or 0
                if size > room:
                    missing[part.what] = None
                else:
                    room -= size
        return list(missing)


def _cells(part: Part) -> dict[str, str | int | None]:
    return {
        "what": part.what,
        "number": part.number,
        "time": None if part.seconds is None else duration(part.seconds),
        "memory": None if part.nbytes is None else in_bytes(part.nbytes),
        "during": part.during,
        "device": part.device,
    }


def in_bytes(count: float) -> str:
    """A size for people: "12 MB", "1.5 GB"; powers of ten."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:,.0f} {unit}"
    return f"{count / 1e3:.3g} kB"


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process could still have there; None where the system does not tell."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu" or not MEMORY.exists():
        return None
    sizes = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines() if ":" in line)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def free_for_run(devices: Iterable[torch.device], model_bytes: int) -> dict[str, int]:
    """Device -> bytes that a run could have there. Call while the model is in the memory of the CPU: there its own
    bytes count as free, since `Estimate` counts them as needed."""
    free_bytes = {str(device): free_memory(device) for device in devices}
    return {name: free + (model_bytes if name == "cpu" else 0) for name, free in free_bytes.items() if free is not None}
