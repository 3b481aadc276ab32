"""run_landscape.py end to end, beside the time that the original's method takes for the same tables.

    python -m benchmarks.landscape                  # the toy task with the 12 rows of the paper; minutes

The original goes through every example by itself. Training takes a forward and backward pass. A measured point takes
one vhp per algorithm, and a point of a scan one forward pass. The tables of our run say how many passes that makes. A
few examples say what each pass costs: once as short as they are, and once padded to 512 tokens, as the original pads
them. Loading, optimizers and figures are counted for us and not for it. Prints one table and writes it to
results/<machine>/landscape.csv."""

import argparse
import tempfile

import torch
from torch.nn.functional import pad

import run_landscape
from benchmarks._machine import report, start, timed
from curvature.borrowing import measuring, twice_differentiable
from curvature.objective import functional_loss, trainable_parameters
from runs.config import read_config
from runs.tables import read_table
from tasks import Task, load_task


def seconds_per_example(task: Task, length: int | None, examples: int) -> dict[str, float]:
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
                taken, _ = timed(function)
            spent[name] += taken / examples if i >= 0 else 0
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--flags", default="--test_batch_size 256 --algorithm_list machine_translation", help="of run_landscape.py"
    )
    parser.add_argument("--examples", type=int, default=8, help="on which the original's passes are timed")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    start(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        ours, _ = timed(run_landscape.main, [*args.flags.split(), "--output_dir", f"{folder}/run"])
        settings = read_config(f"{folder}/run")["settings"]
        lines = {name: len(read_table(f"{folder}/run/{name}.csv")) for name in ("training", "sharpness", "scan")}
    tested = settings["test_batch_size"]
    size = dict(training=settings["batch_size"], sharpness=tested, scan=tested)
    task = load_task(settings["task"], dataset_size=settings["dataset_size"], seed=settings["seed"])
    rows = [dict(method="run_landscape.py", seconds=ours, over_ours=1.0)]
    for label, length in {"original's method": None, "original's method, padded to 512 tokens": 512}.items():
        each = seconds_per_example(task, length, args.examples)
        total = sum(each[name] * lines[name] * size[name] for name in each)
        rows.append(dict(method=f"{label} (extrapolated)", seconds=total, over_ours=total / ours))
    passes = ", ".join(f"{lines[name] * size[name]:,} {name} passes" for name in lines)
    report("landscape", rows, f"run_landscape.py {args.flags}; {passes}, timed on {args.examples} examples")


if __name__ == "__main__":
    main()
