"""The life of a run, the same for every script: settings, preparation, folder, work, end.

def prepare(settings, earlier) -> Job: ...       # checks everything, writes nothing
sys.exit(execute("run_x.py", parser, prepare))
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curvature.ranks import ALONE, LeaderFailed, RankLost, Ranks
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
from runs.flags import Parser, needs_the_hub, own_list
from runs.folder import LOG_FILE, create_run_folder, remove_leftovers
from runs.live import LiveLog, logger_named
from runs.lock import lock, unlock
from runs.machine import machine_state, prepare_machine
from runs.messages import answering_input_errors, hush_unless, log_file, say, start_logging
from runs.processes import leads
from runs.ranks import connect, disconnect, is_first_here, may_tell_of_the_end, watching
from runs.resuming import Earlier, refuse_changes, settings_of_run
from runs.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds: torchrun passes a signal on that Slurm has sent to each process already


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
    together: bool = False,
) -> int:
    """Run a script from its command line to its exit status.

    together: whether the processes that torchrun or srun started are at work on one run (`runs.ranks.current`); then
        the first of them writes and speaks for all. Else each is by itself.

    0: it finished. 2: the input is wrong; nothing was written. 128 + n: signal n stopped it, and it is stored.
    1: it ended early; earlier results are in the folder.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    start_logging("--verbose" in arguments)
    ranks = ALONE
    with answering_input_errors(parser):
        if together:
            hush_unless(parser, leads())
            ranks = connect()
        settings, earlier = settings_of_run(parser, arguments)
        if earlier is not None and "finished" in earlier.config:
            ranks.leading(lambda: clean_up(Path(settings.output_dir)))
            say(f"{settings.output_dir} is complete: nothing is left to do")
            return 0
        live_log = logger_named(settings.log if ranks.leads else None)
        prepare_machine()
        job = prepared(prepare, settings, earlier, ranks)
        if settings.dry_run:
            ranks.leading(lambda: say(job.estimate().report()))
            return 0
        folder = Path(job.settings.output_dir)
        ranks.leading(lambda: open_folder(job, earlier))
    with log_file(folder / LOG_FILE) if ranks.leads else nullcontext():
        status, text = to_its_end(folder, script, job, live_log, ranks)
    disconnect(after_failure=status == 1)
    if status == 0 and ranks.leads:
        say(text)
        written, figures = sorted(p.name for p in folder.iterdir()), list(folder.glob("figures/*"))
        say(f"Wrote {', '.join(written)} in {folder}/ and {len(figures)} figures")
    return status


def prepared(
    prepare: Callable[[argparse.Namespace, Earlier | None], Job],
    settings: argparse.Namespace,
    earlier: Earlier | None,
    ranks: Ranks,
) -> Job:
    """What `prepare` gives. Of several ranks the first of each machine comes before the others where data or model may
    come from the hub: it downloads and tokenizes, and they read what it stored.

    Raises: what `prepare` raises, on all ranks if it does on one."""
    apart = ranks.world > 1 and needs_the_hub(settings)
    job, trouble = None, None
    for first in (True, False) if apart else (is_first_here(),):
        if first == is_first_here():
            try:
                job = prepare(settings, earlier)
            except (ValueError, OSError) as error:
                trouble = error
        said = ranks.agree(None if trouble is None else str(trouble) or repr(trouble))
        if said is not None:
            raise trouble or ValueError(said)
    assert job is not None
    return job


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
    folder: Path, script: str, job: Job, live_log: Callable[[Path, dict[str, Any]], LiveLog], ranks: Ranks = ALONE
) -> tuple[int, str]:
    """(exit status, what to print): 0 when the work came to its end, 128 + the signal that stopped it, else 1."""
    python = "python" if ranks.world == 1 else f"torchrun --nproc_per_node={ranks.world}"
    again = f"continue with: {python} {script} --resume {shlex.quote(str(folder))}"
    if name := own_list(job.settings):  # a file that would run is never taken from a folder
        again += f" --algorithm_list {shlex.quote(name)}"
    try:
        with StopRequest(patience=PATIENCE if ranks.world > 1 else 0.0) as stop, watching(again):
            with closing(live_log(folder, recorded(job.settings))) as live:
                if job.says_estimate:
                    ranks.leading(lambda: log.info("%s", job.estimate(memory=False).line()))
                text = job.work(folder, stop, live)
            ranks.leading(lambda: end_of(folder))
        return 0, text
    except Exception as error:
        status, line = ending(error, job, folder, again)
        if line is None:
            if ranks.world == 1:
                raise
            line = f"stopped: {type(error).__name__}: {one_line(error)}; --verbose shows where; {again}"
        if not isinstance(error, (Stopped, CannotWrite)):
            log.debug("traceback", exc_info=True)
        if ranks.leads if isinstance(error, Stopped) else may_tell_of_the_end(its_own=not isinstance(error, RankLost)):
            log.error("%s", line)
        return status, ""
    finally:
        unlock(folder)


def ending(error: Exception, job: Job, folder: Path, again: str) -> tuple[int, str | None]:
    """(exit status, the line that says why the run ended); no line for an error that nobody foresaw."""
    done = f"what was done before is in {folder}"
    if isinstance(error, Stopped):
        return 128 + error.number, f"{error}; {again}"
    if isinstance(error, CannotWrite):
        return 1, f"stopped: {error}; {done}; when that is mended, {again}"
    if isinstance(error, RankLost):
        return 1, f"stopped: another process of this run has ended; {done}; {again}"
    if isinstance(error, (CannotRead, DoesNotFit, LeaderFailed, *job.ends_in_one_line)):
        return 1, f"stopped: {error}; {done}"
    if is_out_of_memory(error):
        less = "a smaller --micro_batch_size takes less"
        return 1, f"stopped: out of memory ({one_line(error)}); {less}; {done}; {again}"
    return 1, None


def end_of(folder: Path) -> None:
    """The results are complete: what only a stopped run needs is removed."""
    mark_finished(folder)
    Checkpoints(folder / "checkpoints").remove()


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
