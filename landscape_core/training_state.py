"""What wraps or shards a model in training: unwrapped where it can be, refused in one line where it cannot.

And the state of a training run that a measurement must leave as it was.
"""

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SHARDED = "shard the parameters or gradients, and the probe needs whole ones: measure under DDP or on one device"


def bare_model(model: nn.Module) -> nn.Module:
    """The user's own module inside of torch.compile and DistributedDataParallel or DataParallel."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        else:
            return model


def refuse_sharded(model: nn.Module) -> None:
    """Raises: ValueError for a model of FSDP, of DeepSpeed, or of tensor parallelism."""
    if type(model).__module__.startswith("deepspeed"):
        raise ValueError(f"{type(model).__name__}: DeepSpeed may {SHARDED}")
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError(f"{name or 'the model'} is FullyShardedDataParallel, which may {SHARDED}")
    for name, p in model.named_parameters():
        if type(p).__name__ == "DTensor" or type(p.data).__name__ == "DTensor":
            raise ValueError(f"{name} is a DTensor: FSDP and tensor parallelism {SHARDED}")
        if hasattr(p, "ds_id"):
            raise ValueError(f"{name} belongs to DeepSpeed's ZeRO, which may {SHARDED}")


def check_gradients(params: Mapping[str, Tensor]) -> None:
    """Raises: ValueError if no parameter has a gradient, or one that is not whole or not dense."""
    grads = {name: p.grad for name, p in params.items() if p.grad is not None}
    if not grads:
        raise ValueError(
            "no parameter has a gradient: call observe() after backward(), before optimizer.step() and zero_grad(). "
            f"DeepSpeed and FSDP {SHARDED}"
        )
    for name, grad in grads.items():
        if type(grad).__name__ == "DTensor":
            raise ValueError(f"the gradient of {name} is a DTensor: FSDP and tensor parallelism {SHARDED}")
        if grad.layout != torch.strided:
            raise ValueError(f"the gradient of {name} is sparse; make the embedding with sparse=False to measure it")


def rank() -> int:
    """Of this process; 0 where there is one."""
    distributed = torch.distributed
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def loss_scale(scaler: Any, optimizer: Any) -> float:
    """What the gradients are multiplied by now; 1 without a scaler, or after its `unscale_(optimizer)`."""
    if scaler is None or not scaler.is_enabled() or is_unscaled(scaler, optimizer):
        return 1.0
    return scaler.get_scale()


def is_unscaled(scaler: Any, optimizer: Any) -> bool:
    """Whether `scaler` has divided this optimizer's gradients in this step."""
    state = scaler._per_optimizer_states.get(id(optimizer), {})  # torch has no public question for it
    return state.get("stage") is not None and state["stage"].name != "READY"


def called_by_scaler() -> bool:
    """Whether a GradScaler is stepping an optimizer now. Torch does not report it, so the call stack is searched."""
    frame = sys._getframe()
    while frame := frame.f_back:
        if isinstance(frame.f_locals.get("self"), torch.amp.GradScaler):
            return True
    return False


def samples(params: Iterable[Tensor]) -> list[Tensor]:
    """A few numbers of the first and of the last gradient, copied."""
    grads = [p.grad for p in params if p.grad is not None]
    return [grad.detach().flatten()[:256].clone() for grad in (grads[0], grads[-1])]


@contextmanager
def divided_gradients(params: Iterable[Tensor], scale: float) -> Iterator[None]:
    """While active, every `p.grad` is a copy divided by `scale`. The gradients themselves are not written to."""
    if scale == 1:
        yield
        return
    before = [(p, p.grad) for p in params if p.grad is not None]
    try:
        for p, grad in before:
            p.grad = grad / scale
        yield
    finally:
        for p, grad in before:
            p.grad = grad


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Gives back, also by an exception, what `measuring` does not: buffers, and the random state of Python and NumPy.
    While active, nothing is compiled and nothing is autocast."""
    buffers = [(b, b.detach().clone(), b._version) for b in model.buffers() if not b.is_inference()]
    python, numpy = random.getstate(), np.random.get_state()
    devices = {p.device.type for p in model.parameters()} - {"meta"}
    try:
        with ExitStack() as stack:
            for kind in devices:
                stack.enter_context(torch.autocast(kind, enabled=False))
            if "torch._dynamo" in sys.modules:  # else nothing can be compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        with torch.no_grad():
            for buffer, value, version in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
