"""Adam with coordinate-wise clipping of the gradient, of the finished step, or of both."""

import math
from typing import Any

import torch
from torch import Tensor

from torch_optimizer.direction_optimizer import DirectionOptimizer, Group, require_betas, require_range


class AdamClip(DirectionOptimizer):
    r"""Adam that can clip what enters its average, and the step that leaves it.

        c_t = clip(g_t, coordinate_clip)                               [Pan & Li, arXiv:2306.00204]
        m_t = beta1 m_{t-1} + (1 - beta1) (c_t + weight_decay x_t)
        s_t = beta2 s_{t-1} + (1 - beta2) (g_t + weight_decay x_t)^2   the raw gradient
        v_t = -clip(m^ / (sqrt(s^) + eps), clip_update),   m^ = m_t / (1 - beta1^t),  s^ = s_t / (1 - beta2^t)

    Both clips take one threshold over all coordinates of the optimizer, as in SGDClip. Without them this is
    torch.optim.Adam [Kingma & Ba, arXiv:1412.6980]; amsgrad replaces s_t by its largest value so far.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: distance moved per unit of v_t, in [0, inf); a number or a 0-d tensor.
        betas: decay of m and of s, each in [0, 1).
        eps: added to the root, in [0, inf).
        weight_decay: strength of the L2 term, in [0, inf); added after clipping.
        amsgrad: let the second moment never fall.
        maximize: climb instead; the gradient is negated before anything else.
        coordinate_clip: fraction of gradient coordinates set aside, in [0, 1); 0 clips nothing.
        threshold_scale: factor on both thresholds, in [0, inf).
        clip_update: fraction of the finished step's coordinates set aside, in [0, 1); 0 clips nothing.

    State: `step`; `exp_avg` (m), `exp_avg_sq` (s) and, with amsgrad, `max_exp_avg_sq`: same shape as the parameter,
        in float32 where it is of half precision.
    Raises: ValueError if an option is outside its range; RuntimeError from `step` on sparse or complex gradients.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(4)); x.grad = torch.tensor([8.0, -2.0, 1.0, 4.0])
        >>> AdamClip([x], lr=1.0, eps=0, coordinate_clip=0.25).step(); x.data     # m^ = c_1, sqrt(s^) = |g_1|
        tensor([-0.5000,  1.0000, -1.0000, -1.0000])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        coordinate_clip: float = 0.0,
        threshold_scale: float = 1.0,
        clip_update: float = 0.0,
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            coordinate_clip=coordinate_clip,
            threshold_scale=threshold_scale,
            clip_update=clip_update,
        )
        super().__init__(params, defaults)

    def _check_options(self, options: Group) -> None:
        super()._check_options(options)
        require_betas(options)
        require_range(options, "eps", 0, math.inf)
        require_range(options, "clip_update", 0, 1)

    def _state_dtype(self, p: Tensor) -> torch.dtype:
        return torch.promote_types(p.dtype, torch.float32)  # half precision would lose the squares

    def _rule(self, p: Tensor, grad: Tensor, clipped: Tensor, group: Group) -> Tensor:
        beta1, beta2 = group["betas"]
        state = self.state[p]
        dtype = self._state_dtype(p)
        if "step" not in state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(p, dtype=dtype)
            state["exp_avg_sq"] = torch.zeros_like(p, dtype=dtype)
        if group["amsgrad"] and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = torch.zeros_like(p, dtype=dtype)
        state["step"] = t = int(state["step"]) + 1

        grad, clipped = grad.to(dtype), clipped.to(dtype)
        if group["weight_decay"] != 0:
            grad = grad.add(p, alpha=group["weight_decay"])
            clipped = clipped.add(p, alpha=group["weight_decay"])
        state["exp_avg"].lerp_(clipped, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        second = state["exp_avg_sq"]
        if group["amsgrad"]:
            second = torch.maximum(state["max_exp_avg_sq"], second, out=state["max_exp_avg_sq"])
        denominator = second.sqrt().div_(math.sqrt(1 - beta2**t)).add_(group["eps"])
        return torch.div(state["exp_avg"], denominator.mul_(1 - beta1**t), out=denominator)
