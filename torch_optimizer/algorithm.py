"""A row of `algorithm_list.py`: an optimizer with its options, not yet tied to any parameters.

A row is written, named and described without torch, which takes seconds to import; to check or build it needs torch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
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
        if self.optimizer not in OPTIMIZERS:
            hint = did_you_mean(self.optimizer, OPTIMIZERS)
            raise ValueError(f"unknown optimizer {self.optimizer!r}; {hint}known: {', '.join(OPTIMIZERS)}")
        return OPTIMIZERS[self.optimizer]

    @property
    def is_clipped(self) -> bool:
        """Whether the row clips gradients or updates by coordinate."""
        return any(self.options.get(option) for option in CLIPPING_OPTIONS)

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
        `takes_names` gets (name, tensor) pairs.
        """
        import torch

        if getattr(self.optimizer_class, "takes_names", False):
            return self.optimizer_class(list(params.items()), **self.options)
        tensors = list(params.values())
        if self.optimizer_class is torch.optim.Muon:
            tensors = [p for p in tensors if p.ndim == 2]
        return self.optimizer_class(tensors, **self.options)

    def build_pseudo(self, params: Mapping[str, Tensor]) -> DirectionOptimizer | ShadowStep:
        """What tells the steps that the optimizer would take on these parameters, without taking them."""
        from torch_optimizer.direction_optimizer import DirectionOptimizer
        from torch_optimizer.shadow_step import ShadowStep

        if issubclass(self.optimizer_class, DirectionOptimizer):
            return cast(DirectionOptimizer, self.build(params))
        return ShadowStep(self.build, params)

    def with_options(self, **options: Any) -> Algorithm:
        """The same row with some options replaced."""
        return Algorithm(self.optimizer, step_size=self.step_size, **{**self.options, **options})

    def check(self) -> None:
        """Raises ValueError, in one line, if the optimizer is unknown, does not take an option, rejects a value, or
        cannot do what a run asks of it (see `rehearse`)."""
        import torch

        from torch_optimizer.rehearsal import rehearse

        optimizer_class = self.optimizer_class
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, torch.optim.Optimizer)):
            raise ValueError(f"an optimizer is a name or a torch.optim.Optimizer class, got {brief(self.optimizer)}")
        known = [p for p in inspect.signature(optimizer_class).parameters if p != "params"]
        for option, value in self.options.items():
            if option not in known and "kwargs" not in known:
                hint = did_you_mean(option, known)
                raise ValueError(f"{self.name} has no option {option!r}; {hint}known: {', '.join(known)}")
            require_written_number(option, value)
        if self.step_size is not None:
            require_written_number("step_size", self.step_size)
            is_number = isinstance(self.step_size, (int, float)) and not isinstance(self.step_size, bool)
            if not (is_number and 0 < self.step_size < math.inf):
                raise ValueError(f"step_size is a distance > 0, or None to choose it, got {brief(self.step_size)}")
        try:
            rehearse(self.build, self.build_pseudo)
        except Exception as error:  # whatever the optimizer objects to, the row is what must change
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.name} cannot be used: {reason}") from error

    def __repr__(self) -> str:
        options = {**self.options, **({} if self.step_size is None else {"step_size": self.step_size})}
        return f"Algorithm({', '.join([repr(self.name)] + [f'{k}={v!r}' for k, v in options.items()])})"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A question that names the closest match, with a blank behind it; "" where nothing is close."""
    near = get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""
