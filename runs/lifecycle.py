"""The life of a run, the same for every script: settings, preparation, folder, work, end.

def prepare(settings, earlier) -> Job: ...       # checks everything, writes nothing
sys.exit(execute("run_x.py", parser, prepare))
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runs.checkpoints import CannotRead, Checkpoints, DoesNotFit, content_hash
from runs.config import (
    described,
    mark_finished,
    numbered,
    plain,
    record_resumption,
    recorded,
    versions,
    write_config,
)
from runs.estimate import Estimate
from runs.files import CannotWrite, is_out_of_memory, one_line
from runs.flags import Parser, own_list
from runs.folder import LOG_FILE, create_run_folder, remove_leftovers
from runs.live import LiveLog, logger_named
from runs.lock import lock, unlock
from runs.machine import machine_state, prepare_machine
from runs.messages import answering_input_errors, log_file, say, start_logging
from runs.resuming import Earlier, refuse_changes, settings_of_run
from runs.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What a script has prepared: everything is checked, nothing is written yet."""

    settings: argparse.Namespace  # as config.json records them; with `output_dir`, `overwrite` and `allow_changes`
    work: Callable[[Path, StopRequest, LiveLog], str]  # does it in the run folder; returns what to print at the end
    estimate: Callable[..., Estimate]  # what it will do; `memory=False` leaves the memory out
    algorithms: Mapping[str, Any] = field(default_factory=dict)  # label -> row of the algorithm list
    reads: Sequence[str] = ()  # local files and folders that decide the results
    notes: Sequence[str] = ()  # sentences for config.json
    ends_in_one_line: tuple[type[Exception], ...] = (FloatingPointError,)  # errors of the work that need no traceback
    says_estimate: bool = True  # whether a run begins with the line of its estimate


def execute(
    script: str,
    parser: Parser,
    prepare: Callable[[argparse.Namespace, Earlier | None], Job],
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a script from its command line to its exit status.

    0: it finished. 2: the input is wrong; nothing was written. 128 + n: signal n stopped it, and it is stored.
    1: it ended early; earlier results are in the folder.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    start_logging("--verbose" in arguments)
    with answering_input_errors(parser):
        settings, earlier = settings_of_run(parser, arguments)
        if earlier is not None and "finished" in earlier.config:
            clean_up(Path(settings.output_dir))
            say(f"{settings.output_dir} is complete: nothing is left to do")
            return 0
        live_log = logger_named(settings.log)
        prepare_machine()
        job = prepare(settings, earlier)
        if settings.dry_run:
            say(job.estimate().report())
            return 0
        folder = open_folder(job, earlier)
    with log_file(folder / LOG_FILE):
        status, text = to_its_end(folder, script, job, live_log)
    if status == 0:
        say(text)
        written, figures = sorted(p.name for p in folder.iterdir()), list(folder.glob("figures/*"))
        say(f"Wrote {', '.join(written)} in {folder}/ and {len(figures)} figures")
    return status


def clean_up(folder: Path) -> None:
    """Remove checkpoints that a kill during shutdown left in a finished run. On a read-only disk they stay."""
    checkpoints = Checkpoints(folder / "checkpoints")
    if not checkpoints.folder.exists():
        return
    with suppress(CannotWrite):
        lock(folder)
        checkpoints.remove()
    unlock(folder)


def open_folder(job: Job, earlier: Earlier | None) -> Path:
    """The run folder, locked for this process (`unlock` it): a new one, or that of the earlier run.

    Raises: ValueError, in one line: another process is at work there, something has changed and `--allow_changes` is
        not given, or the folder cannot be had.
    """
    settings, data, machine = job.settings, _hashes(job.reads), machine_state()
    rows = numbered(described(job.algorithms), earlier and earlier.config)
    folder = Path(settings.output_dir)
    if settings.overwrite:
        _refuse_to_remove(job.reads, folder)
    if not folder.is_dir():
        create_run_folder(folder)
    lock(folder)
    try:
        if earlier is None:
            create_run_folder(folder, settings.overwrite)
        else:
            changes = [*earlier.changes, *_changes_since(earlier.config, plain(rows), data, machine)]
            refuse_changes(settings, changes)
        remove_leftovers(folder)
        if earlier is None:
            write_config(folder, recorded(settings), rows, data, machine, job.notes)
        else:
            record_resumption(folder, recorded(settings), rows, data, changes, machine)
    except BaseException:
        unlock(folder)
        raise
    return folder


def to_its_end(
    folder: Path, script: str, job: Job, live_log: Callable[[Path, dict[str, Any]], LiveLog]
) -> tuple[int, str]:
    """(exit status, what to print): 0 when the work came to its end, 128 + the signal that stopped it, else 1."""
    again = f"continue with: python {script} --resume {shlex.quote(str(folder))}"
    if name := own_list(job.settings):  # a file that would run is never taken from a folder
        again += f" --algorithm_list {shlex.quote(name)}"
    try:
        with StopRequest() as stop:
            with closing(live_log(folder, recorded(job.settings))) as live:
                if job.says_estimate:
                    log.info("%s", job.estimate(memory=False).line())
                text = job.work(folder, stop, live)
            mark_finished(folder)
            Checkpoints(folder / "checkpoints").remove()
        return 0, text
    except Stopped as stopped:
        log.error("%s; %s", stopped, again)
        return 128 + stopped.number, ""
    except CannotWrite as error:
        log.error("stopped: %s; what was done before is in %s; when that is mended, %s", error, folder, again)
        return 1, ""
    except (CannotRead, DoesNotFit, *job.ends_in_one_line) as error:
        log.debug("traceback", exc_info=True)
        log.error("stopped: %s; what was done before is in %s", error, folder)
        return 1, ""
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        log.debug("traceback", exc_info=True)
        log.error(
            "stopped: out of memory (%s); a smaller --micro_batch_size takes less; what was done before is in %s; %s",
            one_line(error),
            folder,
            again,
        )
        return 1, ""
    finally:
        unlock(folder)


def _hashes(sources: Sequence[str]) -> dict[str, str]:
    return {source: content_hash(Path(source).expanduser()) for source in sources}


def _refuse_to_remove(sources: Sequence[str], folder: Path) -> None:
    for source in sources:
        if Path(source).expanduser().resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"--overwrite would remove {source}, which this run reads; choose another --output_dir")


def _changes_since(earlier: dict, rows: list[dict], data: dict[str, str], machine: dict[str, int]) -> list[str]:
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
