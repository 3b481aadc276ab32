"""Lists of rows: what makes a list usable, and the labels of its rows in tables and figures."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch_optimizer.algorithm import CLIPPING_OPTIONS, Algorithm, did_you_mean
from torch_optimizer.values import brief, value_key

if TYPE_CHECKING:
    from torch import nn


def labeled(rows: Sequence[Algorithm]) -> dict[str, Algorithm]:
    """label -> row. A label is the optimizer's name and its clipping, "sgd, coordinate_clip=0.1"; where that is not
    enough, also as few other options as tell its rows apart, the learning rate only if it must: "sgd" and
    "sgd, momentum=0.9". Expects rows that differ (see `check_rows`)."""
    return dict(zip(labels_of(rows), rows, strict=True))


def labels_of(rows: Sequence[Algorithm]) -> list[str]:
    """The label of each row, as in `labeled`."""
    same = defaultdict(list)
    for row in rows:
        same[_text(row, CLIPPING_OPTIONS)].append(row)
    shown = {label: [*CLIPPING_OPTIONS, *_telling_options(twins)] for label, twins in same.items()}
    return [_text(row, shown[_text(row, CLIPPING_OPTIONS)]) for row in rows]


def _text(row: Algorithm, options: Iterable[str]) -> str:
    shown = [f"{o}={v}" for o, v in _written(row).items() if o in options and v is not None]
    return ", ".join([row.name, *shown])


def _written(row: Algorithm) -> dict[str, Any]:
    """The options of a row as its label may name them; groups as their patterns and options."""
    if not row.groups:
        return dict(row.options)
    parts = [" ".join([each["params"], *(f"{o}={v}" for o, v in each.items() if o != "params")]) for each in row.groups]
    return {**row.options, "groups": "; ".join(parts)}


def _telling_options(rows: Sequence[Algorithm]) -> list[str]:
    """As few options as tell apart rows of one name and clipping. Options that differ are given up one by one, lr first
    and then the last written. Of rows that differ in lr, momentum and eps, momentum alone may be left."""
    differing = [
        option
        for option in dict.fromkeys(option for row in rows for option in _written(row))
        if len({value_key(_written(row).get(option)) for row in rows}) > 1
    ]
    order = [option for option in differing if option == "lr"]
    order += [option for option in reversed(differing) if option != "lr"]
    kept = list(differing)
    for option in order:
        fewer = [*CLIPPING_OPTIONS, *(other for other in kept if other != option)]
        if len({_text(row, fewer) for row in rows}) == len(rows):
            kept.remove(option)
    return kept


def plain_sgd(rows: Mapping[str, Algorithm]) -> str | None:
    """The label of the row that the others are compared with, the first SGD without clipping; None if there is none."""
    return next((label for label, row in rows.items() if row.is_plain_sgd), None)


def check_rows(list_name: str, rows: Sequence[Algorithm]) -> None:
    """Raises ValueError naming the list, the row's number and what is wrong with it."""
    if not isinstance(rows, (list, tuple)):
        raise ValueError(
            f"algorithm list {list_name!r} is a list of rows, [Algorithm(...), Algorithm(...)], got {brief(rows)}"
        )
    if not rows:
        raise ValueError(f"algorithm list {list_name!r} is empty")
    seen = {}
    for number, row in enumerate(rows, start=1):
        where = f"algorithm list {list_name!r}, row {number}"
        if not isinstance(row, Algorithm):
            raise ValueError(f"{where}: expected Algorithm(...), got {brief(row)}")
        try:
            row.check()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        identity = row.optimizer_class, value_key(row.options), value_key(list(row.groups))
        if identity in seen:
            raise ValueError(f"{where}: {row!r} is the same as row {seen[identity]}")
        seen[identity] = number
    labels = labels_of(rows)
    for number, label in enumerate(labels, start=1):
        first = labels.index(label) + 1
        if first < number:
            where = f"algorithm list {list_name!r}, row {number}"
            raise ValueError(f"{where}: its label, {label!r}, is that of row {first}; rename the class of one")


def choose_list(lists: Mapping[str, Sequence[Algorithm]], name: str) -> dict[str, Algorithm]:
    """label -> row of the list called `name`, all rows checked; of a list elsewhere, "my_lists.py:MINE". Raises
    ValueError naming the known lists, or what is wrong with the file."""
    if is_place(name):
        rows = _rows_of_file(name)
        check_rows(name, rows)
        return labeled(rows)
    if name not in lists:
        hint = did_you_mean(name, lists)
        raise ValueError(f"unknown algorithm list {name!r}; {hint}known: {', '.join(lists)}")
    check_rows(name, lists[name])
    return labeled(lists[name])


def check_names(rows: Mapping[str, Algorithm], model: nn.Module) -> None:
    """Raises ValueError, in one line, naming the row whose `groups` fit no parameter that the model trains."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    for label, row in rows.items():
        try:
            row.check_names(names)
        except ValueError as error:
            raise ValueError(f"row {label!r}: {error}") from error


def is_place(name: str) -> bool:
    """Whether a list is named by its file and its name there, "my_lists.py:MINE"."""
    path, colon, variable = name.rpartition(":")
    return bool(colon) and path.endswith(".py") and variable.isidentifier()


def _rows_of_file(place: str) -> Sequence[Algorithm]:
    """The list that the file has under that name. The file is run, and what stands beside it can be imported there."""
    path, _, variable = place.rpartition(":")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"algorithm list {place!r}: there is no file {path}")
    module = ModuleType(file.stem)
    module.__file__ = str(file)
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    sys.modules.setdefault(file.stem, module)
    try:
        exec(compile(file.read_bytes(), file, "exec"), vars(module))
    except Exception as error:  # it runs code that is not ours
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"algorithm list {place!r}: {path} cannot be run: {type(error).__name__}: {reason}") from error
    if not hasattr(module, variable):
        lists = [name for name, value in vars(module).items() if isinstance(value, (list, tuple)) and value]
        hint = did_you_mean(variable, lists)
        known = f"its lists are {', '.join(lists)}" if lists else "it has no list"
        raise ValueError(f"algorithm list {place!r}: {path} has no {variable}; {hint}{known}")
    return getattr(module, variable)
