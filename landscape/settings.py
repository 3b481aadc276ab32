"""From the flags of run_landscape.py to the rows that it measures, checked."""

import argparse
from pathlib import Path

from algorithm_list import ALGORITHM_LISTS
from landscape.saved_points import point_files, rows_of_run
from runs.flags import check_seeds, default_output, fill_in
from runs.resuming import Earlier
from runs.tables import TRAINING
from tasks import task_defaults
from torch_optimizer import Algorithm
from torch_optimizer.rows import choose_list, plain_sgd


def resolve(settings: argparse.Namespace) -> tuple[Algorithm, dict[str, Algorithm]]:
    """Fill in the task's defaults and check what depends on several flags: (row that trains, label -> row).

    Raises ValueError naming the flag."""
    defaults = task_defaults(settings.task, settings.dataset, settings.model)
    epochs_given = settings.num_epochs is not None and settings.test_epochs is None
    fill_in(settings, defaults)
    if settings.seeds:
        check_seeds(settings.seeds)
        settings.seed = settings.seeds[0]
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
        raise ValueError(f"--reference {label!r} is not a row of the list; its labels are {', '.join(algorithms)}")
    return label


def refuse_another_reference(reference: str | None, settings: argparse.Namespace, earlier: Earlier | None) -> None:
    """Raises ValueError, in one line, if the resumed run's ratios refer to another row."""
    if earlier is not None:
        rows = rows_of_run(settings.output_dir)
        before = earlier.config["settings"].get("reference") or plain_sgd(rows)
        if before != reference:
            both = f"{before or 'none'} and {reference or 'none'}"
            raise ValueError(f"the ratios in {settings.output_dir} would be relative to two different rows, {both}")


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
