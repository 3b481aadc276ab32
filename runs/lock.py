"""One process per run folder. The lock is on a file, and the system releases it however the process ends."""

import errno
import fcntl
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from runs.files import CannotWrite

LOCK_FILE = "run.lock"
HOLDER = re.compile(r"process \d+ on .*")

_held: dict[Path, TextIO] = {}  # the open files, by the path of the lock


def lock(folder: str | Path) -> None:
    """Take the folder for this process.

    Raises, in one line: ValueError if another process has it, or if its run.lock is a file of somebody else;
        CannotWrite.
    """
    path = Path(folder) / LOCK_FILE
    try:
        file = _open_own(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read() or "another process"
            file.close()
            raise ValueError(f"{holder} is at work in {folder}; wait for it, or choose another folder") from None
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            file.close()  # its holder removed it between the two calls: it locks nothing any more
            return lock(folder)
        _held[path] = file
        file.seek(0)
        file.truncate()
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    except OSError as error:
        unlock(folder)
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def _open_own(path: Path) -> TextIO:
    """Open the lock file, or make it. What a run did not write is refused: the lock's text would replace it."""
    foreign = ValueError(f"{path} is not the lock of a run; move it away, or choose another folder")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # a link, a folder, a socket
            raise foreign from error
        raise
    file = os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") if _is_plain(descriptor) else None
    if file is None:
        os.close(descriptor)
        raise foreign
    text = file.read(1000)
    file.seek(0)
    if text and not HOLDER.fullmatch(text):
        file.close()
        raise foreign
    return file


def _is_plain(descriptor: int) -> bool:
    """Whether this is an ordinary file under one name only; the other name of a file may be somebody's."""
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_nlink <= 1


def unlock(folder: str | Path) -> None:
    """Release the folder, if this process has it."""
    path = Path(folder) / LOCK_FILE
    file = _held.pop(path, None)
    if file is not None:
        with suppress(OSError):  # the disk is read-only by now; closing the file unlocks it all the same
            path.unlink(missing_ok=True)
        with suppress(OSError):  # what could not be written before cannot be written now
            file.close()
