"""Products of matrices, elements, images and kernels, which bend by 2 da db, and quotients.

Matrices and images take two products per direction instead of three. With the output y = a b of the forward pass,

    (a / t + da) (b + t db)  =  y / t + dy + t da db,    dy = da b + a db

so that da db, which the bend needs, and the product on the left give dy. Rounding puts dy off by about
eps (|a| |b| / t + |da| |b| + |a| |db| + t |da| |db|), |.| the Euclidean norm; the two terms in the middle are those of
three products. With t = sqrt(|a| |b| / (|da| |db|)) the outer two are together at most as large as the inner two,
whatever the four norms are. So `step_size` takes that t, per operation and direction, as a power of two.
"""

import math

import torch
from torch import Tensor

from curvature.operation import Operation, inner, per_channel

LARGEST_POWER = 60  # of two, for t: the square of 2^60 is a float32


def push_product(op: Operation, tangents: list):
    """y = a * b, element by element:  dy = da * b + a * db,  D2y = 2 da * db."""
    (a, b), (da, db), rest = op.values[:2], tangents[:2], op.values[2:]
    if db is None:
        return op.run([da, b, *rest]), None
    if da is None:
        return op.run([a, db, *rest]), None
    return torch.addcmul(da * b, a, db), 2 * inner(op.adjoints[0], da * db)


def prepare_matmul(op: Operation, _adjoint: Tensor) -> float | Tensor | None:
    *bias, a, b = op.values
    return prepare_two_products(op, a, b, *bias)


def prepare_convolution(op: Operation, _adjoint: Tensor) -> float | Tensor | None:
    x, w, bias = op.values[:3]
    return prepare_two_products(op, x, w, bias)


def prepare_two_products(op: Operation, a: Tensor, b: Tensor, bias: Tensor | None = None) -> float | Tensor | None:
    """|a| |b|. A bias that is longer than that would drown a b in the kept output: it is forgotten then, so that three
    products are taken."""
    if not op.results:
        return None
    y, size = op.results[0], norm(a) * norm(b)
    if bias is not None and norm(bias) * math.sqrt(y.numel() / max(bias.numel(), 1)) > size:
        op.results = []
    return size


def push_matmul(op: Operation, tangents: list):
    """y = a b for matrices or batches of them, or bias + a b:  dy = da b + a db,  D2y = 2 da db."""
    *bias, a, b = op.values
    *dbias, da, db = tangents
    shift = dbias[0] if dbias else None
    if shift is not None and da is None and db is None:
        return shift.expand(op.outputs[0].shape), None
    if da is None or db is None:
        dy, bend = a @ db if da is None else da @ b, None
    elif op.results:
        t, dadb = step_size(op.prepared, da, db), da @ db
        bend = 2 * inner(op.adjoints[0], dadb)
        known = add_multiple_(dadb, op.results[0], 1 / t**2)  # da db + y / t^2
        dy = subtract_from_product(known, t, add_multiple(da, a, 1 / t), add_multiple(b, db, t))
        if bias:  # the output has it, too
            shift = bias[0] / t + (0 if shift is None else shift)
    else:
        dy = add_product(da @ b, a, db)
        narrow = da.shape[-1] < db.shape[-1]  # <adj, da db> = <adj db', da>: form the smaller
        bend = 2 * (inner(op.adjoints[0] @ db.mT, da) if narrow else inner(op.adjoints[0], da @ db))
    return (dy if shift is None else dy.add_(shift)), bend


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
    t = step_size(op.prepared, dx, dw)
    known = add_multiple_(dxdw, op.results[0], 1 / t**2)
    shift = None if bias is None else bias / t  # the bias is in both terms of the difference
    moved = op.run([add_multiple(dx, x, 1 / t), add_multiple(w, dw, t), shift, *rest])
    dy = add_multiple_(moved, known, -t)
    return (dy if dbias is None else dy.add_(per_channel(dbias, op))), bend


def push_divide(op: Operation, tangents: list):
    """y = a / b:  dy = (da - y db) / b,  D2y = -2 dy db / b."""
    b, (da, db) = op.values[1], tangents[:2]
    if db is None:
        return (da / b).expand(op.outputs[0].shape), None
    y = op.results[0]
    dy = (-y * db if da is None else da - y * db) / b
    return dy, -2 * inner(op.adjoints[0], dy * (db / b))


# ---- t, and arithmetic with it: a float on the CPU, a 0-d tensor elsewhere, where reading it would wait --------------


def norm(x: Tensor) -> float | Tensor:
    """Euclidean norm, which float32 may round by a hundredth."""
    length = torch.linalg.vector_norm(x)
    return length.item() if x.is_cpu and not is_stacked(x) else length.double()


def step_size(size: float | Tensor, da: Tensor, db: Tensor) -> float | Tensor:
    """t = sqrt(size / (|da| |db|)), rounded to a power of two, so that multiplying by it is exact."""
    moved = norm(da) * norm(db)
    if isinstance(moved, Tensor):
        power = torch.log2(size / moved).div(2).round().nan_to_num(nan=0.0, posinf=LARGEST_POWER, neginf=-LARGEST_POWER)
        return torch.exp2(power.clamp(-LARGEST_POWER, LARGEST_POWER)).to(da.dtype)
    if not (math.isfinite(size) and math.isfinite(moved)):
        return 1.0
    if not (size and moved):
        return 2.0**LARGEST_POWER if size else 2.0**-LARGEST_POWER
    power = round((math.log2(size) - math.log2(moved)) / 2)
    return 2.0 ** max(-LARGEST_POWER, min(power, LARGEST_POWER))


def add_multiple(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """x + factor y"""
    return torch.addcmul(x, y, factor) if isinstance(factor, Tensor) else torch.add(x, y, alpha=factor)


def add_multiple_(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """x <- x + factor y"""
    return torch.addcmul(x, y, factor) if isinstance(factor, Tensor) else x.add_(y, alpha=factor)


def subtract_from_product(c: Tensor, factor: float | Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c <- a b - factor c for matrices."""
    if isinstance(factor, Tensor):
        return torch.addmm(c.mul_(-factor), a, b)
    return c.addmm_(a, b, beta=-factor)


def is_stacked(x: Tensor) -> bool:
    """Whether x stands for the tangents of several directions, under torch.vmap."""
    return torch._C._functorch.is_batchedtensor(x)


def add_product(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c <- c + a b, for matrices or batches of them."""
    if is_stacked(c):
        return c.add_(a @ b)
    return c.addmm_(a, b) if c.dim() == 2 else c.baddbmm_(a, b)
