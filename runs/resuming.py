"""Take up a stored run: its settings from its folder, and what has changed since.

    settings, earlier = settings_of_run(parser, arguments)    # earlier: the folder's config.json with `--resume FOLDER`
    ...                                                       # resolve the settings, load the task
    folder = open_run(settings, earlier)                      # new or taken up; locked for this process
    status, result = to_its_end(folder, "run_x.py", work)     # work(stop), with what can stop it answered in one line
"""

import argparse
import logging
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from checkpoints import CannotRead, Checkpoints, DoesNotFit, content_hash
from results import (
    CannotWrite,
    create_run_folder,
    mark_finished,
    plain,
    read_config,
    record_resumption,
    remove,
    versions,
    write_config,
)
from run_lock import Stopped, StopRequest, lock, unlock
from settings import described, positive_int, recorded
from tasks.data import Refused
from tasks.hub import is_local
from torch_optimizer import Algorithm

log = logging.getLogger(__name__)

OF_THIS_COMMAND = ("resume", "allow_changes", "overwrite", "output_dir", "verbose", "hf_key")  # never from the folder
FREE = (*OF_THIS_COMMAND, "checkpoint_every")  # may differ: they change no result
OF_THESE_POINTS = (*OF_THIS_COMMAND, "checkpoint_every", "from_points", "save_points", "save_model", "skip_search",
                   "skip_sharpness", "check_sharpness", "device", "optimizer_device")  # fmt: skip
MEASURED_ANEW = (*OF_THESE_POINTS, "dtype", "test_batch_size", "test_seed", "step_size", "micro_batch_size")
NEGATABLE = ("momentum",)  # a False is --no-momentum


def add_resume_flags(parser: argparse.ArgumentParser, unit: str = "updates", always: str = "epoch") -> None:
    group = parser.add_argument_group("stopping and continuing")
    group.add_argument(
        "--checkpoint_every", type=positive_int, metavar="N",
        help=f"store the run every N {unit}, besides every {always}",
    )  # fmt: skip
    group.add_argument("--resume", metavar="FOLDER", help="continue the run in that folder, with its settings")
    group.add_argument(
        "--allow_changes", action="store_true",
        help="with --resume: continue though flags, rows, data or library versions are not those of the run",
    )  # fmt: skip


def settings_of_run(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, dict | None]:
    """The settings of the command line, with `--resume` on top of the folder's; and the folder's configuration.

    Raises: ValueError, in one line, if the folder holds no run of this script, or for a flag that contradicts it,
        unless `--allow_changes` is given: then `settings.changes` names it.
    """
    settings = parser.parse_args(arguments)
    settings.changes = []
    if settings.resume is None:
        if settings.allow_changes:
            raise ValueError("--allow_changes is for --resume, which is not given")
        return settings, None
    if settings.overwrite or settings.output_dir:
        raise ValueError("--resume continues in its own folder: leave out --overwrite and --output_dir")
    folder = settings.resume
    settings, earlier, changes = _on_top_of(folder, parser, arguments, own=OF_THIS_COMMAND, free=FREE)
    settings.output_dir, settings.changes = folder, changes
    _refuse_changes(settings, changes)
    return settings, earlier


def settings_of_points(parser: argparse.ArgumentParser, arguments: Sequence[str], folder: str) -> argparse.Namespace:
    """The settings of the run in `folder`, with the command line's on top of them for what is measured anew.

    Raises: ValueError, in one line, if the folder holds no run of this script, or for a flag that contradicts it.
    """
    settings, earlier, changes = _on_top_of(folder, parser, arguments, own=OF_THESE_POINTS, free=MEASURED_ANEW)
    data = _data_hashes(settings)
    changes += [f"{path} has another content" for path in data if data[path] != earlier.get("data", {}).get(path)]
    if changes:
        raise ValueError(f"the points of {folder} are of another run: {'; '.join(changes)}")
    settings.changes = []
    return settings


def rows_of_run(folder: str) -> dict[str, Algorithm]:
    """label -> row of a run's algorithm list, as it was then. Raises: ValueError, in one line, if it is damaged."""
    try:
        return {
            row["label"]: Algorithm(row["name"], step_size=row["step_size"], **row["options"])
            for row in read_config(folder)["algorithms"]
        }
    except (KeyError, TypeError) as error:
        raise ValueError(f"the algorithms in {folder}/config.json cannot be read: {error!r}") from error


def _on_top_of(
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


def is_complete(earlier: dict | None, folder: str) -> bool:
    """Whether the earlier run came to its end; then what a kill in its last moment has left is removed."""
    if earlier is None or "finished" not in earlier:
        return False
    lock(folder)
    Checkpoints(Path(folder) / "checkpoints").remove()
    unlock(folder)
    return True


def open_run(settings: argparse.Namespace, earlier: dict | None) -> Path:
    """The run folder, locked for this process (`unlock` it): a new one, or that of the earlier run.

    Raises: ValueError, in one line: another process is at work there, something has changed and `--allow_changes` is
        not given, or the folder cannot be had.
    """
    rows, data = described(settings.algorithms), _data_hashes(settings)
    folder = Path(settings.output_dir)
    if settings.overwrite:
        _refuse_to_remove_sources(settings, folder)
    if not folder.is_dir():
        create_run_folder(folder)
    lock(folder)
    try:
        if earlier is None:
            create_run_folder(folder, settings.overwrite)
        else:
            settings.changes += _changes_since(earlier, plain(rows), data)
            _refuse_changes(settings, settings.changes)
        for leftover in list(folder.rglob(".*.tmp")):  # of a process that was killed
            remove(leftover)
        if earlier is None:
            write_config(folder, recorded(settings), rows, data)
        else:
            record_resumption(folder, recorded(settings), rows, data, settings.changes)
    except BaseException:
        unlock(folder)
        raise
    return folder


def to_its_end(folder: Path, script: str, work: Callable[[StopRequest], Any]) -> tuple[int, Any]:
    """(exit status, what `work` returned): 0 when it came to its end, 128 + the signal that stopped it, else 1."""
    again = f"continue with: python {script} --resume {shlex.quote(str(folder))}"
    try:
        with StopRequest() as stop:
            result = work(stop)
            mark_finished(folder)
            Checkpoints(folder / "checkpoints").remove()
        return 0, result
    except Stopped as stopped:
        log.error("%s; %s", stopped, again)
        return 128 + stopped.number, None
    except CannotWrite as error:
        log.error("stopped: %s; what was done before is in %s; when that is mended, %s", error, folder, again)
        return 1, None
    except (FloatingPointError, CannotRead, DoesNotFit, Refused) as error:
        log.error("stopped: %s; what was done before is in %s", error, folder)
        return 1, None
    finally:
        unlock(folder)


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


def _refuse_to_remove_sources(settings: argparse.Namespace, folder: Path) -> None:
    for source in (settings.dataset, settings.model, getattr(settings, "checkpoint", None)):
        if source and is_local(source) and Path(source).expanduser().resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"--overwrite would remove {source}, which this run reads; choose another --output_dir")


def _data_hashes(settings: argparse.Namespace) -> dict[str, str]:
    sources = [source for source in (settings.dataset, settings.model) if source != "toy" and is_local(source)]
    return {source: content_hash(Path(source).expanduser()) for source in sources}


def _changes_since(earlier: dict, rows: list[dict], data: dict[str, str]) -> list[str]:
    changes = [
        f"{package} is {now}, was {earlier['versions'].get(package)}"
        for package, now in versions().items()
        if now != earlier["versions"].get(package)
    ]
    before = earlier.get("data", {})
    changes += [f"{path} has another content" for path in data if path in before and data[path] != before[path]]
    old, new = ({row["label"]: row for row in some} for some in (earlier["algorithms"], rows))
    for label in {**old, **new}:
        if label not in new:
            changes.append(f"row {label!r} is gone from algorithm_list.py")
        elif label not in old:
            changes.append(f"row {label!r} is new in algorithm_list.py")
        elif old[label] != new[label]:
            changes.append(f"row {label!r} is {_options(new[label])}, was {_options(old[label])}")
    return changes


def _options(row: dict) -> str:
    return f"({', '.join(f'{k}={v}' for k, v in {**row['options'], 'step_size': row['step_size']}.items())})"


def _refuse_changes(settings: argparse.Namespace, changes: list[str]) -> None:
    if changes and not settings.allow_changes:
        raise ValueError(
            f"{settings.output_dir} was begun otherwise: {'; '.join(changes)}; --allow_changes continues all the same"
        )
