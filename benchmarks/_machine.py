"""What the benchmarks share: the allocator, a clock that other users of the machine disturb little, and the table."""

import csv
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

KEEP_BLOCKS = {  # freed blocks stay with the process: fresh pages cost more than the arithmetic, and unsteadily so
    "MALLOC_MMAP_THRESHOLD_": "17179869184",
    "MALLOC_TRIM_THRESHOLD_": "34359738368",
    "MALLOC_TOP_PAD_": "268435456",
}


def processor() -> str:
    """Such as "Intel(R) Xeon(R) Processor @ 2.50GHz"; the GPU's name where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# a folder a machine, such as results/intel-xeon-processor-2-50ghz
RESULTS = Path(__file__).parent / "results" / re.sub(r"(\(r\)|[^a-z0-9])+", "-", processor().lower()).strip("-")


def require(modules: dict[str, str], command: str) -> None:
    """End with status 2 and one line if one of these modules (name -> what to install) is not there."""
    absent = [package for name, package in modules.items() if find_spec(name) is None]
    if absent:
        install = f"pip install --no-deps {' '.join(absent)}"
        print(f"{command} compares with packages that are not installed; {install}", file=sys.stderr)
        raise SystemExit(2)


def start(threads: int) -> None:
    """Use this many threads, and start again with the allocator's settings, which glibc reads at the start only."""
    if any(os.environ.get(key) != value for key, value in KEEP_BLOCKS.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **KEEP_BLOCKS})
    torch.set_num_threads(threads)


def timed(function: Callable, *args) -> tuple[float, Any]:
    """(seconds, result). CPU time where one thread computes, since others may share the machine; else wall time."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    result = function(*args)
    return clock() - begin, result


def medians(functions: dict[str, Callable], rounds: int) -> dict[str, float]:
    """name -> median seconds over rounds. The functions take turns, so a change of pace meets all of them; one round
    before the first is not counted."""
    for function in functions.values():
        function()
    times = [{name: timed(function)[0] for name, function in functions.items()} for _ in range(rounds)]
    return {name: statistics.median(row[name] for row in times) for name in functions}


def machine() -> str:
    """Such as "Intel(R) Xeon(R) Processor @ 2.50GHz, 2 cores, torch 2.13.0, 1 thread (CPU time)"."""
    threads = torch.get_num_threads()
    unit = "1 thread (CPU time)" if threads == 1 else f"{threads} threads (wall time)"
    return f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, {unit}"


def report(name: str, rows: list[dict], note: str = "") -> None:
    """Print the rows as one table, and write them, with machine and note in each, to results/<machine>/NAME.csv. With
    more than one thread the name is NAME_2_threads.csv, ..."""
    threads = torch.get_num_threads()
    path = RESULTS / f"{name}{f'_{threads}_threads' if threads > 1 else ''}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "note", "machine"])
        writer.writeheader()
        writer.writerows({**row, "note": note, "machine": machine()} for row in rows)
    temporary.replace(path)
    cells = [list(rows[0])] + [[f"{c:.4g}" if isinstance(c, float) else str(c) for c in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(machine())
    for line in cells:
        first, *rest = (cell.rjust(w) for cell, w in zip(line, widths, strict=True))
        print("  ".join([first.strip().ljust(widths[0]), *rest]))
    print(f"{note}\n{path}" if note else path)
