"""A measurement borrows the model and gives it back: mode, precision, attention, memory."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from curvature.memory import is_out_of_memory, retried
from curvature.objective import Batch, ModelLosses, examples_of, functional_loss, halves, trainable_parameters


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
    TF32). A float64 model computes in float64 throughout. What a model has cached in evaluation mode is dropped. On
    exit, also by an exception, the train/eval mode of every module and the random state are as they were; parameters
    and their gradients are never written to."""
    modes = [(module, module.training) for module in model.modules()]
    cuda = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    in_float64 = any(p.dtype == torch.float64 for p in model.parameters())
    matmul_precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn
    model.train()  # where a model drops what it computed from its parameters in evaluation mode
    model.eval()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.random.fork_rng(devices=cuda),
            torch.backends.cudnn.flags(
                enabled=cudnn.enabled, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False
            ),  # its own defaults switch cuDNN off
            KeepPrecision() if in_float64 else nullcontext(),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul_precision)
        for module, mode in modes:
            module.training = mode


def math_attention():
    """Context in which attention is made of operations that have a second derivative; the fused kernels have none."""
    return sdpa_kernel(SDPBackend.MATH)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """g v / |v| and |v|, |.| the norm over all dimensions except `dim`. The second derivative of torch's own fused
    operation is wrong (torch 2.13; its first is right): 9 % off along a random direction of a 3 x 4 matrix."""
    norms = torch.norm_except_dim(v, 2, dim)
    return v * (g / norms), norms


class RightSecondDerivatives(TorchFunctionMode):
    """While active, what torch 2.13 differentiates wrongly the second time, without an error, is made of other
    operations: weight norm, and the chunked cross entropy of a linear layer, which treats its gradient as a
    constant."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is getattr(torch, "_weight_norm", None):
            return weight_norm(*args, **(kwargs or {}))[0]
        if func is torch.nn.functional.linear_cross_entropy:
            kwargs = {**(kwargs or {}), "options": None}  # not in chunks
        return func(*args, **(kwargs or {}))


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Context in which a loss has the right second derivative by double backward."""
    with math_attention(), RightSecondDerivatives():
        yield


def check_twice_differentiable(model: nn.Module, losses: ModelLosses, batch: Batch, name: str) -> None:
    """ValueError naming the model, as `name`, if its loss on `batch` has no second derivative: some fused kernels have
    none, and then no sharpness can be measured. `losses` is as in `functional_loss`. Costs a forward pass and two
    backward passes."""
    with measuring(model), twice_differentiable():
        params = {key: p.requires_grad_() for key, p in trainable_parameters(model).items()}
        loss = functional_loss(model, losses)(params, batch).sum()
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True, allow_unused=True)
        try:  # backward, because autograd.grad walks past a function that is marked as differentiable once only
            torch.stack([g.square().sum() for g in grads if g is not None]).sum().backward()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"model {name} ({type(model).__name__}) cannot be differentiated twice, and without that there is no "
                f"sharpness to measure: {str(error).strip().splitlines()[0]}"
            ) from error


def within_memory(measure: Callable[[list[Batch]], Any], batches: list[Batch], per_example: Collection[str]) -> Any:
    """measure(batches). Where memory runs out, the micro-batches in the list are halved, for good, and `measure` starts
    again: their size changes no result beyond rounding. Raises the error where every one of them is a single example.

    Args:
        per_example: the entries of a batch that hold its examples along their first dimension.
    """

    def smaller() -> str | None:
        parts = [half for batch in batches for half in halves(batch, per_example)]
        if len(parts) == len(batches):
            return None
        batches[:] = parts
        most = max(examples_of(batch, per_example) for batch in batches)
        return f"{len(batches)} micro-batches of at most {most} examples where it measures"

    return retried(lambda: measure(batches), smaller)
