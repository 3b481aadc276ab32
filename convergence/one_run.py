"""One training run of run_convergence.py: one algorithm from one seed."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from convergence.journal import Journal
from curvature.memory import retried
from curvature.ranks import ALONE, Ranks
from runs.messages import TimeLeft
from tasks.base import Task
from torch_optimizer import Algorithm
from torch_optimizer.algorithm import set_mode
from training.loop import Training, TrainingPlan, batches_per_epoch
from training.schedules import make_scheduler


@dataclass
class Losses:
    """The losses of one algorithm from one seed, to its end or its divergence."""

    points: list[tuple]  # (epoch, iteration, examples, loss, lr, seconds) of every update
    batches_per_epoch: int
    diverged: bool
    scores: list[tuple]  # (epoch, split, metric, value) after every epoch, of tasks that have scores

    @property
    def final_loss(self) -> float:
        """Mean loss over the examples of the last epoch; inf if the run diverged."""
        return math.inf if self.diverged else statistics.fmean(self.smooth()[-1:])

    def smooth(self) -> list[float]:
        """Mean over the last epoch's worth of examples, at every iteration that has as many behind it."""
        sizes, losses = [point[2] for point in self.points], [point[3] for point in self.points]
        n = self.batches_per_epoch
        return [statistics.fmean(losses[stop - n : stop], sizes[stop - n : stop]) for stop in range(n, len(losses) + 1)]

    def steps_to(self, target: float) -> int | None:
        """The first iteration at which the smoothed loss is at most `target`."""
        return next((self.batches_per_epoch + i for i, f in enumerate(self.smooth()) if f <= target), None)


@dataclass(frozen=True)
class RunPlan:
    """What all runs of a script have in common."""

    training: TrainingPlan  # each run replaces its seed and its number of epochs
    lr_scheduler: str
    warmup_ratio: float | None
    compile: bool
    save_model: bool
    num_epoch_to_save: int | None


def key_of(row: Algorithm, seed: int, num_epochs: int, is_trial: bool) -> str:
    """Everything that makes a training differ from the others of a script."""
    return f"{row!r}, seed {seed}, {num_epochs} epochs{', a trial' if is_trial else ''}"


class Start:
    """A task with the parameters that every algorithm starts from. `ranks`: the processes that train together."""

    def __init__(self, task: Task, plan: RunPlan, device: torch.device, ranks: Ranks = ALONE):
        self.task, self.plan, self.ranks = task, plan, ranks
        task.model.to(device)
        self.state = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
        self.forward = torch.compile(task.model) if plan.compile else None

    def train(
        self,
        row: Algorithm,
        seed: int,
        num_epochs: int,
        left: TimeLeft | None = None,
        folder: Path | None = None,
        follow: Callable[[tuple], None] | None = None,
        journal: Journal | None = None,
    ) -> Losses:
        """Train from the start, or from where the journal has it.

        Args:
            left: counts the updates of all runs; None: of this run alone.
            folder: where the model is kept every `num_epoch_to_save` epochs and at the end. The run is then scored
                after every epoch. None: the run is a trial, and only its losses count.
            follow: called with each new point of the result.
            journal: stores it; None: nothing is stored.
        """
        model, key = self.task.model, key_of(row, seed, num_epochs, is_trial=folder is None)
        per_epoch = batches_per_epoch(len(self.task.examples), self.plan.training.batch_size)
        left = left or TimeLeft(num_epochs * per_epoch)
        if journal and key in journal.ended:
            left.skip(num_epochs * per_epoch)
            return Losses(**journal.ended[key])
        model.load_state_dict(self.state)
        plan = replace(self.plan.training, seed=seed, num_epochs=num_epochs)
        optimizer = row.build({name: p for name, p in model.named_parameters() if p.requires_grad})
        scheduler = make_scheduler(self.plan.lr_scheduler, optimizer, num_epochs, per_epoch, self.plan.warmup_ratio)
        parts = {"model": model, "optimizer": optimizer}
        if scheduler is not None:
            parts["scheduler"] = scheduler
        done, notes = journal.resume(key, parts) if journal else (0, None)
        points, scores = notes or ([], [])
        left.skip(done)
        training = Training(
            self.task,
            optimizer,
            plan,
            scheduler=scheduler,
            forward=self.forward,
            first_iteration=done + 1,
            ranks=self.ranks,
        )
        began = time.perf_counter() - (points[-1][-1] if points else 0)
        try:
            for point in training:
                seconds = round(time.perf_counter() - began, 3)
                points.append((point.epoch, point.iteration, point.examples, point.loss, point.learning_rate, seconds))
                if follow is not None:
                    follow(points[-1])
                training.step()
                paused = time.perf_counter()
                if point.ends_epoch:
                    set_mode(optimizer, training=False)
                    scores.extend(self.end_epoch(point.epoch, folder))
                    set_mode(optimizer, training=True)
                if journal:
                    journal.after_step(key, parts, point, (points, scores))
                began += time.perf_counter() - paused  # training time only
                left.update()
                if point.ends_epoch:
                    left.note(f"{row!r}, seed {seed}, epoch {point.epoch} of {num_epochs}: loss {point.loss:.4g}")
            diverged = not all(torch.isfinite(p).all() for p in model.parameters())
        except FloatingPointError:
            diverged = True
        left.skip(num_epochs * per_epoch - len(points))  # of a run that diverged
        result = Losses(points, per_epoch, diverged, scores)
        if self.plan.save_model and folder is not None and not diverged:
            set_mode(optimizer, training=False)
            self.ranks.leading(lambda: self.task.save_model(folder))
        if journal:
            journal.end(key, vars(result))
        return result

    def end_epoch(self, epoch: int, folder: Path | None) -> list[tuple]:
        """Keep the model if it is due; its scores as (epoch, split, metric, value)."""
        if folder is None:
            return []
        every = self.plan.num_epoch_to_save
        if every and epoch % every == 0:
            self.ranks.leading(lambda: self.task.save_model(folder / f"epoch{epoch}"))
        task, size = self.task, self.plan.training.micro_batch_size

        def smaller() -> str | None:
            nonlocal size
            size //= 2
            return f"micro-batches of {size} held-out examples" if size else None

        scores = retried(lambda: {split: task.scores(task.model, split, size) for split in task.evaluation}, smaller)
        return [(epoch, split, metric, value) for split in scores for metric, value in scores[split].items()]
