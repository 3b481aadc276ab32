"""Search the learning rate of every row of an algorithm list: run_convergence.py's --tune_lr."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

TRIALS = ["task", "algorithm", "lr", "final_loss", "diverged", "chosen"]
HALF_DECADES = [0.1, 0.316, 1.0, 3.16, 10.0]
MOST_EXTENSIONS = 12


def tune(
    train: Callable[[float], float], lr: float, factors: Sequence[float], extended: Callable[[], None] = lambda: None
) -> dict[float, float]:
    """Search the learning rate on a log grid.

    Args:
        train: lr -> final loss, inf where the run diverged.
        lr: the middle of the grid.
        factors: the grid is lr times each of them. While an end of the grid is the best rate, the grid is extended
            there, at most `MOST_EXTENSIONS` times. The ratio is that of the two outermost rates.
        extended: called before every trial beyond the grid.

    Returns: lr -> final loss of every trial, in ascending order of lr.
    """
    losses = {rate: train(rate) for rate in grid(lr, factors)}
    for _ in range(MOST_EXTENSIONS if len(losses) > 1 else 0):
        rates = sorted(losses)
        best = min(rates, key=losses.__getitem__)
        if best == rates[0]:
            further = rates[0] * rates[0] / rates[1]
        elif best == rates[-1]:
            further = rates[-1] * rates[-1] / rates[-2]
        else:
            break
        extended()
        losses[round_lr(further)] = train(round_lr(further))
    return dict(sorted(losses.items()))


def grid(lr: float, factors: Sequence[float]) -> list[float]:
    """The rates that are tried in any case, in ascending order."""
    return sorted({round_lr(lr * factor) for factor in factors})


def round_lr(lr: float) -> float:
    """To three digits, so that the table shows exactly the rate that was tried."""
    return float(f"{lr:.3g}")


def best_rate(losses: Mapping[float, float]) -> float | None:
    """The learning rate of the lowest final loss, of a mapping that `tune` gave; None if every trial diverged."""
    best = min(losses, key=losses.__getitem__)
    return None if losses[best] == math.inf else best


def trial_rows(task: str, label: str, losses: Mapping[float, float]) -> list[dict[str, Any]]:
    """Lines of TRIALS: the trials of one row."""
    best = best_rate(losses)
    return [
        dict(task=task, algorithm=label, lr=rate, final_loss=loss, diverged=loss == math.inf, chosen=rate == best)
        for rate, loss in losses.items()
    ]


def tell(label: str, lr: float, losses: Mapping[float, float]) -> None:
    """Say which rate the trials of a row have chosen. `lr`: its own."""
    best = best_rate(losses)
    if best is None:
        log.warning(
            "%s diverged at every learning rate from %g to %g; it stays at %g", label, min(losses), max(losses), lr
        )
        return
    note = ", at the edge of the grid" if best in (min(losses), max(losses)) else ""
    log.info(
        "%s: learning rate %g is the best of %d tried%s; its loss is %.4g", label, best, len(losses), note, losses[best]
    )
