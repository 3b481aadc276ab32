"""What a script says while it works: log lines, progress bars, one-line answers to wrong input.

None of it can end a run. A line that cannot be written is dropped: the disk may be full, or the reader gone.
"""

import atexit
import logging
import os
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from runs.files import one_line
from runs.flags import Parser
from runs.processes import leads, rank
from runs.resuming import settings_of_run

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def answering_input_errors(parser: Parser) -> Iterator[None]:
    """Wraps everything before the work starts: wrong input is answered in one line, exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        log.debug("traceback", exc_info=True)
        parser.error(str(error) or repr(error))
    except (MemoryError, RuntimeError) as error:
        from curvature.memory import is_out_of_memory  # imports torch, and flags are answered before that

        if not is_out_of_memory(error):
            raise
        log.debug("traceback", exc_info=True)
        parser.error(f"out of memory while data and model are prepared: {one_line(error)}")


def answer_wrong_flags(parser: Parser, check_paths: Callable[[Namespace], None]) -> None:
    """Answer what the command line alone shows to be wrong.

    For a script, before its slow imports: the answer comes at once. `check_paths` raises an error for a path that is
    not there. It does not see a resumed run, which may be finished and need none.
    """
    start_logging("--verbose" in sys.argv)
    parser.speaks = leads()  # all processes of one command have the same flags
    with answering_input_errors(parser):
        settings, earlier = settings_of_run(parser, sys.argv[1:])
        if earlier is None:
            check_paths(settings)


def start_logging(verbose: bool) -> None:
    """Send messages to standard error, above the progress bars. Ours count from INFO on, or DEBUG if `verbose`; those
    of libraries from WARNING on."""
    open_closed_streams()
    handler = _BarHandler()
    handler.addFilter(_is_worth_showing)
    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level, format="%(message)s", handlers=[handler], force=True)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}"  # one line, no code
    atexit.unregister(_drop_what_cannot_be_written)
    atexit.register(_drop_what_cannot_be_written)


def _is_worth_showing(record: logging.LogRecord) -> bool:
    path = Path(record.pathname)
    return record.levelno >= logging.WARNING or path.is_relative_to(ROOT) and "site-packages" not in path.parts


class _BarHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if hasattr(record, "beside_a_bar") and sys.stderr.isatty():
            return
        tqdm.write(self.format(record), file=Unbreakable(sys.stderr))


class _FileHandler(logging.FileHandler):
    """Lines for log.txt; what cannot be written there is dropped."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's own name
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """While active, every message also goes to this file, with its time; an existing file is appended to."""
    try:
        handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError:  # the work itself will say what is wrong with the disk
        yield
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(_is_worth_showing)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


# ---- streams --------------------------------------------------------------------------------------------------------


class Unbreakable:
    """A text stream whose writing never fails: a reader that is gone, a full disk, a closed terminal lose the text."""

    def __init__(self, stream: TextIO | None):
        self.stream = stream

    def write(self, text: str) -> int:
        if self.stream is None:  # Python has none where the terminal was closed before it started
            return len(text)
        with suppress(OSError, ValueError):  # ValueError: it is closed
            try:
                self.stream.write(text)
            except UnicodeEncodeError:  # a terminal that lacks a letter
                self.stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            if self.stream is not None:
                self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_speaks = True


def hush_unless(parser: Parser, speaks: bool) -> None:
    """Of several processes that do the same, let one speak: the others say what they alone know, their errors."""
    global _speaks
    _speaks = parser.speaks = speaks
    if not speaks:
        root = logging.getLogger()
        for handler in root.handlers:
            handler.setLevel(logging.ERROR if root.level > logging.DEBUG else logging.DEBUG)
            handler.setFormatter(logging.Formatter(f"rank {rank()}: %(message)s"))


def say(*texts: Any) -> None:
    """`print` to standard output at once; lost if nobody reads there any more."""
    if not _speaks:
        return
    print(*texts, file=Unbreakable(sys.stdout), flush=True)


def open_closed_streams() -> None:
    """Connect a standard stream that was closed (`2>&-`) to nothing. The next file that is opened would get its number,
    and messages of libraries would be written into that file."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def _drop_what_cannot_be_written() -> None:
    """At the end of the process: text left in a stream that refuses it would change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with suppress(OSError, ValueError, AttributeError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# ---- progress -------------------------------------------------------------------------------------------------------


def progress(iterable=None, **options) -> tqdm:
    """A progress bar that is silent when standard error is not a terminal, or has the bar of another process.

    A bar that is not left on the screen shows a part of the work, without a time. The bar above it has the time left of
    the whole run."""
    if not options.get("leave", True):
        options["bar_format"] = "{l_bar}{bar}| {n_fmt}/{total_fmt}"
    options.setdefault("smoothing", 0)  # measured points take long: the latest pace says little of what is left
    options.setdefault("disable", None if _speaks and leads() else True)
    return tqdm(iterable, dynamic_ncols=True, file=Unbreakable(sys.stderr), **options)


class TimeLeft:
    """Counts a piece of work and tells how long it still takes, in lines for a run without a terminal.

        left = TimeLeft(total=200, done=40)                # 40 were done by an earlier process: no measure of the speed
        left.update(10)
        left.note("epoch 2 of 20: loss 5.25")              # epoch 2 of 20: loss 5.25 (25 %, 2 min left)

    On a terminal the lines go to log.txt only, since the bar says the same.
    """

    def __init__(self, total: int, done: int = 0, bar: tqdm | None = None, clock: Callable[[], float] = time.monotonic):
        self.total, self.done, self.before, self.bar, self.clock = total, done, done, bar, clock
        self.began = clock()

    def update(self, count: int = 1) -> None:
        """This much more is done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)

    def skip(self, count: int) -> None:
        """An earlier process did this much."""
        self.before += count
        self.done += count
        if self.bar is not None and not self.bar.disable:
            self.bar.initial += count  # no measure of the speed for it, either
            self.bar.n += count
            self.bar.last_print_n += count
            self.bar.refresh()

    def expect(self, count: int) -> None:
        """So much more is to be done than was known."""
        self.total += count
        if self.bar is not None:
            self.bar.total = self.total

    def note(self, text: str) -> None:
        """Say what is done, with the time left."""
        log.info("%s (%s)", text, self, extra={"beside_a_bar": True})

    def __str__(self) -> str:
        share = f"{self.done / self.total:.0%}".replace("%", " %") if self.total else "100 %"
        if self.done >= self.total or self.done <= self.before:
            return share
        seconds = (self.clock() - self.began) / (self.done - self.before) * (self.total - self.done)
        return f"{share}, {duration(seconds)} left"


def duration(seconds: float) -> str:
    """A time for people: "40 s", "3 min", "2 h 05 min"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
