"""A whole run of run_landscape.py on a model of real size with random weights: time by stage, memory, arithmetic."""

import csv
import resource
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

import run_landscape
from benchmarks.gpu.models import MODELS
from benchmarks.gpu.stopwatch import REST, TRAINING, Stopwatch
from benchmarks.launches import Counting
from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.objective import objective_at
from landscape_utils import directional_sharpness, mean_loss
from tasks.base import Task
from training.loop import micro_batches

# The protocol of each task, after tasks/protocols.py; of ResNet-18 and distilroberta two epochs.
FLAGS = {
    "t5-small": "--algorithm_list machine_translation --dataset_size 10240 --batch_size 1024 --test_batch_size 1024 "
    "--micro_batch_size 32 --num_epochs 20 --test_epochs 2 5 10 20 --num_sample_sharpness 5 --lr 0.001",
    "distilroberta": "--algorithm_list workshop_masked_language_modeling --dataset_size 10240 --batch_size 1024 "
    "--test_batch_size 1024 --micro_batch_size 8 --num_epochs 2 --test_epochs 2 --num_sample_sharpness 5 --lr 0.001",
    "ResNet-18": "--algorithm_list gradient_heterogeneity/resnet18-flowers --dataset_size 640 --batch_size 32 "
    "--test_batch_size 256 --micro_batch_size 32 --num_epochs 2 --test_epochs 2 --num_sample_sharpness 5 --lr 0.01",
}
TINY = "--dataset_size 8 --batch_size 4 --test_batch_size 4 --micro_batch_size 2 --num_epochs 1 --test_epochs 1 "
TINY += "--num_sample_sharpness 1"
SOFT_LIMIT = 420  # seconds after which a run is asked to stop, so that its part stays under eight minutes
MATRIX = 8192
TRIED = 2  # examples whose arithmetic is counted


def run(name: str, device: torch.device, tiny: bool, folder: Path) -> list[dict]:
    """Rows (stage, seconds, share, tflops, share_of_rate, calls) of the run of one model, and of the whole."""
    flags = f"{FLAGS[name]} {TINY if tiny else ''}".split()
    task = MODELS[name](int(last(flags, "--dataset_size")), tiny)
    arithmetic, kernels = arithmetic_of(task), kernels_of(task, device)
    rate, watch = flops_per_second(device, 256 if tiny else MATRIX), Stopwatch(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    status = measured_run(task, [*flags, "--device", str(device)], folder, watch)
    counts = passes(folder, flags)
    done = {
        TRAINING: counts["trained"] * arithmetic["gradient"],
        "sharpness": counts["recorded"] * arithmetic["recording"] + counts["directions"] * arithmetic["direction"],
        "scans": counts["scanned"] * arithmetic["forward"],
    }
    rows = [row(stage, seconds, watch, done.get(stage), rate) for stage, seconds in sorted(watch.seconds.items())]
    rows.append(row("measuring", watch.measuring, watch, None, rate))
    rows.append(row("the whole run", watch.total, watch, sum(done.values()), rate))
    about = dict(
        model=name,
        updates=counts["updates"],
        points=counts["points"],
        finished=status == 0,
        rate_tflops=rate / 1e12,
        peak_gb=peak_bytes(device) / 1e9,
        kernels_per_direction=kernels,
        measuring_over_training=watch.measuring / max(watch.seconds[TRAINING], 1e-9),
    )
    return [about | each for each in rows]


def row(stage: str, seconds: float, watch: Stopwatch, flops: float | None, rate: float) -> dict:
    of_rate = None if flops is None or not seconds else flops / seconds / rate
    calls = watch.calls.get(stage) if stage != REST else None
    return dict(stage=stage, seconds=seconds, share=seconds / watch.total, share_of_rate=of_rate, calls=calls)


def measured_run(task: Task, flags: Sequence[str], folder: Path, watch: Stopwatch) -> int:
    """The exit status of run_landscape.py on this task, stopped as by Ctrl-C where it takes too long."""
    arguments = ["--task", "toy", *flags, "--output_dir", str(folder / "run")]
    stop = threading.Timer(SOFT_LIMIT, signal.raise_signal, [signal.SIGTERM])
    stop.daemon = True
    with patch.object(run_landscape, "load_task", lambda *_, **__: task), watch.running():
        stop.start()
        try:
            return run_landscape.main(arguments)
        finally:
            stop.cancel()


def passes(folder: Path, flags: Sequence[str]) -> dict[str, int]:
    """How many examples went through what, by the tables of the run."""
    tables = {}
    for name in ("training", "sharpness", "scan"):
        with (folder / "run" / f"{name}.csv").open(newline="") as file:
            tables[name] = [line for line in csv.DictReader(file) if line.get("measured_on", "test") == "test"]
    batch, test = (int(last(flags, name)) for name in ("--batch_size", "--test_batch_size"))
    points = {(line["epoch"], line["batch"]) for line in tables["sharpness"]}
    updates, evaluated = len(tables["training"]), sum(line["evaluated"] == "1" for line in tables["scan"])
    return dict(
        updates=updates,
        points=len(points),
        trained=updates * batch,
        recorded=len(points) * test,
        directions=len(tables["sharpness"]) * test,
        scanned=evaluated * test,
    )


def last(flags: Sequence[str], name: str) -> str:
    """The value of a flag that may be given twice."""
    return flags[len(flags) - 1 - list(flags)[::-1].index(name) + 1]


# ---- the machine ----------------------------------------------------------------------------------------------------


def flops_per_second(device: torch.device, size: int) -> float:
    """Of a large product of float32 matrices without TF32, the best of five."""
    a, b = torch.randn(2, size, size, device=device)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits
        best = min(best, time.perf_counter() - start)
    torch.set_float32_matmul_precision(before)
    return 2 * size**3 / best


def peak_bytes(device: torch.device) -> int:
    """Most memory that was in use: of the GPU's, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def arithmetic_of(task: Task) -> dict[str, float]:
    """Floating-point operations per example: of a forward pass, a gradient, a recording, and one direction more.
    Counted on the CPU, on examples of middle length."""
    middle = sorted(range(len(task.examples)), key=task.length)[len(task.examples) // 2 :][:TRIED]
    batch = next(micro_batches(task, middle, TRIED, torch.device("cpu")))
    objective = objective_at(task.model, task.losses, [batch], torch.float32)
    v = Direction({name: torch.randn_like(p) for name, p in objective.params.items()})

    def count(action) -> float:
        with FlopCounterMode(display=False) as counter:
            action()
        return counter.get_total_flops() / len(middle)

    def along(directions: int) -> float:
        return count(lambda: directional_sharpness(objective.loss_fn, objective.params, [v] * directions, [batch]))

    def backward() -> None:
        task.losses(task.model, batch).sum().backward()
        task.model.zero_grad(set_to_none=True)

    with measuring(task.model):
        forward = count(lambda: mean_loss(objective.loss_fn, objective.params, [batch]))
        gradient, one, three = count(backward), along(1), along(3)
    direction = (three - one) / 2
    return dict(forward=forward, gradient=gradient, recording=one - direction, direction=direction)


def kernels_of(task: Task, device: torch.device, directions: int = 12) -> float:
    """Kernels per direction and micro-batch, where so many are measured together."""
    task.model.to(device)
    batch = next(micro_batches(task, range(TRIED), TRIED, device))
    objective = objective_at(task.model, task.losses, [batch], torch.float32)
    v = Direction({name: torch.randn_like(p) for name, p in objective.params.items()})

    def count(number: int) -> int:
        with Counting() as counting:
            directional_sharpness(objective.loss_fn, objective.params, [v] * number, [batch], together=number)
        return counting.counts["kernels"]

    with measuring(objective.model):
        per_direction = (count(directions) - count(1)) / (directions - 1)
    task.model.to("cpu")
    return per_direction


def goals(rows: Sequence[Mapping[str, str]]) -> list[tuple[str, str, bool]]:
    """(goal, what was found, whether it is met) of the run of t5-small, from the rows of its table."""
    whole_run = next(r for r in rows if r["stage"] == "the whole run")
    over, seconds, finished = (
        float(whole_run["measuring_over_training"]),
        float(whole_run["seconds"]),
        whole_run["finished"],
    )
    stopped = "" if finished == "True" else f", stopped after {whole_run['updates']} updates"
    minutes = f"{seconds / 60:.2g} min{stopped}"
    return [
        ("one trajectory in under 5 minutes", minutes, finished == "True" and seconds < 300),
        ("measuring takes at most twice the time of training", f"{over:.2g} times", over <= 2),
    ]
