"""Measure the gradient and the largest curvature of every parameter tensor, and how unevenly both are spread.

    python run_hessian.py                                          # the toy task: any laptop, no download, a minute
    python run_hessian.py --checkpoint output/landscape-toy-adam   # a model that --save_model kept, on its own data
    python run_hessian.py --task glue/rte --parameters paper       # the second paper's tensors of roberta-base

This measures the norm of every tensor's gradient and the largest eigenvalue of its diagonal Hessian block (Tomihari &
Sato, arXiv:2502.00213), on a few batches of training data, without dropout. It writes config.json, blocks.csv,
heterogeneity.csv and figures/ into output/<name>/. python -m figures --overlay FOLDER FOLDER compares several runs.
--resume FOLDER continues a run that was stopped or killed, to the same files.
"""

import runs.start_up  # noqa: F401  an old Python is answered here
from hessian.flags import check_folder, check_paths, make_parser
from runs.messages import answer_wrong_flags

if __name__ == "__main__":
    answer_wrong_flags(make_parser(__doc__), check_paths)  # at once: the imports below take seconds

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import torch

from curvature.borrowing import check_twice_differentiable, measuring
from curvature.objective import objective_at
from hessian.estimate import estimate
from hessian.flags import ALL, SAVED
from hessian.heterogeneity import resolved
from hessian.jobs import Measurements
from hessian.robust_smoothness import RobustSmoothness, robust_smoothness
from hessian.tables import BLOCKS, HETEROGENEITY, MEAN, heterogeneity_rows, mean_rows
from hessian.tensor_names import selected
from reporting.writing import draw_all
from runs.config import CONFIG_FILE, read_config
from runs.flag_types import DTYPES
from runs.flags import default_output, fill_in, task_arguments
from runs.folder import is_run_folder
from runs.jobs import turn
from runs.lifecycle import PreparedRun, execute
from runs.live import LiveLog
from runs.machine import recommend_float64
from runs.resuming import Earlier
from runs.stopping import StopRequest
from runs.tables import Table, format_table
from tasks import Task, load_task, task_defaults
from tasks.loading.hub import local_paths
from tasks.loading.pretrained import WEIGHTS
from tasks.loading.rows import Refused
from training.loop import ORDER, micro_batches, random_stream

log = logging.getLogger(__name__)

PRINTED = 20  # blocks in the table at the end
PAPER_BATCH = 32  # examples


def resolve(settings: argparse.Namespace) -> None:
    """Fill in the checkpoint's and the task's defaults. Raises ValueError naming the flag that does not fit."""
    if settings.checkpoint:
        if settings.model and not settings.resume:
            raise ValueError("--checkpoint and --model both say which model; give one of them")
        settings.model = str(saved_model(Path(settings.checkpoint)))
        inherit(settings, Path(settings.model))
    settings.task = settings.task or "toy"
    settings.seed = settings.seed or 0
    defaults = task_defaults(settings.task, settings.dataset, settings.model)
    settings.batch_size = settings.batch_size or min(PAPER_BATCH, defaults.batch_size)
    fill_in(settings, defaults)
    settings.output_dir = settings.output_dir or default_output("hessian", settings.task)
    if settings.parameters not in (None, "paper"):
        try:
            re.compile(settings.parameters)
        except re.error as error:
            raise ValueError(f"--parameters {settings.parameters!r} is not a regular expression: {error}") from error


def saved_model(folder: Path) -> Path:
    """`folder` if it holds weights, else the one folder below it that does. ValueError if there is none, or several."""
    check_folder(folder)
    places = {path.parent for path in folder.rglob("*") if path.name in WEIGHTS}
    models = sorted(place for place in places if not place.name.startswith("."))  # those are half written
    if not models:
        raise ValueError(f"--checkpoint {folder} holds no saved model; --save_model keeps one")
    if folder in models:  # a trained model; below it, those of its earlier epochs
        return folder
    if len(models) > 1:
        raise ValueError(f"--checkpoint {folder} holds {len(models)} models; choose one: {', '.join(map(str, models))}")
    return models[0]


def run_of(model: Path) -> Path | None:
    """The run folder that `model` was saved in; None outside of one. ValueError if its config.json is damaged."""
    for folder in (model, *model.parents):
        if is_run_folder(folder):
            return folder
        if model.is_relative_to(folder / "model") and (folder / CONFIG_FILE).exists():
            read_config(folder)  # raises, and says what is wrong with it
    return None


def inherit(settings: argparse.Namespace, model: Path) -> None:
    """Settings left out become those of the run that saved `model`, so that the same examples are measured.

    Raises: ValueError for a run whose settings no flag would take."""
    run = run_of(model)
    if run is None:
        return
    saved_settings = read_config(run)["settings"]
    seeds = saved_settings.get("seeds")  # of run_convergence.py
    if isinstance(seeds, list) and seeds:
        saved_settings.setdefault("seed", seeds[0])
    for name, parse in SAVED.items():
        value = saved_settings.get(name)
        if getattr(settings, name) is not None or value is None:
            continue
        try:
            setattr(settings, name, parse(value if isinstance(value, str) else json.dumps(value)))
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{run / CONFIG_FILE} gives no {name} to measure with: {error}") from error


# ---- measuring ------------------------------------------------------------------------------------------------------


def batch_indices(settings: argparse.Namespace, num_examples: int) -> list[list[int]]:
    """The examples of each batch: the first ones of a training run's first epoch. With "all", every batch of that
    epoch, of which the last one may be smaller."""
    order = random_stream(settings.seed, ORDER, epoch=1).permutation(num_examples).tolist()
    size = settings.batch_size
    needed = num_examples if settings.num_batches == ALL else settings.num_batches * size
    if needed > num_examples:
        raise ValueError(
            f"--num_batches {settings.num_batches} of --batch_size {size} take {needed} examples; "
            f"there are {num_examples}"
        )
    return [order[start : min(start + size, needed)] for start in range(0, needed, size)]


def measure(
    task: Task,
    names: list[str],
    batches: Sequence[Sequence[int]],
    settings: argparse.Namespace,
    folder: Path,
    stop: StopRequest,
    live: LiveLog,
) -> "Tables":
    """Measure every block on every batch, or what others leave of that; the tables so far are there meanwhile."""
    measured = Measurements(task, names, batches, settings, folder, stop, live)
    tables = Tables(measured, settings.seed, folder, live)

    def save() -> None:
        with turn(folder, stop) as is_mine:
            if is_mine:
                measured.jobs.look()
                tables.save()

    def tell(batch: int) -> None:
        for row in tables.unevenness_of(batch):
            live.row("heterogeneity", row)

    measured.work(save, tell)
    return tables


class Tables:
    """blocks.csv and heterogeneity.csv of what is measured, batch by batch."""

    def __init__(self, measured: Measurements, seed: int, folder: Path, live: LiveLog):
        self.measured, self.seed, self.folder, self.live = measured, seed, folder, live
        self.known: dict[int, list[dict]] = {}

    def save(self) -> tuple[Table, Table]:
        """Write what there is; of a batch that is not complete, its blocks alone."""
        blocks, unevenness = (
            Table(self.folder / "blocks.csv", BLOCKS),
            Table(self.folder / "heterogeneity.csv", HETEROGENEITY),
        )
        for batch in self.measured.of_batch:
            extend(blocks, self.measured.rows(batch))
            extend(unevenness, self.unevenness_of(batch) if self.measured.is_complete(batch) else [])
        blocks.save()
        unevenness.save()
        return blocks, unevenness

    def unevenness_of(self, batch: int) -> list[dict]:
        """The measures of a batch that is complete."""
        if batch not in self.known:
            blocks = extend(Table("blocks.csv", BLOCKS), self.measured.rows(batch))
            self.known[batch] = heterogeneity_rows(blocks.rows, batch, self.seed)
        return self.known[batch]

    def finish(self) -> tuple[Table, Table]:
        """Write both with the means over the batches."""
        blocks, unevenness = self.save()
        means = mean_rows(blocks.rows, self.measured.names)
        blocks.listener = unevenness.listener = self.live.row
        extend(blocks, means)
        extend(unevenness, heterogeneity_rows(means, MEAN, self.seed))
        blocks.save()
        unevenness.save()
        return blocks, unevenness


def extend(table: Table, rows: Iterable[dict]) -> Table:
    """The table, with these rows added."""
    for row in rows:
        table.append(row)
    return table


def smoothness_of(task: Task, names: list[str], settings: argparse.Namespace, folder: Path) -> RobustSmoothness:
    """Measure the first examples of the training order and write robust_smoothness.csv."""
    order = random_stream(settings.seed, ORDER, epoch=1).permutation(len(task.examples)).tolist()
    dtype = DTYPES[settings.dtype]
    inputs = micro_batches(task, order[: settings.robust_smoothness], settings.micro_batch_size, settings.device, dtype)
    objective = objective_at(task.model, task.losses, list(inputs), dtype)
    generator = torch.Generator().manual_seed(settings.seed)
    with measuring(objective.model):
        smoothness = robust_smoothness(objective.loss_fn, objective.params, objective.batches, names, generator)
    table = Table(folder / "robust_smoothness.csv", [field.name for field in fields(RobustSmoothness)])
    table.append(asdict(smoothness))
    table.save()
    return smoothness


def check_two_classes(task: Task, settings: argparse.Namespace) -> None:
    """ValueError where `--robust_smoothness` cannot be measured."""
    wanted = settings.robust_smoothness
    config = getattr(task.model, "config", None)  # of transformers; only a classifier has held-out examples
    if not task.evaluation or getattr(config, "num_labels", None) != 2:
        raise ValueError(f"--robust_smoothness is for a task of two classes, as binary_classification, not {task.name}")
    if wanted > len(task.examples):
        raise ValueError(f"--robust_smoothness {wanted} takes {wanted} examples; there are {len(task.examples)}")


# ---- what is printed ------------------------------------------------------------------------------------------------


def report(blocks: Table, unevenness: Table, settings: argparse.Namespace) -> str:
    """The means over the batches: the blocks of largest eigenvalue, then the measures of all and of each kind."""
    rows = [row for row in blocks.rows if row["batch"] == MEAN]
    rows.sort(key=lambda row: -float("inf") if row["eigenvalue"] is None else row["eigenvalue"], reverse=True)
    which = f"the {PRINTED} of largest eigenvalue, of" if len(rows) > PRINTED else "all"
    batches = len({row["batch"] for row in blocks.rows} - {MEAN})
    columns = ["block", "numel", "gradient_norm", "eigenvalue", "residual", "converged", "products"]
    shown = [row | {"converged": "yes" if row["converged"] else "NO"} for row in rows[:PRINTED]]
    measures = [
        "group",
        "blocks",
        "gini_gradient",
        "gini_eigenvalue",
        "complexity_gradient",
        "complexity_sign",
        "complexity_ratio",
        "spearman",
        "spearman_low",
        "spearman_high",
    ]
    return "\n".join(
        [
            f"Mean over {batches} batches of {settings.batch_size} examples: {which} {len(rows)} tensors",
            format_table(shown, columns),
            "",
            "How unevenly they are spread (Gini coefficients), what curvature gradient and sign methods meet, and the",
            "rank correlation of gradient norm and eigenvalue with its 95 % interval",
            format_table([r for r in unevenness.rows if r["batch"] == MEAN and r["grouping"] != "layer"], measures),
        ]
    )


def in_words(smoothness: RobustSmoothness) -> str:
    return (
        f"Smoothness over {smoothness.examples} examples: {smoothness.smoothness:.4g}; robust smoothness "
        f"without {smoothness.removed_share:.2%} of the coordinates: {smoothness.robust_smoothness:.4g}; "
        f"without 2 % at random: {smoothness.random_smoothness:.4g}"
    )


def log_unconverged(rows: list[dict], settings: argparse.Namespace) -> None:
    measured = [row for row in rows if row["batch"] != MEAN and row["eigenvalue"] is not None]
    unconverged = [row for row in measured if not row["converged"]]
    zero = [row for row in unconverged if resolved(row["eigenvalue"], row["residual"]) == 0]
    if unconverged:
        log.warning(
            "%d of %d eigenvalues did not converge (column converged; --tolerance %g, --max_iterations %d); %d of them "
            "cannot be told from 0 and count as 0 in heterogeneity.csv",
            len(unconverged),
            len(measured),
            settings.tolerance,
            settings.max_iterations,
            len(zero),
        )


def prepare(settings: argparse.Namespace, earlier: Earlier | None) -> PreparedRun:
    """Check everything and load the task. Raises ValueError naming the flag that does not fit."""
    resolve(settings)
    task = load_task(settings.task, seed=settings.seed, **task_arguments(settings))
    if settings.model != "toy":
        batch = task.collate(task.shortest_and_longest()[:1])
        check_twice_differentiable(task.model, task.losses, batch, settings.model)
    names = selected(task.model, settings.parameters)
    batches = batch_indices(settings, len(task.examples))
    if settings.robust_smoothness:
        check_two_classes(task, settings)

    def work(folder: Path, stop: StopRequest, live: LiveLog) -> Callable[[], str]:
        recommend_float64(settings.device, settings.dtype)
        tables = measure(task, names, batches, settings, folder, stop, live)

        def end() -> str:
            blocks, unevenness = tables.finish()
            smoothness = smoothness_of(task, names, settings, folder) if settings.robust_smoothness else None
            log_unconverged(blocks.rows, settings)
            draw_all(folder)
            said = report(blocks, unevenness, settings)
            return said if smoothness is None else f"{said}\n\n{in_words(smoothness)}"

        return end

    reads = local_paths(settings.dataset, settings.model, settings.eval_dataset)
    ends = FloatingPointError, Refused
    planned = partial(estimate, task, settings, names, batches)
    return PreparedRun(settings, work, planned, reads=reads, ends_in_one_line=ends, says_estimate=False, in_jobs=True)


def main(arguments: Sequence[str] | None = None) -> int:
    return execute("run_hessian.py", make_parser(__doc__), prepare, arguments)


if __name__ == "__main__":
    sys.exit(main())
