r"""Curvature of the loss along many directions, for two to three forward passes a direction.

Let the loss be computed by operations y = op(inputs), and let dx, dy be the tangents d/ds of their inputs and outputs
at the parameters + s v. Differentiating the chain rule once more,

    v' H v  =  sum over operations of  < d loss / dy,  D2 op[dx, dx] >

because whatever an operation bends reaches the loss through the adjoint d loss / dy of its output. The adjoints do not
depend on v: one forward and one backward pass serve all directions; each direction pushes its tangents forward once.
A linear layer y = x W' costs two matrix products, where a forward pass takes one:

    D2y = 2 dx dW',    dy = dx W' + x dW' = ((x + t dx) (W + t dW)' - y) / t - t dx dW'

The loss is recorded as aten operations while it runs on its real tensors (a Python dispatch mode below autograd), so
control flow and the inspection of masks in a model are no obstacle. `rules` has one rule an operation.
"""

from curvature.operation import NotTraceable
from curvature.tape import vhv_by_recording

__all__ = ["NotTraceable", "vhv_by_recording"]
