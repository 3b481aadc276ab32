"""Sign descent: gradient descent whose move is reduced to its signs."""

import torch
from torch import Tensor

from torch_optimizer.direction_optimizer import Group
from torch_optimizer.sgd_clip import SGDClip


class SignSGD(SGDClip):
    r"""Every coordinate moves by lr, against the sign of the momentum.

        v_t = -sign(m_t)            m_t, clipping, decay and look-ahead as in SGDClip; 0 where m_t is 0 or NaN

    With momentum this is Signum [Bernstein et al., arXiv:1802.04434], its weight decay inside the sign. Clipping then
    changes only what the momentum remembers; without momentum it changes nothing.

    Args: as SGDClip; lr is the distance that each coordinate moves.
    State: `momentum_buffer`, shape and dtype of its parameter (only if momentum > 0).
    Raises: as SGDClip.

    Example:
        >>> x = torch.nn.Parameter(torch.zeros(3)); x.grad = torch.tensor([0.3, -5.0, 0.0])
        >>> SignSGD([x], lr=0.5).step(); x.data
        tensor([-0.5000,  0.5000,  0.0000])
    """

    def _shape_move(self, p: Tensor, descent: Tensor, group: Group) -> Tensor:
        return torch.sign(descent)
