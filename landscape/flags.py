"""The flags of run_landscape.py."""

import argparse

from algorithm_list import ALGORITHM_LISTS
from hessian.tensor_names import GROUPINGS
from runs.config import read_config
from runs.flag_types import (
    DTYPES,
    device,
    folder_name,
    nonempty,
    one_of,
    positive_float,
    positive_int,
    seed_number,
)
from runs.flags import TASK_NEEDS, Need, Parser, add_machine_flags, add_task_flags, add_training_flags
from runs.resuming import add_resume_flags
from tasks import TASKS, check_local
from torch_optimizer import OPTIMIZERS

SCANS = ("few", "full")
MEASURE_ON = ("test", "training", "both")

NEEDS = (
    *TASK_NEEDS,
    Need("seed", "with --seeds, which names every seed", lambda s: not s.seeds),
    Need("step_size", "with --skip_search, which leaves out the loss scans", lambda s: not s.skip_search),
    Need("scan", "with --skip_search, which leaves out the loss scans", lambda s: not s.skip_search),
    Need("num_sample_sharpness", "with --sample_iterations, which names batches", lambda s: not s.sample_iterations),
    Need("num_sample_sharpness", "with --skip_sharpness, which measures one batch", lambda s: not s.skip_sharpness),
    Need("measure_on", "with --skip_sharpness, which only scans, on the test batch", lambda s: not s.skip_sharpness),
    Need("decompose", "with --skip_sharpness, which leaves out what is decomposed", lambda s: not s.skip_sharpness),
    Need("frequency_classes", "with --skip_sharpness, which leaves out the classes", lambda s: not s.skip_sharpness),
    Need(
        "frequency_classes",
        "with --measure_on training, not the test batch",
        lambda s: s.measure_on != "training",
    ),
    Need("clip_sweep", "with --skip_sharpness, which leaves out what is swept", lambda s: not s.skip_sharpness),
    Need(
        "clip_sweep", "with --from_points, whose points hold no steps at other fractions", lambda s: not s.from_points
    ),
    Need("reference", "with --skip_sharpness, which leaves out the ratios", lambda s: not s.skip_sharpness),
    Need("optimizer_device", "with --from_points, which trains nothing", lambda s: not s.from_points),
    Need("shard", "with --from_points, which trains nothing", lambda s: not s.from_points),
    Need("save_points", "with --shard, whose directions are on several processes", lambda s: not s.shard),
    Need("clip_sweep", "with --shard, whose directions are on several processes", lambda s: not s.shard),
    Need("check_sharpness", "with --shard, whose directions are on several processes", lambda s: not s.shard),
    Need("save_model", "with --from_points, which trains nothing", lambda s: not s.from_points),
    Need("save_points", "with --from_points, whose points are kept already", lambda s: not s.from_points),
    Need("checkpoint_every", "with --from_points, which stores after every point", lambda s: not s.from_points),
)


def check_paths(settings: argparse.Namespace) -> None:
    check_local(settings.dataset, settings.model, settings.eval_dataset)
    if settings.from_points:
        read_config(settings.from_points)


def make_parser(description: str = "") -> Parser:
    parser = Parser(description, NEEDS)
    add_task_flags(parser, TASKS, ALGORITHM_LISTS)
    group = add_training_flags(parser)
    group.add_argument("--seed", type=seed_number, default=0, help="of data order, dropout, test batch, new weights")
    group.add_argument(
        "--seeds",
        type=seed_number,
        nargs="+",
        metavar="SEED",
        help="instead of --seed: one trajectory per seed, means with intervals; generated data take the first",
    )
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
        "--sample_iterations",
        type=positive_int,
        nargs="+",
        metavar="B",
        help="measure at these batches of each such epoch, from 1, instead of random ones; the first is scanned (in "
        "Pan & Li's code the flag means iterations, counted over all epochs)",
    )
    group.add_argument(
        "--step_size",
        type=positive_float,
        metavar="S",
        help="distance between the points of every scan; by default the row's, or chosen from the curvature",
    )
    group.add_argument(
        "--reference",
        type=nonempty,
        metavar="LABEL",
        help="the row whose sharpness the others are divided by; by default the first sgd row without clipping",
    )
    group.add_argument(
        "--scan",
        type=one_of("kind of scan", SCANS),
        default="few",
        help="few: evaluate the loss where it matters, about 8 of 20 points, and interpolate between (errors about 1 "
        "percent of the depth); full: evaluate every point",
    )
    group.add_argument(
        "--measure_on",
        type=one_of("batch", MEASURE_ON),
        metavar="BATCH",
        help="measure every row on the test batch, on the training batch that the steps come from, or on both; by "
        "default the list on the test batch and the optimizer that trains on both",
    )
    group.add_argument(
        "--decompose",
        type=one_of("grouping", GROUPINGS),
        metavar="GROUPING",
        help="also split slope and sharpness of every step over the groups of tensors, by layer or by kind (embedding, "
        "attention, mlp, norm, head): about five times the time of the sharpness",
    )
    group.add_argument(
        "--frequency_classes",
        type=positive_int,
        metavar="N",
        help="also measure loss, slope and sharpness of N classes of target tokens (or labels), from frequent to rare: "
        "N times the time of the sharpness",
    )
    group.add_argument("--skip_search", action="store_true", help="no loss scans")
    group.add_argument("--skip_sharpness", action="store_true", help="no sharpness; measure only where a scan is made")
    group.add_argument(
        "--top_eigenvalues",
        action="store_true",
        help="at the scanned points also the largest eigenvalues of H and of P^-1 H, P the training optimizer's "
        "preconditioner: tens of Hessian products each",
    )
    group.add_argument(
        "--clip_sweep",
        action="store_true",
        help="at the scanned points also SGD, Adam, Adafactor and Lion at clip fractions from 0 to 0.9, and how much "
        "of SGD's curvature its largest coordinates carry: about five times the time of the sharpness there",
    )
    group.add_argument(
        "--check_sharpness",
        action="store_true",
        help="compare with the full Hessian of a tiny model, and at the first point with float64 central differences",
    )
    group.add_argument(
        "--dtype",
        type=one_of("dtype", DTYPES),
        default="float32",
        help="of the measurement: float32 or float64; training is in float32",
    )
    group.add_argument(
        "--save_points",
        action="store_true",
        help="keep the model and the directions of every measured point in FOLDER/points, for --from_points",
    )
    group.add_argument(
        "--from_points",
        type=folder_name,
        metavar="FOLDER",
        help="measure the saved points of that run again, with its settings, without training: another --dtype, "
        "--test_batch_size, --test_seed, --step_size",
    )
    group = add_machine_flags(parser)
    group.add_argument(
        "--shard",
        action="store_true",
        help="of several processes, let each keep the states and directions of some rows only; for large models",
    )
    group.add_argument(
        "--optimizer_device", type=device, help="where the pseudo-updates keep their states; by default with the model"
    )
    add_resume_flags(parser)
    return parser
