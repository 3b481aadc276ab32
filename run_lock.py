"""One process a run folder, and signals that wait until the run can be stored."""

import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path

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


def refuse_if_held(folder: str | Path) -> None:
    """Raises ValueError, in one line, if another process is at work in the folder.

    The lock of a process of this machine that has ended does not count. Of another machine that cannot be known.
    """
    path = Path(folder) / LOCK_FILE
    try:
        holder = json.loads(path.read_bytes())
        pid, host = int(holder["pid"]), str(holder["host"])
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it if no process is at work there") from error
    if host != socket.gethostname():
        raise ValueError(f"process {pid} on {host} is at work in {folder}; if it is gone, delete {path}")
    if _is_running(pid):
        raise ValueError(f"process {pid} on {host} is at work in {folder}; wait for it, or choose another folder")


def lock(folder: str | Path) -> None:
    """Take the folder for this process. Raises ValueError as `refuse_if_held`, CannotWrite if the system refuses."""
    refuse_if_held(folder)
    path = Path(folder) / LOCK_FILE
    try:
        path.unlink(missing_ok=True)  # of a process that has ended
        with path.open("x") as file:  # fails if another process was quicker
            json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
    except FileExistsError:
        refuse_if_held(folder)
    except OSError as error:
        with suppress(OSError):  # a part of it, should the disk be full; a disk that is read-only has none
            path.unlink()
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def unlock(folder: str | Path) -> None:
    (Path(folder) / LOCK_FILE).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():  # a container that starts anew gives the same numbers again
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
