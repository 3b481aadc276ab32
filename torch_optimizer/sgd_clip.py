"""Gradient descent with momentum and coordinate-wise clipping."""

import math
from typing import Any

import torch
from torch import Tensor

from torch_optimizer.direction_optimizer import DirectionOptimizer, Group, require_range


def momentum_average(grad: Tensor, buffer: Tensor, momentum: float, dampening: float, nesterov: bool) -> Tensor:
    """Advance `buffer` to mu b + (1 - d) g in place; returns it, or the look-ahead g + mu b. Same shapes."""
    buffer.mul_(momentum).add_(grad, alpha=1 - dampening)
    return grad.add(buffer, alpha=momentum) if nesterov else buffer


class SGDClip(DirectionOptimizer):
    r"""Gradient descent with momentum on gradients whose largest coordinates are cut to one height.

        tau_t = threshold_scale |g_t|_(floor(k N))       entry of the N sorted magnitudes, descending
        c_t   = sign(g_t) min(|g_t|, tau_t)              [Pan & Li, arXiv:2306.00204]
        h_t   = c_t + weight_decay x_t
        m_t   = mu m_{t-1} + (1 - d) h_t,  m_1 = h_1, or m_1 = (1 - d) h_1 with zero_start
        v_t   = -m_t,  or -(h_t + mu m_t) with nesterov;   x_{t+1} = x_t + lr v_t

    All tensors and groups of the optimizer share the N coordinates. Without clipping this is torch.optim.SGD to the
    bit, first step included. The paper's algorithms 1 and 2 start from m_0 = 0: that is `zero_start`. Where d > 0 the
    two differ in direction, not in length alone. In torch's m_t the first gradient weighs 1 / (1 - d) times as much
    beside the later ones, and it fades as mu^t. At d = 0 both are the same.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: distance moved per unit of m_t, in [0, inf); a number or a 0-d tensor.
        momentum: mu, in [0, inf); 0 keeps no buffer.
        dampening: d, in [0, 1].
        weight_decay: strength of the L2 term, in [0, inf); added after clipping.
        nesterov: look one step ahead; needs momentum > 0 and dampening = 0.
        zero_start: let the momentum start from 0, as in the paper; False: from the first gradient, as in torch.
        maximize: climb instead; the gradient is negated before anything else.
        foreach: move all parameters by one fused operation; None: on CUDA. The result is the same, bit for bit.
        coordinate_clip: k, the fraction of coordinates set aside, in [0, 1); 0 clips nothing.
        threshold_scale: factor on tau, in [0, inf); without effect at k = 0.

    State: `momentum_buffer`, shape and dtype of its parameter (only if mu > 0).
    Raises: ValueError if an option is outside its range; RuntimeError from `step` on sparse or complex gradients.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(4)); x.grad = torch.tensor([8.0, -2.0, 1.0, 4.0])
        >>> SGDClip([x], lr=0.5, coordinate_clip=0.25).step(); x.data
        tensor([-2.0000,  1.0000, -0.5000, -2.0000])
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        zero_start: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        coordinate_clip: float = 0.0,
        threshold_scale: float = 1.0,
    ) -> None:
        defaults = dict(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            zero_start=zero_start,
            maximize=maximize,
            foreach=foreach,
            coordinate_clip=coordinate_clip,
            threshold_scale=threshold_scale,
        )
        super().__init__(params, defaults)

    def _check_options(self, options: Group) -> None:
        super()._check_options(options)
        require_range(options, "momentum", 0, math.inf)
        require_range(options, "dampening", 0, 1, closed=True)
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError(
                f"nesterov needs momentum > 0 and dampening = 0, got momentum={options['momentum']} and "
                f"dampening={options['dampening']}"
            )

    def _keeps_state(self, group: Group) -> bool:
        return group["momentum"] != 0

    def _is_coordinatewise(self, group: Group) -> bool:
        return group["momentum"] == 0

    def _rule(self, p: Tensor, grad: Tensor, clipped: Tensor, group: Group) -> Tensor:
        if group["weight_decay"] != 0:
            clipped = clipped.add(p, alpha=group["weight_decay"])
        if group["momentum"] == 0:
            return clipped
        state = self.state[p]
        if state.get("momentum_buffer") is None and group["zero_start"]:
            state["momentum_buffer"] = torch.zeros_like(clipped)
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = clipped.clone()
            first = state["momentum_buffer"]
            return clipped.add(first, alpha=group["momentum"]) if group["nesterov"] else first
        return momentum_average(
            clipped, state["momentum_buffer"], group["momentum"], group["dampening"], group["nesterov"]
        )
