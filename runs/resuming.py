"""The settings of a run: from the command line, and with `--resume FOLDER` from the folder's config.json below it.

    settings, earlier = settings_of_run(parser, arguments)    # earlier: the run that is resumed, or None

An example: a run that was started with `--num_epochs 4 --seed 3` is resumed with `--resume run --checkpoint_every 5`.

    given_settings    resume="run", checkpoint_every=5         what stands on the command line
    stored_settings   num_epochs=4, seed=3, batch_size=64, ... what config.json says of all other flags
    settings          both together

A value from a file is only ever the value of its own flag, and passes that flag's check. It is never put on a command
line, where it could become another flag.
"""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runs.config import CONFIG_FILE, plain, read_config
from runs.flag_types import folder_name, positive_int
from runs.flags import Parser, refuse_foreign_code, refuse_without_effect

OF_THIS_COMMAND = (
    "resume",
    "allow_changes",
    "overwrite",
    "dry_run",
    "output_dir",
    "verbose",
    "hf_key",
    "log",
    "join",
    "parallel",
)  # never from the folder
FREE = (*OF_THIS_COMMAND, "checkpoint_every", "shard")  # may differ: they change no result


def add_resume_flags(
    parser: argparse.ArgumentParser, unit: str = "updates", always: str = "epoch", jobs: str = ""
) -> None:
    """The flags of every script that stores its run.

    Args:
        unit: what `--checkpoint_every` counts.
        always: what the run is stored after in any case.
        jobs: what several processes may share; "": nothing, and there is no `--join`.
    """
    group = parser.add_argument_group("stopping and continuing")
    group.add_argument(
        "--checkpoint_every",
        type=positive_int,
        metavar="N",
        help=f"store a checkpoint every N {unit}, in addition to every {always}",
    )
    group.add_argument(
        "--resume",
        type=folder_name,
        metavar="FOLDER",
        help="continue the stopped run in that folder, with its settings",
    )
    if jobs:
        group.add_argument(
            "--join",
            type=folder_name,
            metavar="FOLDER",
            help=f"as --resume, beside other processes that are at work there: each takes {jobs} that no other has",
        )
    group.add_argument(
        "--allow_changes",
        action="store_true",
        help="with --resume: continue although flags, rows, data or library versions differ from those of the run",
    )


@dataclass(frozen=True)
class Earlier:
    """The run that `--resume` continues."""

    config: dict[str, Any]  # its config.json
    changes: list[str]  # what is no longer the same, in words


def settings_of_run(parser: Parser, arguments: Sequence[str]) -> tuple[argparse.Namespace, Earlier | None]:
    """The settings of the command line, with `--resume` on top of the folder's; and the run that is resumed.

    Raises: ValueError, in one line, for a flag that cannot act; with `--resume`, if the folder holds no run of this
        script, or for a flag that contradicts it, unless `--allow_changes` is given: then `changes` names it.
    """
    settings = parser.parse_args(arguments)
    flag = "join" if getattr(settings, "join", None) else "resume"
    folder = getattr(settings, flag)
    if folder is None:
        if settings.allow_changes:
            raise ValueError("--allow_changes is for --resume, which is not given")
        refuse_without_effect(given_settings(parser, arguments), settings, parser.needs)
        return settings, None
    if flag == "join" and settings.resume:
        raise ValueError("--join continues the run as --resume does: give one of them")
    if settings.dry_run:
        raise ValueError(f"--dry_run estimates a whole run, not the rest of one: leave out --{flag}")
    if settings.overwrite or settings.output_dir:
        raise ValueError(f"--{flag} continues in its own folder: leave out --overwrite and --output_dir")
    settings, config, changes = on_top_of(folder, parser, arguments, own=OF_THIS_COMMAND, free=FREE)
    settings.output_dir = folder
    later = [name for name in vars(settings) if name not in config["settings"] and name not in FREE]
    changes += [f"--{name} did not exist then" for name in later]
    refuse_foreign_code(settings, given_settings(parser, arguments))
    refuse_changes(settings, changes)
    refuse_without_effect(given_settings(parser, arguments), settings, parser.needs)
    return settings, Earlier(config, changes)


def on_top_of(
    folder: str, parser: Parser, arguments: Sequence[str], own: Container[str], free: Container[str]
) -> tuple[argparse.Namespace, dict[str, Any], list[str]]:
    """The settings of the run in `folder` with those of the command line on top of them. A flag that did not exist when
    the run was begun has its default.

    Args:
        own: names of the flags that never come from the folder.
        free: names of those that may differ from it.

    Returns: (settings, the folder's config.json, what contradicts it in words).
    Raises: ValueError, in one line, if the folder holds no run of this script, or a setting that no flag would take.
    """
    config = read_config(folder)
    before = config["settings"]
    given = given_settings(parser, arguments)
    settings = parser.parse_args([])
    names = list(vars(settings))
    absent = [name for name in names if name not in before]
    if absent and ("task" not in before or before.keys() - set(names)):  # an earlier version had fewer, not others
        raise ValueError(f"{folder} holds no run of this script: its settings have no {absent[0]!r}")
    changes = [
        f"--{name} is {plain(value)}, was {before[name]}"
        for name, value in given.items()
        if name not in free and plain(value) != before[name]
    ]
    kept = [name for name in names if name not in own and name not in given and name not in absent]
    for name, value in {**stored_settings(folder, before, parser, kept), **given}.items():
        setattr(settings, name, value)
    return settings, config, changes


def given_settings(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> dict[str, Any]:
    """Name -> value of the flags that stand on the command line, without any default."""
    nothing = object()
    names = vars(parser.parse_args([]))
    parsed = parser.parse_args(arguments, argparse.Namespace(**dict.fromkeys(names, nothing)))
    return {name: value for name, value in vars(parsed).items() if value is not nothing}


def stored_settings(
    folder: str, stored: dict[str, Any], parser: argparse.ArgumentParser, names: Iterable[str]
) -> dict[str, Any]:
    """Name -> value of these settings, each as its flag would give it. None stays None: the flag was left out.

    Raises: ValueError, in one line, for a value that the flag would not take.
    """
    flags = {action.dest: action for action in parser._actions}
    settings = {}
    for name in names:
        if stored[name] is None:
            settings[name] = flags[name].default
            continue
        try:
            settings[name] = value_of_flag(flags[name], stored[name])
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{folder}/{CONFIG_FILE}: --{name}: {error}") from error
    return settings


def value_of_flag(flag: argparse.Action, value: Any) -> Any:
    """A value of JSON as the flag would parse it: true or false, a number or text, or a list of those.

    Raises: ValueError or argparse.ArgumentTypeError for a value that the flag would not take.
    """
    if flag.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise ValueError(f"expected true or false, got {value!r:.60}")
        return value
    if flag.nargs == "+":
        if not isinstance(value, list) or not value:
            raise ValueError(f"expected a list, got {value!r:.60}")
        return [_one_value(flag, each) for each in value]
    return _one_value(flag, value)


def _one_value(flag: argparse.Action, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(f"expected a number or text, got {value!r:.60}")
    return flag.type(str(value)) if callable(flag.type) else str(value)


def in_earlier_order(algorithms: Mapping[str, Any], earlier: Earlier | None) -> dict[str, Any]:
    """Label -> row, those of the earlier run first and in its order, however the list is written now.

    The first row of a kind is the reference of the others, so a table that is continued must keep the order.
    """
    known = [row["label"] for row in earlier.config["algorithms"]] if earlier else []
    labels = [label for label in known if label in algorithms]
    return {label: algorithms[label] for label in dict.fromkeys([*labels, *algorithms])}


def refuse_changes(settings: argparse.Namespace, changes: Sequence[str]) -> None:
    """Raises: ValueError, in one line, if there are changes and `--allow_changes` is not given."""
    if changes and not settings.allow_changes:
        raise ValueError(
            f"{settings.output_dir} was started with other settings: {'; '.join(changes)}; "
            "--allow_changes continues anyway"
        )
