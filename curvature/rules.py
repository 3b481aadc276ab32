"""How a tangent passes through each operation, and what the operation's own bend adds to the curvature.

A rule serves one recorded operation y = op(x, ...). Given the tangents dx of its inputs it returns

    dy = D op[dx]               the tangent of its output
    <adjoint, D2 op[dx, dx]>    d loss / dy contracted with the second derivative: the *bend*; None where it is zero

Linear operations only pass tangents on. Products (of matrices, elements, images and kernels) bend by 2 da db, functions
of single elements by f''(x) dx^2. An operation without a rule goes to `push_generic`, where autograd differentiates it
alone, twice: slower and equally exact. So a rule is only ever a matter of speed, and is tested against `push_generic`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter

import torch

from curvature import elementwise as single
from curvature.elementwise import elementwise
from curvature.generic import push_generic
from curvature.linear import (
    push_add,
    push_cat,
    push_embedding,
    push_linear,
    push_masked_fill,
    push_max_pool,
    push_relu,
    push_where,
)
from curvature.normalisation import (
    log_softmax_weight,
    push_batch_norm,
    push_layer_norm,
    push_log_softmax,
    push_softmax,
    softmax_weight,
)
from curvature.operation import Rule
from curvature.products import push_convolution, push_divide, push_matmul, push_product

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
    (elementwise(single.power), "pow.Tensor_Scalar"),
    (elementwise(single.gelu), "gelu.default"),
    (elementwise(single.silu), "silu.default"),
    (Rule(push_softmax, "output", weigh=softmax_weight), "_softmax.default _safe_softmax.default"),
    (Rule(push_log_softmax, "output", weigh=log_softmax_weight), "_log_softmax.default"),
    (Rule(push_layer_norm, "inputs output"), "native_layer_norm.default"),
    (Rule(push_batch_norm, "inputs", bends_in=(0, 1)), "native_batch_norm.default"),
]
RULES = {attrgetter(name)(torch.ops.aten): rule for rule, names in TABLE for name in names.split()}


def rule_for(func: Callable, slots: list) -> Rule:
    """The rule of an operation, given which of its arguments are tracked. A product with one tracked factor is linear
    in it: it needs neither the adjoint nor the tracked values."""
    rule = RULES.get(func, GENERIC)
    if rule.bends_in and any(slots[i] is None for i in rule.bends_in):
        return replace(rule, keeps="", bends_in=None, spared_by_output=False)
    return rule
