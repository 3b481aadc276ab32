"""Lion with coordinate-wise clipping of the gradient, and with clipping in the place of its sign."""

from typing import Any

import torch
from torch import Tensor

from torch_optimizer.direction_optimizer import DirectionOptimizer, Group, require_betas, require_range


class Lion(DirectionOptimizer):
    r"""Every coordinate moves by lr, against the sign of an average that leans on the newest gradient.

        c_t = clip(g_t, coordinate_clip)                               [clipping: Pan & Li, arXiv:2306.00204]
        u_t = beta1 m_{t-1} + (1 - beta1) c_t
        v_t = -sign(u_t) - weight_decay x_t                            [Chen et al., arXiv:2302.06675]
        m_t = beta2 m_{t-1} + (1 - beta2) c_t,  m_0 = 0

    With a fraction for clip_update, sign(u_t) becomes clip(u_t, clip_update). Thresholds are shared by all coordinates
    of the optimizer, as in SGDClip.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: distance that each coordinate moves, in [0, inf); a number or a 0-d tensor.
        betas: weight of the past in u and in m, each in [0, 1).
        weight_decay: in [0, inf); pulls at x directly, neither clipped nor inside the sign.
        coordinate_clip: fraction of gradient coordinates set aside, in [0, 1); 0 clips nothing.
        threshold_scale: factor on both thresholds, in [0, inf).
        clip_update: None takes the sign; a fraction in [0, 1) clips u_t instead (0: u_t as it is).

    State: `exp_avg` (m), shape and dtype of its parameter.
    Raises: ValueError if an option is outside its range; RuntimeError from `step` on sparse or complex gradients.

    Example:
        >>> x = torch.nn.Parameter(torch.ones(3)); x.grad = torch.tensor([0.3, -5.0, 0.0])
        >>> Lion([x], lr=0.5, weight_decay=0.1).step(); x.data
        tensor([0.4500, 1.4500, 0.9500])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        coordinate_clip: float = 0.0,
        threshold_scale: float = 1.0,
        clip_update: float | None = None,
    ) -> None:
        defaults = dict(
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            coordinate_clip=coordinate_clip,
            threshold_scale=threshold_scale,
            clip_update=clip_update,
        )
        super().__init__(params, defaults)

    def _check_options(self, options: Group) -> None:
        super()._check_options(options)
        require_betas(options)
        if options["clip_update"] is not None:
            require_range(options, "clip_update", 0, 1)

    def _rule(self, p: Tensor, grad: Tensor, clipped: Tensor, group: Group) -> Tensor:
        beta1, beta2 = group["betas"]
        state = self.state[p]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(p)
        u = torch.lerp(clipped, state["exp_avg"], beta1)
        state["exp_avg"].lerp_(clipped, 1 - beta2)
        return u

    def _shape_move(self, p: Tensor, descent: Tensor, group: Group) -> Tensor:
        if group["clip_update"] is None:
            descent = torch.sign(descent)
        return descent.add(p, alpha=group["weight_decay"]) if group["weight_decay"] != 0 else descent
