"""The flags of run_convergence.py."""

from argparse import Namespace
from collections.abc import Sequence

from algorithm_list import ALGORITHM_LISTS
from runs.flag_types import number, one_of, positive_float, positive_int, seed_number
from runs.flags import TASK_NEEDS, Need, Parser, add_machine_flags, add_task_flags, add_training_flags
from runs.resuming import add_resume_flags
from tasks import TASKS, check_local
from training.schedules import SCHEDULERS

NEEDS = (
    *TASK_NEEDS,
    Need("lr_grid", "without --tune_lr", lambda s: s.tune_lr),
    Need("tune_epochs", "without --tune_lr", lambda s: s.tune_lr),
)


def check_paths(settings: Namespace) -> None:
    check_local(settings.dataset, settings.model, settings.eval_dataset)


def shares_batches(arguments: Sequence[str]) -> bool:
    """Whether the command line says --parallel data, before it is parsed: the processes meet first."""
    return "--parallel=data" in arguments or ("--parallel", "data") in zip(arguments, arguments[1:], strict=False)


def make_parser(description: str = "") -> Parser:
    parser = Parser(description, NEEDS)
    group = add_task_flags(parser, TASKS, ALGORITHM_LISTS)
    group.add_argument(
        "--only",
        nargs="+",
        metavar="LABEL",
        help="train only these rows of the list, by label, such as sgd 'adam, lr=0.001'",
    )
    group = add_training_flags(parser)
    group.add_argument(
        "--seeds",
        type=seed_number,
        nargs="+",
        default=[0],
        help="seeds of data order, dropout and new weights: one run per row and seed; generated data and --tune_lr "
        "take the first",
    )
    group.add_argument(
        "--lr_scheduler",
        type=one_of("schedule", SCHEDULERS),
        help="schedule of the learning rate, one of " + ", ".join(SCHEDULERS),
    )
    group.add_argument(
        "--warmup_ratio",
        type=number(float, 0, 1),
        help="fraction of the updates (of epoch_warmup: of the epochs) in which the learning rate rises; default 0.1",
    )
    group.add_argument(
        "--max_grad_norm",
        type=number(float, 0),
        metavar="NORM",
        help="scale a gradient with a larger norm down to this one; 0: never",
    )
    group.add_argument(
        "--dtype",
        type=one_of("dtype", ["float32", "bfloat16"]),
        default="float32",
        help="number type of the training: float32, or bfloat16 for matrix products (autocast)",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="train the model through torch.compile: minutes to start, faster after that",
    )
    group = parser.add_argument_group("learning rates")
    group.add_argument(
        "--tune_lr", action="store_true", help="search the best learning rate of each row, then train with it"
    )
    group.add_argument(
        "--lr_grid",
        type=positive_float,
        nargs="+",
        metavar="FACTOR",
        help="factors of the row's lr that --tune_lr tries, by default 0.1 to 10 in half decades; while the best is at "
        "an end of the grid, up to 12 more are tried beyond it",
    )
    group.add_argument(
        "--tune_epochs",
        type=positive_int,
        metavar="N",
        help="epochs of each trial of --tune_lr; by default a third of --num_epochs",
    )
    group = add_machine_flags(parser)
    group.add_argument("--num_epoch_to_save", type=positive_int, metavar="N", help="keep the model every N epochs")
    add_resume_flags(parser, jobs="runs")
    group = parser.add_argument_group("several processes")
    group.add_argument(
        "--parallel",
        type=one_of("way to share the work", ["jobs", "data"]),
        metavar="WAY",
        help="how several processes of torchrun or srun share the work: jobs (each takes whole runs; the default), or "
        "data (all train each run together, each on its share of every batch)",
    )
    return parser
