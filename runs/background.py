"""One file at a time is written beside the work of a run.

    begin(write)      # waits for the write before it
    has_failed()      # does not wait
    wait()            # raises what the latest write raised

A process has one such place, whoever writes. So the end of a run can wait for all that was begun.
"""

import logging
import threading
from collections.abc import Callable

from runs.files import one_line

log = logging.getLogger(__name__)


class _Write(threading.Thread):
    """Not a daemon: Python waits for it before it exits."""

    def __init__(self, write: Callable[[], object]):
        super().__init__(name="write")
        self.write, self.error = write, None

    def run(self) -> None:
        try:
            self.write()
        except BaseException as error:  # raised again where the run asks
            self.error = error
        finally:
            del self.write  # with the copy of the state


_latest: _Write | None = None


def begin(write: Callable[[], object]) -> None:
    """Call `write()` in a thread, after the end of the write before. Raises: what that one raised."""
    global _latest
    wait()
    _latest = _Write(write)
    _latest.start()


def has_failed() -> bool:
    """Whether the latest write has ended with an error, which `wait` raises."""
    return _latest is not None and _latest.error is not None


def wait() -> None:
    """Return when nothing is being written. Raises: what the latest write raised, once."""
    global _latest
    ended, _latest = _latest, None
    if ended is not None:
        ended.join()  # signals are answered meanwhile
        if ended.error is not None:
            raise ended.error


def finish() -> None:
    """As `wait`, where another error is on its way: the log says what a write raised."""
    try:
        wait()
    except Exception as error:
        log.error("%s", one_line(error))
