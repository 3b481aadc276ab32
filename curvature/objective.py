"""Borrow a model for a measurement, and give it back as it was."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

log = logging.getLogger(__name__)

Params = dict[str, Tensor]  # name -> tensor
Batch = dict[str, Tensor]  # one micro-batch: its examples lie along the first dimension of each tensor
LossFunction = Callable[[Params, Batch], Tensor]  # per-example losses [B]


class KeepPrecision(TorchFunctionMode):
    """While active, casting a float64 tensor to float32 leaves it float64.

    Models written for half precision compute some steps "in float32" by name (T5's layer norm, many a softmax). In a
    float64 model that is a loss of precision which no derivative check survives.
    """

    CASTS = (torch.Tensor.to, torch.Tensor.float, torch.Tensor.type)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is torch.Tensor.float:
                return args[0]
            if func in self.CASTS or "dtype" in kwargs:  # .to(torch.float32), softmax(..., dtype=torch.float32)
                args = tuple(torch.float64 if a is torch.float32 else a for a in args)
                kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Borrow `model` for a measurement: no dropout, batch norm on its running statistics, full float32 products (no
    TF32), a float64 model in float64 throughout. On exit, also by an exception, the train/eval mode of every module and
    the random state are as they were; parameters and their gradients are never written to."""
    modes = [(module, module.training) for module in model.modules()]
    cuda = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    in_float64 = any(p.dtype == torch.float64 for p in model.parameters())
    matmul_precision = torch.get_float32_matmul_precision()
    model.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.random.fork_rng(devices=cuda),
            torch.backends.cudnn.flags(allow_tf32=False),
            KeepPrecision() if in_float64 else nullcontext(),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul_precision)
        for module, mode in modes:
            module.training = mode


def differentiable_attention():
    """Context in which attention can be differentiated twice; the fused kernels cannot."""
    return sdpa_kernel(SDPBackend.MATH)


def functional_loss(model: nn.Module, losses: Callable[[Callable, Batch], Tensor]) -> LossFunction:
    """The closure that the measurements take, for a module: `losses(forward, batch)` are the per-example losses [B] of
    a micro-batch when `forward(**inputs)` runs the model. Parameters that are not passed in stay the module's own."""

    def loss_fn(params: Params, batch: Batch) -> Tensor:
        return losses(lambda **inputs: functional_call(model, params, (), inputs), batch)

    return loss_fn


def trainable_parameters(model: nn.Module) -> Params:
    """name -> tensor of what the optimizers move: detached, sharing memory with the model."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def halves(batch: Batch) -> list[Batch]:
    """The first and the second half of the examples of a micro-batch, which lie along the first dimension of all its
    tensors; itself where they cannot be parted."""
    sizes = {len(t) if t.dim() else 0 for t in batch.values()}
    if len(sizes) != 1 or max(sizes) < 2:
        return [batch]
    return [dict(zip(batch, half, strict=True)) for half in zip(*(t.chunk(2) for t in batch.values()), strict=True)]


def within_memory(measure: Callable[[list[Batch]], Any], batches: list[Batch]) -> Any:
    """measure(batches). Where CUDA memory runs out, the micro-batches in the list are halved, for good, and `measure`
    starts anew: their size changes no result. Raises the error where every one of them is a single example."""
    while True:
        try:
            return measure(batches)
        except torch.OutOfMemoryError:
            smaller = [half for batch in batches for half in halves(batch)]
            if len(smaller) == len(batches):
                raise
        # here the error is gone, and with its traceback what it held
        batches[:] = smaller
        torch.cuda.empty_cache()
        log.warning("out of memory while measuring: going on with %d micro-batches of half the size", len(batches))


@dataclass
class Objective:
    """The loss on a batch at the parameters of `model`, as the measurements take it."""

    model: nn.Module
    loss_fn: LossFunction
    params: Params
    batches: list[Batch]


def objective_at(
    model: nn.Module, losses: Callable[[Callable, Batch], Tensor], batches: list[Batch], dtype: torch.dtype
) -> Objective:
    """The objective at the model's present parameters; in another number type on a copy, buffers included."""
    if dtype != torch.float32:
        model = deepcopy(model).to(dtype)
    return Objective(model, functional_loss(model, losses), trainable_parameters(model), batches)
