"""config.json: what repeats a run. Standard library only, so that it can be read anywhere."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import math
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runs.files import write_whole

CONFIG_FILE = "config.json"
CONFIG_KEYS = {"settings": dict, "algorithms": list, "versions": dict, "command": str, "started": str}
MORE_KEYS = {"data": dict, "machine": dict, "resumed": list, "gone": list, "finished": str}  # where they are present
ROW_KEYS = {"label": str, "name": str, "options": dict}

RECORDED_PACKAGES = ("torch", "transformers", "datasets", "numpy")
SECRET_SETTINGS = ("hf_key",)
HIDDEN = "***"


# ---- configuration -----------------------------------------------------------------------------------------


def write_config(
    folder: str | Path,
    settings: Mapping[str, Any],
    algorithms: Sequence[Mapping[str, Any]],
    data: Mapping[str, str] | None = None,
    machine: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Record in config.json what repeats a run: settings, rows, versions, commit, command, seed, start.

    Args:
        folder: the run folder.
        settings: every setting by name, as after parsing. A secret (`SECRET_SETTINGS`) is never stored.
        algorithms: the rows, as `described` gives them.
        data: local file or folder that the run reads -> SHA-256 of its content.
        machine: what of the machine changes the last digits of a result, such as the number of threads.
        notes: sentences that a reader of the results should know.
    """
    config = _configuration(settings, algorithms, data, machine)
    return _write_json(folder, {**config, "notes": list(notes)} if notes else config)


def record_resumption(
    folder: str | Path,
    settings: Mapping[str, Any],
    algorithms: Sequence[Mapping[str, Any]],
    data: Mapping[str, str],
    changes: Sequence[str],
    machine: Mapping[str, Any] | None = None,
) -> Path:
    """Update config.json when a run is resumed; it keeps what the run was started with, and each change."""
    before, now = read_config(folder), _configuration(settings, algorithms, data, machine)
    continued = {"at": now["started"], "command": now["command"], "git": now["git"], "changes": list(changes)}
    kept = {key: before[key] for key in ("command", "started", "git", "notes") if key in before}
    labels = [row["label"] for row in now["algorithms"]]
    gone = [row for row in [*before["algorithms"], *before.get("gone", [])] if row["label"] not in labels]
    if gone:
        kept["gone"] = gone  # their rows in the tables stay
    return _write_json(folder, {**now, **kept, "resumed": [*before.get("resumed", []), continued]})


def mark_finished(folder: str | Path) -> Path:
    """Note in config.json that the run is complete."""
    return _write_json(folder, {**read_config(folder), "finished": _now()})


def is_finished(folder: str | Path) -> bool:
    """Whether there is a run, and it is complete. Raises: as `read_config`, for a damaged config.json."""
    return (Path(folder) / CONFIG_FILE).exists() and "finished" in read_config(folder)


def _configuration(
    settings: Mapping[str, Any],
    algorithms: Sequence[Mapping[str, Any]],
    data: Mapping[str, str] | None,
    machine: Mapping[str, Any] | None,
) -> dict[str, Any]:
    shown = {name: "(given)" for name in SECRET_SETTINGS if settings.get(name)}
    return {
        "command": "python " + shlex.join(without_secrets(sys.argv)),
        "started": _now(),
        "seed": settings.get("seed"),
        "git": git_state(Path(__file__).resolve().parent.parent),
        "versions": versions(),
        "machine": dict(machine or {}),
        "settings": {**settings, **shown},
        "algorithms": [dict(row) for row in algorithms],
        "data": dict(data or {}),
    }


def without_secrets(arguments: Sequence[str]) -> list[str]:
    """The command line with every value of a secret flag replaced, also where the flag is given more than once.

    >>> without_secrets(["run.py", "--hf_key", "it's", "--hf_key=b", "--seed", "3"])
    ['run.py', '--hf_key', '***', '--hf_key=***', '--seed', '3']
    """
    flags = [f"--{name}" for name in SECRET_SETTINGS]
    shown, follows = [], False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        secret = name in flags and equals
        shown.append(f"{name}={HIDDEN}" if secret else HIDDEN if follows else argument)
        follows = argument in flags
    return shown


def _write_json(folder: str | Path, config: Mapping[str, Any]) -> Path:
    return write_whole(Path(folder) / CONFIG_FILE, json.dumps(plain(config), indent=2, allow_nan=False) + "\n")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of a run folder.

    Raises: ValueError, in one line, if config.json is missing or was not written by `write_config`.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is not a run folder: it has no {CONFIG_FILE}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    missing = [key for key in CONFIG_KEYS if not isinstance(config, dict) or key not in config]
    if missing:
        raise ValueError(f"{path} was not written by a run: it has no {missing[0]!r}")
    for key, kind in (CONFIG_KEYS | MORE_KEYS).items():
        if key in config and not isinstance(config[key], kind):
            raise ValueError(f"{path} was not written by a run: its {key!r} is {config[key]!r:.40}")
    for key in ("algorithms", "gone"):
        for row in config.get(key, []):
            if not (isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in ROW_KEYS.items())):
                raise ValueError(f"{path} was not written by a run: one of its {key!r} is {row!r:.40}")
            if not isinstance(row.get("number", 1), int):
                raise ValueError(f"{path} was not written by a run: a row's 'number' is {row['number']!r:.40}")
    labels = [row["label"] for row in config["algorithms"]]
    if len(set(labels)) < len(labels):
        raise ValueError(f"{path} was not written by a run: two of its 'algorithms' have one label")
    return config


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a number; None for one that is not installed."""
    by_package: dict[str, str | None] = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            by_package[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            by_package[package] = None
    return by_package


def git_state(folder: Path) -> dict[str, Any]:
    """{"commit": hash, "dirty": whether tracked files differ from it}; both None unless a checkout's root."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
        except OSError:  # git is not installed, or may not be run
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    root, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "--verify", "HEAD")
    if root is None or commit is None or Path(root).resolve() != folder.resolve():
        return {"commit": None, "dirty": None}  # sources unpacked inside another checkout are not that checkout
    return {"commit": commit, "dirty": git("status", "--porcelain", "--untracked-files=no") != ""}


def plain(value: Any) -> Any:
    """The value in JSON's own types; a number that is not finite, or another object, becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def recorded(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings as config.json keeps them; its algorithms stand beside them."""
    return {name: value for name, value in vars(settings).items() if name != "algorithms"}


def numbered(rows: Sequence[Mapping[str, Any]], earlier: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The rows, each with a number of its own, from 1. A row keeps its number however often the run is resumed. The
    number of a removed row is never reused, so files named after it stay its own.

    earlier: the config.json of the run that is resumed.
    """
    before = [*earlier["algorithms"], *earlier.get("gone", [])] if earlier else []
    numbers = {row["label"]: row.get("number", place) for place, row in enumerate(before, start=1)}
    for row in rows:
        numbers.setdefault(row["label"], max(numbers.values(), default=0) + 1)
    return [{**row, "number": numbers[row["label"]]} for row in rows]


def row_numbers(folder: str | Path) -> dict[str, int]:
    """Label -> number of each row of the run in `folder` (see `numbered`)."""
    return {row["label"]: row["number"] for row in read_config(folder)["algorithms"]}


def described(algorithms: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows as config.json keeps them."""
    return [
        dict(label=label, name=row.name, options=dict(row.options), step_size=row.step_size)
        | ({"groups": [dict(group) for group in row.groups]} if row.groups else {})
        for label, row in algorithms.items()
    ]
