"""Products of matrices, elements, images and kernels, which bend by 2 da db, and quotients.

Matrices and images take two products per direction instead of three. With the output y = a b of the forward pass,

    (a / t + da) (b + t db)  =  y / t + dy + t da db,    dy = da b + a db

so that da db, which the bend needs, and the product on the left give dy. Rounding puts dy off by about
eps (|a| |b| / t + |da| |b| + |a| |db| + t |da| |db|), |.| the Euclidean norm; the two terms in the middle are those of
three products. With t = |b| / |db| the outer two equal the inner two, whatever the four norms are. So they do with
t = |a| / |da|. `step_sizes` takes the one of the smaller factor, per operation and direction, as a power of two.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from curvature.operation import Operation, inner, per_channel

LARGEST_POWER = 60  # of two, for t: the square of 2^60 is a float32
TINY = 2.0**-1000  # in place of a norm of zero


def push_product(op: Operation, tangents: list):
    """y = a * b, element by element:  dy = da * b + a * db,  D2y = 2 da * db."""
    (a, b), (da, db), rest = op.values[:2], tangents[:2], op.values[2:]
    if db is None:
        return op.run([da, b, *rest]), None
    if da is None:
        return op.run([a, db, *rest]), None
    return torch.addcmul(da * b, a, db), inner(op.adjoints[0], da * db)


def prepare_matmul(op: Operation, _adjoint: Tensor) -> float | Tensor | None:
    *bias, a, b = op.values
    return prepare_two_products(op, a, b, *bias)


def prepare_convolution(op: Operation, _adjoint: Tensor) -> float | Tensor | None:
    x, w, bias = op.values[:3]
    return prepare_two_products(op, x, w, bias)


def prepare_two_products(op: Operation, a: Tensor, b: Tensor, bias: Tensor | None = None) -> float | Tensor | None:
    """The norm of the smaller factor. A bias longer than |a| |b| would drown a b in the kept output: the output is
    forgotten then, so that three products are taken."""
    if not op.results:
        return None
    small = smaller(a, b)
    size = norm(small)
    if bias is not None:
        copies = op.results[0].numel() / max(bias.numel(), 1)
        op.drops_results = norm(bias) * math.sqrt(copies) > size * norm(b if small is a else a)
    return size


def smaller(a: Tensor, b: Tensor) -> Tensor:
    """The factor with fewer elements, b if they are equal: its norm is read from memory faster."""
    return a if a.numel() < b.numel() else b


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
        (t, inverse, square), dadb = step_sizes(op.prepared, smaller(da, db)), da @ db
        bend = inner(op.adjoints[0], dadb)
        known = add_multiple_(dadb, op.results[0], square)  # da db + y / t^2
        dy = subtract_from_product(known, t, add_multiple(da, a, inverse), add_multiple(b, db, t))
        if bias:  # the output has it, too
            shift = bias[0] * inverse + (0 if shift is None else shift)
    else:
        dy = add_product(da @ b, a, db)
        narrow = da.shape[-1] < db.shape[-1]  # <adj, da db> = <adj db', da>: form the smaller
        bend = inner(op.adjoints[0] @ db.mT, da) if narrow else inner(op.adjoints[0], da @ db)
    return (dy if shift is None else dy.add_(shift)), bend


def push_convolution(op: Operation, tangents: list):
    """y = x * w + bias, * the convolution:  dy = dx * w + x * dw + dbias,  D2y = 2 dx * dw."""
    (x, w, bias), (dx, dw, dbias), rest = op.values[:3], tangents[:3], op.values[3:]
    if dx is None and dw is None:
        return per_channel(dbias, op).expand(op.outputs[0].shape), None
    if dx is None or dw is None:
        return op.run([x if dx is None else dx, w if dw is None else dw, dbias, *rest]), None
    dxdw = op.run([dx, dw, None, *rest])
    bend = inner(op.adjoints[0], dxdw)
    if not op.results:
        return op.run([dx, w, None, *rest]) + op.run([x, dw, dbias, *rest]), bend
    t, inverse, square = step_sizes(op.prepared, smaller(dx, dw))
    known = add_multiple_(dxdw, op.results[0], square)
    shift = None if bias is None else bias * inverse  # the bias is in both terms of the difference
    moved = op.run([add_multiple(dx, x, inverse), add_multiple(w, dw, t), shift, *rest])
    dy = add_multiple_(moved, known, t, sign=-1)
    return (dy if dbias is None else dy.add_(per_channel(dbias, op))), bend


def push_divide(op: Operation, tangents: list):
    """y = a / b:  dy = (da - y db) / b,  D2y = -2 dy db / b."""
    b, (da, db) = op.values[1], tangents[:2]
    if db is None:
        return (da / b).expand(op.outputs[0].shape), None
    y = op.results[0]
    dy = (-y * db if da is None else da - y * db) / b
    return dy, -inner(op.adjoints[0], dy * (db / b))


# ---- t, and arithmetic with it: floats on the CPU, 0-d tensors elsewhere, where reading them would wait --------------


def norm(x: Tensor) -> float | Tensor:
    """Euclidean norm, which float32 may round by a hundredth."""
    length = torch.linalg.vector_norm(x)
    return length.item() if is_free_to_read(x) else length.double()


def step_sizes(size: float | Tensor, db: Tensor) -> Sequence[float | Tensor]:
    """(t, 1 / t, 1 / t^2), t = size / |db| rounded to a power of two: multiplying by it is exact."""
    if isinstance(size, Tensor) or not is_free_to_read(db):
        return _step_sizes_unread(size, db)
    moved = norm(db)
    if not (math.isfinite(size) and math.isfinite(moved)):
        return 1.0, 1.0, 1.0
    power = math.log2(size or TINY) - math.log2(moved or TINY)
    t = 2.0 ** max(-LARGEST_POWER, min(round(power), LARGEST_POWER))
    return t, 1 / t, 1 / t**2


def _step_sizes_unread(size: float | Tensor, db: Tensor) -> Sequence[Tensor]:
    """As `step_sizes`, in few kernels."""
    size = (size if isinstance(size, Tensor) else torch.tensor(size)).to(db.device, db.dtype)
    power = torch.log2(size / torch.linalg.vector_norm(db)).round().clamp(-LARGEST_POWER, LARGEST_POWER).nan_to_num()
    t, _, inverse, square = torch.exp2(power.unsqueeze(-1) * _exponents(size)).unbind(-1)
    return t, inverse, square


def _exponents(like: Tensor) -> Tensor:
    return torch.arange(1, -3, -1, dtype=like.dtype, device=like.device)


def add_multiple(x: Tensor, y: Tensor, factor: float | Tensor) -> Tensor:
    """x + factor y"""
    return torch.addcmul(x, y, factor) if isinstance(factor, Tensor) else torch.add(x, y, alpha=factor)


def add_multiple_(x: Tensor, y: Tensor, factor: float | Tensor, sign: int = 1) -> Tensor:
    """x + sign factor y; x is used up."""
    if isinstance(factor, Tensor):
        return torch.addcmul(x, y, factor, value=sign)
    return x.add_(y, alpha=sign * factor)


def subtract_from_product(c: Tensor, factor: float | Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a b - factor c for matrices; c is used up."""
    if isinstance(factor, Tensor):
        return torch.addcmul(a @ b, c, factor, value=-1)
    return c.addmm_(a, b, beta=-factor)


def is_free_to_read(x: Tensor) -> bool:
    """Whether Python may have its numbers without waiting for a device."""
    return x.is_cpu and not is_stacked(x)


def is_stacked(x: Tensor) -> bool:
    """Whether x stands for the tangents of several directions, under torch.vmap."""
    return torch._C._functorch.is_batchedtensor(x)  # pyright: ignore[reportAttributeAccessIssue]


def add_product(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c + a b, for matrices or batches of them; c is used up."""
    if is_stacked(c):
        return c.add_(a @ b)
    return c.addmm_(a, b) if c.dim() == 2 else c.baddbmm_(a, b)
