"""Measure, along one training trajectory, how the loss bends under every optimizer's next step.

    python run_landscape.py                                # the toy task: any laptop, no download, a minute
    python run_landscape.py --task machine_translation     # the paper's protocol on t5-small; wants a GPU
    python run_landscape.py --task machine_translation --dataset pairs.jsonl --model toy

One optimizer trains (--train_optimizer). At sampled points of its run every algorithm of the list proposes its own step
from the same parameters. The script measures slope and directional sharpness of the loss along each step, on a fixed
test batch, and scans the loss. It writes config.json, training.csv, sharpness.csv, ratios.csv, scan.csv, histogram.csv
and figures/ into output/<name>/. python -m figures FOLDER draws the figures again.

--resume FOLDER continues a run that was stopped or killed, and gives the same files. --from_points FOLDER measures the
points of a run with --save_points again, in float64 or on another test batch.
"""

import runs.start_up  # noqa: F401  an old Python is answered here
from landscape.flags import check_paths, make_parser
from runs.messages import answer_wrong_flags

if __name__ == "__main__":
    answer_wrong_flags(make_parser(__doc__), check_paths)  # at once: the imports below take seconds

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from algorithm_list import ALGORITHM_LISTS
from curvature.borrowing import check_twice_differentiable
from curvature.objective import Batch, objective_at
from figures.drawing import draw_all
from landscape.at_once import examples_at_once
from landscape.classes import FrequencyClass, frequency_classes, measure_classes
from landscape.cross_checks import check_at_point, check_on_tiny_model
from landscape.decomposition import decompose
from landscape.estimate import estimate
from landscape.measurements import MeasurementPlan, measure_point
from landscape.plan import Plan, most_of_training_batch, test_examples
from landscape.saved_points import MeasuredPoint, load_points, point_files, rows_of_run, save_point, settings_of_points
from landscape.stored import Stored
from landscape.tables import PointTables, answer
from landscape.top_eigenvalues import top_eigenvalues
from landscape.training_row import parts_of, training_batch, with_training_row
from landscape_utils import PseudoUpdates
from runs.checkpoints import fitting
from runs.flags import DTYPES, Parser, default_output, fill_in, task_arguments
from runs.lifecycle import Job, execute
from runs.live import LiveLog
from runs.messages import TimeLeft, progress, say
from runs.resuming import Earlier, in_earlier_order
from runs.saver import Saver
from runs.stopping import StopRequest
from runs.tables import TEST, TRAINING
from tasks import Task, load_task, task_defaults
from tasks.loading.hub import local_paths
from tasks.loading.rows import Refused
from torch_optimizer import Algorithm
from torch_optimizer.algorithm import set_mode
from torch_optimizer.rows import check_names, choose_list, plain_sgd
from training.loop import (
    SAMPLE,
    Training,
    TrainingPlan,
    batches_per_epoch,
    micro_batches,
    random_stream,
)

# ---- from the command line to a plan --------------------------------------------------------------------------------


def prepare(parser: Parser, arguments: Sequence[str], settings: argparse.Namespace, earlier: Earlier | None) -> Job:
    """Check everything and load the task. Raises ValueError naming the flag that does not fit."""
    if settings.from_points and earlier is None:
        settings = settings_of_points(parser, arguments, settings.from_points)
    test_batch_given = settings.test_batch_size is not None
    train_row, algorithms = resolve(settings)
    algorithms = in_earlier_order(algorithms, earlier)
    reference = choose_reference(settings.reference, algorithms)
    refuse_another_reference(reference, settings, earlier)
    task = load_task(settings.task, seed=settings.seed, **task_arguments(settings))
    if not settings.from_points:  # there the rows are names alone
        check_names(algorithms, task.model)
    if settings.model != "toy":
        batch = task.collate(task.shortest_and_longest()[:1])
        check_twice_differentiable(task.model, task.losses, batch, settings.model)
    examples = len(task.examples)
    if settings.test_batch_size > examples:
        if test_batch_given:
            raise ValueError(f"--test_batch_size {settings.test_batch_size} is more than the {examples} examples")
        settings.test_batch_size = examples
    measured_rows = {**algorithms, TRAINING: train_row}
    plan = Plan(
        settings,
        train_row,
        algorithms,
        reference,
        TrainingPlan(settings.num_epochs, settings.batch_size, settings.micro_batch_size, settings.seed),
        MeasurementPlan(
            DTYPES[settings.dtype],
            sharpness=not settings.skip_sharpness,
            scans=not settings.skip_search,
            full_scans=settings.scan == "full",
            spacing={label: settings.step_size or row.step_size for label, row in measured_rows.items()},
        ),
        sampled_batches(settings, batches_per_epoch(examples, settings.batch_size)),
        classes_of(task, settings),
    )
    check_first = settings.check_sharpness and earlier is None and not settings.from_points

    def work(folder: Path, stop: StopRequest, live: LiveLog) -> str:
        if check_first:
            say(check_on_tiny_model(task, algorithms))
        run(task, plan, folder, stop, live)
        draw_all(folder)
        return answer(folder, algorithms, reference, settings.train_optimizer)

    reads = local_paths(settings.dataset, settings.model, settings.eval_dataset)
    notes = task.training_notes(settings.micro_batch_size)
    planned = partial(estimate, task, plan)
    return Job(settings, work, planned, algorithms, reads, notes, ends_in_one_line=(FloatingPointError, Refused))


def resolve(settings: argparse.Namespace) -> tuple[Algorithm, dict[str, Algorithm]]:
    """Fill in the task's defaults and check what depends on several flags: (row that trains, label -> row).

    Raises ValueError naming the flag."""
    defaults = task_defaults(settings.task, settings.dataset, settings.model)
    epochs_given = settings.num_epochs is not None and settings.test_epochs is None
    fill_in(settings, defaults)
    if epochs_given:
        settings.test_epochs = [e for e in defaults.test_epochs if e <= settings.num_epochs] or [settings.num_epochs]
    late = [e for e in settings.test_epochs if e > settings.num_epochs]
    if late:
        raise ValueError(f"--test_epochs {late[0]} is after the last epoch, --num_epochs {settings.num_epochs}")
    if settings.skip_search and settings.skip_sharpness:
        raise ValueError("--skip_search together with --skip_sharpness leaves nothing to measure")
    if settings.lr is None:
        settings.lr = defaults.learning_rates.get(settings.train_optimizer)
    train_row = training_row(settings)
    train_row.check()
    if settings.output_dir is None:
        again = ["points"] if settings.from_points else []
        settings.output_dir = default_output("landscape", settings.task, settings.train_optimizer, *again)
    if not settings.from_points:
        rows = choose_list(ALGORITHM_LISTS, settings.algorithm_list)
        if TRAINING in rows:
            raise ValueError(f"{TRAINING!r} is the row of the optimizer that trains; rename the class of that row")
        return train_row, rows
    if Path(settings.output_dir).resolve() == Path(settings.from_points).resolve():
        raise ValueError(f"--output_dir {settings.output_dir} is the run that --from_points reads; choose another")
    point_files(settings.from_points)
    return train_row, rows_of_run(settings.from_points)


def choose_reference(label: str | None, algorithms: dict[str, Algorithm]) -> str | None:
    """The row that the others are compared with: the first sgd row without clipping, unless a label is given.

    Raises ValueError naming the labels of the list."""
    if label is None:
        return plain_sgd(algorithms)
    if label not in algorithms:
        raise ValueError(f"--reference {label!r} is no row of the list; its labels are {', '.join(algorithms)}")
    return label


def refuse_another_reference(reference: str | None, settings: argparse.Namespace, earlier: Earlier | None) -> None:
    """Raises ValueError, in one line, if the resumed run's ratios refer to another row."""
    if earlier is not None:
        rows = rows_of_run(settings.output_dir)
        before = earlier.config["settings"].get("reference") or plain_sgd(rows)
        if before != reference:
            both = f"{before or 'none'} and {reference or 'none'}"
            raise ValueError(f"the ratios in {settings.output_dir} would be to two different rows, {both}")


def training_row(settings: argparse.Namespace) -> Algorithm:
    """The training optimizer as a row. Its momentum is the paper's, m <- 0.9 m + 0.1 g, unless --no-momentum."""
    options = {} if settings.lr is None else {"lr": settings.lr}
    if settings.train_optimizer in ("sgd", "normalized_sgd", "sign_sgd"):
        if settings.momentum is not False:
            options |= dict(momentum=0.9, dampening=0.9)
    elif settings.momentum is not None:
        raise ValueError(f"--momentum is for sgd, normalized_sgd and sign_sgd, not {settings.train_optimizer}")
    if settings.train_optimizer == "adafactor" and settings.lr is not None:
        options["relative_step"] = False
    return Algorithm(settings.train_optimizer, **options)


def sampled_batches(settings: argparse.Namespace, num_batches: int) -> dict[int, tuple[list[int], int]]:
    """test epoch -> (its measured batches in order, the one that is scanned); drawn from (seed, epoch)."""
    if settings.sample_iterations and max(settings.sample_iterations) > num_batches:
        raise ValueError(
            f"--sample_iterations {max(settings.sample_iterations)} is past the last batch: an epoch has {num_batches}"
        )
    chosen = {}
    for epoch in settings.test_epochs:
        batches = (
            settings.sample_iterations
            or [int(b) + 1 for b in random_stream(settings.seed, SAMPLE, epoch).permutation(num_batches)][
                : settings.num_sample_sharpness
            ]
        )
        chosen[epoch] = sorted(set(batches)), batches[0]
    return chosen


# ---- the run --------------------------------------------------------------------------------------------------------


def run(task: Task, plan: Plan, folder: Path, stop: StopRequest, live: LiveLog) -> None:
    """Measure every point, of a new trajectory or of an earlier run."""
    task.model.to(plan.settings.device)
    settings = plan.settings
    written = {
        "training": not settings.from_points,
        "eigenvalues": settings.top_eigenvalues,
        "decomposition": settings.decompose,
        "classes": plan.classes,
    }
    tables = PointTables(
        folder, plan.reference, absent=[name for name, asked in written.items() if not asked], listener=live.row
    )
    saver = Saver(folder, plan.settings.checkpoint_every, stop)
    try:
        if plan.settings.from_points:
            measure_saved_points(task, plan, tables, saver)
        else:
            train_and_measure(task, plan, tables, saver, folder)
    finally:  # keeps what was measured before a loss that is not finite
        tables.add_ratios()
        tables.save()


def train_and_measure(task: Task, plan: Plan, tables: PointTables, saver: Saver, folder: Path) -> None:
    """Train along x_1, x_2, ... At sampled points, measure every algorithm's step before the training step is taken."""
    params = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    optimizer = plan.train_row.build(params)
    updates = PseudoUpdates(params, plan.algorithms, plan.settings.optimizer_device)
    stored = Stored(task.model, optimizer, updates, tables, plan.train_row, plan.algorithms)
    done = saver.restore(stored)
    training = Training(task, optimizer, plan.training, first_iteration=done + 1)
    test_batch = list(fixed_test_batch(task, plan))
    left = TimeLeft(len(training), done)
    for point in progress(training, initial=done, total=len(training), desc="training"):
        tables.add_training(point)
        batches, scanned = plan.sampled.get(point.epoch, ([], None))
        scan = point.batch == scanned
        is_measured = point.batch in batches if plan.measuring.sharpness else scan
        directions = updates.advance(collect=is_measured)
        if is_measured:
            lost = updates.not_finite(directions)
            for label in lost:
                updates.drop(label)
                del directions[label]
            measured = MeasuredPoint(point, directions, scan, lost, updates.learning_rates())
            keep = plan.settings.top_eigenvalues or plan.settings.save_points
            measured = with_training_row(measured, optimizer, params, stability=scan and keep)
            if plan.settings.save_points:
                save_point(folder, measured, task.model)
            measure(measured, task, test_batch, plan, tables)
            left.note(f"epoch {point.epoch}, batch {point.batch}: {len(directions)} steps measured")
        training.step()
        left.update()
        if point.ends_epoch:
            left.note(f"epoch {point.epoch} of {plan.training.num_epochs}: loss {point.loss:.4g}")
        place = f"iteration {point.iteration}"
        saver.after(point.iteration, stored.state_dict, milestone=point.ends_epoch, place=place)
    if plan.settings.save_model:
        set_mode(optimizer, training=False)
        task.save_model(folder / "model")


def measure_saved_points(task: Task, plan: Plan, tables: PointTables, saver: Saver) -> None:
    """The points that an earlier run kept, without training."""
    newest, done = saver.checkpoints.load(), 0
    if newest is not None:
        done, state = newest
        with fitting(f"the checkpoint of point {done}"):
            if state.keys() != {"tables"}:
                raise ValueError("it was stored by another script")
            tables.load_state_dict(state["tables"])
    paths = point_files(plan.settings.from_points)
    test_batch = list(fixed_test_batch(task, plan))
    found = load_points(paths[done:], task.model, plan.algorithms)
    points = progress(found, initial=done, total=len(paths), desc="points")
    left = TimeLeft(len(paths), done)
    for number, measured in enumerate(points, done + 1):
        if measured.scan or plan.measuring.sharpness:
            measure(measured, task, test_batch, plan, tables)
        left.update()
        left.note(f"point {number} of {len(paths)}: {len(measured.directions)} steps measured")
        place = f"point {number} of {len(paths)}"
        saver.after(number, lambda: {"tables": tables.state_dict()}, milestone=True, place=place)


def measure(measured: MeasuredPoint, task: Task, test_batch: list[Batch], plan: Plan, tables: PointTables) -> None:
    """Measure one point and write it down, batch by batch."""
    settings, sharpness = plan.settings, plan.measuring.sharpness
    for batch, part, how in parts_of(measured, plan.measuring, settings.measure_on):
        if part.directions:
            examples = test_batch if batch == TEST else training_examples(part, task, plan)
            objective = objective_at(task.model, task.losses, examples, how.dtype)
            if settings.check_sharpness and tables.is_empty:
                say(check_at_point(part.directions, objective))
            tables.add(part.point, measure_point(part, objective, how), sharpness, batch)
            if settings.decompose:
                shares = decompose(part.directions, objective, settings.decompose)
                tables.add_contributions(part.point, shares, settings.decompose, batch)
            if plan.classes and batch == TEST:
                tables.add_classes(part.point, measure_classes(part.directions, objective, plan.classes))
            if settings.top_eigenvalues and part.scan and part.stability:
                tables.add_eigenvalues(part.point, top_eigenvalues(objective, part.stability), batch)
        for label in part.lost:
            tables.mark_lost(part.point, label, sharpness, batch)
    tables.save()


def training_examples(measured: MeasuredPoint, task: Task, plan: Plan) -> list[Batch]:
    """The batch that the steps come from, or a part of it."""
    device, dtype, most = plan.settings.device, plan.measuring.dtype, most_of_training_batch(plan.settings)
    size = examples_at_once(task, plan.settings, dtype)
    return training_batch(task, plan.training, measured.point, device, dtype, most, micro_batch_size=size)


def fixed_test_batch(task: Task, plan: Plan) -> list[Batch]:
    """The examples on which everything is measured, in micro-batches."""
    settings, chosen = plan.settings, test_examples(task, plan.settings)
    size = examples_at_once(task, settings, plan.measuring.dtype)
    return list(micro_batches(task, chosen, size, settings.device, plan.measuring.dtype))


def classes_of(task: Task, settings: argparse.Namespace) -> list[FrequencyClass]:
    """The frequency classes of the targets; none unless asked for. Raises ValueError for a task without targets."""
    count = settings.frequency_classes
    return frequency_classes(task, test_examples(task, settings), count) if count else []


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(__doc__)
    return execute("run_landscape.py", parser, partial(prepare, parser, arguments), arguments)


if __name__ == "__main__":
    sys.exit(main())
