"""The settings of a stored run: from its folder, and what has changed since.

settings, earlier = settings_of_run(parser, arguments)    # earlier: the folder's config.json with `--resume FOLDER`
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runs.config import plain, read_config
from runs.flags import folder_name, positive_int

OF_THIS_COMMAND = ("resume", "allow_changes", "overwrite", "output_dir", "verbose", "hf_key")  # never from the folder
FREE = (*OF_THIS_COMMAND, "checkpoint_every")  # may differ: they change no result


NEGATABLE = ("momentum",)  # a False is --no-momentum


def add_resume_flags(parser: argparse.ArgumentParser, unit: str = "updates", always: str = "epoch") -> None:
    group = parser.add_argument_group("stopping and continuing")
    group.add_argument(
        "--checkpoint_every", type=positive_int, metavar="N",
        help=f"store the run every N {unit}, besides every {always}",
    )  # fmt: skip
    group.add_argument(
        "--resume", type=folder_name, metavar="FOLDER", help="continue the run in that folder, with its settings"
    )
    group.add_argument(
        "--allow_changes", action="store_true",
        help="with --resume: continue though flags, rows, data or library versions are not those of the run",
    )  # fmt: skip


@dataclass(frozen=True)
class Earlier:
    """The run that `--resume` continues."""

    config: dict[str, Any]  # its config.json
    changes: list[str]  # what is no longer the same, in words


def settings_of_run(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, Earlier | None]:
    """The settings of the command line, with `--resume` on top of the folder's; and the run that it continues.

    Raises: ValueError, in one line, if the folder holds no run of this script, or for a flag that contradicts it,
        unless `--allow_changes` is given: then `changes` names it.
    """
    settings = parser.parse_args(arguments)
    if settings.resume is None:
        if settings.allow_changes:
            raise ValueError("--allow_changes is for --resume, which is not given")
        return settings, None
    if settings.overwrite or settings.output_dir:
        raise ValueError("--resume continues in its own folder: leave out --overwrite and --output_dir")
    folder = settings.resume
    settings, config, changes = on_top_of(folder, parser, arguments, own=OF_THIS_COMMAND, free=FREE)
    settings.output_dir = folder
    refuse_changes(settings, changes)
    return settings, Earlier(config, changes)


def on_top_of(
    folder: str, parser: argparse.ArgumentParser, arguments: Sequence[str], own: Sequence[str], free: Sequence[str]
) -> tuple[argparse.Namespace, dict, list[str]]:
    """The settings of the run in `folder` with those of the command line on top, the run's config.json, and what
    contradicts it. `own`: the flags that never come from the folder; `free`: those that may differ from it."""
    settings = parser.parse_args(arguments)
    names = list(vars(settings))
    earlier = read_config(folder)
    before = earlier["settings"]
    absent = [name for name in names if name not in before]
    if absent:
        raise ValueError(f"{folder} holds no run of this script: its settings have no {absent[0]!r}")
    unset = object()
    given = parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(names, unset)))
    changes = [
        f"--{name} is {plain(value)}, was {before[name]}"
        for name, value in vars(given).items()
        if value is not unset and name not in free and plain(value) != before[name]
    ]
    kept = {name: before[name] for name in names if name not in own}
    return parser.parse_args([*_command_line(kept), *arguments]), earlier, changes


def _command_line(settings: dict[str, Any]) -> list[str]:
    """The flags that give these settings, so that what a folder says passes the same checks as what a user says."""
    flags = []
    for name, value in settings.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is False:
            flags += [f"--no-{name}"] if name in NEGATABLE else []
        elif isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


def refuse_changes(settings: argparse.Namespace, changes: list[str]) -> None:
    if changes and not settings.allow_changes:
        raise ValueError(
            f"{settings.output_dir} was begun otherwise: {'; '.join(changes)}; --allow_changes continues all the same"
        )
