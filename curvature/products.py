"""Products of matrices, elements, images and kernels, which bend by 2 da db, and quotients."""

import torch
from torch import Tensor

from curvature.any_operation import push_any_operation
from curvature.operation import Operation, inner, per_channel


def push_product(op: Operation, tangents: list):
    """y = a * b, element by element:  dy = da * b + a * db,  D2y = 2 da * db."""
    (a, b), (da, db), rest = op.values[:2], tangents[:2], op.values[2:]
    if db is None:
        return op.run([da, b, *rest]), None
    if da is None:
        return op.run([a, db, *rest]), None
    return torch.addcmul(da * b, a, db), 2 * inner(op.adjoints[0], da * db)


def push_matmul(op: Operation, tangents: list):
    """y = a b for matrices or batches of them, or bias + a b:  dy = da b + a db,  D2y = 2 da db."""
    if op.kwargs:  # addmm's beta, alpha
        return push_any_operation(op, tangents)
    *bias, a, b = op.values
    *dbias, da, db = tangents
    shift = dbias[0] if dbias else None
    if da is None and db is None:
        return shift.expand(op.outputs[0].shape), None
    if da is None or db is None:
        dy, bend = a @ db if da is None else da @ b, None
    elif op.results:
        dy, bend = two_products(op, a, b, da, db)
        if bias:  # the output has it, too
            shift = bias[0] / op.reach + (0 if shift is None else shift)
    else:
        dy = add_product(da @ b, a, db)
        narrow = da.shape[-1] < db.shape[-1]  # <adj, da db> = <adj db', da>: form the smaller
        bend = 2 * (inner(op.adjoints[0] @ db.mT, da) if narrow else inner(op.adjoints[0], da @ db))
    return (dy if shift is None else dy.add_(shift)), bend


def two_products(op: Operation, a: Tensor, b: Tensor, da: Tensor, db: Tensor) -> tuple[Tensor, Tensor]:
    """dy = da b + a db of matrices, and the bend, from y = a b and two products instead of three:

        (a + t da) (b + t db)  =  y + t dy + t^2 da db

    Little is lost in the difference as long as t (`op.reach`) makes the tangents about as large as the values."""
    t, dadb = op.reach, da @ db
    bend = 2 * inner(op.adjoints[0], dadb)
    known = torch.add(op.results[0], dadb, alpha=t * t, out=dadb)
    return add_product(known, torch.add(a, da, alpha=t), torch.add(b, db, alpha=t), beta=-1 / t, alpha=1 / t), bend


def add_product(c: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Tensor:
    """c <- beta c + alpha a b, in place, for matrices or batches of them."""
    return (c.addmm_ if c.dim() == 2 else c.baddbmm_)(a, b, beta=beta, alpha=alpha)


def push_convolution(op: Operation, tangents: list):
    """y = x * w + bias, * the convolution:  dy = dx * w + x * dw + dbias,  D2y = 2 dx * dw."""
    (x, w, bias), (dx, dw, dbias), rest = op.values[:3], tangents[:3], op.values[3:]
    if dx is None and dw is None:
        return per_channel(dbias, op).expand(op.outputs[0].shape), None
    if dx is None or dw is None:
        return op.run([x if dx is None else dx, w if dw is None else dw, dbias, *rest]), None
    dxdw = op.run([dx, dw, None, *rest])
    bend = 2 * inner(op.adjoints[0], dxdw)
    if not op.results:
        return op.run([dx, w, None, *rest]) + op.run([x, dw, dbias, *rest]), bend
    t = op.reach  # from here on as in `two_products`; the bias is in both terms of the difference
    moved = op.run([torch.add(x, dx, alpha=t), torch.add(w, dw, alpha=t), bias, *rest])
    dy = moved.sub_(torch.add(op.results[0], dxdw, alpha=t * t, out=dxdw)).div_(t)
    return (dy if dbias is None else dy.add_(per_channel(dbias, op))), bend


def push_divide(op: Operation, tangents: list):
    """y = a / b:  dy = (da - y db) / b,  D2y = -2 dy db / b."""
    b, (da, db) = op.values[1], tangents[:2]
    if db is None:
        return (da / b).expand(op.outputs[0].shape), None
    y = op.results[0]
    dy = (-y * db if da is None else da - y * db) / b
    return dy, -2 * inner(op.adjoints[0], dy * (db / b))
