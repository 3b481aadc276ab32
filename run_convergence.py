"""Train with every algorithm of a list, from the same start on the same data in the same order, and compare the losses.

    python run_convergence.py                                # the toy task: any laptop, no download, minutes
    python run_convergence.py --tune_lr --seeds 0 1 2        # each algorithm at its own best learning rate
    python run_convergence.py --task machine_translation     # the paper's protocol on t5-small; wants a GPU

For one seed all algorithms share the initial parameters, the examples of every batch and the dropout masks. Writes
output/<name>/: config.json, losses.csv, summary.csv (and tuned_learning_rates.csv; and, of a classification task,
scores.csv and best_epochs.csv), and figures/ drawn from them. --resume FOLDER continues a run that was stopped or
killed, to the same files (except for the measured column `seconds`).
"""

import runs.start_up  # noqa: F401  an old Python is answered here
from convergence.flags import check_paths, make_parser
from runs.messages import answer_wrong_flags

if __name__ == "__main__":
    answer_wrong_flags(make_parser(__doc__), check_paths)  # at once: the imports below take seconds

import argparse
import logging
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from algorithm_list import ALGORITHM_LISTS
from convergence.best_epochs import COLUMNS as BEST_EPOCHS
from convergence.best_epochs import best_epochs
from convergence.estimate import estimate, trials_at_least
from convergence.journal import Journal
from convergence.learning_rates import HALF_DECADES, TRIALS, tune_rows
from convergence.one_run import Losses, RunPlan, Start
from reporting.writing import draw_all
from runs.config import row_numbers
from runs.flags import check_seeds, default_output, fill_in, task_arguments
from runs.lifecycle import Job, execute
from runs.live import LiveLog
from runs.messages import TimeLeft, progress
from runs.resuming import Earlier, in_earlier_order
from runs.stopping import StopRequest
from runs.tables import Table, format_table, read_table
from tasks import Task, load_task, task_defaults
from tasks.loading.hub import local_paths, quiet_libraries
from tasks.loading.rows import Refused
from torch_optimizer import Algorithm
from torch_optimizer.rows import check_names, choose_list, plain_sgd
from training.loop import TrainingPlan, batches_per_epoch

log = logging.getLogger(__name__)

LOSSES = ["algorithm", "seed", "epoch", "iteration", "examples", "loss", "lr", "seconds"]
SUMMARY = ["algorithm", "lr", "final_loss_mean", "final_loss_std", "best_loss", "steps_to_sgd_loss", "diverged"]
SCORES = ["algorithm", "seed", "epoch", "split", "metric", "value"]


# ---- from the command line to a plan --------------------------------------------------------------------------------


def prepare(settings: argparse.Namespace, earlier: Earlier | None) -> Job:
    """Check everything and load the task. Raises ValueError naming the flag that does not fit."""
    if settings.save_model or settings.num_epoch_to_save:
        quiet_libraries()  # saving shows a bar
    algorithms = in_earlier_order(resolve(settings), earlier)
    task = load(settings, settings.seeds[0])
    check_names(algorithms, task.model)

    def work(folder: Path, stop: StopRequest, live: LiveLog) -> str:
        summary = run(settings, algorithms, task, folder, stop, live)
        draw_all(folder)
        return report(summary, algorithms, folder)

    reads = local_paths(settings.dataset, settings.model, settings.eval_dataset)
    notes = task.training_notes(settings.micro_batch_size)
    plan = plan_of(settings).training
    planned = partial(estimate, task, settings, algorithms, plan)
    return Job(settings, work, planned, algorithms, reads, notes, ends_in_one_line=(FloatingPointError, Refused))


def resolve(settings: argparse.Namespace) -> dict[str, Algorithm]:
    """Fill in the task's defaults and check what depends on several flags; label -> row. Raises ValueError naming the
    flag."""
    schedule_given = settings.lr_scheduler not in (None, "constant")
    fill_in(settings, task_defaults(settings.task, settings.dataset, settings.model))
    algorithms = choose_list(ALGORITHM_LISTS, settings.algorithm_list)
    if settings.only:
        unknown = [label for label in settings.only if label not in algorithms]
        if unknown:
            raise ValueError(f"--only {unknown[0]!r} is no label of the list; it has {'; '.join(algorithms)}")
        algorithms = {label: algorithms[label] for label in settings.only}
    if all(row.lr is None for row in algorithms.values()) and (schedule_given or settings.tune_lr):
        flag = "tune_lr" if settings.tune_lr else "lr_scheduler"
        raise ValueError(f"--{flag} has no effect on rows that set their own learning rate; leave it out")
    if settings.lr_scheduler.endswith("warmup"):
        settings.warmup_ratio = 0.1 if settings.warmup_ratio is None else settings.warmup_ratio
    elif settings.warmup_ratio is not None:
        raise ValueError(f"--warmup_ratio is for schedules with a warm-up, not for {settings.lr_scheduler}")
    check_seeds(settings.seeds)
    if settings.dtype == "bfloat16" and settings.device.type != "cuda":
        raise ValueError(f"--dtype bfloat16 is for CUDA devices, not {settings.device}")
    if settings.tune_lr:
        settings.lr_grid = settings.lr_grid or HALF_DECADES
        settings.tune_epochs = settings.tune_epochs or math.ceil(settings.num_epochs / 3)
    if (settings.num_epoch_to_save or 0) > settings.num_epochs:
        late = f"--num_epoch_to_save {settings.num_epoch_to_save}"
        raise ValueError(f"{late} is after the last epoch, --num_epochs {settings.num_epochs}")
    settings.output_dir = settings.output_dir or default_output("convergence", settings.task)
    return algorithms


def load(settings: argparse.Namespace, model_seed: int) -> Task:
    """The data of the first seed, with the model of `model_seed`."""
    return load_task(settings.task, seed=settings.seeds[0], model_seed=model_seed, **task_arguments(settings))


def plan_of(settings: argparse.Namespace) -> RunPlan:
    """What all runs have in common."""
    training = TrainingPlan(
        settings.num_epochs,
        settings.batch_size,
        settings.micro_batch_size,
        max_grad_norm=settings.max_grad_norm or None,
        autocast=torch.bfloat16 if settings.dtype == "bfloat16" else None,
    )
    return RunPlan(
        training,
        settings.lr_scheduler,
        settings.warmup_ratio,
        settings.compile,
        settings.save_model,
        settings.num_epoch_to_save,
    )


# ---- the run --------------------------------------------------------------------------------------------------------


def run(
    settings: argparse.Namespace,
    algorithms: Mapping[str, Algorithm],
    task: Task,
    folder: Path,
    stop: StopRequest,
    live: LiveLog,
) -> Table:
    """Train every row from every seed; returns the summary."""
    journal = Journal(folder, settings.checkpoint_every, stop)
    plan = plan_of(settings)
    first = Start(task, plan, settings.device, journal)
    losses, scores = Table(folder / "losses.csv", LOSSES), Table(folder / "scores.csv", SCORES, live.row)
    runs, numbers = defaultdict(list), row_numbers(folder)
    per_epoch = batches_per_epoch(len(task.examples), settings.batch_size)
    epochs = settings.num_epochs * len(settings.seeds) * len(algorithms)
    if settings.tune_lr:
        epochs += settings.tune_epochs * sum(trials_at_least(row, settings.lr_grid) for row in algorithms.values())
    with progress(total=per_epoch * epochs, desc="training") as bar:
        left = TimeLeft(bar.total, bar=bar)
        if settings.tune_lr:
            table = Table(folder / "tuned_learning_rates.csv", TRIALS)
            algorithms = tuned(settings, algorithms, first, table, left, per_epoch)
        for seed in settings.seeds:
            start = first
            if seed != settings.seeds[0]:
                start = Start(load(settings, seed), plan, settings.device, journal)
            for label, row in algorithms.items():
                models = folder / "model" / f"seed{seed}-{numbers[label]}-{row.name}"

                def follow(point: tuple, label: str = label, seed: int = seed) -> None:
                    live.row("losses", dict(zip(LOSSES, (label, seed, *point), strict=True)))

                result = start.train(row, seed, settings.num_epochs, left, models, follow)
                runs[label].append(result)
                record(label, seed, result, losses, scores)
    if scores.rows:
        best = Table(folder / "best_epochs.csv", BEST_EPOCHS)
        for row in best_epochs(scores.rows):
            best.append(row)
        best.save()
    summary = Table(folder / "summary.csv", SUMMARY)
    reference = plain_sgd(algorithms)
    for label, row in algorithms.items():
        summary.append(summarize(label, row, runs[label], runs[reference] if reference else []))
    summary.save()
    return summary


def tuned(
    settings: argparse.Namespace,
    algorithms: Mapping[str, Algorithm],
    start: Start,
    table: Table,
    left: TimeLeft,
    per_epoch: int,
) -> dict[str, Algorithm]:
    """Every row at its best learning rate on the first seed; `left` learns of trials beyond the grids."""
    seed, epochs = settings.seeds[0], settings.tune_epochs
    return tune_rows(
        algorithms,
        lambda row: start.train(row, seed, epochs, left).final_loss,
        settings.lr_grid,
        table,
        settings.task,
        extended=lambda: left.expect(epochs * per_epoch),
    )


def record(label: str, seed: int, result: Losses, losses: Table, scores: Table) -> None:
    """Write down one run."""
    for point in result.points:
        losses.append(dict(zip(LOSSES, (label, seed, *point), strict=True)))
    losses.save()
    for epoch, split, metric, value in result.scores:
        scores.append(algorithm=label, seed=seed, epoch=epoch, split=split, metric=metric, value=value)
    if scores.rows:
        scores.save()
    steps, loss = len(result.points), f"loss {result.final_loss:.4g}"
    log.info("%s, seed %d: %s", label, seed, f"diverged after {steps} steps" if result.diverged else loss)


def summarize(label: str, row: Algorithm, runs: Sequence[Losses], sgd: Sequence[Losses]) -> dict:
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


# ---- what is printed ------------------------------------------------------------------------------------------------


def report(summary: Table, labels: Mapping[str, Algorithm], folder: Path) -> str:
    """What the run prints at its end."""
    lines = [
        "Loss of the last epoch (mean and standard deviation over seeds), and steps to where plain SGD ended",
        format_table(summary.rows, SUMMARY),
    ]
    table = final_scores(folder, list(labels))
    if table:
        lines.append(f"Scores after the last epoch (mean over seeds)\n{table}")
    return "\n".join(lines)


def final_scores(folder: Path, labels: Sequence[str]) -> str:
    """A table of scores, means over seeds: of the last epoch, of runs that trained to it, and the test accuracy of each
    run's best epoch. "" for a task without scores."""
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
    if columns:
        columns.append("test accuracy, best epoch")
        at_best = defaultdict(list)
        for row in best_epochs(read_table(path)):
            at_best[row["algorithm"]].append(row["test_accuracy"])
        for row in rows:
            if row["algorithm"] in at_best:
                row[columns[-1]] = statistics.fmean(at_best[row["algorithm"]])
    return format_table(rows, ["algorithm", *columns]) if columns else ""


def main(arguments: Sequence[str] | None = None) -> int:
    return execute("run_convergence.py", make_parser(__doc__), prepare, arguments)


if __name__ == "__main__":
    sys.exit(main())
