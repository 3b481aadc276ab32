"""Rows of a data set, from a local file or from the hub, each checked before any work starts."""

import csv
import glob
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.loading.hub import first_line, hub_refusal, is_local, local_path, quiet_libraries

FORMATS = {
    ".jsonl": "json", ".json": "json", ".jsonl.gz": "json", ".json.gz": "json", ".parquet": "parquet", ".csv": "csv",
    ".tsv": "csv", ".txt": "text",
}  # fmt: skip
SAVED = ("dataset_info.json", "dataset_dict.json")  # one of them is in a folder that `datasets` saved
OTHER_ENDINGS = (".xml", ".zip", ".tar", ".gz", ".bz2", ".xz", ".zst", ".arrow", ".npy", ".npz")
MANY_FILES = 8  # of a hub data set's training split: more are streamed where only the first rows are wanted
MOST_LABELS = 100_000  # a larger label is a mistake, and a model with a head for it would fill the memory


def load_rows(
    source: str,
    count: int,
    check_row: Callable[[dict], None],
    splits: Callable[[], dict],
    fewest: int | None = None,
) -> list[dict]:
    """The first `count` rows of `source`.

    Args:
        source: the name of the data, for messages.
        splits: gives split -> `datasets.Dataset`, of which "train" is taken.
        check_row: raises ValueError saying what is wrong with a row; file and row are put before its message.
        fewest: the least number of rows that will do; None: `count`.

    Raises: ValueError in one line.
    """
    with explained(source):
        by_name = splits()
        if "train" not in by_name:
            raise Refused(
                f"{source} has the splits {', '.join(by_name)}; none is called train: choose one with --split NAME"
            )
        data = by_name["train"]
        rows = data.select(range(min(count, len(data)))).to_list()  # text is decoded here, and may be refused
    if len(rows) < (count if fewest is None else fewest):
        raise ValueError(too_few(source, len(rows), count))
    check_rows(source, rows, check_row)
    return rows


def too_few(source: str, present: int, wanted: int) -> str:
    """The answer for a data set that is smaller than asked for."""
    return f"{source} has {present} rows, fewer than the dataset size of {wanted}; --dataset_size {present} would do"


def check_rows(source: str, rows: Iterable[dict], check_row: Callable[[dict], None]) -> None:
    """Check each row, and put file and row number before what `check_row` says."""
    for number, row in enumerate(rows, 1):
        try:
            check_row(row)
        except ValueError as error:
            raise ValueError(f"{source}, row {number}: {error}") from error


def load_splits(source: str, hf_key: str | None = None, count: int | None = None, split: str | None = None) -> dict:
    """split -> `datasets.Dataset`: "train" of a local file, all splits of a hub id. Call it inside `explained`.

    Args:
        source: a local file of one of FORMATS, a folder that `datasets` saved, or a hub id: `owner/name`,
            `owner/name:configuration` or `owner/name:folder/in/it`.
        count: only the first `count` rows of "train" are wanted. Then a data set of many files is streamed as far as
            needed, instead of downloaded whole.
        split: the split that is to be called "train", instead of all; of a hub id or a folder.

    Raises: Refused, in one line, for a file that holds no rows, or a split that is not there.
    """
    path = _checked_file(source) if is_file(source) else None
    import datasets  # takes a second to import, and only runs on files or the hub need it

    quiet_libraries()
    if path is not None and path.is_dir():
        return _saved_splits(path, split)
    if path is not None:
        if split is not None:
            raise Refused(f"--split has no effect on {path}, which is one file; leave it out")
        if _format(path.name) == "parquet" and not _parquet_rows(path):
            raise Refused(f"{path} holds no rows")
        if _format(path.name) == "csv":
            return {"train": datasets.Dataset.from_dict(_cells(path))}
        data = datasets.load_dataset(_format(path.name), data_files=glob.escape(str(path)), split="train")
        return {"train": data.filter(lambda row: row["text"].strip()) if _format(path.name) == "text" else data}
    name, _, part = source.partition(":")
    where = dict(data_dir=part) if "/" in part else dict(name=part or None)
    if split is not None:
        return {"train": datasets.load_dataset(name, **where, token=hf_key, split=split)}
    if count is not None:
        builder = datasets.load_dataset_builder(name, **where, token=hf_key)
        if len((builder.config.data_files or {}).get("train", ())) > MANY_FILES:
            stream = datasets.load_dataset(name, **where, token=hf_key, split="train", streaming=True)
            return {"train": datasets.Dataset.from_list(list(stream.take(count)))}
        return {"train": datasets.load_dataset(name, **where, token=hf_key, split="train")}
    return dict(datasets.load_dataset(name, **where, token=hf_key))


@contextmanager
def explained(source: str) -> Iterator[None]:
    """Wraps reading `source`: whatever a library raises becomes a ValueError in one line."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:  # refused, absent, offline, cut off, not decodable: each layer has its own kinds
        if not is_file(source):
            instead = f"--dataset FILE ({', '.join(FORMATS)}) or --dataset toy"
            raise hub_refusal("dataset", source.partition(":")[0], error, instead) from error
        raise ValueError(f"{local_path(source)}: {first_line(error.__cause__ or error)}") from error


class Refused(ValueError):
    """A complete line for the user."""


def require_text(row: dict, *path: str) -> None:
    """Refuse a row whose field `path` (outermost name first) is missing, not text, or empty."""
    value = row
    for depth, name in enumerate(path):
        if not isinstance(value, dict):
            field = ".".join(path[:depth])
            raise ValueError(f"field {field} is {type(value).__name__} {value!r:.40}, expected an object")
        if value.get(name) is None:
            there = "" if name in value else f"; there is {', '.join(value) or 'none'}"
            raise ValueError(f"field {'.'.join(path[: depth + 1])} is missing{there}")
        value = value[name]
    if not isinstance(value, str):
        raise ValueError(f"field {'.'.join(path)} is {type(value).__name__} {value!r:.40}, expected text")
    if not value.strip():
        raise ValueError(f"field {'.'.join(path)} is empty")


def require_label(row: dict) -> None:
    """Refuse a row whose field `label` is not one of 0, 1, 2, ..."""
    label = row.get("label")
    if label is None:
        raise ValueError("field label is missing")
    if isinstance(label, float) and not label.is_integer():
        raise ValueError(f"field label is {label!r}: regression is not supported, labels are 0, 1, 2, ... or words")
    if isinstance(label, list):
        raise ValueError("field label is a list: several labels per example are not supported")
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < MOST_LABELS:
        kind = type(label).__name__
        raise ValueError(f"field label is {kind} {label!r:.40}, expected 0, 1, 2, ... below {MOST_LABELS:,}")


def _format(name: str) -> str | None:
    """The reader of a file by its ending, or None."""
    return next((reader for ending, reader in FORMATS.items() if name.endswith(ending)), None)


def is_file(source: str) -> bool:
    """Whether the user means a local file; `existing_file` and `_checked_file` say if it is a good one."""
    return is_local(source) or source.endswith((*FORMATS, *OTHER_ENDINGS))


def existing_file(source: str) -> Path:
    """The path of a local data file. Refused if there is none, or none of FORMATS; its content is not looked at."""
    path = local_path(source)
    if not path.exists():
        raise Refused(f"no such file: {path}; --dataset takes a file ({', '.join(FORMATS)}), a hub id, or toy")
    if path.is_dir() and any((path / name).exists() for name in SAVED):
        return path
    if path.is_dir() or _format(path.name) is None:
        kind = "a folder" if path.is_dir() else "no data file"
        raise Refused(f"{path} is {kind}; expected a file ending in {', '.join(FORMATS)}")
    return path


def _checked_file(source: str) -> Path:
    path = existing_file(source)
    if path.is_dir():
        return path
    if path.stat().st_size == 0:
        raise Refused(f"{path} is empty")
    if _format(path.name) == "json" and (fault := _text_fault(path)):
        raise Refused(f"{path}: {fault}")
    return path


def _cells(path: Path) -> dict[str, list[str]]:
    """column -> its cells, of a CSV or TSV file with a header. Every cell is text as it stands, "NA" and "007" too."""
    csv.field_size_limit(2**31 - 1)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        header = next(reader, [])
        if not all(header) or len(set(header)) < len(header):
            raise Refused(f"{path}: line 1 must name every column, each once; it has {', '.join(map(repr, header))}")
        columns: dict[str, list[str]] = {name: [] for name in header}
        for row in reader:
            if row and len(row) != len(header):
                raise Refused(f"{path}: line {reader.line_num} has {len(row)} cells; the header has {len(header)}")
            for name, cell in zip(header, row, strict=False):
                columns[name].append(cell)
    if not any(columns.values()):
        raise Refused(f"{path} holds no rows")
    return columns


def _saved_splits(path: Path, split: str | None) -> dict:
    """The splits of a folder written by `save_to_disk`; one without splits is "train"."""
    import datasets

    saved = datasets.load_from_disk(str(path))
    splits = dict(saved) if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    if split is None:
        return splits
    if split not in splits:
        raise Refused(f"{path} has no split {split!r}; it has {', '.join(splits)}")
    return {"train": splits[split]}


def _parquet_rows(path: Path) -> int:
    import pyarrow.parquet  # `datasets` has imported it

    return pyarrow.parquet.read_metadata(path).num_rows


def _text_fault(path: Path) -> str | None:
    """What is wrong with a JSON file and on which line, or None where each line is an object.

    The library that reads it next makes rows of anything, and fails at a first line `null`.
    """
    number, lines, empty = 0, [], True
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            is_array = stream.read(1) == b"["
            stream.seek(0)
            for number, raw in enumerate(stream, 1):
                line = raw.decode("utf-8-sig")
                if is_array:
                    lines.append(line)
                elif line.strip():
                    empty = False
                    if not isinstance(json.loads(line), dict):
                        return f"line {number} is not a JSON object"
        rows = json.loads("".join(lines)) if is_array else []
        if not all(isinstance(row, dict) for row in rows):
            return "the list holds something that is not a JSON object"
        if empty and not rows:
            return "it holds no rows"
    except gzip.BadGzipFile as error:
        return f"not a gzip file ({error})"
    except (EOFError, zlib.error) as error:
        return f"the compressed file is cut short or damaged after line {number} ({error})"
    except UnicodeDecodeError as error:
        return f"line {number} is not UTF-8 ({error.reason})"
    except RecursionError:
        return f"line {number} is nested too deep"
    except json.JSONDecodeError as error:
        return f"line {error.lineno if is_array else number} is not JSON ({error.msg})"
    return None
