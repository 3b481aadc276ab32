"""Search the learning rate of every row of an algorithm list: run_convergence.py's --tune_lr."""

import argparse
import logging
import math
from collections.abc import Sequence

from runs.messages import progress
from runs.tables import Table

log = logging.getLogger(__name__)

TRIALS = ["task", "algorithm", "lr", "final_loss", "diverged", "chosen"]
HALF_DECADES = [0.1, 0.316, 1.0, 3.16, 10.0]
MOST_EXTENSIONS = 12


def tune(train, lr: float, factors: Sequence[float]) -> dict[float, float]:
    """Search the learning rate on a log grid.

    Args:
        train: lr -> final loss, inf where the run diverged.
        lr: the middle of the grid.  factors: on it; the grid goes on by the ratio of its two outermost rates while
            that end is the best, at most `MOST_EXTENSIONS` times.

    Returns: lr -> final loss of every trial, in ascending order of lr.
    """
    losses = {rate: train(rate) for rate in sorted(round_lr(lr * factor) for factor in set(factors))}
    for _ in range(MOST_EXTENSIONS if len(losses) > 1 else 0):
        rates = sorted(losses)
        best = min(rates, key=losses.get)
        if best == rates[0]:
            further = rates[0] * rates[0] / rates[1]
        elif best == rates[-1]:
            further = rates[-1] * rates[-1] / rates[-2]
        else:
            break
        losses[round_lr(further)] = train(round_lr(further))
    return dict(sorted(losses.items()))


def round_lr(lr: float) -> float:
    """To three digits: the table is the trial, not 0.00031622776601683795."""
    return float(f"{lr:.3g}")


def tune_rows(start, settings: argparse.Namespace, table: Table) -> None:
    """Replace every row's lr by the best of its trials; a row that sets its own lr stays as it is."""
    for label, row in progress(list(settings.algorithms.items()), desc="tuning"):
        lr = row.lr
        if lr is None:
            log.info("%s sets its own learning rate; not tuned", label)
            continue

        def final_loss(rate: float, row=row) -> float:
            return start.train(row.with_options(lr=rate), settings.seeds[0], settings.tune_epochs).final_loss

        losses = tune(final_loss, lr, settings.lr_grid)
        best = min(losses, key=losses.get)
        for rate, loss in losses.items():
            diverged = loss == math.inf
            table.append(task=settings.task, algorithm=label, lr=rate, final_loss=loss, diverged=diverged,
                         chosen=rate == best and not diverged)  # fmt: skip
        table.save()
        if losses[best] == math.inf:
            log.warning("%s diverged at every learning rate from %g to %g; it stays at %g",
                        label, min(losses), max(losses), lr)  # fmt: skip
            continue
        settings.algorithms[label] = row.with_options(lr=best)
        end = ", at the end of them" if best in (min(losses), max(losses)) else ""
        log.info("%s: lr %g of %d trials%s, loss %.4g", label, best, len(losses), end, losses[best])
