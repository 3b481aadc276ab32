"""The run folder: made for one run, never written over silently. What a run did not write is never removed."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from runs.config import CONFIG_FILE, read_config
from runs.files import TEMPORARY, remove, remove_if_empty
from runs.lock import CLAIM, LOCK_FILE

log = logging.getLogger(__name__)

TABLES = (
    "training.csv",
    "sharpness.csv",
    "ratios.csv",
    "seed_means.csv",
    "scan.csv",
    "histogram.csv",
    "decomposition.csv",
    "classes.csv",
    "clip_sweep.csv",
    "curvature_by_size.csv",
    "eigenvalues.csv",
    "losses.csv",
    "summary.csv",
    "scores.csv",
    "best_epochs.csv",
    "tuned_learning_rates.csv",
    "blocks.csv",
    "heterogeneity.csv",
    "robust_smoothness.csv",
)
LOG_FILE, REPORT_FILE, CHECKPOINTS = "log.txt", "report.html", "checkpoints"
RESULT, FAILURE = "result.json", "failed.txt"  # how a job ended that several processes could take

# The files that a run writes, by the folders they stand in, deeper ones first; a model is kept as one folder.
OWN_FILES = {
    "": (*TABLES, LOG_FILE, REPORT_FILE),
    "figures": ("*.png", "*.pdf"),
    f"{CHECKPOINTS}/*": ("checkpoint-*.pt", "checkpoint-*.json", CLAIM, RESULT, FAILURE),  # a folder per job
    CHECKPOINTS: ("checkpoint-*.pt", "checkpoint-*.json", CLAIM),
    "points": ("point-*.pt", "point-*.json"),
    "tensorboard": ("events.out.tfevents.*",),
}
MODEL = "model"
UNFINISHED_MODEL = ".model.tmp"  # a model while it is written
LINKABLE = (CHECKPOINTS, "points", MODEL)  # what may be a link to a larger disk


def create_run_folder(path: str | Path, overwrite: bool = False) -> Path:
    """An empty folder for one run, parents included. Results are never overwritten silently.

    With `overwrite`, what an earlier run wrote there is removed; anything else stays. A folder without a config.json
    of ours is somebody else's and is refused all the same.

    Raises: ValueError, in one line, if the folder cannot be had.
    """
    folder = Path(path)
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output folder {folder} is a file; choose another folder with --output_dir")
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_free(folder):
            if not overwrite:
                raise ValueError(
                    f"output folder {folder} is not empty; replace that run with --overwrite, "
                    "or choose another folder with --output_dir"
                )
            if not is_run_folder(folder):
                raise ValueError(
                    f"output folder {folder} is not a run folder ({CONFIG_FILE} is "
                    "missing or was not written by a run), so --overwrite does not replace it; "
                    "choose another with --output_dir"
                )
            remove_run(folder)
    except OSError as error:
        raise ValueError(
            f"cannot create output folder {folder}: {error.strerror or error}; choose another with --output_dir"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"no permission to write into output folder {folder}; choose another with --output_dir")
    return folder


def _is_free(folder: Path) -> bool:
    """Whether a run may begin here: nothing but what a killed process left, and links to empty folders."""
    left = {folder / LOCK_FILE, *leftovers(folder)}
    return all(path in left or _is_link_to_nothing(path) for path in folder.iterdir())


def _is_link_to_nothing(path: Path) -> bool:
    return path.name in LINKABLE and path.is_symlink() and path.is_dir() and not any(path.iterdir())


def is_run_folder(folder: str | Path) -> bool:
    """Whether the folder holds a config.json as `write_config` writes it."""
    try:
        read_config(folder)
    except ValueError:
        return False
    return True


def remove_run(folder: Path) -> None:
    """Remove what a run wrote into its folder. A link goes, and what it points to stays.

    config.json goes last: until then the folder can be recognized as a run's, should this be interrupted.
    """
    remove_leftovers(folder)
    for link in (folder / name for name in OWN_FILES if name):
        if link.is_symlink():
            remove(link)
    for name in OWN_FILES:
        _remove_own(folder, name)
    if os.path.lexists(folder / MODEL):
        remove(folder / MODEL)
    (folder / CONFIG_FILE).unlink()


def remove_checkpoints(folder: Path) -> None:
    """Remove what `--resume` needs, which a finished run does not. A link to another disk stays.

    The log names what the system refuses to delete; it harms no result.
    """
    try:
        for name in (f"{CHECKPOINTS}/*", CHECKPOINTS):
            _remove_own(folder, name)
    except OSError as error:
        log.warning("cannot remove %s: %s", folder / CHECKPOINTS, error.strerror or error)


def _places(folder: Path, name: str) -> list[Path]:
    """The folders that a key of `OWN_FILES` names; of those of jobs, none that is a link."""
    if "*" not in name:
        return [folder / name]
    return [path for path in folder.glob(name) if path.is_dir() and not path.is_symlink()]


def _remove_own(folder: Path, name: str) -> None:
    """Remove the run's own files from the folders of that name, and the folders where nothing else is in them."""
    for place in _places(folder, name):
        for pattern in OWN_FILES[name]:
            for path in place.glob(pattern):
                remove(path)
        if name:
            remove_if_empty(place)


def leftovers(folder: Path) -> Iterator[Path]:
    """The unfinished files of a process that was killed: those that would have become a file of the run."""
    for name, patterns in OWN_FILES.items():
        names = (*patterns, CONFIG_FILE) if name == "" else patterns
        for path in (path for place in _places(folder, name) for path in place.glob(".*.tmp")):
            match = TEMPORARY.fullmatch(path.name)
            if match and any(Path(match["name"]).match(pattern) for pattern in names):
                yield path
    for below, folders, _ in os.walk(folder / MODEL):
        yield from (Path(below) / each for each in folders if each == UNFINISHED_MODEL)


def remove_leftovers(folder: Path) -> None:
    for path in list(leftovers(folder)):
        remove(path)
