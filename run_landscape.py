"""Measure, along one training trajectory, how the loss bends under every optimizer's next step.

    python run_landscape.py                                # the toy task: any laptop, no download, a minute
    python run_landscape.py --task machine_translation     # the paper's protocol on t5-small; wants a GPU
    python run_landscape.py --task machine_translation --dataset pairs.jsonl --model toy

One optimizer trains (--train_optimizer). At sampled points of its run every algorithm of the list proposes its own step
from the same parameters; for each step the script measures slope and directional sharpness of the loss on a fixed test
batch, and scans the loss along it. Writes output/<name>/: config.json, training.csv, sharpness.csv, ratios.csv,
scan.csv, histogram.csv, and figures/ drawn from them (python plotting.py FOLDER draws them again).
"""

import argparse
import logging
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from algorithm_list import ALGORITHM_LISTS
from landscape_utils import (
    DirectionalDerivatives,
    PseudoUpdates,
    directional_derivatives,
    mean_loss,
    norm,
    scan_loss,
    scan_spacing,
    update_histogram,
)
from measuring import Objective, Params, measuring, objective_at, within_memory
from plotting import draw_all
from results import CannotWrite, Table, create_run_folder, format_table, read_table, write_config
from settings import (
    DTYPES,
    Parser,
    add_machine_flags,
    add_task_flags,
    add_training_flags,
    answering_input_errors,
    default_output,
    described,
    device,
    fill_in,
    one_of,
    positive_float,
    positive_int,
    prepare_machine,
    progress,
    recorded,
    seed_number,
    start_logging,
)
from sharpness_check import check_at_point, check_on_tiny_model, rounding_errors
from tasks import TASKS, load_task, task_defaults
from torch_optimizer import OPTIMIZERS, Algorithm
from torch_optimizer.algorithm import choose_list
from training import SAMPLE, TEST_BATCH, Point, batches_per_epoch, micro_batches, random_stream, trajectory

log = logging.getLogger(__name__)

COLUMNS = {
    "training": "epoch iteration loss",
    "sharpness": "epoch batch iteration algorithm loss slope sharpness ratio step_norm step_max best_distance "
    "predicted_decrease sharpness_error",
    "ratios": "epoch algorithm mean_ratio std count",
    "scan": "epoch batch iteration algorithm distance loss",
    "histogram": "epoch batch iteration algorithm bin_low bin_high count",
}


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
    group.add_argument("--test_epochs", type=positive_int, nargs="+", metavar="E", help="epochs to measure in, from 1")
    group.add_argument(
        "--num_sample_sharpness", type=positive_int, metavar="N", help="random batches measured in each such epoch"
    )
    group.add_argument(
        "--sample_iterations", type=positive_int, nargs="+", metavar="B",
        help="measure at these batches of each such epoch, from 1, instead of random ones; the first is scanned",
    )  # fmt: skip
    group.add_argument("--skip_search", action="store_true", help="no loss scans")
    group.add_argument("--skip_sharpness", action="store_true", help="measure only where a scan is made")
    group.add_argument(
        "--check_sharpness", action="store_true",
        help="compare with the full Hessian of a tiny model, and at the first point with float64 central differences",
    )  # fmt: skip
    group.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="number type of the measurement; training is in float32"
    )
    group = add_machine_flags(parser)
    group.add_argument(
        "--optimizer_device", type=device, help="where the pseudo-updates' states live; by default beside the model"
    )
    return parser


def resolve(settings: argparse.Namespace) -> argparse.Namespace:
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
        settings.output_dir = default_output("landscape", settings.task, settings.train_optimizer)
    settings.algorithms = choose_list(ALGORITHM_LISTS, settings.algorithm_list)
    return settings


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


# ---- measuring at one point ----------------------------------------------------------------------------------


class Recorder:
    """Measures at points of the trajectory and adds the rows to the tables."""

    def __init__(self, settings: argparse.Namespace, folder: Path):
        self.settings, self.algorithms = settings, settings.algorithms
        self.tables = {name: Table(folder / f"{name}.csv", columns.split()) for name, columns in COLUMNS.items()}
        plain = [label for label, row in self.algorithms.items() if row.name == "sgd" and not row.is_clipped]
        self.reference = plain[0] if plain else None
        if self.reference is None:
            log.warning("the list has no sgd row without clipping: the sharpness ratios stay empty")
        self.warned = set()

    def measure(self, point: Point, directions: dict[str, Params], objective: Objective, task, scan: bool) -> None:
        """Slope and sharpness of every direction at a point, and its loss scans if `scan`."""
        at = dict(epoch=point.epoch, batch=point.batch, iteration=point.iteration)
        found = within_memory(
            lambda batches: directional_derivatives(
                objective.loss_fn, objective.params, list(directions.values()), batches,
                progress=lambda each: progress(each, desc="sharpness", leave=False),
            ),
            objective.batches,
        )  # fmt: skip
        derivatives = dict(zip(directions, found, strict=True))
        for label, d in derivatives.items():
            if math.isnan(d.slope) and label not in self.warned:
                self.warned.add(label)
                where = f"epoch {point.epoch}, batch {point.batch}"
                log.warning("%s: its step is zero or not finite in %s; such cells stay empty (said once)", label, where)
        if not self.settings.skip_sharpness:
            single = self.settings.dtype == "float32"
            errors = rounding_errors(directions, objective, task) if single else [math.nan] * len(directions)
            self.add_sharpness(at, directions, derivatives, dict(zip(directions, errors, strict=True)))
        if scan:
            self.add_scans(at, directions, derivatives, objective)

    def add_sharpness(
        self, at: dict, directions: dict, derivatives: dict[str, DirectionalDerivatives], errors: dict[str, float]
    ) -> None:
        reference = abs(derivatives[self.reference].sharpness) if self.reference else math.nan
        for label, d in derivatives.items():
            self.tables["sharpness"].append(
                **at, algorithm=label, loss=d.loss, slope=d.slope, sharpness=d.sharpness,
                ratio=d.sharpness / reference if reference else math.nan,
                step_norm=norm(directions[label]),
                step_max=max(v.abs().max().item() for v in directions[label].values() if v.numel()),
                best_distance=d.best_distance, predicted_decrease=d.predicted_decrease,
                sharpness_error=errors[label],
            )  # fmt: skip

    def add_scans(self, at: dict, directions: dict, derivatives: dict, objective: Objective) -> None:
        start_loss = mean_loss(objective.loss_fn, objective.params, objective.batches)
        for label, direction in progress(directions.items(), desc="scans", leave=False):
            d = derivatives[label]
            if math.isnan(d.slope):
                continue
            for low, high, count in update_histogram(direction):
                self.tables["histogram"].append(**at, algorithm=label, bin_low=low, bin_high=high, count=count)
            points = scan_loss(
                objective.loss_fn, objective.params, direction, objective.batches, start_loss=start_loss,
                spacing=self.algorithms[label].step_size or scan_spacing(d, objective.params), refine=d.slope < 0,
            )  # fmt: skip
            if not points[1][1] <= start_loss:
                log.info("%s: uphill in epoch %d, batch %d", label, at["epoch"], at["batch"])
            for distance, loss in points:
                self.tables["scan"].append(**at, algorithm=label, distance=distance, loss=loss)

    def add_ratios(self) -> None:
        """ratios.csv: over an epoch's measured points, mean and sample std of sharpness / |sharpness of SGD|."""
        ratios = defaultdict(list)
        for row in self.tables["sharpness"].rows:
            if row["ratio"] is not None:
                ratios[row["epoch"], row["algorithm"]].append(row["ratio"])
        for (epoch, algorithm), values in ratios.items():
            self.tables["ratios"].append(
                epoch=epoch, algorithm=algorithm, mean_ratio=statistics.fmean(values),
                std=statistics.stdev(values) if len(values) > 1 else None, count=len(values),
            )  # fmt: skip

    def save(self) -> None:
        for table in self.tables.values():
            table.save()


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


def run(task, settings: argparse.Namespace, folder: Path) -> None:
    task.model.to(settings.device)
    params = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    recorder = Recorder(settings, folder)
    examples = len(task.examples)
    num_batches = batches_per_epoch(examples, settings.batch_size)
    sampled = sampled_batches(settings, num_batches)
    chosen = random_stream(settings.seed, TEST_BATCH).permutation(examples)[: settings.test_batch_size].tolist()
    test_batch = list(micro_batches(task, chosen, settings.micro_batch_size, settings.device, DTYPES[settings.dtype]))
    updates = PseudoUpdates(params, settings.algorithms, settings.optimizer_device)
    unchecked = settings.check_sharpness
    run_points = trajectory(
        task, settings.train_row.build(params.values()), num_epochs=settings.num_epochs,
        batch_size=settings.batch_size, micro_batch_size=settings.micro_batch_size, seed=settings.seed,
    )  # fmt: skip
    try:
        for point in progress(run_points, total=settings.num_epochs * num_batches, desc="training"):
            recorder.tables["training"].append(epoch=point.epoch, iteration=point.iteration, loss=point.loss)
            batches, scanned = sampled.get(point.epoch, ([], None))
            scan = point.batch == scanned and not settings.skip_search
            measured = scan if settings.skip_sharpness else point.batch in batches
            directions = updates.advance(collect=measured)
            if measured:
                objective = objective_at(task.model, task.losses, test_batch, DTYPES[settings.dtype])
                with measuring(objective.model):
                    if unchecked:
                        print(check_at_point(directions, objective, task), flush=True)
                        unchecked = False
                    recorder.measure(point, directions, objective, task, scan)
                recorder.save()
    finally:  # also what was measured before a loss that is not finite
        recorder.add_ratios()
        recorder.save()
    if settings.save_model:
        task.save_model(folder / "model")


def ratio_table(folder: Path, labels: Iterable[str]) -> str:
    """The paper's tables 3 to 6, an algorithm a row and a test epoch a column; "~" marks what rounding blurs."""
    blurred = blurred_cells(read_table(folder / "sharpness.csv"))
    cells = {}
    for row in read_table(folder / "ratios.csv"):
        cell = row["algorithm"], row["epoch"]
        cells[cell] = f"~{row['mean_ratio']:.4g}" if cell in blurred else row["mean_ratio"]
    epochs = sorted({epoch for _, epoch in cells})
    rows = [{"algorithm": label, **{f"epoch {e}": cells.get((label, e)) for e in epochs}} for label in labels]
    table = format_table(rows, ["algorithm", *(f"epoch {e}" for e in epochs)])
    return f"{table}\n~: rounding errors above 10 %; --dtype float64 measures exactly" if blurred else table


def blurred_cells(rows: list[dict]) -> set[tuple[str, int]]:
    """(algorithm, epoch) where the estimated rounding errors of sharpness are more than 10 % of it."""
    sizes = defaultdict(float)
    for row in rows:
        if row["sharpness_error"] is not None:
            sizes[row["algorithm"], row["epoch"]] += row["sharpness_error"] - 0.1 * abs(row["sharpness"])
    return {cell for cell, excess in sizes.items() if excess > 0}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser()
    settings = parser.parse_args(arguments)
    start_logging(settings.verbose)
    prepare_machine()
    with answering_input_errors(parser):
        resolve(settings)
        task = load_task(
            settings.task, dataset=settings.dataset, model=settings.model, dataset_size=settings.dataset_size,
            seed=settings.seed, hf_key=settings.hf_key, max_length=settings.max_length,
        )  # fmt: skip
        fit_to_data(settings, len(task.examples))
        folder = create_run_folder(settings.output_dir, settings.overwrite)
        write_config(folder, recorded(settings), described(settings.algorithms))
    if settings.check_sharpness:
        print(check_on_tiny_model(task, settings.algorithms), flush=True)
    try:
        run(task, settings, folder)
    except (FloatingPointError, CannotWrite) as error:
        log.error("stopped: %s; what was measured before is in %s", error, folder)
        return 1
    figures = draw_all(folder)
    print("Mean over the measured points of an epoch of directional sharpness / |directional sharpness of SGD|")
    print(ratio_table(folder, settings.algorithms))
    print(f"Wrote {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}/ and {len(figures)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
