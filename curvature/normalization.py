"""Softmax, its logarithm, layer norm and batch norm."""

import torch
from torch import Tensor

from curvature.operation import NotTraceable, Operation, inner, per_channel


def prepare_softmax(op: Operation, adjoint: Tensor) -> tuple[Tensor, Tensor, int]:
    y, dim = op.results[0], op.values[1]
    return y, y * (adjoint - (y * adjoint).sum(dim, keepdim=True)), dim


def push_softmax(op: Operation, tangents: list):
    """dy = y c with c = dx - sum(y dx);  D2y = y (c^2 - sum(y c^2)), so the bend is <prepared weight, c^2>."""
    (y, weight, dim), dx = op.prepared, tangents[0]
    centered = dx - (y * dx).sum(dim, keepdim=True)
    return y * centered, inner(weight, centered * centered)


def prepare_log_softmax(op: Operation, adjoint: Tensor) -> tuple[Tensor, Tensor, int]:
    dim = op.values[1]
    return op.results[0].exp(), adjoint.sum(dim, keepdim=True), dim


def push_log_softmax(op: Operation, tangents: list):
    """dy = c = dx - sum(p dx) with p = exp(y);  D2y = -sum(p c^2), the same for all entries of a row."""
    (p, weight, dim), dx = op.prepared, tangents[0]
    centered = dx - (p * dx).sum(dim, keepdim=True)
    variance = (p * centered).mul_(centered).sum(dim, keepdim=True)
    return centered, -inner(weight, variance)


def push_layer_norm(op: Operation, tangents: list):
    """z = (x - mean x) r, r = 1 / sqrt(var x + eps), y = z w + b. With e = dx - mean dx and m = mean(z e):

    dz = r (e - z m),   D2z = r^2 (z (3 m^2 - mean e^2) - 2 m e),   D2y = w D2z + 2 dw dz
    """
    (x, shape, w, _), (dx, _, dw, db), adjoint = op.values[:4], tangents[:4], op.adjoints[0]
    mean, r = op.results[1:3]
    dims = tuple(range(-len(shape), 0))
    z = (x - mean) * r
    dy, bend = torch.zeros_like(z), None
    if dx is not None:
        e = dx - dx.mean(dims, keepdim=True)
        m = (z * e).mean(dims, keepdim=True)
        dz = r * (e - z * m)
        ddz = r * r * (z * (3 * m * m - (e * e).mean(dims, keepdim=True)) - 2 * m * e)
        dy, bend = (dz, inner(adjoint, ddz)) if w is None else (dz * w, inner(adjoint * w, ddz))
        if dw is not None:
            bend = bend + 2 * inner(adjoint * dz, dw.expand_as(dz))
    if dw is not None:
        dy = dy + z * dw
    return (dy if db is None else dy + db), bend


def push_batch_norm(op: Operation, tangents: list):
    """Evaluation mode: y = z w + b, z = (x - mean) / sqrt(var + eps), mean and var fixed for each channel."""
    (x, w, _, mean, var, training), (dx, dw, db), eps = op.values[:6], tangents[:3], op.values[-1]
    if training:
        raise NotTraceable("batch norm in training mode mixes the examples; measure in evaluation mode")

    r = per_channel(torch.rsqrt(var + eps), op)
    dy, bend = torch.zeros((), dtype=x.dtype, device=x.device), None
    if dx is not None:
        dz = dx * r
        dy = dz if w is None else dz * per_channel(w, op)
        bend = None if dw is None else inner(op.adjoints[0] * dz, per_channel(dw, op).expand_as(dz))
    if dw is not None:
        dy = dy + (x - per_channel(mean, op)) * r * per_channel(dw, op)
    return (dy if db is None else dy + per_channel(db, op)).expand(op.outputs[0].shape), bend
