"""The memory that --dry_run predicts, over what the run then takes.

    python -m benchmarks.memory                      # half an hour on one core; Linux only
    python -m benchmarks.memory --only toy hessian   # cases whose names hold all of these words
    python -m benchmarks.memory --device cuda        # other cases, at the size of t5-small and the like; minutes

Each run is short and a process of its own. It begins with the estimate. What it takes is counted twice on a CPU: the
largest bytes of all its tensors together, the model included, and the growth of its resident memory. The latter has
whatever libraries keep for themselves, some 20 MB, and what the allocator holds. On a GPU torch counts the tensors, and
the workspaces of its operations with them. `ratio` is predicted over tensors. `--optimizer_device cpu` is tried on a
GPU alone: on a CPU it changes nothing. Each row is printed, and written to results/<machine>/memory.csv, when it is
there; rows of other cases stay. A case that fails is named in one line, and the exit status is 1."""

import argparse
import ctypes
import gc
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks._machine import CPU, Machine, add_flags, in_a_process
from benchmarks.gpu.models import MODELS, resnet, roberta, t5
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
MADE: dict[str, Callable[[int], Task]] = {  # task of this script -> (examples) -> it; random weights
    "translation_here": partial(
        t5, tokens=24, vocab_size=4000, d_model=128, d_kv=32, d_ff=512, num_layers=3, num_heads=4
    ),
    "masked_here": partial(
        roberta, tokens=48, vocab_size=4000, hidden_size=128, num_attention_heads=4, intermediate_size=512,
        num_hidden_layers=4,
    ),
    "images_here": partial(resnet, side=64, hidden_sizes=[32, 64, 128, 256]),
    **{f"{name}_here": partial(make, tiny=False) for name, make in MODELS.items()},
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
    "landscape": ["--micro_batch_size 4", "--micro_batch_size 32"],
    "convergence": ["--micro_batch_size 4", "--micro_batch_size 32"],
    "hessian": ["--micro_batch_size 4 --batch_size 8", "--micro_batch_size 8 --batch_size 8"],
}
FURTHER = {  # with --micro_batch_size 8; of larger models a few Hessian blocks, the largest among them
    ("landscape", "toy"): ["--dtype float64", "--clip_sweep", "--decompose layer", "--top_eigenvalues"],
    ("landscape", "RoBERTa"): ["--top_eigenvalues"],
    ("landscape", "ResNet-18"): ["--top_eigenvalues"],
    ("hessian", "toy"): ["--dtype float64"],
    ("hessian", "T5"): ["--batch_size 8 --parameters shared|block.2.layer.0"],
    ("hessian", "RoBERTa"): ["--batch_size 16 --parameters word_embeddings|layer.3.attention"],
    ("hessian", "ResNet-18"): ["--batch_size 16 --parameters stages.3.layers.1|classifier"],
}
ON_GPU = {  # as many examples as a GPU records at once
    "landscape": {
        "t5-small": ["", "--optimizer_device cpu", "--dtype float64"],
        "distilroberta": [""],
        "ResNet-18": ["", "--top_eigenvalues --test_batch_size 64"],
    },
    "convergence": {"t5-small": ["--micro_batch_size 32"]},
    "hessian": {"ResNet-18": ["--batch_size 16 --micro_batch_size 16"]},
}
OF_SIZE = {  # the script's flags where the model is large
    "landscape": "--dataset_size 256 --batch_size 256 --test_batch_size 256 --micro_batch_size 32",
    "convergence": "--dataset_size 128 --batch_size 64",
    "hessian": "--dataset_size 64",
}
LIMIT = 1800  # seconds per case


def cases(on_gpu: bool) -> dict[str, tuple[str, str]]:
    """name -> (script, its flags)"""
    found = {}
    if on_gpu:
        for script, every in ON_GPU.items():
            for model, variants in every.items():
                flags = f"--task {model}_here {SCRIPT_FLAGS[script]} {OF_SIZE[script]}"
                for variant in variants:
                    name = ", ".join(filter(None, (script, model, variant.replace("--", ""))))
                    found[name] = script, f"{flags} {variant}"
        return found
    for script, every in SCRIPT_FLAGS.items():
        for task, flags in TASK_FLAGS.items():
            more = [f"--micro_batch_size 8 {flag}" for flag in FURTHER.get((script, task), [])]
            usual = [] if script == "hessian" and task != "toy" else VARIANTS[script]
            for variant in [*usual, *more]:
                found[f"{script}, {task}, {variant.replace('--', '')}"] = script, f"{flags} {every} {variant}"
    return found


def numbers_of(script: str, flags: str, device: torch.device, limit: float) -> dict[str, float]:
    """{"predicted": MB, "tensors": MB, "resident": MB}, the last on a CPU only. Raises: RuntimeError, one line."""
    command = ["benchmarks.memory", "--run", script, *flags.split(), "--device", str(device)]
    try:
        done = in_a_process(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took more than {limit:g} s") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "it says nothing").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def run(script: str, flags: list[str]) -> None:
    """Print the numbers of one run."""
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
            device, results = run.settings.device, []
            found["predicted"] = run.estimate().needed(str(device)) / 2**20
            gc.collect()
            libc.malloc_trim(0)
            model = run.estimate.args[0].model
            found.update(counted(lambda: results.append(run.work(*arguments)), Machine(device), model))
            return results[0]

        return replace(run, work=measured, says_estimate=False)

    module.prepare = lambda *arguments: counting(prepare(*arguments))
    module.draw_all = lambda folder: []
    with tempfile.TemporaryDirectory() as folder:
        if module.main([*flags, "--output_dir", f"{folder}/run"]):
            sys.exit("the run failed")
    print(json.dumps(found))


def counted(work: Callable[[], object], machine: Machine, model: torch.nn.Module) -> dict[str, float]:
    """{"tensors": MB, "resident": MB} of the work with its model, which is on the CPU before. On a GPU the first."""
    if not machine.is_cpu:
        return dict(tensors=machine.peak_mb(work))
    of_model = model_bytes(model) / 2**20
    with LiveBytes(CPU, model.parameters()) as live:
        resident = machine.peak_mb(work)
    return dict(tensors=live.peak / 2**20 + of_model, resident=resident + of_model)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["--run"]:
        run(arguments[1], arguments[2:])
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds per case")
    add_flags(parser, rounds=None)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    machine, failed = Machine(args.device, args.output), False
    for name, (script, flags) in cases(not machine.is_cpu).items():
        if all(word in name for word in args.only):
            try:
                numbers = numbers_of(script, flags, machine.device, args.limit)
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                failed = True
                continue
            ratio = numbers["predicted"] / numbers["tensors"]
            row = dict(run=name, **{f"{key}_mb": value for key, value in numbers.items()}, ratio=ratio)
            machine.report("memory", [row], "predicted by --dry_run, and taken; MB of 2^20 bytes", keys=["run"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
