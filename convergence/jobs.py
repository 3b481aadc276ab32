"""The jobs of run_convergence.py: with --tune_lr a search per row, and a run per seed and row."""

import logging
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from convergence.estimate import trials_at_least
from convergence.journal import Journal
from convergence.learning_rates import best_rate, tell, tune
from convergence.one_run import Losses, RunPlan, Start, key_of
from curvature.ranks import ALONE, Ranks
from runs.config import row_numbers
from runs.jobs import BEFORE, MINE, Job, Jobs
from runs.live import LiveLog
from runs.messages import TimeLeft, progress
from runs.stopping import StopRequest
from tasks.base import Task
from torch_optimizer import Algorithm
from training.loop import batches_per_epoch

log = logging.getLogger(__name__)

LOSSES = ["algorithm", "seed", "epoch", "iteration", "examples", "loss", "lr", "seconds"]
SCORES = ["algorithm", "seed", "epoch", "split", "metric", "value"]


class Trainings:
    """What a run of the script trains, as jobs that several processes may share.

    Args:
        settings: `seeds`, `num_epochs`, `tune_lr`, `lr_grid`, `tune_epochs`, `checkpoint_every`, `device`.
        algorithms: label -> row.
        task: of the first seed.
        load: the task with the model of another seed.
        ranks: the processes that do every job together, each with its share of every batch.
    """

    def __init__(
        self,
        settings: Namespace,
        algorithms: Mapping[str, Algorithm],
        task: Task,
        load: Callable[[int], Task],
        plan: RunPlan,
        folder: Path,
        stop: StopRequest,
        live: LiveLog,
        ranks: Ranks = ALONE,
    ):
        self.ranks = ranks
        self.settings, self.algorithms, self.load, self.plan = settings, algorithms, load, plan
        self.folder, self.stop, self.live = folder, stop, live
        self.numbers = row_numbers(folder)
        self.per_epoch = batches_per_epoch(len(task.examples), settings.batch_size)
        self.start, self.start_seed = Start(task, plan, settings.device, ranks), settings.seeds[0]
        self.searches = {label: self._search(label) for label, row in algorithms.items() if self._is_tuned(row)}
        self.runs = {(seed, label): self._run(seed, label) for seed in settings.seeds for label in algorithms}
        self.subjects = {job.name: (None, label) for label, job in self.searches.items()}
        self.subjects |= {job.name: subject for subject, job in self.runs.items()}
        self.jobs = Jobs(folder, [*self.searches.values(), *self.runs.values()], stop, ranks.world == 1, ranks)

    # ---- what the jobs are ------------------------------------------------------------------------------------------

    def _is_tuned(self, row: Algorithm) -> bool:
        return self.settings.tune_lr and row.lr is not None

    def _search(self, label: str) -> Job:
        row, s = self.algorithms[label], self.settings
        key = f"{key_of(row, s.seeds[0], s.tune_epochs, is_trial=True)}, {s.lr_grid}"
        return Job(f"search-{self._name(label)}", f"the search of {label}", lambda: key, partial(self._tune, label))

    def _run(self, seed: int, label: str) -> Job:
        return Job(
            f"seed{seed}-{self._name(label)}",
            f"{label}, seed {seed}",
            lambda: key_of(self.row(label), seed, self.settings.num_epochs, is_trial=False),
            partial(self._train, seed, label),
            needs=self.searches.get(label),
        )

    def _name(self, label: str) -> str:
        return f"{self.numbers[label]}-{self.algorithms[label].name}"

    # ---- what they give ---------------------------------------------------------------------------------------------

    def has_ended(self, job: Job) -> bool:
        return job.name in self.jobs.results

    def trials(self, label: str) -> dict[float, float]:
        """Learning rate -> final loss of each trial, of a search that has ended."""
        return dict(self.jobs.results[self.searches[label].name])

    def row(self, label: str) -> Algorithm:
        """The row as its runs train with it: at the best learning rate of its trials, if it has any."""
        row = self.algorithms[label]
        best = best_rate(self.trials(label)) if label in self.searches else None
        return row if best is None else row.with_options(lr=best)

    def losses(self, seed: int, label: str) -> Losses:
        """Of a run that has ended."""
        return Losses(**self.jobs.results[self.runs[seed, label].name])

    # ---- doing them -------------------------------------------------------------------------------------------------

    def work(self, save: Callable[[], None]) -> None:
        """Do what other processes leave to this one, until all has ended. `save` is called after each job of this
        process. Raises: as `Jobs.work`."""
        s = self.settings
        epochs = s.num_epochs * len(self.runs)
        epochs += sum(s.tune_epochs * trials_at_least(self.algorithms[label], s.lr_grid) for label in self.searches)
        for label in self.algorithms if s.tune_lr else ():
            if label not in self.searches:
                log.info("%s sets its own learning rate and is not tuned", label)
        with progress(total=self.per_epoch * epochs, desc="training") as bar:
            self.left = TimeLeft(bar.total, bar=bar)
            self.jobs.work(partial(self._ended, save))

    def _ended(self, save: Callable[[], None], job: Job, who: int) -> None:
        if who == MINE:
            self._tell(*self.subjects[job.name])
            save()
        else:
            (self.left.skip if who == BEFORE else self.left.update)(self._updates(*self.subjects[job.name]))

    def _tell(self, seed: int | None, label: str) -> None:
        """Say what a job of this process gave."""
        if seed is None:
            tell(label, searched_rate(self.algorithms[label]), self.trials(label))
            return
        result = self.losses(seed, label)
        for score in result.scores:
            self.live.row("scores", dict(zip(SCORES, (label, seed, *score), strict=True)))
        steps, loss = len(result.points), f"loss {result.final_loss:.4g}"
        log.info("%s, seed %d: %s", label, seed, f"diverged after {steps} steps" if result.diverged else loss)

    def _updates(self, seed: int | None, label: str) -> int:
        """Of a job that another process did; more are expected where a search went beyond its grid."""
        if seed is not None:
            return self.per_epoch * self.settings.num_epochs
        of_trial, trials = self.per_epoch * self.settings.tune_epochs, len(self.trials(label))
        self.left.expect(of_trial * (trials - trials_at_least(self.algorithms[label], self.settings.lr_grid)))
        return of_trial * trials

    def _start(self, seed: int) -> Start:
        """The start of that seed; one at a time is kept."""
        if seed != self.start_seed:
            self.start = Start(self.load(seed), self.plan, self.settings.device, self.ranks)
            self.start_seed = seed
        return self.start

    def _journal(self, job: str) -> Journal:
        return Journal(self.folder, self.settings.checkpoint_every, self.stop, job, self.ranks)

    def _tune(self, label: str, job: str) -> list[tuple[float, float]]:
        s, row, journal = self.settings, self.algorithms[label], self._journal(job)
        start, seed, epochs = self._start(s.seeds[0]), s.seeds[0], s.tune_epochs
        losses = tune(
            lambda rate: start.train(row.with_options(lr=rate), seed, epochs, self.left, journal=journal).final_loss,
            searched_rate(row),
            s.lr_grid,
            extended=lambda: self.left.expect(epochs * self.per_epoch),
        )
        return list(losses.items())

    def _train(self, seed: int, label: str, job: str) -> dict[str, Any]:
        def follow(point: tuple) -> None:
            self.live.row("losses", dict(zip(LOSSES, (label, seed, *point), strict=True)))

        models = self.folder / "model" / f"seed{seed}-{self._name(label)}"
        start, journal = self._start(seed), self._journal(job)
        return vars(start.train(self.row(label), seed, self.settings.num_epochs, self.left, models, follow, journal))


def searched_rate(row: Algorithm) -> float:
    """The rate around which a row's is searched; only rows that have one get such a job."""
    assert row.lr is not None
    return row.lr
