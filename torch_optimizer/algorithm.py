"""A row of `algorithm_list.py`: an optimizer with its options, not yet tied to any parameters.

A row is written, named and described without torch, which takes seconds to import; to check or build it needs torch.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from torch_optimizer.registry import OPTIMIZERS
from torch_optimizer.values import brief, require_written_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from torch_optimizer.direction_optimizer import DirectionOptimizer
    from torch_optimizer.shadow_step import ShadowStep

CLIPPING_OPTIONS = ("coordinate_clip", "clip_update")


class Algorithm:
    """An optimizer and its options, e.g. `Algorithm("sgd", lr=5e-3, momentum=0.9, coordinate_clip=0.1)`. Immutable.

    Args:
        optimizer: a name of `torch_optimizer.OPTIMIZERS`, any `torch.optim.Optimizer` class, or where to import one
            from, "package.module:Class".
        groups: options of their own for some parameters, `[{"params": r"bias|norm", "weight_decay": 0.0}]`. "params"
            is a regular expression; a parameter belongs to the first one that is found in its name.
        step_size: distance between the points of its loss scan (parameter space, Euclidean); None: chosen from the
            quadratic model of the loss at each point.
        options: passed to the optimizer's constructor.

    A row is checked by `check`, not when it is written: the answer can then name the list it stands in.
    """

    __slots__ = ("optimizer", "step_size", "groups", "options")

    def __init__(
        self,
        optimizer: str | type,
        *,
        step_size: float | None = None,
        groups: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ):
        object.__setattr__(self, "optimizer", optimizer)
        object.__setattr__(self, "step_size", step_size)
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "options", MappingProxyType(options))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"an Algorithm does not change; write a new row instead of setting {name}")

    @property
    def name(self) -> str:
        """As tables and figures call the optimizer: its name in the registry, or its class's in lower case."""
        if isinstance(self.optimizer, str):
            return self.optimizer.rpartition(":")[2].lower() if ":" in self.optimizer else self.optimizer
        return self.optimizer.__name__.lower()

    @property
    def optimizer_class(self) -> type[torch.optim.Optimizer]:
        if not isinstance(self.optimizer, str):
            return self.optimizer
        if ":" in self.optimizer:
            return _imported(self.optimizer)
        if self.optimizer not in OPTIMIZERS:
            hint = did_you_mean(self.optimizer, OPTIMIZERS)
            raise ValueError(f"unknown optimizer {self.optimizer!r}; {hint}known: {', '.join(OPTIMIZERS)}")
        return OPTIMIZERS[self.optimizer]

    @property
    def is_clipped(self) -> bool:
        """Whether the row clips gradients or updates by coordinate."""
        return any(each.get(option) for each in (self.options, *self.groups) for option in CLIPPING_OPTIONS)

    @property
    def is_plain_sgd(self) -> bool:
        """Whether the row is SGD without clipping, with which the others are compared."""
        return self.name == "sgd" and not self.is_clipped

    @property
    def lr(self) -> float | None:
        """The rate that the row trains with; None where the optimizer sets its own (Adafactor's relative steps)."""
        import torch

        return self.build({"weight": torch.nn.Parameter(torch.zeros(1, 1))}).param_groups[0]["lr"]

    def build(self, params: Mapping[str, Tensor]) -> torch.optim.Optimizer:
        """The optimizer on these parameters (name -> tensor, e.g. `dict(model.named_parameters())`).

        torch.optim.Muon is defined for matrices only and gets no others; the others stay where they are. A class with
        `takes_names` gets (name, tensor) pairs. One with a `train` method, such as a schedule-free optimizer, is put
        into train mode.

        Raises: ValueError, in one line, if a pattern of `groups` is found in no name.
        """
        import torch

        optimizer_class, chosen = self.optimizer_class, params
        if optimizer_class is torch.optim.Muon:
            chosen = {name: p for name, p in params.items() if p.ndim == 2}
        if getattr(optimizer_class, "takes_names", False):
            optimizer = optimizer_class(list(chosen.items()), **self.options)
        elif self.groups:
            optimizer = optimizer_class(self._grouped(chosen), **self.options)
        else:
            optimizer = optimizer_class(list(chosen.values()), **self.options)
        set_mode(optimizer, training=True)
        return optimizer

    def check_names(self, names: Iterable[str]) -> None:
        """Raises ValueError, in one line, if a pattern of `groups` is in no name of a model's parameters."""
        self._grouped(dict.fromkeys(names))

    def _grouped(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The parameters without a group of their own, then those of each pattern."""
        left, groups = dict(params), []
        for group in self.groups:
            names = [name for name in left if re.search(group["params"], name)]
            if not names:
                first_names = ", ".join([*list(left)[:3], "..."])
                raise ValueError(
                    f"{self.name}: {group['params']!r} of groups is in none of the names left: {first_names}"
                )
            groups.append({**group, "params": [left.pop(name) for name in names]})
        return [{"params": list(left.values())}, *groups] if left else groups

    def build_pseudo(self, params: Mapping[str, Tensor]) -> DirectionOptimizer | ShadowStep:
        """An object that gives the steps which the optimizer would take on these parameters, without taking them."""
        from torch_optimizer.direction_optimizer import DirectionOptimizer
        from torch_optimizer.shadow_step import ShadowStep

        if issubclass(self.optimizer_class, DirectionOptimizer):
            return cast(DirectionOptimizer, self.build(params))
        return ShadowStep(self.build, params)

    def with_options(self, **options: Any) -> Algorithm:
        """The same row with some options replaced."""
        return Algorithm(self.optimizer, step_size=self.step_size, groups=self.groups, **{**self.options, **options})

    def check(self) -> None:
        """Raises ValueError, in one line, if the optimizer is unknown or refuses an option or a value. It also does if
        the optimizer cannot do what a run asks of it (see `rehearse`)."""
        import torch

        from torch_optimizer.rehearsal import rehearse

        optimizer_class = self.optimizer_class
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
            raise ValueError(f"an optimizer is a name or a torch.optim.Optimizer class, got {brief(self.optimizer)}")
        known = [p for p in inspect.signature(optimizer_class).parameters if p != "params"]
        self._check_groups()
        for option, value in (item for each in (self.options, *self.groups) for item in each.items()):
            if option not in known and option != "params" and "kwargs" not in known:
                hint = did_you_mean(option, known)
                raise ValueError(f"{self.name} has no option {option!r}; {hint}known: {', '.join(known)}")
            require_written_number(option, value)
        if self.step_size is not None:
            require_written_number("step_size", self.step_size)
            is_number = isinstance(self.step_size, (int, float)) and not isinstance(self.step_size, bool)
            if not (is_number and 0 < self.step_size < math.inf):
                raise ValueError(f"step_size is a distance > 0, or None to choose it, got {brief(self.step_size)}")
        try:
            row, names = self, [f"group{i}.weight" for i in range(len(self.groups))]
            if names:  # the model's own names are not known here, so each group gets a matrix of its own
                groups = [{**group, "params": f"^{name}$"} for name, group in zip(names, self.groups, strict=True)]
                row = Algorithm(self.optimizer, groups=groups, **self.options)
            rehearse(row.build, row.build_pseudo, names)
        except Exception as error:  # whatever the optimizer objects to, the row is what must change
            reason = " ".join(str(error).split()) or type(error).__name__
            if "does not require grad" in reason:
                reason = "its step differentiates the gradient once more, and a run keeps no graph of the gradient"
            raise ValueError(f"{self.name} cannot be used: {reason}") from error

    def _check_groups(self) -> None:
        """Raises ValueError, in one line, unless `groups` is a list of dicts, each with a pattern and an option."""
        example = '[{"params": "bias|norm", "weight_decay": 0.0}]'
        if not isinstance(self.groups, (list, tuple)) or not all(isinstance(group, Mapping) for group in self.groups):
            raise ValueError(f"groups is a list like {example}, got {brief(self.groups)}")
        if self.groups and getattr(self.optimizer_class, "takes_names", False):
            raise ValueError(f"{self.name} sorts the parameters itself and takes no groups")
        for group in self.groups:
            if not isinstance(group.get("params"), str) or len(group) < 2:
                raise ValueError(f"a group is a pattern and an option, as in {example}, got {brief(dict(group))}")
            try:
                re.compile(group["params"])
            except re.error as error:
                raise ValueError(f"{group['params']!r} of groups is not a regular expression: {error}") from error

    def __repr__(self) -> str:
        options = {**self.options, **({} if self.step_size is None else {"step_size": self.step_size})}
        options |= {"groups": list(self.groups)} if self.groups else {}
        return f"Algorithm({', '.join([repr(self.name)] + [f'{k}={v!r}' for k, v in options.items()])})"


def set_mode(optimizer: Any, training: bool) -> None:
    """Tell an optimizer that keeps two sets of weights, such as a schedule-free one, which of them the model is to
    hold: those that it trains, or those that it would be used with. Others are left alone."""
    switch = getattr(optimizer, "train" if training else "eval", None)
    if callable(switch):
        switch()


def _imported(place: str) -> Any:
    """The object that "package.module:Name" names. Raises ValueError, in one line, naming the part that is not
    there."""
    module, _, name = place.partition(":")
    try:
        imported = import_module(module)
    except Exception as error:  # an import runs code that is not ours
        raise ValueError(f"{place!r} cannot be imported: {' '.join(str(error).split())}") from error
    if not hasattr(imported, name):
        hint = did_you_mean(name, vars(imported))
        raise ValueError(f"{place!r} cannot be imported: {module} has no {name!r}; {hint}".rstrip("; "))
    return getattr(imported, name)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the closest match, with a trailing space; "" where nothing is close."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
