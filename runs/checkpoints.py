"""Checkpoints of a run: tensors beside a checksum, the two newest kept.

    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(120, {"model": model.state_dict(), "records": "text"})
    number, state = checkpoints.load()                   # of the newest intact one; None if there is none

`save` returns when the state is copied, and the copy is written in the background. `runs.background.wait` ends when the
files are whole, and raises the error of a write that failed.

Each is a file for `torch.load(weights_only=True)`, which runs no code, and a JSON file with its SHA-256. The latter is
written last: a checkpoint without one was never finished.
"""

import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from runs import background
from runs.estimate import in_bytes
from runs.files import CannotWrite, one_line, write_whole
from runs.snapshot import has_room, size_of, snapshot

log = logging.getLogger(__name__)

KEPT = 2  # the newest, and the one before it should the newest be damaged


class Checkpoints:
    """The checkpoints in one folder, which is made when the first is saved."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.waits = False  # whether a checkpoint was once written without a copy

    def save(self, number: int, state: dict[str, Any]) -> None:
        """Store `state` (tensors, numbers, text, and dicts and lists of them) under a number higher than all before.

        What is written is the state of now: it may change when this returns. Where the host has no room for a copy,
        the run waits until the state itself is written.

        Raises: CannotWrite, in one line, if the checkpoint before it could not be written, or this one without a copy;
            the earlier checkpoints are still there then.
        """
        background.wait()
        if has_room(state):
            copied = snapshot(state)
            background.begin(lambda: self._write(number, copied))
        else:
            if not self.waits:
                self.waits = True
                size = in_bytes(size_of(state))
                log.info("not enough memory to copy %s: the run waits while a checkpoint is written", size)
            self._write(number, state)

    def _write(self, number: int, state: dict[str, Any]) -> None:
        path = self.folder / f"checkpoint-{number:08d}.pt"
        save_tensors(path, state)
        paths = self._paths()
        newest = paths.index(path)  # higher numbers are damaged, otherwise `load` would have used them
        for old in paths[:newest] + paths[newest + KEPT :]:
            old.with_suffix(".json").unlink()
            old.unlink(missing_ok=True)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """(number, state) of the newest intact checkpoint, on the CPU. A damaged one is named in the log.

        Raises: CannotWrite if the latest one could not be written; CannotRead.
        """
        background.wait()
        for path in self._paths():
            try:
                return int(path.stem.removeprefix("checkpoint-")), load_tensors(path)
            except ValueError as error:
                log.warning("%s; falling back to the one before it, or to the start", error)
        return None

    def remove(self) -> None:
        """Remove every checkpoint. Raises: OSError; CannotWrite if the latest one could not be written."""
        background.wait()
        for path in [*self.folder.glob("checkpoint-*.json"), *self.folder.glob("checkpoint-*.pt")]:
            path.unlink()

    def _paths(self) -> list[Path]:
        """Newest first; those whose checksum was written."""
        sums = sorted(self.folder.glob("checkpoint-*.json"), reverse=True)
        return [path.with_suffix(".pt") for path in sums]


class CannotRead(OSError):
    """The system refused to read a stored state, which may be whole; the message is one line."""


class DoesNotFit(ValueError):
    """A checkpoint does not fit the run: it has another model or other optimizers."""


@contextmanager
def fitting(what: str) -> Iterator[None]:
    """Wraps the use of a stored state. Raises: DoesNotFit, in one line, if the state is damaged or of something else. A
    state of another script can have any shape, so any step of its use may fail.
    """
    try:
        yield
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, CannotWrite):
            raise
        raise DoesNotFit(f"{what} does not fit this run: {one_line(error)}") from error


def restore(checkpoints: Checkpoints, stored: Any) -> int:
    """Load the newest intact checkpoint into `stored`; returns its iteration, 0 where there is none."""
    newest = checkpoints.load()
    if newest is None:
        return 0
    iteration, state = newest
    with fitting(f"the checkpoint of iteration {iteration}"):
        stored.load_state_dict(state)
    log.info("continuing after iteration %d", iteration)
    return iteration


def save_tensors(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` and its checksum to the .json file beside it."""
    digest = hashlib.sha256()
    write_whole(path, lambda file: torch.save(state, cast(BinaryIO, _Hashing(file, digest))))
    write_whole(path.with_suffix(".json"), json.dumps({"file": path.name, "sha256": digest.hexdigest()}) + "\n")


def load_tensors(path: Path) -> dict[str, Any]:
    """What `save_tensors` wrote, on the CPU.

    Raises, in one line: ValueError if the file or its checksum is missing or not as written; CannotRead.
    """
    try:
        expected = json.loads(path.with_suffix(".json").read_bytes())
        if not isinstance(expected, dict) or content_hash(path) != expected.get("sha256"):
            raise ValueError("its checksum does not match")
        return torch.load(path, map_location="cpu", weights_only=True)
    except (PermissionError, MemoryError) as error:
        raise CannotRead(f"cannot read {path}: {one_line(error)}") from error
    except Exception as error:  # whatever torch.load says of a file that it did not write
        if isinstance(error, OSError) and error.errno == errno.EIO:
            raise CannotRead(f"cannot read {path}: {error.strerror}") from error
        raise ValueError(f"{path} cannot be used: {getattr(error, 'strerror', None) or one_line(error)}") from error


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; of a folder, over the names and bytes of all files in it."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.relative_to(path)}\0".encode() if path.is_dir() else b"")
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


class _Hashing:
    """A file to write to, whose bytes go into `digest` on their way."""

    def __init__(self, file: BinaryIO, digest):
        self.file, self.digest = file, digest

    def write(self, data) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()
