r"""v' H v along many directions, for two to three forward passes per direction.

Let the loss be computed by operations y = op(inputs), and let dx, dy be the tangents d/ds of their inputs and outputs
at the parameters + s v. Differentiating the chain rule once more,

    v' H v  =  sum over operations of  < d loss / dy,  D2 op[dx, dx] >

because whatever an operation bends reaches the loss through the adjoint d loss / dy of its output. The adjoints do not
depend on v: one forward and one backward pass serve all directions. Each direction pushes its tangents forward once.

Its usual name is second-order forward propagation, or Taylor mode of order two, contracted with adjoints. A Taylor mode
carries y, dy and d2y through the whole program (`Forward` of orders 1 and 2 in CppAD, `jet` in jax.experimental.jet).
Here each operation's own second-order term is contracted with its adjoint on the spot, so no d2y is carried. Sources:
A. Griewank and A. Walther, Evaluating Derivatives, 2nd edition, SIAM 2008, on Taylor coefficients and on adjoints;
https://cppad.readthedocs.io and https://docs.jax.dev/en/latest/jax.experimental.jet.html for the two programs.

The words of this package:

    tape        the recording of one forward pass: the operations that depend on the parameters, in order
    operation   one executed aten operation, with what it keeps of its inputs and outputs
    slot        a tensor of the recording that depends on the parameters, by its place; it outlives the tensor
    tangent     d/ds of such a tensor along v
    adjoint     d loss / d of such a tensor
    bend        < adjoint of y, D2 op[dx, dx] >, an operation's share of v' H v
    push        compute dy and the bend of an operation from the tangents of its inputs
    prepare     compute what `push` needs and no direction changes, once the adjoint is known

Example: f = sum((W x)^2) with W = [[1, 2], [0, 1]] and x = [1, 1], along dW = [[1, 0], [0, 1]] and dx = [1, 0]. There
are two operations, y = W x and z = y^2:

    y = [3, 1],  dy = dW x + W dx = [2, 1],  D2y = 2 dW dx = [2, 0],  adjoint 2 y = [6, 2]:     bend  6 * 2 + 2 * 0 = 12
    z = [9, 1],  dz = 2 y dy = [12, 2],      D2z = 2 dy^2 = [8, 2],   adjoint [1, 1]:           bend  8 + 2 = 10

So the slope is 12 + 2 = 14 and v' H v = 12 + 10 = 22:

    >>> params = {"W": torch.tensor([[1.0, 2.0], [0.0, 1.0]]), "x": torch.tensor([[1.0], [1.0]])}
    >>> v = {"W": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "x": torch.tensor([[1.0], [0.0]])}
    >>> def loss_fn(params, batch): return (params["W"] @ params["x"]).flatten() ** 2
    >>> found = vhv_by_recording(loss_fn, params, [v], batch={})
    >>> found.losses.tolist(), found.slopes.item(), found.curvatures.item()
    ([9.0, 1.0], 14.0, 22.0)

The loss is recorded while it runs on its real tensors (a Python dispatch mode below autograd), so control flow and the
inspection of masks in a model are no obstacle. `rules` has one rule per operation; `products` says how a linear layer
costs two matrix products per direction, where a forward pass takes one.
"""

from curvature.operation import NotTraceable
from curvature.tape import vhv_by_recording

__all__ = ["NotTraceable", "vhv_by_recording"]
