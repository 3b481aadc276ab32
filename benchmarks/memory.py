"""The memory that --dry_run predicts, over what the run then takes.

    python -m benchmarks.memory                      # half an hour on one core; Linux only
    python -m benchmarks.memory --only toy hessian   # cases whose names hold all of these words

Each run is short and a process of its own, on a CPU. It begins with the estimate. What it takes is counted twice: the
largest bytes of all its tensors together, the model included, and the growth of its resident memory. The latter has
whatever libraries keep for themselves, some 20 MB, and what the allocator holds. `ratio` is predicted over tensors.
Prints one table and writes it to results/<machine>/memory.csv."""

import argparse
import ctypes
import gc
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks._machine import report
from benchmarks.gpu.models import resnet, roberta, t5
from benchmarks.sharpness import status_mb
from runs.lifecycle import PreparedRun
from tasks import TASKS, Entry
from tasks.base import Task
from tasks.protocols import TOY
from training.memory import LiveBytes, model_bytes

RETURN_BLOCKS = {
    -1: 65536,
    -2: 0,
    -3: 65536,
    -4: 10**6,
}  # glibc's M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX
ROOT = Path(__file__).resolve().parents[1]
MADE: dict[str, Callable[[int], Task]] = {  # task of this script -> (examples) -> 1 to 3 M parameters, random weights
    "translation_here": partial(
        t5, tokens=24, vocab_size=4000, d_model=128, d_kv=32, d_ff=512, num_layers=3, num_heads=4
    ),
    "masked_here": partial(
        roberta, tokens=48, vocab_size=4000, hidden_size=128, num_attention_heads=4, intermediate_size=512,
        num_hidden_layers=4,
    ),
    "images_here": partial(resnet, side=64, hidden_sizes=[32, 64, 128, 256]),
}  # fmt: skip
TASK_FLAGS = {
    "toy": "--task toy --dataset_size 32",
    "T5": "--task translation_here --dataset_size 32",
    "RoBERTa": "--task masked_here --dataset_size 32",
    "ResNet-18": "--task images_here --dataset_size 32",
}
SCRIPT_FLAGS = {
    "landscape": "--batch_size 32 --test_batch_size 32 --num_epochs 1 --test_epochs 1 --sample_iterations 1 "
    "--skip_search",
    "convergence": "--batch_size 16 --num_epochs 1",
    "hessian": "--num_batches 1",
}
VARIANTS = {
    "landscape": ["--micro_batch_size 4", "--micro_batch_size 8", "--micro_batch_size 32"],
    "convergence": ["--micro_batch_size 4", "--micro_batch_size 32"],
    "hessian": ["--micro_batch_size 4 --batch_size 8", "--micro_batch_size 8 --batch_size 8"],
}
OF_TOY = {
    "landscape": ["--dtype float64", "--clip_sweep", "--optimizer_device cpu", "--decompose layer"],
    "hessian": ["--dtype float64"],
}


def cases() -> dict[str, tuple[str, str]]:
    """name -> (script, its flags)"""
    found = {}
    for script, every in SCRIPT_FLAGS.items():
        for task, flags in TASK_FLAGS.items():
            more = [f"--micro_batch_size 8 {flag}" for flag in OF_TOY.get(script, []) if task == "toy"]
            for variant in [*VARIANTS[script], *more]:
                found[f"{script}, {task}, {variant.replace('--', '')}"] = script, f"{flags} {every} {variant}"
    return found


def in_a_process(script: str, flags: str) -> dict[str, float]:
    """{"predicted": MB, "tensors": MB, "resident": MB}"""
    command = [sys.executable, "-m", "benchmarks.memory", "--run", script, *flags.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(script: str, flags: list[str]) -> None:
    """Print both numbers of one run."""
    torch.set_num_threads(1)
    libc = ctypes.CDLL(None)
    for parameter, value in RETURN_BLOCKS.items():
        libc.mallopt(parameter, value)
    for name, make in MADE.items():
        TASKS[name] = Entry(lambda request, make=make: make(request.dataset_size), TOY, TOY)
    module, found = importlib.import_module(f"run_{script}"), {}
    prepare = module.prepare

    def counting(run: PreparedRun) -> PreparedRun:
        def measured(*arguments):
            model, found["predicted"] = run.estimate.args[0].model, run.estimate().needed("cpu") / 2**20
            gc.collect()
            libc.malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # restarts the peak
            nbytes, before = model_bytes(model) / 2**20, status_mb("VmRSS")
            with LiveBytes(torch.device("cpu"), model.parameters()) as live:
                result = run.work(*arguments)
            found["tensors"], found["resident"] = live.peak / 2**20 + nbytes, status_mb("VmHWM") - before + nbytes
            return result

        return replace(run, work=measured, says_estimate=False)

    module.prepare = lambda *arguments: counting(prepare(*arguments))
    module.draw_all = lambda folder: []
    with tempfile.TemporaryDirectory() as folder:
        if module.main([*flags, "--output_dir", f"{folder}/run", "--device", "cpu"]):
            sys.exit("the run failed")
    print(json.dumps(found))


def main() -> None:
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (script, flags) in cases().items():
        if all(word in name for word in args.only):
            numbers = in_a_process(script, flags)
            ratio = numbers["predicted"] / numbers["tensors"]
            rows.append(dict(run=name, **{f"{key}_mb": value for key, value in numbers.items()}, ratio=ratio))
            print(f"{ratio:.2f}  {name}", file=sys.stderr, flush=True)
    report("memory", rows, "memory that --dry_run predicts and that the run takes, MB of 2^20 bytes")


if __name__ == "__main__":
    main()
