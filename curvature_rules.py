"""How a tangent passes through each operation, and what the operation's own bend adds to the curvature.

A rule serves one recorded operation y = op(x, ...). Given the tangents dx of its inputs it returns

    dy = D op[dx]               the tangent of its output
    <adjoint, D2 op[dx, dx]>    d loss / dy contracted with the second derivative: the *bend*; None where it is zero

Linear operations only pass tangents on. Products (of matrices, elements, images and kernels) bend by 2 da db, functions
of single elements by f''(x) dx^2. An operation without a rule goes to `push_generic`, where autograd differentiates it
alone, twice: slower and equally exact. So a rule is only ever a matter of speed, and is tested against `push_generic`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter

import torch
from torch import Tensor

aten = torch.ops.aten


class NotTraceable(RuntimeError):
    """The recorded route cannot serve this loss; the message says which operation stands in the way."""


@dataclass(frozen=True)
class Rule:
    """What to do with one kind of operation. A tensor is *tracked* if it depends on the parameters, else a constant."""

    push: Callable  # (operation, tangents) -> (dy, bend)
    keeps: str = ""  # tracked tensors to keep from the forward pass: "inputs", "output" or both; constants always are
    bends_in: tuple[int, ...] | None = ()  # it bends if these arguments are all tracked; None: never
    spared_by_output: bool = False  # keep the output, too, unless the model writes over it; the rule does without
    weigh: Callable | None = None  # (operation, adjoint) -> what the bend needs of the adjoint, once for all directions


@dataclass(eq=False)
class Operation:
    """One executed aten operation."""

    func: Callable
    slots: list  # the argument's place in the recording where it is tracked, else None; in lists as among the arguments
    values: list  # the argument itself where constant or kept, else None
    kwargs: dict
    outputs: list  # one Slot per output tensor
    rule: Rule
    results: list = field(default_factory=list)  # the output tensors, where kept
    adjoints: list = field(default_factory=list)  # d loss / d output, one per output; only for curved rules
    expiring: list = field(default_factory=list)  # slots whose tangents no later operation reads
    flat: bool = False  # no tracked tensor is in a list, as is usual
    reach: float = 1.0  # of the direction that is being pushed: see `two_products`

    def __post_init__(self):
        self.flat = not any(isinstance(slot, list) for slot in self.slots)

    def run(self, args: list):
        return self.func(*args, **self.kwargs)


def nested(function: Callable, *args: Sequence) -> list:
    """`function` on every argument, and on every element where the first holds a list, as `cat` takes one."""
    return [
        nested(function, *row) if isinstance(row[0], (list, tuple)) else function(*row)
        for row in zip(*args, strict=True)
    ]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a * b, []; pairwise summation keeps float32 rounding near 1e-7."""
    return (a * b).sum()


# ---- linear operations -----------------------------------------------------------------------------------


def push_linear(op: Operation, tangents: list):
    """dy = op(dx): the operation itself, applied to the tangents. Every float tensor among its inputs is tracked."""
    if op.flat:
        return op.run([x if dx is None else dx for dx, x in zip(tangents, op.values, strict=True)]), None
    return op.run(nested(lambda dx, x: x if dx is None else dx, tangents, op.values)), None


def push_embedding(op: Operation, tangents: list):
    """y = W[indices]. The padding row stands still, as for autograd, which sends it no gradient."""
    indices, padding = op.values[1], op.values[2] if len(op.values) > 2 else -1
    dy = tangents[0][indices]
    return (dy if padding < 0 else dy.masked_fill((indices == padding).unsqueeze(-1), 0)), None


def push_add(op: Operation, tangents: list, sign: int = 1):
    """y = a + alpha b (or minus): constants drop out, the rest is brought to the output's shape."""
    da, db = tangents[:2]
    factor = sign * op.kwargs.get("alpha", 1)
    if da is not None and db is not None:
        return torch.add(da, db, alpha=factor), None
    dy = da if db is None else db * factor
    return dy.expand(op.outputs[0].shape), None


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


# ---- products --------------------------------------------------------------------------------------------


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
        return push_generic(op, tangents)
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
        dy = da @ b
        dy = add_product(dy, a, db)
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
    t = op.reach
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


def per_channel(values: Tensor, op: Operation) -> Tensor:
    """Numbers of the channels [C], shaped to meet the operation's output [B, C, ...]."""
    return values.view(-1, *[1] * (len(op.outputs[0].shape) - 2))


# ---- functions of single elements: f'(x) and f''(x) ------------------------------------------------------


def elementwise(derivatives: Callable, keeps: str = "inputs") -> Rule:
    """A rule from derivatives(x or y, other arguments) -> (f', f''), taken once for all directions."""

    def weigh(op: Operation, adjoint: Tensor) -> Tensor:
        kept = op.results if keeps == "output" else op.values
        kept[0], second = derivatives(kept[0], *op.values[1:], **op.kwargs)
        return adjoint * second

    def push(op: Operation, tangents: list):
        first, dx = op.results[0] if keeps == "output" else op.values[0], tangents[0]
        return first * dx, inner(op.adjoints[0], dx * dx)

    return Rule(push, keeps, bends_in=(0,), weigh=weigh)


def gelu(x: Tensor, approximate: str = "none"):
    if approximate == "none":  # x Phi(x)
        density = torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * density, density * (2 - x * x)
    scale, cubic = math.sqrt(2 / math.pi), 0.044715  # x (1 + tanh u) / 2,  u = scale (x + cubic x^3)
    t = torch.tanh(scale * (x + cubic * x**3))
    du, ddu = scale * (1 + 3 * cubic * x * x), scale * 6 * cubic * x
    slope = (1 - t * t) * du  # of tanh u
    return 0.5 * (1 + t) + 0.5 * x * slope, slope + 0.5 * x * ((1 - t * t) * ddu - 2 * t * slope * du)


def silu(x: Tensor):
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s)), s * (1 - s) * (2 + x * (1 - 2 * s))


def power(x: Tensor, n: float):
    if n == 2:
        return 2 * x, 2
    return n * x ** (n - 1), n * (n - 1) * x ** (n - 2)


# ---- normalisations and softmax --------------------------------------------------------------------------


def push_softmax(op: Operation, tangents: list):
    """dy = y c with c = dx - sum(y dx);  D2y = y (c^2 - sum(y c^2)), so the bend is <softmax_weight, c^2>."""
    y, dx, dim = op.results[0], tangents[0], op.values[1]
    centred = dx - (y * dx).sum(dim, keepdim=True)
    dy = y * centred
    return dy, inner(op.adjoints[0], centred * centred)


def softmax_weight(op: Operation, adjoint: Tensor) -> Tensor:
    y, dim = op.results[0], op.values[1]
    return y * (adjoint - (y * adjoint).sum(dim, keepdim=True))


def push_log_softmax(op: Operation, tangents: list):
    """dy = c = dx - sum(p dx) with p = exp(y);  D2y = -sum(p c^2), the same for all entries of a row."""
    dx, dim = tangents[0], op.values[1]
    p = op.results[0]  # since `log_softmax_weight`
    centred = dx - (p * dx).sum(dim, keepdim=True)
    variance = (p * centred).mul_(centred).sum(dim, keepdim=True)
    return centred, -inner(op.adjoints[0], variance)


def log_softmax_weight(op: Operation, adjoint: Tensor) -> Tensor:
    op.results[0] = op.results[0].exp()
    return adjoint.sum(op.values[1], keepdim=True)


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
    dy, bend = 0, None
    if dx is not None:
        dz = dx * r
        dy = dz if w is None else dz * per_channel(w, op)
        bend = None if dw is None else 2 * inner(op.adjoints[0] * dz, per_channel(dw, op).expand_as(dz))
    if dw is not None:
        dy = dy + (x - per_channel(mean, op)) * r * per_channel(dw, op)
    return (dy if db is None else dy + per_channel(db, op)).expand(op.outputs[0].shape), bend


def push_max_pool(op: Operation, tangents: list):
    """y picks one entry of x a window; the tangent picks the same."""
    dx, picked = tangents[0], op.results[1]
    return dx.flatten(-2).gather(-1, picked.flatten(-2)).view(picked.shape), None


# ---- everything else -------------------------------------------------------------------------------------


def push_generic(op: Operation, tangents: list):
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

        def pull(cotangents: list) -> list:  # J' cotangents, itself differentiable
            ys = [outputs[i] for i in moving]
            return torch.autograd.grad(ys, inputs, cotangents, create_graph=True, materialize_grads=True)

        try:
            moved = torch.autograd.grad(pull(probes), probes, directions, materialize_grads=True, retain_graph=True)
            bends = [(g, dx) for g, dx in zip(pull(weights), directions, strict=True) if g.requires_grad]
            curved, along = [g for g, _ in bends], [dx for _, dx in bends]
            second = torch.autograd.grad(curved, inputs, along, materialize_grads=True) if bends else ()
        except RuntimeError as error:
            raise NotTraceable(f"{op.func} has no second derivative: {str(error).splitlines()[0]}") from error
    dys = [None] * len(outputs)
    for i, dy in zip(moving, moved, strict=True):
        dys[i] = dy
    return dys, sum(inner(g, dx) for g, dx in zip(second, directions, strict=True)) if second else None


GENERIC = Rule(push_generic, "inputs")
TABLE = [
    (
        Rule(push_linear, bends_in=None),
        """view.default _unsafe_view.default t.default transpose.int permute.default expand.default
        unsqueeze.default squeeze.dim squeeze.default squeeze.dims slice.Tensor select.int
        split.Tensor split_with_sizes.default unbind.int index.Tensor index_select.default
        gather.default clone.default alias.default _to_copy.default neg.default sum.default
        sum.dim_IntList mean.default mean.dim cumsum.default repeat.default roll.default
        flip.default tril.default triu.default nll_loss_forward.default nll_loss2d_forward.default
        avg_pool2d.default _adaptive_avg_pool2d.default""",
    ),
    (Rule(push_embedding, bends_in=None), "embedding.default"),
    (Rule(push_add, bends_in=None), "add.Tensor add.Scalar"),
    (Rule(partial(push_add, sign=-1), bends_in=None), "sub.Tensor sub.Scalar"),
    (Rule(push_where, bends_in=None), "where.self"),
    (Rule(push_cat, bends_in=None), "cat.default"),
    (Rule(push_masked_fill, bends_in=None), "masked_fill.Scalar"),
    (Rule(push_relu, "output", bends_in=None), "relu.default"),
    (Rule(push_max_pool, "output", bends_in=None), "max_pool2d_with_indices.default"),
    (Rule(push_product, "inputs", bends_in=(0, 1)), "mul.Tensor mul.Scalar"),
    (Rule(push_matmul, "inputs", bends_in=(0, 1)), "bmm.default"),
    (Rule(push_matmul, "inputs", bends_in=(0, 1), spared_by_output=True), "mm.default"),
    (Rule(push_matmul, "inputs", bends_in=(1, 2), spared_by_output=True), "addmm.default"),
    (Rule(push_convolution, "inputs", bends_in=(0, 1), spared_by_output=True), "convolution.default"),
    (Rule(push_divide, "inputs output", bends_in=(1,)), "div.Tensor div.Scalar"),
    (elementwise(lambda y: (1 - y * y, -2 * y * (1 - y * y)), "output"), "tanh.default"),
    (elementwise(lambda y: (y * (1 - y), y * (1 - y) * (1 - 2 * y)), "output"), "sigmoid.default"),
    (elementwise(lambda y: (y, y), "output"), "exp.default"),
    (elementwise(lambda y: (-0.5 * y**3, 0.75 * y**5), "output"), "rsqrt.default"),
    (elementwise(lambda y: (0.5 / y, -0.25 / y**3), "output"), "sqrt.default"),
    (elementwise(lambda x: (1 / x, -1 / (x * x))), "log.default"),
    (elementwise(power), "pow.Tensor_Scalar"),
    (elementwise(gelu), "gelu.default"),
    (elementwise(silu), "silu.default"),
    (Rule(push_softmax, "output", weigh=softmax_weight), "_softmax.default _safe_softmax.default"),
    (Rule(push_log_softmax, "output", weigh=log_softmax_weight), "_log_softmax.default"),
    (Rule(push_layer_norm, "inputs output"), "native_layer_norm.default"),
    (Rule(push_batch_norm, "inputs", bends_in=(0, 1)), "native_batch_norm.default"),
]
RULES = {attrgetter(name)(aten): rule for rule, names in TABLE for name in names.split()}


def rule_for(func: Callable, slots: list) -> Rule:
    """The rule of an operation, given which of its arguments are tracked. A product with one tracked factor is linear
    in it: it needs neither the adjoint nor the tracked values."""
    rule = RULES.get(func, GENERIC)
    if rule.bends_in and any(slots[i] is None for i in rule.bends_in):
        return replace(rule, keeps="", bends_in=None, spared_by_output=False)
    return rule
