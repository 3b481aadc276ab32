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
    group.add_argument(
        "--seed", type=seed_number, default=0, help="seed of data order, dropout, test batch and new weights"
    )
    group.add_argument(
        "--seeds",
        type=seed_number,
        nargs="+",
        metavar="SEED",
        help="instead of --seed: one trajectory per seed, and means over the seeds with intervals; generated data are "
        "those of the first seed",
    )
    group.add_argument(
        "--train_optimizer",
        type=one_of("optimizer", OPTIMIZERS),
        default="adam",
        help="the optimizer that trains the model",
    )
    group.add_argument(
        "--lr", type=positive_float, help="learning rate of the training optimizer; by default the task's"
    )
    group.add_argument(
        "--momentum",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="momentum 0.9 for a training optimizer of the SGD family, with dampening 0.9 where it has that; on by "
        "default",
    )
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--test_batch_size",
        type=positive_int,
        metavar="N",
        help="size of the test batch: training examples that every step is measured on",
    )
    group.add_argument("--test_seed", type=seed_number, help="seed that draws the test batch; by default --seed")
    group.add_argument(
        "--test_epochs",
        type=positive_int,
        nargs="+",
        metavar="E",
        help="epochs in which points are measured, counted from 1, such as 1 5 10",
    )
    group.add_argument(
        "--num_sample_sharpness",
        type=positive_int,
        metavar="N",
        help="how many points are measured in each of these epochs, at random batches",
    )
    group.add_argument(
        "--sample_iterations",
        type=positive_int,
        nargs="+",
        metavar="B",
        help="measure at these batches of each of these epochs, counted from 1, instead of at random ones; the first "
        "is scanned. In Pan & Li's code the flag counts iterations over all epochs",
    )
    group.add_argument(
        "--step_size",
        type=positive_float,
        metavar="S",
        help="distance between neighboring points of every scan, in the norm of the parameters; by default the row's, "
        "or chosen from the curvature",
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
        help="few: evaluate the loss at about 8 of the 20 points of a scan and interpolate the others (errors of about "
        "1 percent of the scan's depth); full: evaluate every point",
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
    group.add_argument("--skip_search", action="store_true", help="leave out the loss scans")
    group.add_argument(
        "--skip_sharpness", action="store_true", help="leave out slope and sharpness: only scan the loss"
    )
    group.add_argument(
        "--top_eigenvalues",
        action="store_true",
        help="at the scanned points also measure the largest eigenvalues of the Hessian H and of P^-1 H, where P is "
        "the training optimizer's preconditioner: tens of Hessian-vector products for each",
    )
    group.add_argument(
        "--clip_sweep",
        action="store_true",
        help="at the scanned points also measure SGD, Adam, Adafactor and Lion at clip fractions from 0 to 0.9, and "
        "how much of SGD's curvature its largest coordinates carry: about five times the time of the sharpness there",
    )
    group.add_argument(
        "--check_sharpness",
        action="store_true",
        help="before the run compare the sharpness with the full Hessian of a tiny model, and at the first point with "
        "central differences in float64",
    )
    group.add_argument(
        "--dtype",
        type=one_of("dtype", DTYPES),
        default="float32",
        help="number type of the measurement, float32 or float64; training is in float32",
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
        help="measure the saved points of that run again, with its settings and without training; --dtype, "
        "--test_batch_size, --test_seed and --step_size may differ",
    )
    group = add_machine_flags(parser)
    group.add_argument(
        "--shard",
        action="store_true",
        help="with several processes: each keeps the optimizer states and directions of some rows only, which saves "
        "memory",
    )
    group.add_argument(
        "--optimizer_device",
        type=device,
        help="device of the pseudo-updates' states, such as cpu; by default the model's",
    )
    add_resume_flags(parser)
    return parser
