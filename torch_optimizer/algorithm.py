"""A row of `algorithm_list.py`: an optimizer with its options, not yet tied to any parameters."""

import inspect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

CLIPPING_OPTIONS = ("coordinate_clip", "clip_update")


class Algorithm:
    """An optimizer and its options, e.g. `Algorithm("sgd", lr=5e-3, momentum=0.9, coordinate_clip=0.1)`. Immutable.

    Args:
        optimizer: a name of `torch_optimizer.OPTIMIZERS`, or any `torch.optim.Optimizer` class.
        step_size: distance between the points of its loss scan (parameter space, Euclidean); None: chosen from the
            quadratic model of the loss at each point.
        options: passed to the optimizer's constructor.

    A row is checked by `check`, not when it is written: the answer can then name the list it stands in.
    """

    __slots__ = ("optimizer", "step_size", "options")

    def __init__(self, optimizer: str | type, *, step_size: float | None = None, **options: Any):
        object.__setattr__(self, "optimizer", optimizer)
        object.__setattr__(self, "step_size", step_size)
        object.__setattr__(self, "options", MappingProxyType(options))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an Algorithm does not change; write a new row instead of setting {name}")

    @property
    def name(self) -> str:
        return self.optimizer if isinstance(self.optimizer, str) else self.optimizer.__name__.lower()

    @property
    def optimizer_class(self) -> type[torch.optim.Optimizer]:
        if not isinstance(self.optimizer, str):
            return self.optimizer
        from torch_optimizer import OPTIMIZERS  # here, because the registry's module imports this one

        if self.optimizer not in OPTIMIZERS:
            near = get_close_matches(self.optimizer, OPTIMIZERS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown optimizer {self.optimizer!r}; {hint}known: {', '.join(OPTIMIZERS)}")
        return OPTIMIZERS[self.optimizer]

    @property
    def is_clipped(self) -> bool:
        return any(self.options.get(option) for option in CLIPPING_OPTIONS)

    def build(self, params: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The optimizer on these parameters. Muon is defined for matrices only and gets no others."""
        if self.optimizer_class is torch.optim.Muon:
            params = [p for p in params if p.ndim == 2]
        return self.optimizer_class(params, **self.options)

    def with_options(self, **options: Any) -> "Algorithm":
        """The same row with some options replaced."""
        return Algorithm(self.optimizer, step_size=self.step_size, **{**self.options, **options})

    def check(self) -> None:
        """Raises ValueError, in one line, if the optimizer is unknown, does not take an option, rejects a value, or
        cannot take a step on dense gradients by itself."""
        optimizer_class = self.optimizer_class
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
            raise ValueError(f"an optimizer is a name or a torch.optim.Optimizer class, got {self.optimizer!r}")
        known = [p for p in inspect.signature(optimizer_class).parameters if p != "params"]
        for option in self.options:
            if option not in known and "kwargs" not in known:
                near = get_close_matches(option, known, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"{self.name} has no option {option!r}; {hint}known: {', '.join(known)}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size is a distance > 0, or None to choose it, got {self.step_size!r}")
        probe = torch.nn.Parameter(torch.eye(2))
        probe.grad = torch.ones(2, 2)
        try:
            self.build([probe]).step()
        except Exception as error:  # whatever the optimizer objects to, the row is what must change
            raise ValueError(f"{self.name} cannot be used: {error}") from error

    def __repr__(self) -> str:
        options = {**self.options, **({} if self.step_size is None else {"step_size": self.step_size})}
        return f"Algorithm({', '.join([repr(self.name)] + [f'{k}={v!r}' for k, v in options.items()])})"


def labelled(rows: Sequence[Algorithm]) -> dict[str, Algorithm]:
    """label -> row. A label is the optimizer's name and its clipping, "sgd, coordinate_clip=0.1"; where that is not
    enough, also as few other options as tell its rows apart, the learning rate only if it must: "sgd" and
    "sgd, momentum=0.9". Expects rows that differ (see `check_rows`)."""

    def text(row: Algorithm, options: Iterable[str]) -> str:
        return ", ".join([row.name] + [f"{o}={v}" for o, v in row.options.items() if o in options and v is not None])

    same = defaultdict(list)
    for row in rows:
        same[text(row, CLIPPING_OPTIONS)].append(row)
    labels = {}
    for row in rows:
        twins = same[text(row, CLIPPING_OPTIONS)]
        shown = [o for twin in twins for o in twin.options if len({repr(t.options.get(o)) for t in twins}) > 1]
        shown = list(dict.fromkeys(shown))
        for option in sorted(shown, key=lambda o: (o != "lr", -shown.index(o))):
            fewer = {*CLIPPING_OPTIONS, *shown} - {option}
            if len({text(twin, fewer) for twin in twins}) == len(twins):
                shown.remove(option)
        labels[text(row, {*CLIPPING_OPTIONS, *shown})] = row
    return labels


def check_rows(list_name: str, rows: Sequence[Algorithm]) -> None:
    """Raises ValueError naming the list, the row's number and what is wrong with it."""
    if not rows:
        raise ValueError(f"algorithm list {list_name!r} is empty")
    seen = {}
    for number, row in enumerate(rows, start=1):
        where = f"algorithm list {list_name!r}, row {number}"
        if not isinstance(row, Algorithm):
            raise ValueError(f"{where}: expected Algorithm(...), got {row!r}")
        try:
            row.check()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        identity = (row.name, repr(sorted(row.options.items())))
        if identity in seen:
            raise ValueError(f"{where}: {row!r} is the same as row {seen[identity]}")
        seen[identity] = number


def choose_list(lists: dict[str, Sequence[Algorithm]], name: str) -> dict[str, Algorithm]:
    """label -> row of the list called `name`, all rows checked. Raises ValueError naming the known lists."""
    if name not in lists:
        near = get_close_matches(name, lists, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown algorithm list {name!r}; {hint}known: {', '.join(lists)}")
    check_rows(name, lists[name])
    return labelled(lists[name])
