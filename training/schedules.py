"""Learning-rate schedules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SCHEDULERS = ("constant", "linear", "cosine", "linear_with_warmup", "epoch_warmup")


def make_scheduler(
    name: str, optimizer: torch.optim.Optimizer, num_epochs: int, steps_per_epoch: int, warmup_ratio: float | None = 0.1
):
    """The learning rate over `num_epochs * steps_per_epoch` updates, or None where the optimizer sets its own.

    constant; linear or cosine: falling to 0 from the start; linear_with_warmup: the same after a linear warm-up over
    the first `warmup_ratio` of the updates; epoch_warmup: rising linearly from a third to the full rate over the first
    `warmup_ratio` of the epochs, with one step per epoch, then constant (Tomihari & Sato's for images)."""
    if name not in SCHEDULERS:
        raise ValueError(f"unknown schedule {name!r}; known: {', '.join(SCHEDULERS)}")
    if any(group["lr"] is None for group in optimizer.param_groups):  # Adafactor with relative steps
        return None
    ratio = warmup_ratio or 0.0  # None: a schedule without a warm-up
    if name == "epoch_warmup":
        rising = math.ceil(ratio * num_epochs)  # epochs below the full rate

        def share(step: int) -> float:
            return min(1.0, 1 / 3 + 2 / 3 * (step // steps_per_epoch) / rising) if rising else 1.0

        from torch.optim.lr_scheduler import LambdaLR

        return LambdaLR(optimizer, share)
    from transformers import get_scheduler  # slow to import

    num_steps = num_epochs * steps_per_epoch
    warmup_steps = math.ceil(ratio * num_steps) if name == "linear_with_warmup" else 0
    return get_scheduler(name.removesuffix("_with_warmup"), optimizer, warmup_steps, num_steps)
