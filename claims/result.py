"""What a check of a claim finds: how often it holds, how strongly, over which seeds, and where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from runs.intervals import mean_and_interval, share_interval


@dataclass(frozen=True)
class Trial:
    """One comparison that a claim is about, such as a clipped row and its partner in one epoch of one seed."""

    folder: str
    seed: int
    holds: bool
    text: str  # where it is and what was found, for the list of exceptions
    effect: float | None = None  # in the unit that the claim names
    blurred: bool = False  # rounding errors may exceed the difference
    negative: bool = False  # one of the compared sharpnesses is: the loss bends down along that step


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper that tables can support or contradict."""

    name: str  # one word with underscores, for tables
    sentence: str
    source: str  # paper and table
    paper: str  # how often it holds there, "48 of 48"; "" where the paper does not count
    effect: str  # what `Check.effect` is
    needs: str  # the command or flag that would measure it
    by_factors: bool = False  # the effects of seeds differ by factors, as quotients do
    limits: tuple[float, float] = (-math.inf, math.inf)  # of the effect


@dataclass(frozen=True)
class Effect:
    """Of every seed the median over its trials; their mean over the seeds, and its t interval (None: one seed).

    Of quotients that are all positive the mean is the geometric one, and the interval that of the logarithms.
    """

    what: str
    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Check:
    """How a claim fares in some run folders.

    `holds` of `of` trials hold; `of` is 0 where nothing was measured, and `note` then says what would. `interval` is
    that of the share, over the seeds (`runs.intervals.share_interval`), None with one seed. `by_folder` has
    (folder, holds, of) of each folder, or pair of folders, that was compared. `exceptions` are the trials that do not
    hold, by name.
    """

    name: str
    claim: str
    source: str
    paper: str
    holds: int
    of: int
    interval: tuple[float, float] | None = None
    seeds: tuple[int, ...] = ()
    exceptions: tuple[str, ...] = ()
    effect: Effect | None = None
    by_folder: tuple[tuple[str, int, int], ...] = ()
    note: str = ""

    @property
    def measured(self) -> bool:
        return self.of > 0

    @property
    def always_holds(self) -> bool:
        """False also where nothing was measured."""
        return 0 < self.of == self.holds


def summed_up(claim: Claim, trials: Sequence[Trial], notes: Iterable[str] = ()) -> Check:
    """The check of a claim from its trials. `notes`: sentences of what a reader should know beside the count."""
    if not trials:
        missing = f"not measured here: {claim.needs}"
        return Check(claim.name, claim.sentence, claim.source, claim.paper, 0, 0, note=". ".join([missing, *notes]))
    seeds = sorted({trial.seed for trial in trials})
    of_seed = {seed: [trial for trial in trials if trial.seed == seed] for seed in seeds}
    folders = list(dict.fromkeys(trial.folder for trial in trials))
    of_folder = {folder: [trial for trial in trials if trial.folder == folder] for folder in folders}
    exceptions = [f"{trial.folder}, {trial.text}" for trial in trials if not trial.holds]
    said = list(notes)
    if blurred := sum(trial.blurred for trial in trials):
        said.append(f"in {blurred} of them rounding errors may exceed the difference (--dtype float64 avoids that)")
    if negative := sum(trial.negative for trial in trials):
        said.append(f"in {negative} of them a sharpness is negative: the loss bends down along that step")
    if len(seeds) == 1:
        said.append(f"one seed ({seeds[0]}): no interval")
    return Check(
        claim.name, claim.sentence, claim.source, claim.paper,
        holds=_held(trials),
        of=len(trials),
        interval=share_interval([_held(own) / len(own) for own in of_seed.values()]),
        seeds=tuple(seeds),
        exceptions=tuple(exceptions),
        effect=_effect(claim, of_seed.values()),
        by_folder=tuple((folder, _held(own), len(own)) for folder, own in of_folder.items()),
        note="; ".join(said),
    )  # fmt: skip


def _held(trials: Sequence[Trial]) -> int:
    return sum(trial.holds for trial in trials)


def _effect(claim: Claim, of_seeds: Iterable[Sequence[Trial]]) -> Effect | None:
    numbers = [[trial.effect for trial in trials if trial.effect is not None] for trials in of_seeds]
    medians = [median(effects) for effects in numbers if effects]
    if not medians:
        return None
    value, interval, _ = mean_and_interval(medians, claim.by_factors)
    low, high = claim.limits
    return Effect(claim.effect, value, interval and (max(interval[0], low), min(interval[1], high)))
