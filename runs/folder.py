"""The run folder: made for one run, never written over by another one silently."""

from __future__ import annotations

import os
from pathlib import Path

from runs.config import CONFIG_FILE, read_config
from runs.files import remove

# What --overwrite removes. config.json goes last: it marks the folder as ours should removal be interrupted.
RUN_FILES = ("*.csv", "figures", "checkpoints", "points", "model", ".*.tmp", CONFIG_FILE)
LEFTOVERS = ("run.lock", ".*.tmp")  # of a process that was killed


def create_run_folder(path: str | Path, overwrite: bool = False) -> Path:
    """An empty folder for one run, parents included. Results are never overwritten silently.

    With `overwrite`, what an earlier run wrote there is removed (`RUN_FILES`); anything else stays. A folder
    without a config.json of ours is somebody else's and is refused all the same.

    Raises: ValueError, in one line, if the folder cannot be had.
    """
    folder = Path(path)
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output folder {folder} is a file; choose another folder with --output_dir")
        folder.mkdir(parents=True, exist_ok=True)
        if any(not any(map(path.match, LEFTOVERS)) for path in folder.iterdir()):
            if not overwrite:
                raise ValueError(
                    f"output folder {folder} is not empty; replace that run with --overwrite, "
                    "or choose another folder with --output_dir"
                )
            if not is_run_folder(folder):
                raise ValueError(
                    f"output folder {folder} holds no run of ours ({CONFIG_FILE} is "
                    "missing or foreign), so --overwrite leaves it alone; "
                    "choose another with --output_dir"
                )
            _remove_run(folder)
    except OSError as error:
        raise ValueError(
            f"cannot create output folder {folder}: {error.strerror or error}; choose another with --output_dir"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"no permission to write into output folder {folder}; choose another with --output_dir")
    return folder


def is_run_folder(folder: str | Path) -> bool:
    """Whether the folder holds a config.json as `write_config` writes it."""
    try:
        read_config(folder)
    except ValueError:
        return False
    return True


def _remove_run(folder: Path) -> None:
    for pattern in RUN_FILES:
        for path in folder.glob(pattern):
            remove(path)
