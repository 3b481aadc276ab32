"""The other benchmarks on a GPU, each by its own command and with its own table.

Left out are `sparse_scan`, whose numbers follow from the curves, `distributed`, which needs several GPUs, and
`heterogeneity_study`, which trains small models and times nothing."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks._machine import KEEP_BLOCKS, in_a_process, keep_earlier, read

LIMIT = 450  # seconds per part; a part is ended from outside after 480
WITHIN = 0.2  # the memory of a run is predicted so well


@dataclass(frozen=True)
class Command:
    """A benchmark. tiny: None where another command stands for it. limit: seconds that it may take, some three times
    what it should on an H200-class card."""

    name: str
    on_gpu: str  # flags
    tiny: str | None  # flags
    limit: int
    takes_device: bool = True

    def words(self, tiny: bool, device: torch.device, output: Path) -> list[str]:
        flags = ((self.tiny or "") if tiny else self.on_gpu).split()
        place = ["--device", device.type] if self.takes_device else []
        return [f"benchmarks.{self.name}", *flags, *place, "--output", str(output)]


MEASURING = (
    Command("sharpness", "--size t5-small --examples 64 --rounds 2", "--size tiny --rounds 1 --threads 1", 150),
    Command("sharpness", "--size small --rounds 2", None, 150),
    Command("scan", "--examples 256", "--size tiny --examples 2 --rounds 1", 60),
    Command("landscape", "--model t5-small", "--model t5-small --tiny --size 4 --examples 1", 180),
    Command("hessian", "--rounds 2 --without_missing", "--rounds 1 --batch_size 2 --length 4 --tolerance 0.1 "
            "--layers 1 --without_missing --threads 1", 150),
    Command("launches", "", "--models ResNet-18 --together 1", 150, takes_device=False),
)  # fmt: skip
TRAINING = (
    Command("training", "--size t5-small --examples 1024 --batch_size 1024 --rounds 2 --without_missing",
            "--size tiny --rounds 1 --without_missing --threads 1", 120),
    Command("clipping", "", "--size tiny --rounds 1", 60),
    Command("pseudo_updates", "--examples 128", "--size tiny --rounds 1", 60),
    Command("probe", "--rounds 3 --bits 20", "--rounds 1 --width 16 --layers 1 --bits 2", 90),
    Command("checkpoints", "--rounds 2", "--parameters 0.3 --rounds 1", 180),
)  # fmt: skip
MEMORY = Command("memory", "--limit 120", "--only convergence toy size 4", 440)

Run = Callable[[list[str], torch.device, float], str | None]


def by_command(words: list[str], device: torch.device, seconds: float) -> str | None:
    """What went wrong; None if nothing did. Only one GPU is seen: the Trainer of transformers would take them all."""
    environment, index = {**os.environ, **KEEP_BLOCKS}, device.index or 0
    if device.type == "cuda":
        seen = [number for number in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if number]
        environment["CUDA_VISIBLE_DEVICES"] = seen[index] if seen else str(index)
    try:
        done = in_a_process(words, env=environment, timeout=seconds)
    except subprocess.TimeoutExpired:
        return f"took more than {seconds:.0f} s"
    return None if done.returncode == 0 else f"exit status {done.returncode}"


def rows_of(
    commands: Sequence[Command], device: torch.device, tiny: bool, folder: Path, how: Run = by_command
) -> list[dict]:
    """Rows (benchmark, seconds, passed, trouble, tables), one per command. Their tables go to the folder; an earlier
    one is kept under another name."""
    rows, began = [], time.perf_counter()
    for command in (one for one in commands if not tiny or one.tiny is not None):
        with tempfile.TemporaryDirectory() as place:
            start = time.perf_counter()
            seconds = min(command.limit, LIMIT - (start - began))
            words = command.words(tiny, device, Path(place))
            trouble = how(words, device, seconds) if seconds > 0 else "no time was left"
            tables = [take(path, folder) for path in sorted(Path(place).glob("*.csv"))]
        taken = time.perf_counter() - start
        if trouble:
            print(f"{command.name}: {trouble}", flush=True)
        about = dict(passed=trouble is None, trouble=trouble or "", tables=" ".join(tables))
        rows.append(dict(benchmark=" ".join(words[:-2]), seconds=taken, **about))
    return rows


def take(path: Path, folder: Path) -> str:
    """Move a table into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    keep_earlier(folder / path.name)
    (folder / path.name).write_bytes(path.read_bytes())
    return path.name


def memory(device: torch.device, tiny: bool, folder: Path, how: Run = by_command) -> list[dict]:
    """Rows (run, predicted_mb, tensors_mb, ratio, passed), and one of the benchmark itself."""
    (done,) = rows_of([MEMORY], device, tiny, folder, how)
    lines = read(folder / "memory.csv") if done["tables"] else []
    rows = [dict(run="all runs came to an end", passed=done["passed"])]
    for line in lines:
        numbers = {name: float(line[name]) for name in ("predicted_mb", "tensors_mb", "ratio")}
        rows.append(dict(run=line["run"], passed=abs(numbers["ratio"] - 1) <= WITHIN, **numbers))
    return rows


def about_memory(lines: Sequence[Mapping[str, str]]) -> tuple[str, bool]:
    """The smallest and the largest ratio, and whether both are within bounds."""
    ratios = [float(line["ratio"]) for line in lines if line.get("ratio")]
    return (f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "none"), all(abs(r - 1) <= WITHIN for r in ratios)
