"""What the first paper claims about training, checked in the tables of run_convergence.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean

from claims.folder import RunFolder
from claims.result import Claim, Trial

CLIPPED_TRAINS_LOWER = Claim(
    "clipped_trains_lower",
    "A clipped optimizer trains to a lower loss than its original, at tuned learning rates.",
    "Pan & Li, OPT 2022, figure 4",
    "",
    "final training loss of the clipped row less its partner's",
    "run_convergence.py --tune_lr, with a list that has clipped rows beside their partners",
)


def clipped_trains_lower(run: RunFolder) -> Iterator[Trial]:
    """One trial per seed and pair. A run that diverged ended at an infinite loss; rows still training are left out."""
    final = final_losses(run)
    for clipped, plain in run.pairs():
        for seed in sorted(final.get(clipped.label, {}).keys() & final.get(plain.label, {}).keys()):
            a, b = final[clipped.label][seed], final[plain.label][seed]
            text = f"seed {seed}: {clipped.label} ({_shown(a)}) is not below {plain.label} ({_shown(b)})"
            yield Trial(run.name, seed, a < b, text, a - b if max(a, b) < math.inf else None)


def final_losses(run: RunFolder) -> dict[str, dict[int, float]]:
    """label -> seed -> mean loss over the examples of the last epoch, of the rows that the summary lists.

    The summary counts the seeds that diverged; they are those whose losses end first, and where several end together,
    highest. They get inf.
    """
    curves: dict[str, dict[int, list[dict]]] = {}
    for row in run.table("losses", "seed epoch iteration examples loss algorithm"):
        curves.setdefault(row["algorithm"], {}).setdefault(row["seed"], []).append(row)
    final: dict[str, dict[int, float]] = {}
    for row in run.table("summary", "diverged algorithm"):
        seeds = curves.get(row["algorithm"], {})
        ends = sorted(seeds, key=lambda seed: (len(seeds[seed]), -_number(seeds[seed][-1]["loss"])))
        lost = ends[: row["diverged"] or 0]
        final[row["algorithm"]] = {
            seed: math.inf if seed in lost else _last_epoch(points) for seed, points in seeds.items()
        }
    return final


def untuned(run: RunFolder) -> str | None:
    """A sentence that names the rows of pairs whose learning rate was not searched in this run; None if there is none.
    A row without a rate, as Adafactor with relative steps, needs no search."""
    rates = {row["algorithm"]: row["lr"] for row in run.table("summary", "lr algorithm")}
    trials = run.table("tuned_learning_rates", "chosen algorithm")
    tuned = {row["algorithm"] for row in trials if row["chosen"]}
    labels = dict.fromkeys(row.label for pair in run.pairs() for row in pair if rates.get(row.label) is not None)
    missing = [label for label in labels if label not in tuned]
    if not missing:
        return None
    which = "learning rates were" if len(missing) == len(labels) else f"the learning rate of {'; '.join(missing)} was"
    return f"{run.name}: {which} not tuned (--tune_lr)"


def _last_epoch(points: list[dict]) -> float:
    last = [point for point in points if point["epoch"] == points[-1]["epoch"]]
    return fmean([_number(point["loss"]) for point in last], [point["examples"] for point in last])


def _number(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _shown(loss: float) -> str:
    return "diverged" if loss == math.inf else f"{loss:.4g}"
