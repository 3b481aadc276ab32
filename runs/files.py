"""Files written whole or not at all. Standard library only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


class CannotWrite(ValueError):
    """The system refused to write a result (disk full, no permission, ...); the message is one line."""


def one_line(error: Exception) -> str:
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
    try:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise CannotWrite(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary.is_file():  # only after an error or an interrupt
            temporary.unlink()
    return path


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
