"""Run folders of a few numbers, for tests that compare runs, and what was drawn or said of several."""

import matplotlib

from figures.__main__ import main
from figures.comparing import named_runs
from figures.run_tables import read_run
from figures.style import RC
from tests.helpers.run_folders import write_run


def landscape_run(folder, sharpness, settings=None, references=True):
    """A run with {label: sharpness per epoch 1, 2, ...}; the ratios are to the first label."""
    cells = [(label, i, value) for label, of_one in sharpness.items() for i, value in enumerate(of_one, start=1)]
    rows = [dict(algorithm=label, epoch=epoch, sharpness=value) for label, epoch, value in cells]
    first = next(iter(sharpness.values()))
    ratios = [
        dict(algorithm=label, epoch=epoch, mean_ratio=value / first[epoch - 1], std=0.0, count=3)
        for label, epoch, value in cells
        if references
    ]
    return write_run(folder, list(sharpness), settings, sharpness=rows, ratios=ratios)


def convergence_run(folder, losses, settings=None, diverged=(), final_loss=None, labels=()):
    """A run of 2 updates per epoch.

    Args:
        losses: {(label, seed): [loss of iteration 1, ...]}.
        diverged: {label: how many seeds}.
        final_loss: of every label, in summary.csv.
        labels: the rows; by default those of `losses`.
    """
    rows = [
        dict(algorithm=label, seed=seed, epoch=1 + i // 2, iteration=1 + i, examples=4, loss=loss)
        for (label, seed), of_one in losses.items()
        for i, loss in enumerate(of_one)
    ]
    labels = labels or list(dict.fromkeys(label for label, _ in losses))
    lost = dict(diverged)
    summary = [dict(algorithm=label, final_loss_mean=final_loss, diverged=lost.get(label, 0)) for label in labels]
    return write_run(folder, labels, settings, losses=rows, summary=summary)


def hessian_run(folder, *measured, settings=None):
    """A run with these (gradient norm, eigenvalue) of its tensors."""
    tensor = dict(batch="mean", kind="mlp", layer="h.0", numel=4, residual=0.0, converged=1)
    numbers = [dict(block=f"t{i}", gradient_norm=norm, eigenvalue=value) for i, (norm, value) in enumerate(measured)]
    return write_run(folder, [], settings, blocks=[tensor | row for row in numbers])


def overlaid(figures, *folders, names=None):
    """File name -> figure of several runs."""
    with matplotlib.rc_context(RC):
        return dict(figures(named_runs([read_run(folder) for folder in folders], names)))


def refused(capsys, *arguments):
    """The one line with which `python -m figures --overlay` refuses these arguments."""
    assert main(["--overlay", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("python -m figures: ")
