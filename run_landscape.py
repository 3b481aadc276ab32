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
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from algorithm_list import ALGORITHM_LISTS
from landscape_utils import (
    DirectionalDerivatives,
    PseudoUpdates,
    central_differences,
    check_sharpness,
    directional_derivatives,
    mean_loss,
    norm,
    reverse_over_reverse,
    scan_loss,
    scan_spacing,
    unit,
    update_histogram,
)
from measuring import LossFunction, Params, functional_loss, measuring, trainable_parameters
from plotting import draw_all
from results import Table, create_run_folder, format_table, read_table, write_config
from settings import (
    DTYPES,
    Parser,
    add_machine_flags,
    add_task_flags,
    add_training_flags,
    answering_input_errors,
    default_output,
    described,
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
from tasks import TASKS, load_task, task_defaults
from torch_optimizer import OPTIMIZERS, Algorithm
from torch_optimizer.algorithm import choose_list
from training import SAMPLE, TEST_BATCH, Point, batches_per_epoch, micro_batches, random_stream, trajectory

log = logging.getLogger(__name__)

COLUMNS = {
    "training": "epoch iteration loss",
    "sharpness": "epoch batch iteration algorithm loss slope sharpness ratio step_norm step_max best_distance "
    "predicted_decrease",
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
    group.add_argument("--optimizer_device", help="where the pseudo-updates' states live; by default beside the model")
    return parser


def resolve(settings: argparse.Namespace) -> argparse.Namespace:
    """Fill in the task's defaults and check what depends on several flags. Raises ValueError naming the flag."""
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
    settings.train_row = training_row(settings)
    settings.train_row.check()
    if settings.output_dir is None:
        settings.output_dir = default_output("landscape", settings.task, settings.train_optimizer)
    settings.algorithms = choose_list(ALGORITHM_LISTS, settings.algorithm_list)
    return settings


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


# ---- measuring at one point -----------------------------------------------------------------------------------------


@dataclass
class Objective:
    """The loss on the test batch at the model's present parameters, in the number type of the measurement."""

    model: nn.Module
    loss_fn: LossFunction
    params: Params
    batches: list[dict[str, Tensor]]


def objective_at(task, batches: list[dict[str, Tensor]], dtype: torch.dtype) -> Objective:
    model = task.model if dtype == torch.float32 else deepcopy(task.model).to(dtype)  # buffers and frozen tensors too
    return Objective(model, functional_loss(model, task.losses), trainable_parameters(model), batches)


def measure_point(point: Point, directions: dict[str, Params], objective: Objective, scan: bool, settings, tables):
    """Add this point's rows to the tables."""
    at = dict(epoch=point.epoch, batch=point.batch, iteration=point.iteration)
    bar = progress(objective.batches, desc="sharpness", leave=False)
    found = directional_derivatives(
        objective.loss_fn, objective.params, list(directions.values()), objective.batches, progress=lambda _: bar
    )
    derivatives = dict(zip(directions, found, strict=True))
    plain = next((k for k, row in settings.algorithms.items() if row.name == "sgd" and not row.is_clipped), None)
    reference = abs(derivatives[plain].sharpness) if plain else math.nan
    if not settings.skip_sharpness:
        for label, d in derivatives.items():
            tables["sharpness"].append(
                **at, algorithm=label, loss=d.loss, slope=d.slope, sharpness=d.sharpness,
                ratio=d.sharpness / reference if reference else math.nan,
                step_norm=norm(directions[label]),
                step_max=max(v.abs().max().item() for v in directions[label].values() if v.numel()),
                best_distance=d.best_distance, predicted_decrease=d.predicted_decrease,
            )  # fmt: skip
            warn_once_if_unmeasured(label, d, point)
    if scan:
        scan_point(at, directions, derivatives, objective, settings, tables)


WARNED = set()


def warn_once_if_unmeasured(label: str, derivatives: DirectionalDerivatives, point: Point) -> None:
    if math.isnan(derivatives.sharpness) and label not in WARNED:
        WARNED.add(label)
        log.warning(
            "%s: its step is zero or not finite in epoch %d, batch %d; such cells stay empty (said once)",
            label, point.epoch, point.batch,
        )  # fmt: skip


def scan_point(at, directions, derivatives: dict[str, DirectionalDerivatives], objective, settings, tables) -> None:
    """The loss along every direction from one point, and the histogram of its coordinates."""
    start_loss = mean_loss(objective.loss_fn, objective.params, objective.batches)
    for label, direction in progress(directions.items(), desc="scans", leave=False):
        for low, high, count in update_histogram(direction):
            tables["histogram"].append(**at, algorithm=label, bin_low=low, bin_high=high, count=count)
        if math.isnan(derivatives[label].slope):
            continue
        uphill = derivatives[label].slope >= 0
        spacing = settings.algorithms[label].step_size or scan_spacing(derivatives[label], objective.params)
        points = scan_loss(
            objective.loss_fn, objective.params, direction, objective.batches,
            start_loss=start_loss, spacing=spacing, refine=not uphill,
        )  # fmt: skip
        if uphill or not points[1][1] <= start_loss:
            log.info("%s: uphill in epoch %d, batch %d", label, at["epoch"], at["batch"])
        for distance, loss in points:
            tables["scan"].append(**at, algorithm=label, distance=distance, loss=loss)


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


def print_check_on_tiny_model(task, settings) -> None:
    """--check_sharpness, first half: a tiny model of the same architecture in float64 against its full Hessian."""
    model, losses, batch = task.tiny()
    updates = PseudoUpdates(dict(model.named_parameters()), settings.algorithms)
    losses(model, batch).mean().backward()
    directions = updates.advance()
    model.double()
    with measuring(model):
        pairs = check_sharpness(
            functional_loss(model, losses), trainable_parameters(model), list(directions.values()), [batch]
        )
    print("Directional sharpness on a tiny model: v'Hv / v'v from its full Hessian, and as the script measures it")
    rows = [
        dict(algorithm=label, full_hessian=brute, measured=ours, relative_error=abs(ours - brute) / abs(brute))
        for label, (brute, ours) in zip(directions, pairs, strict=True)
    ]
    print(format_table(rows, ["algorithm", "full_hessian", "measured", "relative_error"]), flush=True)


def print_check_at_point(directions, objective: Objective, task) -> None:
    """--check_sharpness, second half, at the first measured point. The whole test batch in float64 by another route;
    and one example against loss values alone (more would put too many kinks of a ReLU network inside the differences,
    which v'Hv does not see)."""
    vectors = list(directions.values())
    found = directional_derivatives(objective.loss_fn, objective.params, vectors, objective.batches)
    exact = objective_at(task, objective.batches, torch.float64)
    one = [{name: tensor[:1] for name, tensor in objective.batches[0].items()}]
    rows = []
    with measuring(exact.model):
        examples = sum(len(next(iter(batch.values()))) for batch in exact.batches)
        units = [unit(v, like=exact.params) for v in vectors]
        parts = [reverse_over_reverse(exact.loss_fn, exact.params, units, batch)[2] for batch in exact.batches]
        ours = directional_derivatives(exact.loss_fn, exact.params, vectors, one)
        for k, label in enumerate(directions):
            by_float64 = sum(part[k].item() for part in parts) / examples
            slope, sharpness = central_differences(exact.loss_fn, exact.params, vectors[k], one, h=1e-5)
            rows.append({
                "algorithm": label, "sharpness": found[k].sharpness, "in float64": by_float64,
                "one example": ours[k].sharpness, "differences": sharpness,
                "its slope": ours[k].slope, "differences ": slope,
            })  # fmt: skip
    print("Directional sharpness at the first measured point, beside reverse-over-reverse in float64;")
    print("and of its first example alone, beside central differences of the float64 loss")
    print(format_table(rows, list(rows[0])), flush=True)


def run(task, settings: argparse.Namespace, folder: Path) -> None:
    task.model.to(settings.device)
    params = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    tables = {name: Table(folder / f"{name}.csv", columns.split()) for name, columns in COLUMNS.items()}
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
            tables["training"].append(epoch=point.epoch, iteration=point.iteration, loss=point.loss)
            batches, scanned = sampled.get(point.epoch, ([], None))
            scan = point.batch == scanned and not settings.skip_search
            measured = scan if settings.skip_sharpness else point.batch in batches
            directions = updates.advance(collect=measured)
            if measured:
                objective = objective_at(task, test_batch, DTYPES[settings.dtype])
                with measuring(objective.model):
                    if unchecked:
                        print_check_at_point(directions, objective, task)
                        unchecked = False
                    measure_point(point, directions, objective, scan, settings, tables)
                save(tables)
    finally:  # also what was measured before a loss that is not finite
        summarise_ratios(tables)
        save(tables)
    if settings.save_model:
        task.save_model(folder / "model")


def save(tables: dict[str, Table]) -> None:
    for table in tables.values():
        table.save()


def summarise_ratios(tables: dict[str, Table]) -> None:
    """ratios.csv: the mean over an epoch's measured points of sharpness / |sharpness of SGD|, and its sample std."""
    ratios = defaultdict(list)
    for row in tables["sharpness"].rows:
        if row["ratio"] is not None:
            ratios[row["epoch"], row["algorithm"]].append(row["ratio"])
    for (epoch, algorithm), values in ratios.items():
        spread = statistics.stdev(values) if len(values) > 1 else None
        mean = statistics.fmean(values)
        tables["ratios"].append(epoch=epoch, algorithm=algorithm, mean_ratio=mean, std=spread, count=len(values))


def ratio_table(folder: Path, labels: Iterable[str]) -> str:
    """The paper's tables 3 to 6, an algorithm a row and a test epoch a column."""
    cells = {(row["algorithm"], row["epoch"]): row["mean_ratio"] for row in read_table(folder / "ratios.csv")}
    epochs = sorted({epoch for _, epoch in cells})
    rows = [{"algorithm": label, **{f"epoch {e}": cells.get((label, e)) for e in epochs}} for label in labels]
    return format_table(rows, ["algorithm", *(f"epoch {e}" for e in epochs)])


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
        sampled_batches(settings, batches_per_epoch(len(task.examples), settings.batch_size))
        folder = create_run_folder(settings.output_dir, settings.overwrite)
        write_config(folder, recorded(settings), described(settings.algorithms))
    if settings.check_sharpness:
        print_check_on_tiny_model(task, settings)
    try:
        run(task, settings, folder)
    except FloatingPointError as error:
        log.error("stopped: %s; what was measured before is in %s", error, folder)
        return 1
    figures = draw_all(folder)
    print("Mean over the measured points of an epoch of directional sharpness / |directional sharpness of SGD|")
    print(ratio_table(folder, settings.algorithms))
    print(f"Wrote {', '.join(sorted(p.name for p in folder.iterdir()))} in {folder}/ and {len(figures)} figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
