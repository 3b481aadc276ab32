"""Rows of a data set, from a local file or from the hub, each checked before any work starts."""

import glob
import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path

from tasks.hub import first_line, hub_refusal, is_local, quiet_libraries

FORMATS = {".jsonl": "json", ".json": "json", ".jsonl.gz": "json", ".json.gz": "json", ".parquet": "parquet"}


def load_rows(
    source: str,
    count: int,
    check_row: Callable[[dict], None],
    default_config: str | None = None,
    hf_key: str | None = None,
) -> list[dict]:
    """The first `count` rows of `source`.

    Args:
        source: a local file (.jsonl, .json, either one gzipped, .parquet), or a hub id, `owner/name` or
            `owner/name:config`.
        check_row: raises ValueError saying what is wrong with a row; file and row are put before its message.
        default_config: configuration of a hub data set that names none.

    Raises: ValueError in one line.
    """
    if is_local(source) or _format(source):
        rows = _load_file(Path(source).expanduser(), count)
    else:
        rows = _load_hub(source, count, default_config, hf_key)
    if len(rows) < count:
        raise ValueError(
            f"{source} has {len(rows)} rows, fewer than the dataset size of {count}; "
            f"--dataset_size {len(rows)} would do"
        )
    for number, row in enumerate(rows, 1):
        try:
            check_row(row)
        except ValueError as error:
            raise ValueError(f"{source}, row {number}: {error}") from error
    return rows


def require_text(row: dict, *path: str) -> None:
    """Refuse a row whose field `path` (outermost name first) is missing, not text, or empty."""
    value = row
    for depth, name in enumerate(path):
        if not isinstance(value, dict):
            field = ".".join(path[:depth])
            raise ValueError(f"field {field} is {type(value).__name__} {value!r:.40}, expected an object")
        value = value.get(name)
        if value is None:
            raise ValueError(f"field {'.'.join(path[: depth + 1])} is missing")
    if not isinstance(value, str):
        raise ValueError(f"field {'.'.join(path)} is {type(value).__name__} {value!r:.40}, expected text")
    if not value.strip():
        raise ValueError(f"field {'.'.join(path)} is empty")


def _format(name: str) -> str | None:
    """The reader of a file by its ending, or None."""
    return next((reader for ending, reader in FORMATS.items() if name.endswith(ending)), None)


def _load_file(path: Path, count: int) -> list[dict]:
    reader = _format(path.name)
    if not path.exists():
        raise ValueError(
            f"no such file: {path}; --dataset takes a file ({', '.join(FORMATS)}), a hub id, or toy"
        )
    if path.is_dir() or reader is None:
        kind = "a folder" if path.is_dir() else "no data file"
        raise ValueError(f"{path} is {kind}; wanted a file ending in {', '.join(FORMATS)}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    import datasets  # takes a second to import, and only runs on files or the hub need it

    quiet_libraries()
    try:
        rows = datasets.load_dataset(reader, data_files=glob.escape(str(path)), split="train")
        return rows.select(range(min(count, len(rows)))).to_list()  # text is decoded here, and may be refused
    except Exception as error:  # of a dozen kinds; the user gets the place in the file
        fault = _text_fault(path) if reader == "json" else None
        raise ValueError(f"{path}: {fault or first_line(error)}") from error


def _text_fault(path: Path) -> str | None:
    """What is wrong with a JSON file and on which line, or None where each line can be read."""
    number, lines = 0, []
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            is_array = stream.read(1) == b"["
            stream.seek(0)
            for number, raw in enumerate(stream, 1):
                line = raw.decode("utf-8-sig")
                if is_array:
                    lines.append(line)
                elif line.strip() and not isinstance(json.loads(line), dict):
                    return f"line {number} is not a JSON object"
        if is_array and not all(isinstance(row, dict) for row in json.loads("".join(lines))):
            return "the list holds something that is not a JSON object"
    except gzip.BadGzipFile as error:
        return f"not a gzip file ({error})"
    except (EOFError, zlib.error) as error:
        return f"the compressed file is cut short or damaged after line {number} ({error})"
    except UnicodeDecodeError as error:
        return f"line {number} is not UTF-8 ({error.reason})"
    except json.JSONDecodeError as error:
        return f"line {error.lineno if is_array else number} is not JSON ({error.msg})"
    return None


def _load_hub(source: str, count: int, default_config: str | None, hf_key: str | None) -> list[dict]:
    import datasets

    quiet_libraries()
    name, _, config = source.partition(":")
    try:
        part = f"train[:{count}]"
        return datasets.load_dataset(name, config or default_config, split=part, token=hf_key).to_list()
    except Exception as error:  # refused, absent, offline, cut off: each library layer has its own kinds
        raise hub_refusal(
            "dataset", name, error, f"--dataset FILE ({', '.join(FORMATS)}) or --dataset toy"
        ) from error
