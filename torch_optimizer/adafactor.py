"""Adafactor with coordinate-wise clipping of its numerator."""

import math
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor

from torch_optimizer.direction_optimizer import DirectionOptimizer, Group, require_number, require_range
from torch_optimizer.values import value_key


def rms(x: Tensor) -> Tensor:
    """Root mean square, a 0-d tensor."""
    return torch.linalg.vector_norm(x) / math.sqrt(x.numel())


def inverse_root(row: Tensor, column: Tensor) -> Tensor:
    """1 / sqrt(row column' / mean(row)), the factored second moment's; shapes [..., R] and [..., C] to [..., R, C].

    The floor keeps a row or column that is zero (possible if eps2[0] = 0) from giving 0 / 0.
    """
    tiny = torch.finfo(row.dtype).tiny
    row = row / row.mean(dim=-1, keepdim=True).clamp(min=tiny)
    return row.clamp(min=tiny).rsqrt().unsqueeze(-1) * column.clamp(min=tiny).rsqrt().unsqueeze(-2)


class Adafactor(DirectionOptimizer):
    r"""Adafactor: the step relative to each tensor's size, its second moment kept as one row and one column per matrix.

        s_t = b_t s_{t-1} + (1 - b_t) (g_t^2 + eps2[0]),  b_t = 1 - t^decay_rate   [arXiv:1804.04235]
        U_t = clip(g_t, coordinate_clip) / sqrt(s_t)                  numerator only  [arXiv:2306.00204]
        U^  = U_t / max(1, RMS(U_t) / clip_threshold)
        a_t = max(eps2[1], RMS(x_t)),  or 1 without scale_parameter
        v_t = -a_t (U^ + weight_decay x_t)
        lr  = min(1e-2, 1/sqrt(t)) if relative_step;  min(1e-6 t, 1/sqrt(t)) with warmup_init also

    From two dimensions on, s_t is kept by its means over the last two: s_t ~ row column' / mean(row). With beta1 the
    moves are averaged with their own step sizes, as in transformers.optimization.Adafactor, which this class equals
    without clipping: lr_t v_t = -M_t - lr_t a_t weight_decay x_t, M_t = beta1 M_{t-1} + (1 - beta1) lr_t a_t U^.
    At lr = 0 nothing moves, though there the reference would still move by beta1 M_{t-1}.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: step relative to a_t, in [0, inf); a number or a 0-d tensor. Ignored if relative_step, else needed.
        eps2: floors of the squared gradient and of RMS(x), each in [0, inf).
        clip_threshold: largest RMS of U^, in (0, inf].
        decay_rate: in (-inf, 0]; how fast s_t forgets.
        beta1: None for no first moment, else in [0, 1).
        weight_decay: in [0, inf); decoupled, not clipped.
        scale_parameter: make the step relative to the parameter's size.
        relative_step: let the lr follow t.
        warmup_init: start it at 1e-6; needs relative_step.
        coordinate_clip: fraction of gradient coordinates set aside, in [0, 1); 0 clips nothing.
        threshold_scale: factor on the threshold, in [0, inf).

    State: `step`; `exp_avg_sq_row` [..., R] and `exp_avg_sq_col` [..., C] for a parameter [..., R, C], else
        `exp_avg_sq`; with beta1 `exp_avg` (M). In float32 where the parameter is of half precision.
    Raises: ValueError if an option is outside its range; RuntimeError from `step` on sparse or complex gradients.

    Example:
        >>> x = torch.nn.Parameter(torch.full((2, 2), 3.0)); x.grad = torch.tensor([[2.0, -2.0], [2.0, 2.0]])
        >>> Adafactor([x]).step(); x.data            # RMS(x) = 3, U = sign(g), lr = 0.01
        tensor([[2.9700, 3.0300],
                [2.9700, 2.9700]])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor | None = None,
        eps2: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
        coordinate_clip: float = 0.0,
        threshold_scale: float = 1.0,
    ) -> None:
        defaults = dict(
            lr=lr,
            eps2=eps2,
            clip_threshold=clip_threshold,
            decay_rate=decay_rate,
            beta1=beta1,
            weight_decay=weight_decay,
            scale_parameter=scale_parameter,
            relative_step=relative_step,
            warmup_init=warmup_init,
            coordinate_clip=coordinate_clip,
            threshold_scale=threshold_scale,
        )
        super().__init__(params, defaults)

    def _check_options(self, options: Group) -> None:
        super()._check_options({k: v for k, v in options.items() if k != "lr" or v is not None})
        if options["lr"] is None and not options["relative_step"]:
            raise ValueError("lr must be a number in [0, inf) if relative_step is False, got None")
        if options["warmup_init"] and not options["relative_step"]:
            raise ValueError("warmup_init=True needs relative_step=True, got relative_step=False")
        if not isinstance(options["eps2"], (tuple, list)) or len(options["eps2"]) != 2:
            raise ValueError(f"eps2 must be two numbers in [0, inf), got {options['eps2']!r}")
        for i, floor in enumerate(options["eps2"]):
            require_number(f"eps2[{i}]", floor, 0, math.inf)
        require_range(options, "clip_threshold", 0, math.inf, closed=True)
        if options["clip_threshold"] == 0:
            raise ValueError(f"clip_threshold must be > 0, got {options['clip_threshold']!r}")
        require_range(options, "decay_rate", -math.inf, 0, closed=True)
        if options["beta1"] is not None:
            require_range(options, "beta1", 0, 1)

    def learning_rate(self, group: Group, p: Tensor) -> float | Tensor:
        if not group["relative_step"]:
            return group["lr"]
        t = self.state[p]["step"]
        return min(1e-6 * t if group["warmup_init"] else 1e-2, 1 / math.sqrt(t))

    def state_key(self) -> Hashable:
        averaged = [group["lr"] for group in self.param_groups if group["beta1"] is not None]
        return super().state_key(), value_key(averaged)  # the average is of moves, which are as long as lr

    def _state_dtype(self, p: Tensor) -> torch.dtype:
        return torch.promote_types(p.dtype, torch.float32)  # half precision would lose the squares

    def _rule(self, p: Tensor, grad: Tensor, clipped: Tensor, group: Group) -> Tensor:
        dtype = self._state_dtype(p)
        state = self.state[p]
        state["step"] = int(state.get("step", 0)) + 1
        if p.numel() == 0:
            return clipped
        x = p.to(dtype)
        update = self._inverse_root(state, grad.to(dtype), group).mul_(clipped)
        update.div_((rms(update) / group["clip_threshold"]).clamp_(min=1.0))
        size = rms(x).clamp_(min=group["eps2"][1]) if group["scale_parameter"] else x.new_ones(())
        update.mul_(size)
        if group["beta1"] is not None:
            update = self._averaged(state, update, self.learning_rate(group, p), group["beta1"])
        return update.addcmul_(x, size, value=group["weight_decay"]) if group["weight_decay"] != 0 else update

    @staticmethod
    def _inverse_root(state: Group, grad: Tensor, group: Group) -> Tensor:
        """Advance the second moment in `state`; returns 1 / sqrt(s_t), same shape as `grad`."""
        b = 1 - state["step"] ** group["decay_rate"]
        square = grad.square().add_(group["eps2"][0])
        if grad.dim() < 2:
            if "exp_avg_sq" not in state:
                state["exp_avg_sq"] = torch.zeros_like(square)
            second = state["exp_avg_sq"].mul_(b).add_(square, alpha=1 - b)
            return second.clamp(min=torch.finfo(grad.dtype).tiny).rsqrt_()
        if "exp_avg_sq_row" not in state:
            state["exp_avg_sq_row"] = torch.zeros_like(square[..., 0])
            state["exp_avg_sq_col"] = torch.zeros_like(square[..., 0, :])
        row = state["exp_avg_sq_row"].mul_(b).add_(square.mean(dim=-1), alpha=1 - b)
        column = state["exp_avg_sq_col"].mul_(b).add_(square.mean(dim=-2), alpha=1 - b)
        return inverse_root(row, column)

    @staticmethod
    def _averaged(state: Group, update: Tensor, lr: float | Tensor, beta1: float) -> Tensor:
        """Advance the average of lr-sized moves in `state`; returns it per unit of the present lr."""
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(update)
        average = state["exp_avg"].mul_(beta1).add_(update * lr, alpha=1 - beta1)
        return average / lr if lr != 0 else torch.zeros_like(average)
