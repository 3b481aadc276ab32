"""How long the training loop waits for a checkpoint: written by the loop, and in the background from a copy.

    python -m benchmarks.checkpoints                      # 60 M parameters, 2.4 GB, several minutes
    python -m benchmarks.checkpoints --parameters 2       # 2 M
    python -m benchmarks.checkpoints --device cuda        # of a state on a GPU

The state is that of a run of the translation list: model, Adam's two moments and seven states of pseudo-updates, each
as large as the model. The three ways take turns: `direct` writes the state itself, as runs did before and still do
without room for a copy; `copied` is what runs do now; `copy` is the copy alone. Columns, in seconds:

    waits      from the call to its return: the loop stands still
    computes   CPU time of the loop in between, which other users of the machine disturb little
    whole      until the files are whole
    busy       CPU time of all threads

Prints one table and writes it to results/<machine>/checkpoints.csv, beside those of other sizes."""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks._machine import CPU, add_flags, start
from runs import background
from runs.checkpoints import Checkpoints, save_tensors
from runs.machine import prepare_machine
from runs.snapshot import size_of, snapshot

COLUMNS = "way", "waits", "computes", "whole", "busy"
COPIES = 10  # of the model in a checkpoint
WIDTH = 512


def state_of(parameters: int, device: torch.device = CPU) -> dict[str, dict[str, torch.Tensor]]:
    """That many parameters in square matrices, ten times."""
    matrices = max(1, parameters // WIDTH**2)
    made = partial(torch.rand, WIDTH, WIDTH, device=device)
    return {f"part {part}": {str(i): made() for i in range(matrices)} for part in range(COPIES)}


def timed(store: Callable[[], object]) -> tuple[float, float, float, float]:
    """The columns of the table."""
    began, own, busy = time.perf_counter(), time.thread_time(), time.process_time()
    store()
    waits, computes = time.perf_counter() - began, time.thread_time() - own
    background.wait()
    return waits, computes, time.perf_counter() - began, time.process_time() - busy


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=60, help="of the model, in millions")
    add_flags(parser, rounds=3)
    parser.add_argument("--folder", default=None, help="on the disk to be timed; default: the system's temporary one")
    args = parser.parse_args(arguments)
    machine = start(args)
    prepare_machine()
    state = state_of(int(args.parameters * 1e6), machine.device)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path, numbers = Path(folder) / "direct" / "state.pt", iter(range(1, 10**6))
        checkpoints = Checkpoints(Path(folder) / "copied")
        ways = {
            "direct": lambda: save_tensors(path, state),
            "copied": lambda: checkpoints.save(next(numbers), state),
            "copy": lambda: snapshot(state),
        }
        times_of = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, store in ways.items():
                times_of[name].append(timed(store))
    middle = {name: map(statistics.median, zip(*times, strict=True)) for name, times in times_of.items()}
    rows = [dict(zip(COLUMNS, (name, *times), strict=True)) for name, times in middle.items()]
    gigabytes = round(size_of(state) / 1e9, 6)
    rows = [dict(row, gigabytes=gigabytes) for row in rows]
    note = f"medians of {args.rounds} rounds, seconds"
    machine.report("checkpoints", rows, note, keys=("way", "gigabytes"))


if __name__ == "__main__":
    main()
