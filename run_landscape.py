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

from curvature.borrowing import check_twice_differentiable
from curvature.objective import Batch, objective_at
from landscape.answer import answer
from landscape.at_once import examples_at_once
from landscape.classes import measure_classes
from landscape.clip_sweep import sweep
from landscape.cross_checks import check_at_point, check_on_tiny_model
from landscape.decomposition import decompose
from landscape.estimate import estimate
from landscape.measurements import measure_point
from landscape.plan import Plan, most_of_training_batch, of_seed, plan_of, test_examples
from landscape.saved_points import MeasuredPoint, load_points, point_files, save_point, settings_of_points
from landscape.settings import choose_reference, refuse_another_reference, resolve
from landscape.sharded import ShardedUpdates, check_size
from landscape.stored import SeedProgress, Stored
from landscape.tables import PointTables
from landscape.top_eigenvalues import top_eigenvalues
from landscape.training_row import parts_of, training_batch, with_training_row
from landscape_utils import PseudoUpdates
from reporting.writing import draw_all
from runs.checkpoints import fitting
from runs.flags import Parser, task_arguments
from runs.lifecycle import PreparedRun, execute
from runs.live import LiveLog
from runs.machine import recommend_float64
from runs.messages import TimeLeft, progress, say
from runs.ranks import current
from runs.resuming import Earlier, in_earlier_order
from runs.saver import Saver
from runs.stopping import StopRequest
from runs.tables import TEST
from tasks import Task, load_task
from tasks.loading.hub import local_paths
from tasks.loading.rows import Refused
from torch_optimizer.algorithm import set_mode
from torch_optimizer.rows import check_names
from training.loop import BATCH_NORM, Training, micro_batches

# ---- from the command line to a plan --------------------------------------------------------------------------------


def prepare(
    parser: Parser, arguments: Sequence[str], settings: argparse.Namespace, earlier: Earlier | None
) -> PreparedRun:
    """Check everything and load the task. Raises ValueError naming the flag that does not fit."""
    if settings.from_points and earlier is None:
        settings = settings_of_points(parser, arguments, settings.from_points)
    test_batch_given = settings.test_batch_size is not None
    train_row, algorithms = resolve(settings)
    algorithms = in_earlier_order(algorithms, earlier)
    reference = choose_reference(settings.reference, algorithms)
    refuse_another_reference(reference, settings, earlier)
    task = load(settings, model_seed=settings.seed)
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
    ranks = current()
    if ranks.world > 1 and task.has_batch_norm and not settings.from_points:
        raise ValueError(f"--task {settings.task}: {BATCH_NORM}")
    if settings.shard:
        check_size(task.model)
    plan = plan_of(task, settings, train_row, algorithms, reference, ranks)
    check_first = settings.check_sharpness and earlier is None and not settings.from_points

    def work(folder: Path, stop: StopRequest, live: LiveLog) -> str:
        if check_first and ranks.leads:
            say(check_on_tiny_model(task, algorithms))
        if ranks.leads:
            recommend_float64(settings.device, settings.dtype)
        run(task, plan, folder, stop, live)
        if not ranks.leads:
            return ""
        draw_all(folder)
        return answer(folder, algorithms, reference, settings.train_optimizer)

    reads = local_paths(settings.dataset, settings.model, settings.eval_dataset)
    notes = task.training_notes(settings.micro_batch_size)
    planned = partial(estimate, task, plan)
    return PreparedRun(
        settings, work, planned, algorithms, reads, notes, ends_in_one_line=(FloatingPointError, Refused)
    )


# ---- the run --------------------------------------------------------------------------------------------------------


def run(task: Task, plan: Plan, folder: Path, stop: StopRequest, live: LiveLog) -> None:
    """Measure every point, of new trajectories or of an earlier run."""
    task.model.to(plan.settings.device)
    settings = plan.settings
    written = {
        "training": not settings.from_points,
        "eigenvalues": settings.top_eigenvalues,
        "decomposition": settings.decompose,
        "classes": plan.classes,
        "clip_sweep": plan.swept,
        "curvature_by_size": plan.swept,
    }
    absent = [name for name, asked in written.items() if not asked]
    tables = PointTables(folder, plan.reference, absent, listener=live.row, seeds=plan.seeds)
    saver = Saver(folder, plan.settings.checkpoint_every, stop, plan.ranks)
    try:
        if plan.settings.from_points:
            measure_saved_points(task, plan, tables, saver)
        else:
            train_from_every_seed(task, plan, tables, saver, folder)
    finally:  # keeps what was measured before a loss that is not finite
        tables.add_ratios()
        if plan.ranks.leads:
            tables.save()


def train_from_every_seed(task: Task, plan: Plan, tables: PointTables, saver: Saver, folder: Path) -> None:
    """One trajectory after the other: all on the data of the first seed, each with weights of its own seed."""
    seeds = SeedProgress.restored(saver)
    for seed in seeds.left(plan.seeds):
        own = task if seed == plan.seed else load(plan.settings, model_seed=seed)
        own.model.to(plan.settings.device)
        tables.seed = seed
        train_and_measure(own, of_seed(plan, own, seed), tables, saver, folder, seeds)
        own.model.to("cpu")  # its place on the device is the next one's


def load(settings: argparse.Namespace, model_seed: int) -> Task:
    """The data of the first seed, with the model of `model_seed`."""
    return load_task(settings.task, seed=settings.seed, model_seed=model_seed, **task_arguments(settings))


def train_and_measure(
    task: Task, plan: Plan, tables: PointTables, saver: Saver, folder: Path, seeds: SeedProgress
) -> None:
    """Train along x_1, x_2, ... At sampled points, measure every algorithm's step before the training step is taken."""
    params = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    optimizer = plan.train_row.build(params)
    where = plan.settings.optimizer_device
    if plan.settings.shard:
        updates = ShardedUpdates(params, plan.algorithms, where, plan.ranks)
    else:
        updates = PseudoUpdates(params, plan.algorithms, where)
    rows = {label: one.row for label, one in plan.swept.items()}
    at_fractions = PseudoUpdates(params, rows, where) if rows else None
    stored = Stored(task.model, optimizer, updates, tables, plan.train_row, plan.algorithms, at_fractions, rows)
    done = seeds.take_up(stored)
    several = len(plan.seeds) > 1
    of_which = f" of seed {plan.seed}" if several else ""
    training = Training(task, optimizer, plan.training, first_iteration=done + 1, ranks=plan.ranks)
    test_batch = list(fixed_test_batch(task, plan))
    left = TimeLeft(len(training) * len(plan.seeds), seeds.number(done))
    for point in progress(training, initial=done, total=len(training), desc=f"training{of_which}"):
        tables.add_training(point)
        batches, scanned = plan.sampled.get(point.epoch, ([], None))
        scan = point.batch == scanned
        is_measured = point.batch in batches if plan.measuring.sharpness else scan
        directions = updates.advance(collect=is_measured)
        swept = at_fractions.advance(collect=is_measured and scan) if at_fractions else {}
        if is_measured:
            lost = updates.not_finite(directions)
            for label in lost:
                updates.drop(label)
                del directions[label]
            measured = MeasuredPoint(point, directions, scan, lost, updates.learning_rates(), swept)
            keep = plan.settings.top_eigenvalues or plan.settings.save_points
            measured = with_training_row(measured, optimizer, params, stability=scan and keep)
            if plan.settings.save_points:
                seed = plan.seed if several else None
                plan.ranks.leading(partial(save_point, folder, measured, task.model, seed=seed))
            measure(measured, task, test_batch, plan, tables)
            left.note(f"epoch {point.epoch}{of_which}, batch {point.batch}: {len(directions)} steps measured")
            del measured
        del directions, swept  # before the next gradient
        training.step()
        left.update()
        if point.ends_epoch:
            left.note(f"epoch {point.epoch} of {plan.training.num_epochs}{of_which}: loss {point.loss:.4g}")
        saver.after(
            point.iteration,
            partial(seeds.state, plan.seed, point.iteration, stored),
            milestone=point.ends_epoch,
            place=f"iteration {point.iteration}{of_which}",
            number=seeds.number(point.iteration),
        )
    if plan.settings.save_model:
        set_mode(optimizer, training=False)
        place = folder / "model" / f"seed{plan.seed}" if several else folder / "model"
        plan.ranks.leading(partial(task.save_model, place))
    seeds.end(plan.seed, len(training))


def measure_saved_points(task: Task, plan: Plan, tables: PointTables, saver: Saver) -> None:
    """The points that an earlier run kept, without training."""
    newest, done = saver.checkpoints.load(), 0
    if newest is not None:
        done, state = newest
        with fitting(f"the checkpoint of point {done}"):
            if state.keys() != {"tables"}:
                raise ValueError("it was stored by another script")
            tables.load_state_dict(state["tables"])
    kept = [(seed, path) for seed in plan.seeds for path in point_files(plan.settings.from_points, seed)]
    plans = {seed: of_seed(plan, task, seed) for seed in plan.seeds}
    test_batches = {seed: list(fixed_test_batch(task, one)) for seed, one in plans.items()}
    saved_points = load_points([path for _, path in kept[done:]], task.model, plan.algorithms)
    points = progress(saved_points, initial=done, total=len(kept), desc="points")
    left = TimeLeft(len(kept), done)
    for number, measured in enumerate(points, done + 1):
        tables.seed, _ = kept[number - 1]
        if measured.scan or plan.measuring.sharpness:
            measure(measured, task, test_batches[tables.seed], plans[tables.seed], tables)
        left.update()
        left.note(f"point {number} of {len(kept)}: {len(measured.directions)} steps measured")
        measured.directions.clear()  # before those of the next point are loaded
        place = f"point {number} of {len(kept)}"
        saver.after(number, lambda: {"tables": tables.state_dict()}, milestone=True, place=place)


def measure(measured: MeasuredPoint, task: Task, test_batch: list[Batch], plan: Plan, tables: PointTables) -> None:
    """Measure one point and write it down, batch by batch."""
    settings, sharpness = plan.settings, plan.measuring.sharpness
    for batch, part, how in parts_of(measured, plan.measuring, settings.measure_on):
        if part.directions:
            examples = test_batch if batch == TEST else training_examples(part, task, plan)
            objective = objective_at(task.model, task.losses, examples, how.dtype, plan.ranks)
            if settings.check_sharpness and tables.is_empty:
                say(check_at_point(part.directions, objective))
            tables.add(part.point, measure_point(part, objective, how), sharpness, batch)
            if settings.decompose:
                shares = decompose(part.directions, objective, settings.decompose)
                tables.add_contributions(part.point, shares, settings.decompose, batch)
            if plan.classes and batch == TEST:
                tables.add_classes(part.point, measure_classes(part.directions, objective, plan.classes))
            if part.scan and part.swept:
                tables.add_clip_sweep(part.point, *sweep(part.swept, plan.swept, objective), batch)
            if settings.top_eigenvalues and part.scan and part.stability:
                tables.add_eigenvalues(part.point, top_eigenvalues(objective, part.stability), batch)
        for label in part.lost:
            tables.mark_lost(part.point, label, sharpness, batch)
    plan.ranks.leading(tables.save)


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


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser(__doc__)
    return execute("run_landscape.py", parser, partial(prepare, parser, arguments), arguments, together=True)


if __name__ == "__main__":
    sys.exit(main())
