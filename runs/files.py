"""Files written whole or not at all. Standard library only."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")  # what `write_whole` calls a file that is not yet complete


class CannotWrite(ValueError):
    """The system refused to write a result (disk full, no permission, ...); the message is one line."""


def one_line(error: BaseException) -> str:
    """What a library's error says, in one line of readable length; its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__


# ---- files and folders -------------------------------------------------------------------------------------


def write_whole(path: str | Path, content: str | bytes | Callable[[BinaryIO], Any]) -> Path:
    """Write a file so that a reader, or a crash, sees the old content or the new one and never a part.

    Args:
        path: the file. Its folder is made if only that is missing.
        content: text (stored as UTF-8), bytes, or a function that writes into the binary file given to
            it, for what would be large in memory: `write_whole(path, lambda file: torch.save(state, file))`.
    Returns: the path.
    Raises: CannotWrite, in one line, when the system refuses (no permission, disk full, ...).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder: a rename stays on one disk
    writer = None
    try:
        path.parent.mkdir(exist_ok=True)
        with create_new(temporary) as file:
            writer = _Writer(file)
            if callable(content):
                content(cast(BinaryIO, writer))
            else:
                writer.write(content.encode() if isinstance(content, str) else content)
            writer.flush()
            if writer.refusal is not None:
                raise writer.refusal
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception as error:
        refusal = error if isinstance(error, OSError) else writer and writer.refusal
        if refusal is None:
            raise
        raise CannotWrite(f"cannot write {path}: {refusal.strerror or refusal}") from error
    finally:
        if writer is not None:  # the file is ours; it is still there only after an error or an interrupt
            temporary.unlink(missing_ok=True)
    return path


def create_new(path: Path) -> BinaryIO:
    """Open a file that did not exist, for writing. Whatever has its name is removed first, and a link is not followed.

    Such a name was left by a killed process, or somebody placed a link there to have another file overwritten.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.fdopen(os.open(path, flags, 0o666), "wb")
    except FileExistsError:
        path.unlink()
        return os.fdopen(os.open(path, flags, 0o666), "wb")


class _Writer:
    """A file to write to that remembers the system's refusal: a library may answer it with an error of its own."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.refusal: OSError | None = None

    def write(self, data) -> int:
        return self._attempt(self.file.write, data)

    def flush(self) -> None:
        self._attempt(self.file.flush)

    def _attempt(self, action: Callable, *arguments) -> Any:
        try:
            return action(*arguments)
        except OSError as error:
            self.refusal = self.refusal or error
            raise

    def __getattr__(self, name: str) -> Any:  # seek, tell, ...: of the file itself
        return getattr(self.file, name)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_if_empty(folder: Path) -> None:
    """Delete a folder that holds nothing; a link to a folder stays."""
    try:
        if not folder.is_symlink():
            folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.ENOTDIR):
            raise
