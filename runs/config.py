"""The run folder: one configuration and plain tables, each file written whole or not at all.

    folder = create_run_folder("output/toy")
    write_config(folder, settings={"seed": 0}, algorithms=[])
    table = Table(folder / "training.csv", ["epoch", "iteration", "loss"])
    table.append(epoch=1, iteration=1, loss=5.25)
    table.save()
    read_table(folder / "training.csv")      # [{"epoch": 1, "iteration": 1, "loss": 5.25}]

Needs the standard library only, so that a result can be read back anywhere."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

CONFIG_FILE = "config.json"
CONFIG_KEYS = {"settings": dict, "algorithms": list, "versions": dict, "command": str, "started": str}
# What --overwrite removes. config.json goes last: it marks the folder as ours should removal be interrupted.
RUN_FILES = ("*.csv", "figures", "checkpoints", "points", "model", ".*.tmp", CONFIG_FILE)
LEFTOVERS = ("run.lock", ".*.tmp")  # of a process that was killed
RECORDED_PACKAGES = ("torch", "transformers", "datasets", "numpy")
SECRET_SETTINGS = ("hf_key",)
NUMBER = re.compile(r"[+-]?\d+(?P<fraction>\.\d+)?(?P<exponent>[eE][+-]?\d+)?")


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
                raise ValueError(f"output folder {folder} is not empty; replace that run with --overwrite, "
                                 "or choose another folder with --output_dir")
            if not is_run_folder(folder):
                raise ValueError(f"output folder {folder} holds no run of ours ({CONFIG_FILE} is "
                                 "missing or foreign), so --overwrite leaves it alone; "
                                 "choose another with --output_dir")
            _remove_run(folder)
    except OSError as error:
        raise ValueError(f"cannot create output folder {folder}: {error.strerror or error}; "
                         "choose another with --output_dir") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"no permission to write into output folder {folder}; "
                         "choose another with --output_dir")
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


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# ---- tables ------------------------------------------------------------------------------------------------

class Table:
    """A CSV table kept in memory and rewritten whole by `save`, so that the file on disk always parses.

    Floats are stored with the fewest digits that read back to the same number. None, NaN and inf become an
    empty cell, which `read_table` returns as None.

    Args:
        path: the .csv file.
        columns: the header, in order. Every row has exactly these.
    """

    def __init__(self, path: str | Path, columns: Sequence[str]):
        self.path = Path(path)
        self.columns = list(columns)
        self.rows: list[dict[str, int | float | str | None]] = []

    def append(self, row: Mapping[str, Any] | None = None, /, **cells: Any) -> None:
        """Add one row, given as a mapping, as keywords, or both. Numbers: Python's, numpy's or 0-d tensors.

        Raises: ValueError naming the first column that is unknown, missing, or neither number nor text.
        """
        cells = {**(row or {}), **cells}
        for column in cells:
            if column not in self.columns:
                raise ValueError(f"{self.path.name} has no column {column!r}; "
                                 f"it has {', '.join(self.columns)}")
        for column in self.columns:
            if column not in cells:
                raise ValueError(f"a row of {self.path.name} lacks its column {column!r}")
        self.rows.append({column: self._plain(column, cells[column]) for column in self.columns})

    def _plain(self, column: str, value: Any) -> int | float | str | None:
        if hasattr(value, "item"):  # numpy scalars and 0-d tensors
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if value is None or isinstance(value, (int, float, str)):
            return value
        raise ValueError(f"column {column!r} of {self.path.name} takes a number or a text, got {value!r}")

    def save(self) -> Path:
        """Write header and rows; the same rows give the same bytes."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(row[column]) for column in self.columns] for row in self.rows)
        return write_whole(self.path, text.getvalue())


def _cell(value: int | float | str | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return repr(value) if isinstance(value, float) else str(int(value))


def read_table(path: str | Path) -> list[dict[str, int | float | str | None]]:
    """The rows of a table, numbers parsed (whole ones as int), empty cells as None.

    Raises: ValueError, in one line, if the file cannot be read or a row does not fit the header.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read table {path}: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise ValueError(f"table {path} is empty; its first line should name the columns")
    header, *body = lines
    for number, cells in enumerate(body, start=2):
        if len(cells) != len(header):
            raise ValueError(f"table {path}, line {number}: expected {len(header)} cells, got {len(cells)}")
    return [{column: _parse(cell) for column, cell in zip(header, cells, strict=True)} for cells in body]


def _parse(cell: str) -> int | float | str | None:
    number = NUMBER.fullmatch(cell)
    if number is None:
        return cell or None
    return float(cell) if number["fraction"] or number["exponent"] else int(cell)


def format_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A table for the terminal: four significant digits, numbers to the right, "-" for an empty cell."""
    rows = list(rows)
    table = []  # column by column
    for column in columns:
        texts = [str(column), *(_short(row.get(column)) for row in rows)]
        width = max(map(len, texts))
        texts.insert(1, "-" * width)
        numeric = any(isinstance(row.get(column), (int, float)) for row in rows)
        table.append([text.rjust(width) if numeric else text.ljust(width) for text in texts])
    return "\n".join("  ".join(line).rstrip() for line in zip(*table, strict=True))


def _short(value: Any) -> str:
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- configuration -----------------------------------------------------------------------------------------

def write_config(
    folder: str | Path, settings: Mapping[str, Any], algorithms: Sequence[Any], data: Mapping[str, str] | None = None
) -> Path:
    """Record in config.json what repeats a run: settings, rows, versions, commit, command, seed, start.

    Args:
        folder: the run folder.
        settings: every setting by name, as after parsing. A secret (`SECRET_SETTINGS`) is never stored.
        algorithms: rows with `label`, `name` and `options`, as attributes (`Algorithm`) or as a mapping.
        data: local file or folder that the run reads -> SHA-256 of its content.
    """
    return _write_json(folder, _configuration(settings, algorithms, data))


def record_resumption(
    folder: str | Path, settings: Mapping[str, Any], algorithms: Sequence[Any], data: Mapping[str, str],
    changes: Sequence[str],
) -> Path:
    """Bring config.json up to date as a run is continued; what it was started with, and each change, stay in it."""
    before, now = read_config(folder), _configuration(settings, algorithms, data)
    continued = {"at": now["started"], "command": now["command"], "git": now["git"], "changes": list(changes)}
    kept = {key: before[key] for key in ("command", "started", "git") if key in before}
    labels = [row["label"] for row in now["algorithms"]]
    gone = [row for row in [*before["algorithms"], *before.get("gone", [])] if row["label"] not in labels]
    if gone:
        kept["gone"] = gone  # their rows in the tables stay
    return _write_json(folder, {**now, **kept, "resumed": [*before.get("resumed", []), continued]})


def mark_finished(folder: str | Path) -> Path:
    """Note in config.json that the run has come to its end."""
    return _write_json(folder, {**read_config(folder), "finished": _now()})


def _configuration(settings: Mapping[str, Any], algorithms: Sequence[Any], data: Mapping[str, str] | None) -> dict:
    secrets = [str(settings[name]) for name in SECRET_SETTINGS if settings.get(name)]
    shown = {name: "(given)" for name in SECRET_SETTINGS if settings.get(name)}
    return {
        "command": _without("python " + shlex.join(sys.argv), secrets),
        "started": _now(),
        "seed": settings.get("seed"),
        "git": git_state(Path(__file__).resolve().parent),
        "versions": versions(),
        "settings": {**settings, **shown},
        "algorithms": [_algorithm_row(algorithm) for algorithm in algorithms],
        "data": dict(data or {}),
    }


def _write_json(folder: str | Path, config: Mapping[str, Any]) -> Path:
    return write_whole(Path(folder) / CONFIG_FILE, json.dumps(plain(config), indent=2, allow_nan=False) + "\n")


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a run folder.

    Raises: ValueError, in one line, if config.json is missing or was not written by `write_config`.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not a run folder: it has no {CONFIG_FILE}") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    missing = [key for key in CONFIG_KEYS if not isinstance(config, dict) or key not in config]
    if missing:
        raise ValueError(f"{path} was not written by a run: it has no {missing[0]!r}")
    for key, kind in CONFIG_KEYS.items():
        if not isinstance(config[key], kind):
            raise ValueError(f"{path} was not written by a run: its {key!r} is {config[key]!r:.40}")
    for row in config["algorithms"]:
        if not isinstance(row, dict) or not {"label", "name", "options"} <= row.keys():
            raise ValueError(f"{path} was not written by a run: one of its 'algorithms' is {row!r:.40}")
    return config


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a number; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def git_state(folder: Path) -> dict[str, Any]:
    """{"commit": hash, "dirty": whether tracked files differ from it}; both None unless a checkout's root."""
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
        except FileNotFoundError:  # git is not installed
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    root, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "--verify", "HEAD")
    if root is None or commit is None or Path(root).resolve() != folder.resolve():
        return {"commit": None, "dirty": None}  # sources unpacked inside another checkout are not that checkout
    return {"commit": commit, "dirty": git("status", "--porcelain", "--untracked-files=no") != ""}


def _algorithm_row(algorithm: Any) -> dict[str, Any]:
    if isinstance(algorithm, Mapping):
        return dict(algorithm)
    row = {"label": algorithm.label, "name": algorithm.name, "options": algorithm.options}
    return row | {"step_size": getattr(algorithm, "step_size", None)}


def plain(value: Any) -> Any:
    """JSON's own types throughout; numbers that are not finite, and other objects, as their text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text
