"""Measure, along one training trajectory, how the loss bends under every optimizer's next step.

    python run_landscape.py                                # the toy task: any laptop, no download, a minute
    python run_landscape.py --task machine_translation     # the paper's protocol on t5-small; wants a GPU
    python run_landscape.py --task machine_translation --dataset pairs.jsonl --model toy

One optimizer trains (--train_optimizer). At sampled points of its run every algorithm of the list proposes its own step
from the same parameters; for each step the script measures slope and directional sharpness of the loss on a fixed test
batch, and scans the loss along it. Writes output/<name>/: config.json, training.csv, sharpness.csv, ratios.csv,
scan.csv, histogram.csv, and figures/ drawn from them (python -m figures FOLDER draws them again). A run that was
stopped or killed goes on with --resume FOLDER, to the same files; one with --save_points can be measured again, in
float64 or on another test batch, with --from_points FOLDER.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from algorithm_list import ALGORITHM_LISTS
from curvature.borrowing import check_twice_differentiable, measuring
from curvature.objective import objective_at
from figures.drawing import draw_all
from landscape.cross_checks import check_at_point, check_on_tiny_model
from landscape.measurements import Recorder, ratio_table
from landscape.saved_points import MeasuredPoint, load_points, point_files, rows_of_run, save_point, settings_of_points
from landscape_utils import PseudoUpdates
from runs.checkpoints import Checkpoints, restore
from runs.flags import (
    DTYPES,
    Parser,
    add_machine_flags,
    add_task_flags,
    add_training_flags,
    default_output,
    device,
    fill_in,
    folder_name,
    one_of,
    positive_float,
    positive_int,
    seed_number,
)
from runs.lifecycle import is_complete, open_run, to_its_end
from runs.machine import prepare_machine
from runs.messages import answering_input_errors, progress, start_logging
from runs.resuming import add_resume_flags, settings_of_run
from runs.stopping import Stopped, StopRequest
from tasks import TASKS, load_task, task_defaults
from torch_optimizer import OPTIMIZERS, Algorithm
from torch_optimizer.rows import choose_list
from training.loop import SAMPLE, TEST_BATCH, Point, batches_per_epoch, micro_batches, random_stream, trajectory


def make_parser() -> Parser:
    parser = Parser(__doc__)
    add_task_flags(parser, TASKS, ALGORITHM_LISTS)
    group = add_training_flags(parser)
    group.add_argument("--seed", type=seed_number, default=0, help="of data order, dropout, test batch, new weights")
    group.add_argument(
        "--train_optimizer", type=one_of("optimizer", OPTIMIZERS), default="adam", help="what moves the parameters"
    )
    group.add_argument("--lr", type=positive_float, help="its learning rate")
    group.add_argument(
        "--momentum",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="momentum 0.9 (with dampening 0.9 where it has that) for an optimizer of the SGD family; on by default",
    )
    group = parser.add_argument_group("measuring")
    group.add_argument("--test_batch_size", type=positive_int, metavar="N", help="training examples measured on")
    group.add_argument("--test_seed", type=seed_number, help="of the examples measured on; by default --seed")
    group.add_argument("--test_epochs", type=positive_int, nargs="+", metavar="E", help="epochs to measure in, from 1")
    group.add_argument(
        "--num_sample_sharpness", type=positive_int, metavar="N", help="random batches measured in each such epoch"
    )
    group.add_argument(
        "--sample_iterations", type=positive_int, nargs="+", metavar="B",
        help="measure at these batches of each such epoch, from 1, instead of random ones; the first is scanned (in "
        "Pan & Li's code the name means iterations counted over the whole run)",
    )  # fmt: skip
    group.add_argument(
        "--step_size", type=positive_float, metavar="S",
        help="distance between the points of every scan; by default the row's, or chosen from the curvature",
    )  # fmt: skip
    group.add_argument("--skip_search", action="store_true", help="no loss scans")
    group.add_argument("--skip_sharpness", action="store_true", help="measure only where a scan is made")
    group.add_argument(
        "--check_sharpness", action="store_true",
        help="compare with the full Hessian of a tiny model, and at the first point with float64 central differences",
    )  # fmt: skip
    group.add_argument(
        "--dtype", type=one_of("number type", DTYPES), default="float32",
        help="of the measurement: float32 or float64; training is in float32",
    )  # fmt: skip
    group.add_argument(
        "--save_points", action="store_true",
        help="keep the model and the directions of every measured point in FOLDER/points, for --from_points",
    )  # fmt: skip
    group.add_argument(
        "--from_points", type=folder_name, metavar="FOLDER",
        help="measure the saved points of that run again, with its settings, without training: another --dtype, "
        "--test_batch_size, --test_seed, --step_size",
    )  # fmt: skip
    group = add_machine_flags(parser)
    group.add_argument(
        "--optimizer_device", type=device, help="where the pseudo-updates' states live; by default beside the model"
    )
    add_resume_flags(parser)
    return parser


def resolve(settings: argparse.Namespace) -> None:
    """Fill in the task's defaults and check what depends on several flags. Raises ValueError naming the flag."""
    defaults = task_defaults(settings.task, settings.dataset, settings.model)
    epochs_given = settings.num_epochs is not None and settings.test_epochs is None
    settings.test_batch_given = settings.test_batch_size is not None
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
    settings.train_row = training_row(settings)
    settings.train_row.check()
    if settings.output_dir is None:
        again = ["points"] if settings.from_points else []
        settings.output_dir = default_output("landscape", settings.task, settings.train_optimizer, *again)
    if settings.from_points:
        if settings.save_points or settings.save_model:
            raise ValueError("--from_points trains nothing: leave out --save_points and --save_model")
        if Path(settings.output_dir).resolve() == Path(settings.from_points).resolve():
            raise ValueError(f"--output_dir {settings.output_dir} is the run that --from_points reads; choose another")
        point_files(settings.from_points)
        settings.algorithms = rows_of_run(settings.from_points)
    else:
        settings.algorithms = choose_list(ALGORITHM_LISTS, settings.algorithm_list)


def fit_to_data(settings: argparse.Namespace, examples: int) -> None:
    """Check what depends on the number of examples; a test batch that nobody asked for is cut to it."""
    if settings.test_batch_size > examples:
        if settings.test_batch_given:
            raise ValueError(f"--test_batch_size {settings.test_batch_size} is more than the {examples} examples")
        settings.test_batch_size = examples
    sampled_batches(settings, batches_per_epoch(examples, settings.batch_size))


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


def sampled_batches(settings, num_batches: int) -> dict[int, tuple[list[int], int]]:
    """test epoch -> (its measured batches in order, the one that is scanned); drawn from (seed, epoch)."""
    if settings.sample_iterations and max(settings.sample_iterations) > num_batches:
        raise ValueError(
            f"--sample_iterations {max(settings.sample_iterations)} is past the last batch: an epoch has {num_batches}"
        )
    chosen = {}
    for epoch in settings.test_epochs:
        batches = settings.sample_iterations or [
            int(b) + 1 for b in random_stream(settings.seed, SAMPLE, epoch).permutation(num_batches)
        ][: settings.num_sample_sharpness]
        chosen[epoch] = sorted(set(batches)), batches[0]
    return chosen


# ---- the run --------------------------------------------------------------------------------------------------------


class Stored:
    """What a checkpoint of the run holds: model, training optimizer, every pseudo-update's state, the tables. Random
    numbers and the order of the data follow from the seed and the iteration, so there is nothing of them to keep."""

    def __init__(self, task, optimizer, updates: PseudoUpdates, recorder: Recorder, settings: argparse.Namespace):
        self.parts = {"model": task.model, "optimizer": optimizer, "pseudo_updates": updates, "tables": recorder}
        self.optimizer, self.row = optimizer, settings.train_row
        self.rows = {label: repr(row) for label, row in settings.algorithms.items()}

    def state_dict(self) -> dict:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        return state | {"rows": self.rows, "train_row": repr(self.row), "train_optimizer": self.row.name}

    def load_state_dict(self, state: dict) -> None:
        """Take the run up. What `--allow_changes` let pass starts anew: a row that is new or another, another training
        optimizer; the same one with other options keeps its state."""
        same = [label for label, row in self.rows.items() if state["rows"].get(label) == row]
        for label in set(same) - state["pseudo_updates"].keys():  # it was not finite
            self.parts["pseudo_updates"].drop(label)
        state["pseudo_updates"] = {k: s for k, s in state["pseudo_updates"].items() if k in same}
        if state["train_optimizer"] != self.row.name:
            state["optimizer"] = self.optimizer.state_dict()
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if state["train_row"] != repr(self.row):
            for group in self.optimizer.param_groups:
                group.update(self.row.options)


def trained_points(
    task, settings: argparse.Namespace, recorder: Recorder, folder: Path, stop: StopRequest
) -> Iterator[MeasuredPoint]:
    """Train, stopping at every point that is to be measured: the gradient is there, the step is not yet taken."""
    params = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    num_batches = batches_per_epoch(len(task.examples), settings.batch_size)
    sampled = sampled_batches(settings, num_batches)
    optimizer = settings.train_row.build(params)
    updates = PseudoUpdates(params, settings.algorithms, settings.optimizer_device)
    stored, checkpoints = Stored(task, optimizer, updates, recorder, settings), Checkpoints(folder / "checkpoints")
    done = restore(checkpoints, stored)

    def keep(point: Point) -> None:
        every = settings.checkpoint_every
        if stop.signal or point.batch == num_batches or every and point.iteration % every == 0:
            checkpoints.save(point.iteration, stored.state_dict())
        if stop.signal:
            raise Stopped(stop.signal, f"iteration {point.iteration}")

    run_points = trajectory(
        task, optimizer, num_epochs=settings.num_epochs, batch_size=settings.batch_size,
        micro_batch_size=settings.micro_batch_size, seed=settings.seed, first_iteration=done + 1, after_step=keep,
    )  # fmt: skip
    for point in progress(run_points, initial=done, total=settings.num_epochs * num_batches, desc="training"):
        recorder.tables["training"].append(epoch=point.epoch, iteration=point.iteration, loss=point.loss)
        batches, scanned = sampled.get(point.epoch, ([], None))
        scan = point.batch == scanned
        measured = scan if settings.skip_sharpness else point.batch in batches
        directions = updates.advance(collect=measured)
        if measured:
            lost = updates.not_finite(directions)
            for label in lost:
                updates.drop(label)
                del directions[label]
            yield MeasuredPoint(point, directions, scan, lost)
    if settings.save_model:
        task.save_model(folder / "model")


def saved_points(
    task, settings: argparse.Namespace, recorder: Recorder, folder: Path, stop: StopRequest
) -> Iterator[MeasuredPoint]:
    """The points of an earlier run, from where this one was left."""
    checkpoints = Checkpoints(folder / "checkpoints")
    done, state = checkpoints.load() or (0, None)
    if state is not None:
        recorder.load_state_dict(state["tables"])
    paths = point_files(settings.from_points)
    points = progress(load_points(paths[done:], task.model), initial=done, total=len(paths), desc="points")
    for number, measured in enumerate(points, done + 1):
        if measured.scan or not settings.skip_sharpness:
            yield measured
        checkpoints.save(number, {"tables": recorder.state_dict()})
        if stop.signal:
            raise Stopped(stop.signal, f"point {number} of {len(paths)}")


def run(task, settings: argparse.Namespace, folder: Path, stop: StopRequest) -> None:
    """Measure every point, and keep it if asked to."""
    task.model.to(settings.device)
    recorder = Recorder(settings, folder)
    examples, seed = len(task.examples), settings.seed if settings.test_seed is None else settings.test_seed
    chosen = random_stream(seed, TEST_BATCH).permutation(examples)[: settings.test_batch_size].tolist()
    test_batch = list(micro_batches(task, chosen, settings.micro_batch_size, settings.device, DTYPES[settings.dtype]))
    source = saved_points if settings.from_points else trained_points
    try:
        for measured in source(task, settings, recorder, folder, stop):
            if settings.save_points:
                save_point(folder, measured, task.model)
            if measured.directions:
                objective = objective_at(task.model, task.losses, test_batch, DTYPES[settings.dtype])
                with measuring(objective.model):
                    first = not any(recorder.tables[name].rows for name in ("sharpness", "scan"))
                    if settings.check_sharpness and first:
                        print(check_at_point(measured.directions, objective, task), flush=True)
                    scan = measured.scan and not settings.skip_search
                    recorder.measure(measured.point, measured.directions, objective, task, scan)
            for label in measured.lost:
                recorder.mark_lost(measured.point, label)
            recorder.save()
    finally:  # also what was measured before a loss that is not finite
        recorder.add_ratios()
        recorder.save()


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = make_parser()
    start_logging("--verbose" in arguments)
    prepare_machine()
    with answering_input_errors(parser):
        settings, earlier = settings_of_run(parser, arguments)
        if settings.from_points and earlier is None:
            settings = settings_of_points(parser, arguments, settings.from_points)
        if is_complete(earlier, settings.output_dir):
            print(f"{settings.output_dir} is complete: nothing is left to do")
            return 0
        resolve(settings)
        task = load_task(
            settings.task, dataset=settings.dataset, model=settings.model, dataset_size=settings.dataset_size,
            seed=settings.seed, hf_key=settings.hf_key, max_length=settings.max_length,
            windows_per_file=settings.windows_per_file,
        )  # fmt: skip
        if settings.model != "toy":
            batch = task.collate(task.shortest_and_longest()[:1])
            check_twice_differentiable(task.model, task.losses, batch, settings.model)
        fit_to_data(settings, len(task.examples))
        folder = open_run(settings, earlier)

    def work(stop: StopRequest) -> list[Path]:
        if settings.check_sharpness and earlier is None and not settings.from_points:
            print(check_on_tiny_model(task, settings.algorithms), flush=True)
        run(task, settings, folder, stop)
        return draw_all(folder)

    status, figures = to_its_end(folder, "run_landscape.py", work)
    if status:
        return status
    print("Mean over the measured points of an epoch of directional sharpness / |directional sharpness of SGD|")
    print(ratio_table(folder, settings.algorithms))
    print(f"Wrote {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}/ and {len(figures)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
