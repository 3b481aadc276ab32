"""run_landscape.py end to end, beside the time that the original's method takes for the same tables.

    python -m benchmarks.landscape                  # the toy task with the 12 rows of the paper; minutes
    python -m benchmarks.landscape --model t5-small --device cuda       # its size, random weights, 1,024 examples

The original goes through every example by itself. Training takes a forward and backward pass. A measured point takes
one vhp per algorithm, and a point of a scan one forward pass. The tables of our run say how many passes that makes. A
few examples say what each pass costs: once as short as they are, and once padded to 512 tokens, as the original pads
them. Loading, optimizers and figures are counted for us and not for it. Prints one table and writes it to
results/<machine>/landscape.csv, or landscape_<model>.csv."""

import argparse
import tempfile
from collections.abc import Sequence
from unittest.mock import patch

import torch
from torch.nn.functional import pad

import run_landscape
from benchmarks._machine import Machine, add_flags, start
from benchmarks.gpu.models import MODELS
from curvature.borrowing import measuring, twice_differentiable
from curvature.objective import functional_loss, trainable_parameters
from runs.config import read_config
from runs.tables import read_table
from tasks import Task, load_task

TOY = "toy"
FLAGS = "--test_batch_size 256 --algorithm_list machine_translation"
OF_MODEL = "--algorithm_list machine_translation --micro_batch_size 32 --num_epochs 2 --test_epochs 2 "
OF_MODEL += "--sample_iterations 1 --lr 0.001 --batch_size {0} --test_batch_size {0} --dataset_size {0}"


def seconds_per_example(machine: Machine, task: Task, length: int | None, examples: int) -> dict[str, float]:
    """Mean seconds of the original's three kinds of passes over one example, the first `examples` of the task's."""
    params = trainable_parameters(task.model)
    loss_fn = functional_loss(task.model, task.losses)
    direction = tuple(torch.randn_like(p) for p in params.values())
    spent = dict.fromkeys(("training", "sharpness", "scan"), 0.0)
    for i in range(-1, examples):  # the first round is not counted
        batch = task.collate([task.examples[max(i, 0)]])
        if length is not None:
            width = length - batch["input_ids"].shape[1]
            batch |= {name: pad(batch[name], (0, width)) for name in ("input_ids", "attention_mask")}
        batch = {name: t.to(machine.device) for name, t in batch.items()}

        def mean(*tensors, batch=batch):
            return loss_fn(dict(zip(params, tensors, strict=True)), batch).mean()

        def scan(batch=batch):
            with torch.inference_mode():
                loss_fn(params, batch)

        passes = {
            "training": lambda batch=batch: task.losses(task.model, batch).mean().backward(),
            "sharpness": lambda mean=mean: torch.autograd.functional.vhp(mean, tuple(params.values()), direction),
            "scan": scan,
        }
        for name, function in passes.items():
            with measuring(task.model), twice_differentiable():
                taken, _ = machine.timed(function)
            spent[name] += taken / examples if i >= 0 else 0
    return spent


def run(machine: Machine, flags: Sequence[str], folder: str, task: Task | None) -> tuple[float, dict, dict[str, int]]:
    """Seconds, settings, and the lines of its tables. task: None for the one that the flags name."""
    arguments = [*flags, "--device", str(machine.device), "--output_dir", f"{folder}/run"]
    with patch.object(run_landscape, "load_task", (lambda *_, **__: task) if task else load_task):
        seconds, status = machine.timed(run_landscape.main, arguments)
    if status:
        raise SystemExit(status)
    tables = {name: read_table(f"{folder}/run/{name}.csv") for name in ("training", "sharpness", "scan")}
    return seconds, read_config(f"{folder}/run")["settings"], {name: len(rows) for name, rows in tables.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[TOY, "t5-small"], default=TOY, help="with random weights")
    parser.add_argument("--size", type=int, default=1024, help="examples of every batch, where the model is not toy")
    parser.add_argument("--tiny", action="store_true", help="that model, narrow and shallow")
    parser.add_argument("--flags", default="", help=f"of run_landscape.py; default for the toy task: {FLAGS}")
    parser.add_argument("--examples", type=int, default=8, help="on which the original's passes are timed")
    add_flags(parser, rounds=None)
    args = parser.parse_args(arguments)
    machine = start(args)
    task = None if args.model == TOY else MODELS[args.model](args.size, args.tiny)
    flags = args.flags or (FLAGS if task is None else OF_MODEL.format(args.size))
    with tempfile.TemporaryDirectory() as folder:
        ours, settings, lines = run(machine, flags.split(), folder, task)
    tested = settings["test_batch_size"]
    size = dict(training=settings["batch_size"], sharpness=tested, scan=tested)
    task = task or load_task(settings["task"], dataset_size=settings["dataset_size"], seed=settings["seed"])
    task.model.to(machine.device)
    rows = [dict(method="run_landscape.py", seconds=ours, over_ours=1.0)]
    for label, length in {"original's method": None, "original's method, padded to 512 tokens": 512}.items():
        each = seconds_per_example(machine, task, length, args.examples)
        total = sum(each[name] * lines[name] * size[name] for name in each)
        rows.append(dict(method=f"{label} (extrapolated)", seconds=total, over_ours=total / ours))
    passes = ", ".join(f"{lines[name] * size[name]:,} {name} passes" for name in lines)
    note = f"run_landscape.py {flags}; {passes}, timed on {args.examples} examples"
    name = "landscape" if args.model == TOY else f"landscape_{args.model}{'_tiny' if args.tiny else ''}"
    machine.report(name, rows, note)


if __name__ == "__main__":
    main()
