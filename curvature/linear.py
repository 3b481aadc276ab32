"""Linear operations: they only pass tangents on."""

import torch

from curvature.operation import Operation, nested

aten = torch.ops.aten


def push_linear(op: Operation, tangents: list):
    """dy = op(dx): the operation itself, applied to the tangents. Every float tensor among its inputs is tracked."""
    if op.flat:
        return op.run([x if dx is None else dx for dx, x in zip(tangents, op.values, strict=True)]), None
    return op.run(nested(lambda dx, x: x if dx is None else dx, tangents, op.values)), None


def push_view(op: Operation, tangents: list):
    """y = x in another shape. A tangent may lie in memory otherwise than its value, which a view would not take."""
    return tangents[0].reshape(op.outputs[0].shape), None


def push_embedding(op: Operation, tangents: list):
    """y = W[indices]. The padding row stands still, as for autograd, which sends it no gradient."""
    indices, padding = op.values[1], op.values[2] if len(op.values) > 2 else -1
    dy = tangents[0][indices]
    return (dy if padding < 0 else dy.masked_fill((indices == padding).unsqueeze(-1), 0)), None


def push_add(op: Operation, tangents: list, sign: int = 1):
    """y = a + alpha b (or minus): constants drop out, the rest is brought to the output's shape."""
    da, db = tangents[:2]
    factor = sign * op.kwargs.get("alpha", 1)
    if da is None:
        return (db * factor).expand(op.outputs[0].shape), None
    if db is None:
        return da.expand(op.outputs[0].shape), None
    return torch.add(da, db, alpha=factor), None


def push_where(op: Operation, tangents: list):
    """y = a where condition else b; a constant's tangent is 0."""
    zero = next(dx for dx in tangents if dx is not None).new_zeros(())
    dy = torch.where(op.values[0], *(zero if dx is None else dx for dx in tangents[1:]))
    return dy.expand(op.outputs[0].shape), None


def push_cat(op: Operation, tangents: list):
    pieces = nested(lambda dx, x: torch.zeros_like(x) if dx is None else dx, tangents[0], op.values[0])
    return op.run([pieces, *op.values[1:]]), None


def push_masked_fill(op: Operation, tangents: list):
    """y = x, or a constant where the mask is set."""
    return tangents[0].masked_fill(op.values[1], 0).expand(op.outputs[0].shape), None


def push_relu(op: Operation, tangents: list):
    return aten.threshold_backward(tangents[0], op.results[0], 0), None


def push_max_pool(op: Operation, tangents: list):
    """y picks one entry of x per window; the tangent picks the same."""
    dx, picked = tangents[0], op.results[1]
    return dx.flatten(-2).gather(-1, picked.flatten(-2)).view(picked.shape), None
