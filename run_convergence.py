"""Train with every algorithm of a list, from the same start on the same data in the same order, and compare the losses.

    python run_convergence.py                                # the toy task: any laptop, no download, minutes
    python run_convergence.py --tune_lr --seeds 0 1 2        # each algorithm at its own best learning rate
    python run_convergence.py --task machine_translation     # the paper's protocol on t5-small; wants a GPU

For one seed all algorithms share the initial parameters, the examples of every batch and the dropout masks. Writes
output/<name>/: config.json, losses.csv, summary.csv (and tuned_learning_rates.csv; and scores.csv, of a classification
task), and figures/ drawn from them. What was stopped or killed goes on with --resume FOLDER, to the same files (but for
the column `seconds`, which is measured).
"""

import argparse
import logging
import math
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from algorithm_list import ALGORITHM_LISTS
from convergence.journal import Journal
from convergence.learning_rates import HALF_DECADES, TRIALS, tune_rows
from figures.drawing import draw_all
from runs.flags import (
    Parser,
    add_machine_flags,
    add_task_flags,
    add_training_flags,
    default_output,
    fill_in,
    number,
    one_of,
    positive_float,
    positive_int,
    seed_number,
)
from runs.lifecycle import is_complete, open_run, to_its_end
from runs.machine import prepare_machine
from runs.messages import answering_input_errors, progress, start_logging
from runs.resuming import add_resume_flags, settings_of_run
from runs.stopping import StopRequest
from runs.tables import Table, format_table, read_table
from tasks import TASKS, load_task, task_defaults
from tasks.loading.hub import quiet_libraries
from torch_optimizer import Algorithm
from torch_optimizer.rows import choose_list, plain_sgd
from training.loop import Point, batches_per_epoch, trajectory
from training.schedules import SCHEDULERS, make_scheduler

log = logging.getLogger(__name__)

LOSSES = ["algorithm", "seed", "epoch", "iteration", "examples", "loss", "lr", "seconds"]
SUMMARY = ["algorithm", "lr", "final_loss_mean", "final_loss_std", "best_loss", "steps_to_sgd_loss", "diverged"]
SCORES = ["algorithm", "seed", "epoch", "split", "metric", "value"]


def make_parser() -> Parser:
    parser = Parser(__doc__)
    group = add_task_flags(parser, TASKS, ALGORITHM_LISTS)
    group.add_argument("--only", nargs="+", metavar="LABEL", help="only these rows of the list, each quoted")
    group = add_training_flags(parser)
    group.add_argument(
        "--seeds", type=seed_number, nargs="+", default=[0],
        help="a run each: order, dropout, new weights; the first one also makes generated data and is tuned on",
    )  # fmt: skip
    group.add_argument("--lr_scheduler", type=one_of("schedule", SCHEDULERS), help="one of " + ", ".join(SCHEDULERS))
    group.add_argument(
        "--warmup_ratio", type=number(float, 0, 1), help="share of the updates, or epochs, that warm up; default 0.1"
    )
    group.add_argument(
        "--max_grad_norm", type=number(float, 0), metavar="NORM", help="scale longer gradients down to it; 0: never"
    )
    group.add_argument(
        "--dtype", type=one_of("number type", ["float32", "bfloat16"]), default="float32",
        help="float32, or bfloat16: matrix products only (autocast)",
    )  # fmt: skip
    group.add_argument("--compile", action="store_true", help="torch.compile the model; pays on long runs")
    group = parser.add_argument_group("learning rates")
    group.add_argument("--tune_lr", action="store_true", help="search each row's learning rate, then train with it")
    group.add_argument(
        "--lr_grid", type=positive_float, nargs="+", metavar="FACTOR",
        help="the row's lr times each of these is tried, by default 0.1 to 10 in half decades; up to 12 more past "
        "the end where the best is",
    )  # fmt: skip
    group.add_argument(
        "--tune_epochs", type=positive_int, metavar="N", help="length of a trial; default a third, rounded up"
    )
    group = add_machine_flags(parser)
    group.add_argument("--num_epoch_to_save", type=positive_int, metavar="N", help="keep the model every N epochs")
    add_resume_flags(parser)
    return parser


def resolve(settings: argparse.Namespace) -> None:
    """Fill in the task's defaults and check what depends on several flags. Raises ValueError naming the flag."""
    defaults = task_defaults(settings.task, settings.dataset, settings.model)
    fill_in(settings, defaults)
    settings.algorithms = choose_list(ALGORITHM_LISTS, settings.algorithm_list)
    if settings.only:
        unknown = [label for label in settings.only if label not in settings.algorithms]
        if unknown:
            raise ValueError(f"--only {unknown[0]!r} is no label of the list; it has {'; '.join(settings.algorithms)}")
        settings.algorithms = {label: settings.algorithms[label] for label in settings.only}
    if settings.lr_scheduler.endswith("warmup"):
        settings.warmup_ratio = 0.1 if settings.warmup_ratio is None else settings.warmup_ratio
    elif settings.warmup_ratio is not None:
        raise ValueError(f"--warmup_ratio is for schedules with a warm-up, not for {settings.lr_scheduler}")
    if len(set(settings.seeds)) < len(settings.seeds):
        raise ValueError(f"--seeds names a seed twice: {' '.join(map(str, settings.seeds))}")
    if settings.dtype == "bfloat16" and settings.device.type != "cuda":
        raise ValueError(f"--dtype bfloat16 is for CUDA devices, not {settings.device}")
    if settings.tune_lr:
        settings.lr_grid = settings.lr_grid or HALF_DECADES
        settings.tune_epochs = settings.tune_epochs or math.ceil(settings.num_epochs / 3)
    elif settings.tune_epochs or settings.lr_grid:
        raise ValueError("--lr_grid and --tune_epochs are for --tune_lr, which is not given")
    if (settings.num_epoch_to_save or 0) > settings.num_epochs:
        late = f"--num_epoch_to_save {settings.num_epoch_to_save}"
        raise ValueError(f"{late} is after the last epoch, --num_epochs {settings.num_epochs}")
    settings.output_dir = settings.output_dir or default_output("convergence", settings.task)


# ---- one run --------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """The losses of one algorithm from one seed: [(epoch, iteration, examples, loss, lr, seconds)], to its end or its
    divergence."""

    points: list[tuple]
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
        return [statistics.fmean(losses[end - n : end], sizes[end - n : end]) for end in range(n, len(losses) + 1)]

    def steps_to(self, target: float) -> int | None:
        """The first iteration at which the smoothed loss is at most `target`."""
        return next((self.batches_per_epoch + i for i, f in enumerate(self.smooth()) if f <= target), None)


class Start:
    """A task with the parameters that every algorithm starts from. Without a journal, nothing of a run is stored."""

    def __init__(self, task, settings: argparse.Namespace, journal: Journal | None = None):
        self.task, self.settings, self.journal = task, settings, journal
        task.model.to(settings.device)
        self.state = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
        self.forward = torch.compile(task.model) if settings.compile else None

    def train(self, row: Algorithm, seed: int, num_epochs: int, bar=None, folder: Path | None = None) -> Run:
        """Train from the start, or where the journal has it from there on; with `folder`, keep the model there every
        `num_epoch_to_save` epochs and at the end, and score it after every epoch."""
        settings, journal = self.settings, self.journal
        key = f"{row!r}, seed {seed}, {num_epochs} epochs{', a trial' if folder is None else ''}"
        if journal and key in journal.ended:
            if bar is not None:
                bar.update(len(journal.ended[key]["points"]))
            return Run(**journal.ended[key])
        self.task.model.load_state_dict(self.state)
        optimizer = row.build({name: p for name, p in self.task.model.named_parameters() if p.requires_grad})
        per_epoch = batches_per_epoch(len(self.task.examples), settings.batch_size)
        scheduler = make_scheduler(settings.lr_scheduler, optimizer, num_epochs, per_epoch, settings.warmup_ratio)
        parts = {"model": self.task.model, "optimizer": optimizer}
        if scheduler is not None:
            parts["scheduler"] = scheduler
        done, notes = journal.take_up(key, parts) if journal else (0, None)
        points, scores = notes or ([], [])
        began = time.perf_counter() - (points[-1][-1] if points else 0)
        if bar is not None:
            bar.update(done)

        def after_step(point: Point) -> None:
            nonlocal began
            paused, epoch_ends = time.perf_counter(), point.batch == per_epoch
            if epoch_ends:
                scores.extend(self.end_epoch(point.epoch, folder))
            if journal:
                journal.after_step(key, parts, point, (points, scores), epoch_ends)
            began += time.perf_counter() - paused  # training time only

        run = trajectory(
            self.task, optimizer, num_epochs=num_epochs, batch_size=settings.batch_size,
            micro_batch_size=settings.micro_batch_size, seed=seed, scheduler=scheduler,
            max_grad_norm=settings.max_grad_norm or None, forward=self.forward,
            autocast=torch.bfloat16 if settings.dtype == "bfloat16" else None,
            first_iteration=done + 1, after_step=after_step,
        )  # fmt: skip
        try:
            for point in run:
                seconds = round(time.perf_counter() - began, 3)
                row = (point.epoch, point.iteration, point.examples, point.loss, point.learning_rate, seconds)
                points.append(row)
                if bar is not None:
                    bar.update()
            diverged = not all(torch.isfinite(p).all() for p in self.task.model.parameters())
        except FloatingPointError:
            diverged = True
        result = Run(points, per_epoch, diverged, scores)
        if settings.save_model and folder is not None and not diverged:
            self.task.save_model(folder)
        if journal:
            journal.end(key, vars(result))
        return result

    def end_epoch(self, epoch: int, folder: Path | None) -> list[tuple]:
        """Keep the model if it is due; its scores as (epoch, split, metric, value)."""
        if folder is None:
            return []
        every = self.settings.num_epoch_to_save
        if every and epoch % every == 0:
            self.task.save_model(folder / f"epoch{epoch}")
        task = self.task
        found = {split: task.scores(task.model, split, self.settings.micro_batch_size) for split in task.evaluation}
        return [(epoch, split, metric, value) for split in found for metric, value in found[split].items()]


# ---- tables ---------------------------------------------------------------------------------------------------------


def summarise(label: str, row: Algorithm, runs: Sequence[Run], sgd: Sequence[Run]) -> dict:
    """A row of summary.csv; losses over the seeds that did not diverge, steps as their mean where all got there.

    `sgd`: plain SGD's runs from the same seeds, each the mark for the run of its seed; empty if the list has none."""
    finished = [run for run in runs if not run.diverged]
    finals = [run.final_loss for run in finished]
    pairs = zip(runs, sgd, strict=True) if sgd else []
    steps = [run.steps_to(base.final_loss) for run, base in pairs if not (run.diverged or base.diverged)]
    return dict(
        algorithm=label,
        lr=row.lr,
        final_loss_mean=statistics.fmean(finals) if finals else None,
        final_loss_std=statistics.stdev(finals) if len(finals) > 1 else None,
        best_loss=min(min(run.smooth()) for run in finished) if finished else None,
        steps_to_sgd_loss=statistics.fmean(steps) if steps and None not in steps else None,
        diverged=len(runs) - len(finished),
    )


def run(settings: argparse.Namespace, task, folder: Path, stop: StopRequest) -> Table:
    """Train every row from every seed; returns the summary."""
    journal = Journal(folder, settings.checkpoint_every, stop)
    first = Start(task, settings, journal)
    losses, summary = Table(folder / "losses.csv", LOSSES), Table(folder / "summary.csv", SUMMARY)
    scores = Table(folder / "scores.csv", SCORES)
    if settings.tune_lr:
        tune_rows(first, settings, Table(folder / "tuned_learning_rates.csv", TRIALS))
    runs = defaultdict(list)
    per_run = settings.num_epochs * batches_per_epoch(len(task.examples), settings.batch_size)
    total = per_run * len(settings.seeds) * len(settings.algorithms)
    with progress(total=total, desc="training") as bar:
        for seed in settings.seeds:
            start = first if seed == settings.seeds[0] else Start(load(settings, seed), settings, journal)
            for number_, (label, row) in enumerate(settings.algorithms.items(), start=1):
                models = folder / "model" / f"seed{seed}-{number_}-{row.name}"
                result = start.train(row, seed, settings.num_epochs, bar, models)
                runs[label].append(result)
                for point in result.points:
                    losses.append(dict(zip(LOSSES, (label, seed, *point), strict=True)))
                losses.save()
                for epoch, split, metric, value in result.scores:
                    scores.append(algorithm=label, seed=seed, epoch=epoch, split=split, metric=metric, value=value)
                if scores.rows:
                    scores.save()
                steps, loss = len(result.points), f"loss {result.final_loss:.4g}"
                end = f"diverged after {steps} steps" if result.diverged else loss
                log.info("%s, seed %d: %s", label, seed, end)
    plain = plain_sgd(settings.algorithms)
    for label, row in settings.algorithms.items():
        summary.append(summarise(label, row, runs[label], runs[plain] if plain else []))
    summary.save()
    return summary


def final_scores(folder: Path, labels: Sequence[str]) -> str:
    """A table of the last epoch's scores, mean over the seeds that trained to it; "" for a task without scores."""
    path = folder / "scores.csv"
    values = defaultdict(list)
    for row in read_table(path) if path.exists() else []:
        values[row["epoch"], row["algorithm"], f"{row['split']} {row['metric']}"].append(row["value"])
    last = max((epoch for epoch, *_ in values), default=None)
    columns = list(dict.fromkeys(column for *_, column in values))
    rows = [
        {"algorithm": a, **{c: statistics.fmean(values[last, a, c]) for c in columns if (last, a, c) in values}}
        for a in labels
    ]
    return format_table(rows, ["algorithm", *columns]) if columns else ""


def load(settings: argparse.Namespace, model_seed: int):
    return load_task(
        settings.task, dataset=settings.dataset, model=settings.model, dataset_size=settings.dataset_size,
        seed=settings.seeds[0], model_seed=model_seed, hf_key=settings.hf_key, max_length=settings.max_length,
        windows_per_file=settings.windows_per_file,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser()
    start_logging("--verbose" in arguments)
    prepare_machine()
    with answering_input_errors(parser):
        settings, earlier = settings_of_run(parser, arguments)
        if is_complete(earlier, settings.output_dir):
            print(f"{settings.output_dir} is complete: nothing is left to do")
            return 0
        if settings.save_model or settings.num_epoch_to_save:
            quiet_libraries()  # saving shows a bar
        resolve(settings)
        task = load(settings, settings.seeds[0])
        folder = open_run(settings, earlier)

    def work(stop: StopRequest) -> tuple[Table, list[Path]]:
        return run(settings, task, folder, stop), draw_all(folder)

    status, made = to_its_end(folder, "run_convergence.py", work)
    if status:
        return status
    summary, figures = made
    print("Loss of the last epoch (mean and standard deviation over seeds), and steps to where plain SGD ended")
    print(format_table(summary.rows, SUMMARY))
    if table := final_scores(folder, settings.algorithms):
        print(f"Scores after the last epoch (mean over seeds)\n{table}")
    print(f"Wrote {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}/ and {len(figures)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
