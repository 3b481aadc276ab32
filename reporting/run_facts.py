"""What a page says of a run besides its results: settings, rows, versions, command, files. Secrets stay hidden."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runs.config import HIDDEN, SECRET_SETTINGS, without_secrets
from runs.folder import LOG_FILE, TABLES
from runs.tables import read_table

UNSET = "–"  # a setting that has no value


def settings_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Every setting by name, as text; a secret is only said to be given."""
    return {
        name: ("(given)" if name in SECRET_SETTINGS and value else written(value))
        for name, value in config["settings"].items()
    }


def written(value: Any) -> str:
    """A value of config.json for people."""
    if value is None:
        return UNSET
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(item, (list, dict)) for item in value):
        return " ".join(written(item) for item in value)
    return json.dumps(value, ensure_ascii=False)


def command_of(config: Mapping[str, Any]) -> str:
    """The command, secrets hidden once more: an older version, or a hand, may have written it."""
    try:
        return shlex.join(without_secrets(shlex.split(config["command"])))
    except ValueError:
        return HIDDEN  # words that cannot be told apart may hold one


def rows_of(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of the algorithm list that were measured."""
    return [
        {
            "label": row["label"],
            "optimizer": row["name"],
            "options": ", ".join(f"{name}={written(value)}" for name, value in row["options"].items()),
            **({"groups": json.dumps(row["groups"], ensure_ascii=False)} if row.get("groups") else {}),
        }
        for row in config["algorithms"]
    ]


def origin_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Where the numbers come from: versions, commit, data."""
    git = config.get("git") or {}
    commit = git.get("commit") or "unknown"
    origin = {name: version or "not installed" for name, version in config["versions"].items()}
    origin["commit"] = commit + (" with changes" if git.get("dirty") else "")
    origin |= {f"machine: {name}": written(value) for name, value in config.get("machine", {}).items()}
    origin["started"] = config["started"]
    for each in config.get("resumed", []):
        changes = "; ".join(map(str, each.get("changes", []))) or "nothing changed"
        origin[f"resumed {each.get('at', '')}"] = changes
    origin |= {f"SHA-256 of {path}": str(digest) for path, digest in config.get("data", {}).items()}
    return origin


def files_of(folder: Path) -> list[tuple[str, str]]:
    """(name in the folder, what it is) of every table and of what else a reader may want."""
    files = []
    for name in TABLES:
        if (folder / name).exists():
            files.append((name, f"{len(read_table(folder / name)):,} rows"))
    others = {"config.json": "settings, rows, versions", LOG_FILE: "messages of the run"}
    return files + [(name, what) for name, what in others.items() if (folder / name).exists()]
