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
from convergence.flags import check_paths, make_parser, shares_batches
from runs.messages import answer_wrong_flags

if __name__ == "__main__":
    answer_wrong_flags(make_parser(__doc__), check_paths)  # at once: the imports below take seconds

import argparse
import logging
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from algorithm_list import ALGORITHM_LISTS
from convergence.best_epochs import COLUMNS as BEST_EPOCHS
from convergence.best_epochs import best_epochs
from convergence.estimate import estimate
from convergence.jobs import LOSSES, SCORES, Trainings
from convergence.learning_rates import HALF_DECADES, TRIALS, trial_rows
from convergence.one_run import Losses, RunPlan
from reporting.writing import draw_all
from runs.flags import check_seeds, default_output, fill_in, task_arguments
from runs.jobs import turn
from runs.lifecycle import PreparedRun, execute
from runs.live import LiveLog
from runs.ranks import current
from runs.resuming import Earlier, in_earlier_order
from runs.stopping import StopRequest
from runs.tables import Table, format_table, read_table
from tasks import Task, load_task, task_defaults
from tasks.loading.hub import local_paths, quiet_libraries
from tasks.loading.rows import Refused
from torch_optimizer import Algorithm
from torch_optimizer.rows import check_names, choose_list, plain_sgd
from training.loop import BATCH_NORM, TrainingPlan

log = logging.getLogger(__name__)

SUMMARY = ["algorithm", "lr", "final_loss_mean", "final_loss_std", "best_loss", "steps_to_sgd_loss", "diverged"]


# ---- from the command line to a plan --------------------------------------------------------------------------------


def prepare(settings: argparse.Namespace, earlier: Earlier | None) -> PreparedRun:
    """Check everything and load the task. Raises ValueError naming the flag that does not fit."""
    if settings.save_model or settings.num_epoch_to_save:
        quiet_libraries()  # saving shows a bar
    algorithms = in_earlier_order(resolve(settings), earlier)
    task = load(settings, settings.seeds[0])
    if current().world > 1 and task.has_batch_norm:
        raise ValueError(f"--parallel data: {task.name}: {BATCH_NORM}; leave it out, and each process takes whole runs")
    check_names(algorithms, task.model)

    def work(folder: Path, stop: StopRequest, live: LiveLog) -> Callable[[], str]:
        trainings = run(settings, algorithms, task, folder, stop, live)

        def end() -> str:
            summary = write_tables(trainings, folder)
            draw_all(folder)
            return report(summary, algorithms, folder)

        return end

    reads = local_paths(settings.dataset, settings.model, settings.eval_dataset)
    notes = task.training_notes(settings.micro_batch_size)
    plan = plan_of(settings).training
    planned = partial(estimate, task, settings, algorithms, plan)
    ends = FloatingPointError, Refused
    return PreparedRun(settings, work, planned, algorithms, reads, notes, ends_in_one_line=ends, in_jobs=True)


def resolve(settings: argparse.Namespace) -> dict[str, Algorithm]:
    """Fill in the task's defaults and check what depends on several flags; label -> row. Raises ValueError naming the
    flag."""
    schedule_given = settings.lr_scheduler not in (None, "constant")
    fill_in(settings, task_defaults(settings.task, settings.dataset, settings.model))
    algorithms = choose_list(ALGORITHM_LISTS, settings.algorithm_list)
    if settings.only:
        unknown = [label for label in settings.only if label not in algorithms]
        if unknown:
            raise ValueError(
                f"--only {unknown[0]!r} is not a label of the list; its labels are {'; '.join(algorithms)}"
            )
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
) -> Trainings:
    """Train every row from every seed, or what other processes leave of that; the tables so far are there meanwhile."""
    plan, others = plan_of(settings), partial(load, settings)
    ranks = current()
    trainings = Trainings(settings, algorithms, task, others, plan, folder, stop, live, ranks)
    tables = Tables(trainings, folder)

    def save() -> None:
        with turn(folder, stop) as is_mine:
            if is_mine:
                trainings.jobs.look()
                tables.save()

    trainings.work(lambda: ranks.leading(save))
    return trainings


class Tables:
    """tuned_learning_rates.csv, losses.csv and scores.csv of what has ended, in the order of the list."""

    def __init__(self, trainings: Trainings, folder: Path):
        self.trainings, self.folder = trainings, folder
        self.known: dict[str, dict[str, list]] = {}  # job -> table -> its rows

    def save(self) -> dict[str, Table]:
        """Write those that have begun; name -> table. A task without scores has no table of them."""
        columns = {"tuned_learning_rates": TRIALS, "losses": LOSSES, "scores": SCORES}
        tables = {name: Table(self.folder / f"{name}.csv", columns[name]) for name in columns}
        for job in filter(self.trainings.has_ended, self.trainings.jobs.jobs):
            if job.name not in self.known:
                self.known[job.name] = self._rows(*self.trainings.subjects[job.name])
            for name, rows in self.known[job.name].items():
                for row in rows:
                    tables[name].append(row)
        begun = {name for rows_of in self.known.values() for name in rows_of}
        written = {name: tables[name] for name in tables if name in begun}
        for table in written.values():
            table.save()
        return written

    def _rows(self, seed: int | None, label: str) -> dict[str, list]:
        """Table -> rows of one job."""
        if seed is None:
            task = self.trainings.settings.task
            return {"tuned_learning_rates": trial_rows(task, label, self.trainings.trials(label))}
        result = self.trainings.losses(seed, label)
        losses = [dict(zip(LOSSES, (label, seed, *point), strict=True)) for point in result.points]
        scores = [dict(zip(SCORES, (label, seed, *score), strict=True)) for score in result.scores]
        return {"losses": losses, "scores": scores} if scores else {"losses": losses}


def write_tables(trainings: Trainings, folder: Path) -> Table:
    """Write all tables of a run that has ended; returns the summary."""
    tables = Tables(trainings, folder).save()
    if "scores" in tables:
        best = Table(folder / "best_epochs.csv", BEST_EPOCHS)
        for row in best_epochs(tables["scores"].rows):
            best.append(row)
        best.save()
    summary = Table(folder / "summary.csv", SUMMARY)
    rows = {label: trainings.row(label) for label in trainings.algorithms}
    runs = {label: [trainings.losses(seed, label) for seed in trainings.settings.seeds] for label in rows}
    reference = plain_sgd(rows)
    for label, row in rows.items():
        summary.append(summarize(label, row, runs[label], runs[reference] if reference else []))
    summary.save()
    return summary


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
    arguments = sys.argv[1:] if arguments is None else arguments
    return execute("run_convergence.py", make_parser(__doc__), prepare, arguments, together=shares_batches(arguments))


if __name__ == "__main__":
    sys.exit(main())
