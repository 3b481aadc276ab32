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
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import torch

from curvature.borrowing import check_twice_differentiable, measuring, twice_differentiable
from curvature.objective import objective_at
from hessian.blocks import BlockCurvature, block_curvatures
from hessian.estimate import estimate
from hessian.flags import ALL
from hessian.heterogeneity import resolved
from hessian.robust_smoothness import RobustSmoothness, robust_smoothness
from hessian.tables import BLOCKS, HETEROGENEITY, MEAN, block_row, heterogeneity_rows, mean_rows
from hessian.tensor_names import selected
from reporting.writing import draw_all
from runs.config import CONFIG_FILE, read_config
from runs.flags import (
    DTYPES,
    default_output,
    fill_in,
    nonempty,
    number,
    one_of,
    positive_int,
    seed_number,
    task_arguments,
)
from runs.folder import is_run_folder
from runs.lifecycle import Job, execute
from runs.live import LiveLog
from runs.messages import TimeLeft, progress
from runs.resuming import Earlier
from runs.saver import Saver
from runs.stopping import StopRequest
from runs.tables import Table, format_table
from tasks import TASKS, Task, load_task, task_defaults
from tasks.loading.hub import local_paths
from tasks.loading.pretrained import WEIGHTS
from tasks.loading.rows import Refused
from training.loop import ORDER, micro_batches, random_stream

log = logging.getLogger(__name__)

PRINTED = 20  # blocks in the table at the end
PAPER_BATCH = 32  # examples
SAVED = dict(  # settings that a checkpoint's run hands on, with the types of their flags
    task=one_of("task", TASKS),
    dataset=nonempty,
    dataset_size=positive_int,
    max_length=positive_int,
    windows_per_file=number(int, 0),
    zipf=number(float, 0, 10),
    columns=nonempty,
    config=nonempty,
    split=nonempty,
    seed=seed_number,
)


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
            raise ValueError(f"--parameters {settings.parameters!r} is no regular expression: {error}") from error


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


class Stored:
    """What a checkpoint of the run holds: the blocks measured so far and the generator of the start vectors."""

    def __init__(self, blocks: Table, generator: torch.Generator):
        self.blocks, self.generator = blocks, generator

    def state_dict(self) -> dict:
        return {"blocks": json.dumps(self.blocks.rows), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.blocks.rows = json.loads(state["blocks"])
        self.generator.set_state(state["generator"])


def measure(
    task: Task, names: list[str], settings: argparse.Namespace, folder: Path, stop: StopRequest, live: LiveLog
) -> tuple[Table, Table]:
    """Measure every block on every batch and save after each batch. Returns blocks.csv and heterogeneity.csv."""
    blocks = Table(folder / "blocks.csv", BLOCKS, live.row)
    unevenness = Table(folder / "heterogeneity.csv", HETEROGENEITY, live.row)
    batches = batch_indices(settings, len(task.examples))
    generator = torch.Generator().manual_seed(settings.seed)
    stored, saver = Stored(blocks, generator), Saver(folder, settings.checkpoint_every, stop)
    done, total = saver.restore(stored), len(batches) * len(names)
    task.model.to(settings.device)
    with progress(total=total, initial=done, desc="blocks") as bar:
        left = TimeLeft(total, done, bar)
        for batch, indices in enumerate(batches, start=1):
            batch_end = batch * len(names)
            unmeasured = names[max(0, done - batch_end + len(names)) :]
            for block in curvatures(task, indices, unmeasured, settings, generator):
                blocks.append(block_row(block, batch))
                left.update()
                count = len(blocks.rows)
                place = f"{block.name}, tensor {count} of {total}"
                saver.after(count, stored.state_dict, milestone=count == batch_end, place=place)
            rows = blocks.rows[batch_end - len(names) : batch_end]
            save_batch(blocks, unevenness, heterogeneity_rows(rows, batch, settings.seed))
            left.note(f"batch {batch} of {len(batches)}: {len(names)} tensors measured")
    means = mean_rows(blocks.rows, names)
    for row in means:
        blocks.append(row)
    save_batch(blocks, unevenness, heterogeneity_rows(means, MEAN, settings.seed))
    return blocks, unevenness


def save_batch(blocks: Table, unevenness: Table, measures: list[dict]) -> None:
    """Write both tables, with one batch's measures added to the second."""
    for row in measures:
        unevenness.append(row)
    unevenness.save()
    blocks.save()


def curvatures(
    task: Task, indices: list[int], names: list[str], settings: argparse.Namespace, generator: torch.Generator
) -> Iterator[BlockCurvature]:
    """Measure the tensors `names` on the examples `indices`, one tensor at a time."""
    if not names:
        return
    dtype = DTYPES[settings.dtype]
    inputs = list(micro_batches(task, indices, settings.micro_batch_size, settings.device, dtype))
    objective = objective_at(task.model, task.losses, inputs, dtype)
    with measuring(objective.model), twice_differentiable():
        yield from block_curvatures(
            objective.loss_fn,
            objective.params,
            inputs,
            names,
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
            generator=generator,
            keep_graphs=not settings.rebuild_graphs,
        )


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


def prepare(settings: argparse.Namespace, earlier: Earlier | None) -> Job:
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

    def work(folder: Path, stop: StopRequest, live: LiveLog) -> str:
        blocks, unevenness = measure(task, names, settings, folder, stop, live)
        smoothness = smoothness_of(task, names, settings, folder) if settings.robust_smoothness else None
        log_unconverged(blocks.rows, settings)
        draw_all(folder)
        said = report(blocks, unevenness, settings)
        if smoothness is None:
            return said
        return (
            f"{said}\n\nSmoothness over {smoothness.examples} examples: {smoothness.smoothness:.4g}; robust smoothness "
            f"without {smoothness.removed_share:.2%} of the coordinates: {smoothness.robust_smoothness:.4g}; "
            f"without 2 % at random: {smoothness.random_smoothness:.4g}"
        )

    reads = local_paths(settings.dataset, settings.model, settings.eval_dataset)
    ends = FloatingPointError, Refused
    planned = partial(estimate, task, settings, names, batches)
    return Job(settings, work, planned, reads=reads, ends_in_one_line=ends, says_estimate=False)


def main(arguments: Sequence[str] | None = None) -> int:
    return execute("run_hessian.py", make_parser(__doc__), prepare, arguments)


if __name__ == "__main__":
    sys.exit(main())
