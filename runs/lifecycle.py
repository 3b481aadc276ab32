"""The life of a run, the same for every script: settings, preparation, folder, work, end.

def prepare(settings, earlier) -> PreparedRun: ...       # checks everything, writes nothing
sys.exit(execute("run_x.py", parser, prepare))
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from curvature.memory import is_out_of_memory
from curvature.ranks import ALONE, LeaderFailed, RankLost, Ranks
from runs import background
from runs.checkpoints import CannotRead, DoesNotFit
from runs.config import is_finished, mark_finished, recorded
from runs.estimate import Estimate
from runs.files import CannotWrite, one_line
from runs.flags import Parser, needs_the_hub, own_list
from runs.folder import CHECKPOINTS, LOG_FILE
from runs.jobs import SomeFailed, turn
from runs.live import LiveLog, logger_named
from runs.lock import LOCK_FILE, unlock
from runs.machine import prepare_machine
from runs.messages import answering_input_errors, hush_unless, log_file, say, start_logging
from runs.opening import clean_up, clear, open_folder
from runs.processes import leads, world_size
from runs.ranks import connect, disconnect, end_at_once, is_first_here, may_tell_of_the_end, watching
from runs.resuming import Earlier, settings_of_run
from runs.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)

COMPLETE = "{} is complete: nothing is left to do"
PATIENCE = 10.0  # seconds: torchrun passes a signal on that Slurm has sent to each process already


@dataclass(frozen=True)
class PreparedRun:
    """What a script has prepared: everything is checked, nothing is written yet."""

    settings: argparse.Namespace  # as config.json records them; with `output_dir`, `overwrite` and `allow_changes`
    work: Callable[[Path, StopRequest, LiveLog], Any]  # does it in the run folder; returns what to print at the end
    estimate: Callable[..., Estimate]  # what it will do; `memory=False` leaves the memory out
    algorithms: Mapping[str, Any] = field(default_factory=dict)  # label -> row of the algorithm list
    reads: Sequence[str] = ()  # local files and folders that decide the results
    notes: Sequence[str] = ()  # sentences for config.json
    ends_in_one_line: tuple[type[Exception], ...] = (FloatingPointError,)  # errors of the work that need no traceback
    says_estimate: bool = True  # whether a run begins with the line of its estimate
    in_jobs: bool = False  # several processes may do the work; it then returns what one of them does to end the run


def execute(
    script: str,
    parser: Parser,
    prepare: Callable[[argparse.Namespace, Earlier | None], PreparedRun],
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
            say(COMPLETE.format(settings.output_dir))
            return 0
        live_log = logger_named(settings.log if ranks.leads else None)
        prepare_machine()
        run = prepared(prepare, settings, earlier, ranks)
        if settings.dry_run:
            ranks.leading(lambda: say(run.estimate().report()))
            return 0
        folder, first = Path(run.settings.output_dir), []
        ranks.leading(lambda: first.append(open_folder(run, earlier)))
    with log_file(folder / LOG_FILE) if ranks.leads else nullcontext():
        status, text = to_its_end(folder, script, run, live_log, ranks, first != [False])
    if status == 1 and ranks.world > 1:
        end_at_once(status)
    disconnect()
    if status == 0 and not text:  # another process ended the run
        say(COMPLETE.format(folder))
    elif status == 0 and ranks.leads:
        say(text)
        written = sorted(path.name for path in folder.iterdir() if path.name not in (CHECKPOINTS, LOCK_FILE))
        say(f"Wrote {', '.join(written)} in {folder}/ and {len(list(folder.glob('figures/*')))} figures")
    return status


def prepared(
    prepare: Callable[[argparse.Namespace, Earlier | None], PreparedRun],
    settings: argparse.Namespace,
    earlier: Earlier | None,
    ranks: Ranks,
) -> PreparedRun:
    """What `prepare` gives. Of several ranks the first of each machine comes before the others where data or model may
    come from the hub: it downloads and tokenizes, and they read what it stored.

    Raises: what `prepare` raises, on all ranks if it does on one."""
    apart = ranks.world > 1 and needs_the_hub(settings)
    run, trouble = None, None
    for first in (True, False) if apart else (is_first_here(),):
        if first == is_first_here():
            try:
                run = prepare(settings, earlier)
            except (ValueError, OSError) as error:
                trouble = error
        said = ranks.agree(None if trouble is None else str(trouble) or repr(trouble))
        if said is not None:
            raise trouble or ValueError(said)
    assert run is not None
    return run


def done(folder: Path, run: PreparedRun, stop: StopRequest, live: LiveLog, ranks: Ranks) -> str:
    """Do the work, or the share of it that other processes leave to this one, to the end of the run.

    Returns: what to print; "" where another process ended the run."""
    if not run.in_jobs:
        return run.work(folder, stop, live)
    if is_finished(folder):  # by processes that this one would have joined
        return ""
    last_step = run.work(folder, stop, live)
    said = []

    def finish() -> None:
        with turn(folder, stop) as is_mine:
            if is_mine:
                said.append(last_step())
                mark_finished(folder)

    ranks.leading(finish)
    return "".join(said)


def to_its_end(
    folder: Path,
    script: str,
    run: PreparedRun,
    live_log: Callable[[Path, dict[str, Any]], LiveLog],
    ranks: Ranks = ALONE,
    says_estimate: bool = True,
) -> tuple[int, str]:
    """(exit status, what to print): 0 when the work came to its end, 128 + the signal that stopped it, else 1."""
    python = "python" if ranks.world == 1 else f"torchrun --nproc_per_node={ranks.world}"
    again = f"continue with: {python} {script} --resume {shlex.quote(str(folder))}"
    if name := own_list(run.settings):  # a file that would run is never taken from a folder
        again += f" --algorithm_list {shlex.quote(name)}"
    try:
        with StopRequest(patience=PATIENCE if world_size() > 1 else 0.0) as stop, watching(again):
            with closing(live_log(folder, recorded(run.settings))) as live:
                if run.says_estimate and says_estimate:
                    ranks.leading(lambda: log.info("%s", run.estimate(memory=False).line()))
                text = done(folder, run, stop, live, ranks)
            ranks.leading(lambda: end_of(folder, run))
        return 0, text
    except Exception as error:
        status, line = ending(error, run, folder, again)
        if line is None:
            if ranks.world == 1:
                raise
            line = f"stopped: {type(error).__name__}: {one_line(error)}; --verbose shows where; {again}"
        if not isinstance(error, (Stopped, CannotWrite)):
            log.debug("traceback", exc_info=True)
        if ranks.leads if isinstance(error, Stopped) else may_tell_of_the_end():
            log.error("%s", line)
        return status, ""
    finally:
        background.finish()
        unlock(folder)


def ending(error: Exception, run: PreparedRun, folder: Path, again: str) -> tuple[int, str | None]:
    """(exit status, the line that says why the run ended); no line for an error that nobody foresaw."""
    done = f"what was done before is in {folder}"
    if isinstance(error, Stopped):
        return 128 + error.number, f"{error}; {again}"
    if isinstance(error, CannotWrite):
        return 1, f"stopped: {error}; {done}; when that is mended, {again}"
    if isinstance(error, SomeFailed):
        return 1, f"stopped: {error}; {done}; to try them again, {again}"
    if isinstance(error, RankLost):
        return 1, f"stopped: another process of this run has ended; {done}; {again}"
    if isinstance(error, (CannotRead, DoesNotFit, LeaderFailed, *run.ends_in_one_line)):
        return 1, f"stopped: {error}; {done}"
    if is_out_of_memory(error):
        return 1, f"stopped: out of memory ({one_line(error)}); {less_memory(run.settings)}; {done}; {again}"
    return 1, None


def end_of(folder: Path, run: PreparedRun) -> None:
    """The results are complete: the last process to leave the folder removes what only a stopped run needs. Raises:
    CannotWrite if the last checkpoint could not be written."""
    background.wait()
    if not run.in_jobs:
        mark_finished(folder)
    unlock(folder, partial(clear, folder))


def less_memory(settings: argparse.Namespace) -> str:
    """Which flags would take less, as far as a run has not tried them by itself: it halves micro-batches."""
    flags = []
    if getattr(settings, "dtype", None) == "float64":
        flags.append("--dtype float32")
    on_gpu = getattr(settings, "device", None) is not None and settings.device.type != "cpu"
    if on_gpu and not getattr(settings, "from_points", None) and getattr(settings, "optimizer_device", "") is None:
        flags.append("--optimizer_device cpu")
    if hasattr(settings, "algorithm_list"):
        flags.append("an --algorithm_list of fewer rows")
    if getattr(settings, "max_length", None) is not None:
        flags.append("a smaller --max_length")
    flags.append("a smaller --model")
    return f"less is taken by {' or '.join(flags)}"
