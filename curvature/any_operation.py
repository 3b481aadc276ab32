"""Any operation: autograd differentiates it alone, twice."""

import torch
from torch import Tensor

from curvature.operation import NotTraceable, Operation, inner, nested


def push_any_operation(op: Operation, tangents: list):
    """Two reverse passes over this one operation: dy = d/du <J'u, dx>, and <dx, d/dx <J'adjoint, dx>>."""
    inputs, directions = [], []

    def as_leaf(dx, x):
        if dx is None:
            return x
        inputs.append(x.detach().requires_grad_())
        directions.append(dx)
        return inputs[-1]

    with torch.enable_grad():
        result = op.run(nested(as_leaf, tangents, op.values))
        outputs = [result] if isinstance(result, Tensor) else list(result)
        moving = [i for i, y in enumerate(outputs) if y.requires_grad]
        probes = [torch.zeros_like(outputs[i], requires_grad=True) for i in moving]
        weights = [torch.zeros_like(outputs[i]) if op.adjoints[i] is None else op.adjoints[i] for i in moving]

        def pull(cotangents: list) -> tuple[Tensor, ...]:  # J' cotangents, itself differentiable
            ys = [outputs[i] for i in moving]
            return torch.autograd.grad(ys, inputs, cotangents, create_graph=True, materialize_grads=True)

        try:
            moved = torch.autograd.grad(pull(probes), probes, directions, materialize_grads=True, retain_graph=True)
            bends = [(g, dx) for g, dx in zip(pull(weights), directions, strict=True) if g.requires_grad]
            curved, along = [g for g, _ in bends], [dx for _, dx in bends]
            second = torch.autograd.grad(curved, inputs, along, materialize_grads=True) if bends else ()
        except RuntimeError as error:
            raise NotTraceable(f"{op.func} has no second derivative: {str(error).splitlines()[0]}") from error
    dys: list[Tensor | None] = [None] * len(outputs)
    for i, dy in zip(moving, moved, strict=True):
        dys[i] = dy
    return dys, sum(inner(g, dx) for g, dx in zip(second, directions, strict=True)) if second else None
