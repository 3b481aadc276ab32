"""The life of a run: its folder is opened and locked, its work is done, its end is noted.

folder = open_folder(settings, earlier)                   # new or resumed; locked for this process
status, result = to_its_end(folder, "run_x.py", work)     # work(stop); whatever ends it is answered in one line
"""

import argparse
import logging
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runs.checkpoints import CannotRead, Checkpoints, DoesNotFit, content_hash
from runs.config import described, mark_finished, plain, record_resumption, recorded, versions, write_config
from runs.files import CannotWrite
from runs.folder import create_run_folder, remove_leftovers
from runs.lock import lock, unlock
from runs.resuming import _refuse_changes
from runs.stopping import Stopped, StopRequest
from tasks.loading.hub import is_local
from tasks.loading.rows import Refused

log = logging.getLogger(__name__)


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
        remove_leftovers(folder)
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
    return f"({', '.join(f'{k}={v}' for k, v in {**row['options'], 'step_size': row.get('step_size')}.items())})"
