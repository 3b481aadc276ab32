"""Small runs that were stopped, and what tests ask of their folders."""

import os
import re
import signal
from pathlib import Path

import pytest

import run_landscape
from tests.helpers import tiny_run

ROOT = Path(run_landscape.__file__).parent
LANDSCAPE = [*tiny_run.FLAGS.split(), "--test_batch_size", "8", "--num_epochs", "4", "--test_epochs", "2", "4",
             "--num_sample_sharpness", "2", "--checkpoint_every", "2", "--decompose", "kind",
             "--frequency_classes", "2", "--top_eigenvalues"]  # fmt: skip
CONVERGENCE = [*tiny_run.FLAGS.split(), "--only", "sgd", "adafactor", "nadam", "--num_epochs", "2",
               "--seeds", "0", "1", "--lr_scheduler", "linear", "--tune_lr", "--lr_grid", "0.5", "1",
               "--tune_epochs", "1", "--checkpoint_every", "3"]  # fmt: skip
HESSIAN = ["--task", "tiny", "--dataset_size", "20", "--batch_size", "10", "--checkpoint_every", "3"]
COMMANDS = {
    "landscape": [*LANDSCAPE, "--dtype", "float64", "--num_sample_sharpness", "1"],
    "convergence": CONVERGENCE,
    "hessian": HESSIAN,
}
KILL, ASK = signal.SIGKILL, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


def tables(folder):
    """The bytes of every table, without the seconds of a run, which end each line of losses.csv."""
    contents = {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.csv"))}
    if "losses.csv" in contents:
        contents["losses.csv"] = b"\n".join(line.rpartition(b",")[0] for line in contents["losses.csv"].splitlines())
    return contents


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def landscape(*arguments):
    return tiny_run.main("landscape", [str(a) for a in arguments])


def refused(arguments, answer, folder, capfd):
    before = files(folder)
    with pytest.raises(SystemExit) as exit:
        landscape(*arguments)
    error = capfd.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1, error
    assert re.search(answer, error), error
    assert files(folder) == before


def stop_at(monkeypatch, iteration, number=signal.SIGTERM):
    """Have the next run get a signal in the middle of that iteration."""
    advance, count = run_landscape.PseudoUpdates.advance, iter(range(1, 10**6))

    def advance_and_stop(self, collect=True):
        if next(count) == iteration:
            os.kill(os.getpid(), number)
        return advance(self, collect)

    monkeypatch.setattr(run_landscape.PseudoUpdates, "advance", advance_and_stop)
