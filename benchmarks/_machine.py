"""What the benchmarks share: flags, the allocator, clock and memory of the device that is measured, and the table.

machine = start(parser.parse_args())       # of a parser with `add_flags`
seconds, result = machine.timed(function)
machine.report("name", rows)
"""

import argparse
import csv
import ctypes
import gc
import io
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from runs.files import write_whole
from runs.machine import prepare_machine

ROOT = Path(__file__).resolve().parents[1]
KEEP_BLOCKS = {  # freed blocks stay with the process: fresh pages cost more than the arithmetic, and unsteadily so
    "MALLOC_MMAP_THRESHOLD_": "17179869184",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}
CPU = torch.device("cpu")
PR_SET_PDEATHSIG = 1  # sys/prctl.h


# ---- before anything is measured ------------------------------------------------------------------------------------


def add_flags(parser: argparse.ArgumentParser, rounds: int | None = 5, threads: int = 1, device: bool = True) -> None:
    """The flags that `start` reads. rounds: None where nothing is repeated. device: whether a GPU can be measured."""
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="repetitions; the table takes medians")
    parser.add_argument("--threads", type=int, default=threads, help="of the CPU")
    if device:
        parser.add_argument("--device", type=torch.device, default=CPU, help="cpu, or a GPU such as cuda")
    parser.add_argument("--output", type=Path, help="folder of the table; default: benchmarks/results/<machine>")


def require(modules: dict[str, str], command: str) -> None:
    """End with status 2 and one line if one of these modules (name -> what to install) is not there."""
    if absent := missing(modules):
        install = f"pip install --no-deps {' '.join(absent)}"
        print(f"{command} compares with packages that are not installed; {install}", file=sys.stderr)
        raise SystemExit(2)


def missing(modules: dict[str, str]) -> list[str]:
    """What to install of these modules (name -> what to install)."""
    return [package for name, package in modules.items() if find_spec(name) is None]


def start(args: argparse.Namespace) -> "Machine":
    """The machine that the flags ask for, prepared. On a CPU the process may start again with the allocator's settings,
    which glibc reads at the start only."""
    machine = Machine(getattr(args, "device", CPU), args.output)
    if machine.is_cpu and any(os.environ.get(key) != value for key, value in KEEP_BLOCKS.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **KEEP_BLOCKS})
    torch.set_num_threads(args.threads)
    if not machine.is_cpu:
        prepare_machine()  # as a run does
        torch.zeros(1, device=machine.device)
    return machine


def in_a_process(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess:
    """subprocess.run of `python -m` with these words. The process ends with this one, however that ends."""
    libc = ctypes.CDLL(None)

    def end_with_this_one() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    tie = end_with_this_one if sys.platform == "linux" else None
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, preexec_fn=tie, **options)


# ---- the machine ----------------------------------------------------------------------------------------------------


def processor(device: torch.device = CPU) -> str:
    """Such as "Intel(R) Xeon(R) Processor @ 2.50GHz" or "NVIDIA H200"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class Machine:
    """A device with its clock, its memory and the folder of its tables, such as results/intel-xeon-processor-2-50ghz. A
    GPU has a folder of its own, so that tables of its CPU stay beside it."""

    def __init__(self, device: torch.device | str = CPU, output: Path | None = None) -> None:
        self.device = torch.device(device)
        self.is_cpu = self.device.type == "cpu"
        self.name = processor(self.device)
        folder = re.sub(r"(\(r\)|[^a-z0-9])+", "-", self.name.lower()).strip("-")
        self.folder = output or Path(__file__).parent / "results" / folder

    def __str__(self) -> str:
        """Such as "Intel(R) Xeon(R) Processor, 2 cores, torch 2.13.0, 1 thread (CPU time)"."""
        threads = torch.get_num_threads()
        unit = "1 thread (CPU time)" if threads == 1 else f"{threads} threads (wall time)"
        return f"{self.name}, {os.cpu_count()} cores, torch {torch.__version__}, {unit if self.is_cpu else 'wall time'}"

    def clock(self) -> float:
        """Seconds, when the device has done all that it was given: of CPU time where one thread computes, since others
        may share the machine; else of wall time."""
        if self.is_cpu:
            return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, function: Callable, *args) -> tuple[float, Any]:
        """(seconds, result)"""
        begin = self.clock()
        result = function(*args)
        return self.clock() - begin, result

    def medians(self, functions: dict[str, Callable], rounds: int) -> dict[str, float]:
        """name -> median seconds over rounds. The functions take turns, so a change of pace meets all of them; one
        round before the first is not counted."""
        for function in functions.values():
            function()
        times = [{name: self.timed(function)[0] for name, function in functions.items()} for _ in range(rounds)]
        return {name: statistics.median(row[name] for row in times) for name in functions}

    def peak_mb(self, function: Callable, *args) -> float:
        """Most MB of 2^20 bytes that are in use during the call, beyond what was before: of tensors on a GPU, of the
        process on a CPU (Linux only). There a process counts what it has freed and kept."""
        gc.collect()
        if self.is_cpu:
            Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
            before = status_mb("VmRSS")
            function(*args)
            return status_mb("VmHWM") - before
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        function(*args)
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20

    def path(self, name: str) -> Path:
        """Of a table; of a CPU with more than one thread NAME_2_threads.csv, ..."""
        threads = torch.get_num_threads() if self.is_cpu else 1
        return self.folder / f"{name}{f'_{threads}_threads' if threads > 1 else ''}.csv"

    def report(self, name: str, rows: list[dict], note: str = "", keys: Sequence[str] = ()) -> None:
        """Print the rows as one table, and write them, with machine and note in each, to `path(name)`.

        keys: columns. Rows of the file that differ from all of these in one of them are kept."""
        path = self.path(name)
        new = {tuple(str(row[key]) for key in keys) for row in rows}
        kept = [row for row in read(path) if tuple(row[key] for key in keys) not in new] if keys else []
        write(path, [*kept, *({**row, "note": note, "machine": str(self)} for row in rows)])
        shown = [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row.values()] for row in rows]
        cells = [list(rows[0]), *shown]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        print(self)
        for line in cells:
            first, *rest = (cell.rjust(w) for cell, w in zip(line, widths, strict=True))
            print("  ".join([first.strip().ljust(widths[0]), *rest]))
        print(f"{note}\n{path}" if note else path)


def status_mb(field: str) -> float:
    """Of /proc/self/status, in MB of 2^20 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


# ---- tables ---------------------------------------------------------------------------------------------------------


def as_csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write(path: Path, rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, as_csv(rows))


def keep_earlier(path: Path) -> None:
    """Give a file of that name another one: NAME.1.csv, NAME.2.csv, ..."""
    if path.exists():
        number = 1
        while (other := path.with_suffix(f".{number}{path.suffix}")).exists():
            number += 1
        path.rename(other)
        print(f"{path} of an earlier run is now {other.name}")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a table; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
