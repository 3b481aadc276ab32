"""Who works in a folder. The lock is on a file, and the system releases it however the process ends.

lock(folder)                         # this process alone works on the run in that folder
share(folder)                        # from now on others may join
lock(folder, shared=True)            # in another process: takes part
unlock(folder)

with claim(place) as mine: ...       # one job of a run that several processes share
"""

import errno
import fcntl
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from runs.files import CannotWrite

LOCK_FILE, CLAIM = "run.lock", "claim"
HOLDER = re.compile(r"process \d+ on .*")
SECONDS = 60.0  # that a process waits to join: the first one removes an earlier run meanwhile, or writes config.json

_held: dict[Path, TextIO] = {}  # the open files, by the path of the lock


class Busy(ValueError):
    """Another process has it; the message is one line."""


def lock(folder: str | Path, *, shared: bool = False, name: str = LOCK_FILE) -> None:
    """Take the folder for this process alone, or with `shared` beside others that share it.

    Raises, in one line: Busy if another process has it for itself, or has it at all if this one wants it for itself;
        ValueError if the lock is a file of somebody else; CannotWrite.
    """
    path = Path(folder) / name
    how, until = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX), time.monotonic() + (SECONDS if shared else 0)
    try:
        while True:
            file = _open_own(path)
            if not _is_granted(file, how):
                holder = file.read() or "another process"
                file.close()
                if time.monotonic() >= until:
                    raise Busy(f"{holder} is at work in {folder}; wait for it, or choose another folder")
                time.sleep(0.02)
            elif path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                break
            else:
                file.close()  # its holder removed it between the two calls: it locks nothing any more
        _held[path] = file
        if not shared:
            file.seek(0)
            file.truncate()
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
    except OSError as error:
        unlock(folder, name=name)
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error


def share(folder: str | Path) -> None:
    """Let others join this process in the folder, which it has for itself."""
    fcntl.flock(_held[Path(folder) / LOCK_FILE], fcntl.LOCK_SH)


@contextmanager
def claim(place: Path) -> Iterator[bool]:
    """Whether this process has `place`, an existing folder, for itself while the context lasts.

    Raises: CannotWrite."""
    try:
        lock(place, name=CLAIM)
    except Busy:
        yield False
        return
    try:
        yield True
    finally:
        unlock(place, name=CLAIM)


def _is_granted(file: TextIO, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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


def unlock(folder: str | Path, last: Callable[[], None] = lambda: None, *, name: str = LOCK_FILE) -> None:
    """Release the folder, if this process has it. `last` is called first if no other process has it."""
    path = Path(folder) / name
    file = _held.pop(path, None)
    if file is None:
        return
    alone = False
    with suppress(OSError):
        alone = _is_granted(file, fcntl.LOCK_EX)
    if alone:
        last()
        with suppress(OSError):  # the disk is read-only by now; closing the file unlocks it all the same
            path.unlink(missing_ok=True)
    with suppress(OSError):  # what could not be written before cannot be written now
        file.close()
