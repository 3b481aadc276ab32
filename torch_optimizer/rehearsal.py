"""What a run will ask of a row, done once on a few numbers before it starts."""

import inspect
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torch_optimizer.next_step import refuse_closures

Build = Callable[[Mapping[str, Tensor]], Any]  # parameters, name -> tensor, -> an optimizer on them


def rehearse(build: Build, build_pseudo: Build, more: Sequence[str] = ()) -> None:
    """Do what a run does: float32 parameters, a schedule, two steps and two pseudo-updates, each stored and restored.

    Args:
        build: makes the optimizer that trains, as `Algorithm.build`.
        build_pseudo: makes the object that gives the steps of the same row, as `Algorithm.build_pseudo`.
        more: names of further matrices that they are to have, beside a matrix and a vector.
    Raises: ValueError, in one line, for what the row lacks; and whatever the optimizer itself objects with.
    """
    params = {"hidden.weight": Parameter(torch.eye(2)), "hidden.bias": Parameter(torch.ones(2))}
    params |= {name: Parameter(torch.eye(2)) for name in more}
    optimizer = build(params)
    if inspect.unwrap(type(optimizer).step) is Optimizer.step:  # torch has wrapped it when the first one was built
        raise ValueError("its class has no method step()")
    refuse_closures(optimizer)
    pseudo = build_pseudo(params)
    for group in optimizer.param_groups:
        if "lr" not in group:
            options = ", ".join(name for name in group if name != "params")
            raise ValueError(f"its rate must be called lr in param_groups, as in torch.optim; it has {options}")
    if optimizer.param_groups[0]["lr"] is not None:
        LambdaLR(optimizer, lambda step: 1.0)
    with torch.random.fork_rng(devices=[]):
        for size in (1.0, 0.5):
            for p in params.values():
                p.grad = size * torch.tensor([[1.0, -2.0], [3.0, 0.5]] if p.ndim == 2 else [0.25, -1.5])
            pseudo.directions()
            optimizer.step()
            optimizer = _restored(build(params), optimizer)
            pseudo = _restored(build_pseudo(params), pseudo)


def _restored(fresh: Any, used: Any) -> Any:
    """`fresh` with the state of `used`, by way of a file as a checkpoint is one."""
    file = io.BytesIO()
    try:
        torch.save(used.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    except Exception as error:  # pickle, torch and the optimizer each have their own
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"its state_dict() cannot be stored in a checkpoint: {reason}") from error
    fresh.load_state_dict(state)
    return fresh
