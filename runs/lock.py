"""One process per run folder."""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from runs.files import CannotWrite

LOCK_FILE = "run.lock"


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
