"""Normalized gradient descent: every tensor moves by the same root mean square."""

import math

import torch
from torch import Tensor

from torch_optimizer.direction_optimizer import Group
from torch_optimizer.sgd_clip import SGDClip


def unit_rms(x: Tensor) -> Tensor:
    """x / ||x|| sqrt(numel), same shape, its root mean square 1; 0 where x = 0. Half precision gives float32.

    The largest magnitude is divided out first, so that the squares neither underflow nor overflow.
    """
    if x.numel() == 0:
        return x.clone()
    largest = x.abs().amax()
    x = x.to(torch.promote_types(x.dtype, torch.float32)) / torch.where(largest == 0, 1, largest)
    norm = torch.linalg.vector_norm(x)
    return x.mul_(math.sqrt(x.numel()) / torch.where(norm == 0, 1, norm))


class NormalizedSGD(SGDClip):
    r"""Every tensor moves by lr per coordinate, in root mean square, along its momentum.

        v_t = -m_t / ||m_t|| sqrt(numel)        m_t, clipping, decay and look-ahead as in SGDClip; 0 where m_t = 0

    The norm is Euclidean and taken tensor by tensor [Pan & Li, arXiv:2306.00204, whose code scales by sqrt(numel)].

    Args: as SGDClip; lr is the root mean square of the move over the coordinates of each tensor.
    State: `momentum_buffer`, shape and dtype of its parameter (only if momentum > 0).
    Raises: as SGDClip.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(4)); x.grad = torch.tensor([3.0, 0.0, -4.0, 0.0])
        >>> NormalizedSGD([x], lr=1.0).step(); x.data
        tensor([-1.2000,  0.0000,  1.6000,  0.0000])
    """

    def _is_coordinatewise(self, group: Group) -> bool:
        return False  # the norm is the whole tensor's

    def _shape_move(self, p: Tensor, descent: Tensor, group: Group) -> Tensor:
        return unit_rms(descent)
