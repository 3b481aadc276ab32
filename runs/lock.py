"""One process a run folder, and signals that wait until the run can be stored."""

import fcntl
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from results import CannotWrite

LOCK_FILE = "run.lock"


class Stopped(Exception):
    """A signal asked the run to end, and it is stored."""

    def __init__(self, number: int, place: str):
        super().__init__(f"stopped by {signal.Signals(number).name} after {place}")
        self.number = number


class StopRequest:
    """While active, SIGTERM (a scheduler's) and SIGINT (Ctrl-C) only set `signal`; the run looks at it between two
    iterations. A second one ends the process at once, with 128 + its number.

        with StopRequest() as stop:
            ...
            if stop.signal: ...
    """

    NOTE = b"\nstopping as soon as this iteration is measured and stored; once more to stop at once\n"

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        os.write(2, self.NOTE)  # print and logging may be in the middle of a line


# ---- the lock -----------------------------------------------------------------------------------------------------

_held: dict[Path, TextIO] = {}  # the open files, whose locks the system lets go of when this process ends, however


def lock(folder: str | Path) -> None:
    """Take the folder for this process. Raises: ValueError, in one line, if another has it; CannotWrite."""
    path = Path(folder) / LOCK_FILE
    try:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise ValueError(f"{holder} is at work in {folder}; wait for it, or choose another folder") from None
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            file.close()  # its holder removed it as we opened it
            return lock(folder)
        _held[path] = file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        unlock(folder)
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def unlock(folder: str | Path) -> None:
    """Let go of the folder, if this process has it."""
    path = Path(folder) / LOCK_FILE
    file = _held.pop(path, None)
    if file is not None:
        with suppress(OSError):  # a disk that has become read-only; unlocked it is all the same
            path.unlink(missing_ok=True)
        with suppress(OSError):  # what could not be written before cannot be now
            file.close()
