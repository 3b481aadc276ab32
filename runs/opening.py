"""The folder of a run: a new one, that of an earlier run, or one where other processes are at work on the same run."""

import argparse
import datetime
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs.checkpoints import content_hash
from runs.config import described, numbered, plain, read_config, record_resumption, recorded, versions, write_config
from runs.files import CannotWrite
from runs.folder import CHECKPOINTS, create_run_folder, is_run_folder, remove_checkpoints, remove_leftovers
from runs.jobs import forget_failures
from runs.lock import Busy, lock, share, unlock
from runs.machine import machine_state
from runs.processes import step, world_size
from runs.resuming import FREE, Earlier, refuse_changes
from runs.start_up import BEGAN

if TYPE_CHECKING:
    from runs.lifecycle import PreparedRun


def clean_up(folder: Path) -> None:
    """Remove checkpoints that a kill during shutdown left in a finished run. On a read-only disk they stay."""
    if not (folder / CHECKPOINTS).exists():
        return
    with suppress(CannotWrite, Busy):
        lock(folder)
    unlock(folder, partial(clear, folder))


def clear(folder: Path) -> None:
    """Remove what a finished run does not need: its checkpoints, and the unfinished files of a process that was killed.

    Only while no other process is at work there."""
    with suppress(OSError):  # they harm no result
        remove_leftovers(folder)
    remove_checkpoints(folder)


def open_folder(run: "PreparedRun", earlier: Earlier | None) -> bool:
    """Take the run folder (`unlock` it): a new one, or that of the earlier run.

    Returns: whether this process is the first one in it, rather than one that joins others.

    Raises: ValueError, in one line: another process is at work there, something has changed and `--allow_changes` is
        not given, or the folder cannot be had.
    """
    settings, data, machine = run.settings, _hashes(run.reads), machine_state()
    machine |= {} if step() is None else {"step": step()}
    rows = numbered(described(run.algorithms), earlier and earlier.config)
    folder = Path(settings.output_dir)
    if settings.overwrite:
        _refuse_to_remove(run.reads, folder)
    if not folder.is_dir():
        create_run_folder(folder)
    is_first = _take(folder, run) and not (earlier is None and began_with_this_process(folder, run))
    try:
        if not is_first:
            _refuse_another_run(folder, settings, plain(rows), data, machine)
        elif earlier is None:
            create_run_folder(folder, settings.overwrite)
            remove_leftovers(folder)
            write_config(folder, recorded(settings), rows, data, machine, run.notes)
        else:
            changes = [*earlier.changes, *_changes_since(earlier.config, plain(rows), data, machine)]
            refuse_changes(settings, changes)
            if run.in_jobs:
                _refuse_old_checkpoints(folder, earlier.config)
            remove_leftovers(folder)
            forget_failures(folder)
            record_resumption(folder, recorded(settings), rows, data, changes, machine)
        if run.in_jobs and not _do_all_together(settings):
            share(folder)
    except BaseException:
        unlock(folder)
        raise
    return is_first


def _take(folder: Path, run: "PreparedRun") -> bool:
    """Take the folder for this process alone: True. Or take part in what others do there: False.

    Raises: ValueError, in one line, if others are at work there whom this process may not join; CannotWrite."""
    try:
        lock(folder)
        return True
    except Busy as busy:
        if not run.in_jobs:
            raise
        joins = bool(run.settings.join) or world_size() > 1 and not _do_all_together(run.settings)
        if not joins:
            raise Busy(f"{busy}; --join {shlex.quote(str(folder))} takes part in its work") from None
        lock(folder, shared=True)
        if run.settings.join or run.settings.resume or began_with_this_process(folder, run):
            return False
        unlock(folder)
        raise


def began_with_this_process(folder: Path, run: "PreparedRun") -> bool:
    """Whether the run there was begun by another process of the same command of torchrun or srun: with the same
    settings, and in the same step of Slurm, or later than this process itself has started."""
    if world_size() == 1 or _do_all_together(run.settings) or not run.in_jobs or not is_run_folder(folder):
        return False
    config = read_config(folder)
    begun = datetime.datetime.fromisoformat(config["started"]).timestamp()
    in_this_step = step() is not None and config.get("machine", {}).get("step") == step()
    return (in_this_step or begun >= int(BEGAN)) and _repeatable(config["settings"]) == _repeatable(
        recorded(run.settings)
    )


def _do_all_together(settings: argparse.Namespace) -> bool:
    """Whether the processes of this command do every job together: nobody else may take one."""
    return getattr(settings, "parallel", None) == "data" and world_size() > 1


def _repeatable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide results."""
    return {name: plain(value) for name, value in settings.items() if name not in FREE}


def _refuse_another_run(
    folder: Path, settings: argparse.Namespace, rows: list[dict], data: dict, machine: dict
) -> None:
    """Raises: ValueError, in one line, if the others work with other settings, rows, data or libraries than this
    process has; `--allow_changes` of one process changes nothing for the others."""
    config = read_config(folder)
    theirs, ours = _repeatable(config["settings"]), _repeatable(recorded(settings))
    changes = [f"--{name} is {ours[name]}, was {theirs.get(name)}" for name in ours if ours[name] != theirs.get(name)]
    changes += _changes_since(config, rows, data, machine)
    if changes:
        raise ValueError(f"the processes in {folder} have other settings: {'; '.join(changes)}")


def _refuse_old_checkpoints(folder: Path, config: Mapping[str, Any]) -> None:
    if any((folder / CHECKPOINTS).glob("checkpoint-*.json")):
        commit = (config.get("git") or {}).get("commit") or "its own"
        raise ValueError(
            f"{folder} was begun by an earlier version, whose checkpoints had another form: resume it with that "
            f"version (commit {commit:.12}), or begin anew with --overwrite"
        )


def _hashes(sources: Sequence[str]) -> dict[str, str]:
    return {source: content_hash(Path(source).expanduser()) for source in sources}


def _refuse_to_remove(sources: Sequence[str], folder: Path) -> None:
    for source in sources:
        if Path(source).expanduser().resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"--overwrite would remove {source}, which this run reads; choose another --output_dir")


def _changes_since(earlier: dict, rows: list[dict], data: dict[str, str], machine: dict[str, Any]) -> list[str]:
    changes = [
        f"{package} is {now}, was {earlier['versions'].get(package)}"
        for package, now in versions().items()
        if now != earlier["versions"].get(package)
    ]
    threads, before = machine["threads"], earlier.get("machine", {}).get("threads")
    if before not in (None, threads):
        changes.append(f"the number of threads is {threads}, was {before} (OMP_NUM_THREADS={before} sets it)")
    before = earlier.get("data", {})
    changes += [f"{path} has another content" for path in data if path in before and data[path] != before[path]]
    old, new = ({row["label"]: _written(row) for row in listed_rows} for listed_rows in (earlier["algorithms"], rows))
    for label in {**old, **new}:
        if label not in new:
            changes.append(f"row {label!r} is gone from algorithm_list.py")
        elif label not in old:
            changes.append(f"row {label!r} is new in algorithm_list.py")
        elif old[label] != new[label]:
            changes.append(f"row {label!r} is {_options(new[label])}, was {_options(old[label])}")
    return changes


def _written(row: dict) -> dict:
    """The part of a row that stands in algorithm_list.py."""
    return {key: row.get(key) for key in ("name", "options", "step_size", "groups")}


def _options(row: dict) -> str:
    groups = {"groups": row["groups"]} if row["groups"] else {}
    written = {**row["options"], "step_size": row["step_size"], **groups}
    return f"({', '.join(f'{k}={v}' for k, v in written.items())})"
