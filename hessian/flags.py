"""The flags of run_hessian.py."""

from argparse import Namespace
from pathlib import Path

from runs.flag_types import (
    DTYPES,
    SMALLEST,
    folder_name,
    nonempty,
    number,
    one_of,
    positive_int,
    seed_number,
)
from runs.flags import TASK_NEEDS, Parser, add_machine_flags, add_task_flags
from runs.resuming import add_resume_flags
from tasks import TASKS, check_local

ALL = "all"  # --num_batches: every batch of an epoch
SAVED = dict(  # settings that the run of a --checkpoint hands on, with the types of their flags
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


def check_paths(settings: Namespace) -> None:
    check_local(settings.dataset, settings.model, settings.eval_dataset)
    if settings.checkpoint:
        check_folder(Path(settings.checkpoint))


def check_folder(checkpoint: Path) -> None:
    if not checkpoint.is_dir():
        raise ValueError(
            f"--checkpoint {checkpoint} is not a folder; it takes a run with --save_model, or a model in it"
        )


def make_parser(description: str = "") -> Parser:
    parser = Parser(description, TASK_NEEDS)
    group = add_task_flags(parser, TASKS, verb="measured")
    group.add_argument(
        "--checkpoint",
        type=folder_name,
        metavar="FOLDER",
        help="a run with --save_model, or a model in it; task, data and seed are that run's unless given",
    )
    group.add_argument(
        "--seed", type=seed_number, help="seed of batches, start vectors, generated data and new weights; by default 0"
    )
    parser.set_defaults(task=None)  # "toy", or the checkpoint's
    group = parser.add_argument_group("measuring")
    group.add_argument(
        "--parameters",
        type=nonempty,
        metavar="REGEX",
        help="only tensors whose name matches this; 'paper': those of the second paper's code in RoBERTa, ResNet and "
        "ViT, which are the weights of the first, the middle and the last layer and of the head, without biases and "
        "embeddings",
    )
    group.add_argument(
        "--num_batches",
        type=batch_count,
        default=2,
        metavar="N",
        help="batches of training data, measured one by one; 'all': every batch of an epoch, as in the second paper",
    )
    group.add_argument(
        "--batch_size", type=positive_int, metavar="N", help="examples per batch; by default the task's, at most 32"
    )
    group.add_argument(
        "--micro_batch_size",
        type=positive_int,
        metavar="N",
        help="examples per gradient graph: bounds memory, changes no result",
    )
    group.add_argument(
        "--rebuild_graphs",
        action="store_true",
        help="rebuild the graphs for every Hessian-vector product: the memory of one micro-batch, two to three times "
        "the time",
    )
    group.add_argument(
        "--tolerance",
        type=number(float, SMALLEST, 0.5),
        default=1e-3,
        help="largest residual of a converged eigenvalue, relative to the eigenvalue",
    )
    group.add_argument(
        "--max_iterations",
        type=positive_int,
        default=100,
        metavar="N",
        help="at most so many Hessian-vector products per tensor and batch",
    )
    group.add_argument(
        "--robust_smoothness",
        type=positive_int,
        metavar="N",
        help="also measure, on N examples of a task with two classes, the largest eigenvalue of the Gauss-Newton "
        "matrix without its steepest coordinates, as Pan & Li's released code does",
    )
    group.add_argument(
        "--dtype",
        type=one_of("dtype", DTYPES),
        default="float32",
        help="number type of the measurement, float32 or float64",
    )
    add_machine_flags(parser)
    add_resume_flags(parser, "tensors", "few tensors", jobs="tensors")
    return parser


def batch_count(text: str) -> int | str:
    """An argparse type: a number of batches, or "all"."""
    return ALL if text == ALL else positive_int(text)
