"""One's own data in a task's form: columns by other names, labels that are words, a file to test on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from tasks.loading.rows import Refused, load_splits
from tasks.protocols import Request

log = logging.getLogger(__name__)

# Kind of task -> role -> the field that the task reads; "a.b" is field b of an object a.
TRANSLATION = {"input": "translation.en", "target": "translation.fr"}
TEXT = {"input": "text"}
PROGRAM = {"input": "content"}
LABELED_TEXT = {"input": "text", "target": "label"}
LABELED_PAIR = {"input": "sentence1", "input2": "sentence2", "target": "label"}
LABELED_PICTURE = {"input": "image", "target": "label"}


def splits_of(request: Request, fields: Mapping[str, str], count: int | None = None) -> dict[str, Any]:
    """split -> `datasets.Dataset` of the request's data, with the columns that it names in the task's fields, and the
    rows of its evaluation file as the split "test". Call it inside `explained`.

    Args:
        fields: role -> field of the task, such as LABELED_TEXT.
        count: only the first `count` rows of "train" are wanted.

    Raises: Refused, in one line, for a role or a column that is not there.
    """
    splits = load_splits(request.dataset, request.hf_key, count, request.split)
    if request.eval_dataset is not None:
        if fields.get("target") != "label":
            raise Refused(f"--eval_dataset has no effect on the task {request.name}, which has no scores; leave it out")
        test = load_splits(request.eval_dataset, request.hf_key)["train"]
        splits = {"train": splits["train"], "test": test}
    if not request.columns:
        return splits
    unknown = [role for role in request.columns if role not in fields]
    if unknown:
        raise Refused(
            f"--columns {unknown[0]}=...: no such field in the task {request.name}; it has {', '.join(fields)}"
        )
    named = {fields[role]: column for role, column in request.columns.items()}
    return {split: _with_columns(request.dataset, data, named) for split, data in splits.items()}


def _with_columns(source: str, data: Any, named: Mapping[str, str]) -> Any:
    """The data with the columns `named` (field -> column) under the names of their fields."""
    for column in named.values():
        if column not in data.column_names:
            near = get_close_matches(column, data.column_names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise Refused(f"{source} has no column {column!r}; it has {', '.join(data.column_names)}{hint}")
    if any("." in field for field in named):
        return data.map(lambda row: _nested(row, named), remove_columns=data.column_names)
    in_the_way = [field for field, column in named.items() if field != column and field in data.column_names]
    data = data.remove_columns([field for field in in_the_way if field not in named.values()])
    return data.rename_columns({column: field for field, column in named.items() if column != field})


def _nested(row: Mapping[str, Any], named: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for field, column in named.items():
        outer, _, inner = field.partition(".")
        made.setdefault(outer, {})[inner] = row[column]
    return made


def numbered_labels(splits: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The splits with labels that are words replaced by 0, 1, 2, ... in alphabetical order, and those words; no words
    where the labels are numbers already.

    Raises: Refused for a split with a label that "train" has not.
    """
    train = splits.get("train")
    if train is None or "label" not in train.column_names:
        return dict(splits), []
    words = sorted({label for label in train["label"] if isinstance(label, str)})
    if not words:
        return dict(splits), []
    numbers = {word: number for number, word in enumerate(words)}
    if all(word.isdecimal() for word in words):  # a CSV file holds texts only
        return {k: _relabeled(v, {word: int(word) for word in _labels(v)}) for k, v in splits.items()}, []
    for split, data in splits.items():
        strange = [label for label in _labels(data) if label not in numbers]
        if strange:
            raise Refused(f"the split {split} has the label {strange[0]!r}; the labels of train are {', '.join(words)}")
    return {split: _relabeled(data, numbers) for split, data in splits.items()}, words


def _labels(data: Any) -> list[Any]:
    return list(dict.fromkeys(data["label"])) if "label" in data.column_names else []


def _relabeled(data: Any, numbers: Mapping[Any, int]) -> Any:
    if "label" not in data.column_names:
        return data
    labels = [numbers[label] for label in data["label"]]
    return data.remove_columns(["label"]).add_column("label", labels)
