"""How a tangent passes through each operation, and what the operation's own bend adds to the curvature.

A rule serves one recorded operation y = op(x, ...). Given the tangents dx of its inputs it returns

    dy = D op[dx]               the tangent of its output
    <adjoint, D2 op[dx, dx]>    d loss / dy contracted with the second derivative: the *bend*; None where it is zero

Linear operations only pass tangents on. Products (of matrices, elements, images and kernels) bend by 2 da db, functions
of single elements by f''(x) dx^2. An operation without a rule goes to `push_any_operation`, where autograd
differentiates it alone, twice: slower and equally exact. So a rule is only ever a matter of speed, and is tested
against `push_any_operation`.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch

from curvature import elementwise
from curvature.any_operation import push_any_operation
from curvature.borrowing import weight_norm
from curvature.elementwise import from_derivatives
from curvature.linear import (
    push_add,
    push_cat,
    push_embedding,
    push_linear,
    push_masked_fill,
    push_max_pool,
    push_relu,
    push_view,
    push_where,
)
from curvature.normalization import (
    prepare_log_softmax,
    prepare_softmax,
    push_batch_norm,
    push_layer_norm,
    push_log_softmax,
    push_softmax,
)
from curvature.operation import Curved, IfAll, Rule
from curvature.products import (
    prepare_convolution,
    prepare_matmul,
    push_convolution,
    push_divide,
    push_matmul,
    push_product,
)


def linear(push: Callable, **kept: Any) -> Rule:
    return Rule(push, Curved.NEVER, **kept)


def product(push: Callable, *factors: int) -> Rule:
    """Curved if all the arguments at `factors` are tracked."""
    return Rule(push, IfAll(factors), keep_inputs=True, factor=2.0)


def two_products(push: Callable, prepare: Callable, *factors: int) -> Rule:
    return replace(product(push, *factors), optional_output=True, prepare=prepare)


def softmax(push: Callable, prepare: Callable) -> Rule:
    return Rule(push, keep_output=True, prepare=prepare, only_prepared=True)


ANY_OPERATION = Rule(push_any_operation, keep_inputs=True, alone=True)
TABLE = [
    (
        linear(push_linear),
        """t.default transpose.int permute.default expand.default
        unsqueeze.default squeeze.dim squeeze.default squeeze.dims slice.Tensor select.int
        split.Tensor split_with_sizes.default unbind.int index.Tensor index_select.default
        gather.default clone.default alias.default _to_copy.default neg.default sum.default
        sum.dim_IntList mean.default mean.dim cumsum.default repeat.default roll.default
        flip.default tril.default triu.default nll_loss_forward.default nll_loss2d_forward.default
        avg_pool2d.default _adaptive_avg_pool2d.default
        _fft_r2c.default _fft_c2r.default _fft_c2c.default view_as_real.default _conj.default""",
    ),
    (linear(push_view), "view.default _unsafe_view.default"),
    (linear(push_embedding), "embedding.default"),
    (linear(push_add), "add.Tensor add.Scalar"),
    (linear(partial(push_add, sign=-1)), "sub.Tensor sub.Scalar"),
    (linear(push_where), "where.self"),
    (linear(push_cat), "cat.default"),
    (linear(push_masked_fill), "masked_fill.Scalar"),
    (linear(push_relu, keep_output=True), "relu.default"),
    (linear(push_max_pool, keep_output=True), "max_pool2d_with_indices.default"),
    (product(push_product, 0, 1), "mul.Tensor mul.Scalar"),
    (product(push_matmul, 0, 1), "bmm.default"),
    (two_products(push_matmul, prepare_matmul, 0, 1), "mm.default"),
    (two_products(push_matmul, prepare_matmul, 1, 2), "addmm.default"),
    (two_products(push_convolution, prepare_convolution, 0, 1), "convolution.default"),
    (Rule(push_divide, IfAll((1,)), keep_inputs=True, keep_output=True, factor=2.0), "div.Tensor div.Scalar"),
    (from_derivatives(elementwise.tanh, of_output=True), "tanh.default"),
    (from_derivatives(elementwise.sigmoid, of_output=True), "sigmoid.default"),
    (from_derivatives(elementwise.exp, of_output=True), "exp.default"),
    (from_derivatives(elementwise.rsqrt, of_output=True), "rsqrt.default"),
    (from_derivatives(elementwise.sqrt, of_output=True), "sqrt.default"),
    (from_derivatives(elementwise.log), "log.default"),
    (from_derivatives(elementwise.power), "pow.Tensor_Scalar"),
    (from_derivatives(elementwise.gelu), "gelu.default"),
    (from_derivatives(elementwise.silu), "silu.default"),
    (softmax(push_softmax, prepare_softmax), "_softmax.default _safe_softmax.default"),
    (softmax(push_log_softmax, prepare_log_softmax), "_log_softmax.default"),
    (Rule(push_layer_norm, keep_inputs=True, keep_output=True), "native_layer_norm.default"),
    (product(push_batch_norm, 0, 1), "native_batch_norm.default"),
]
RULES = {attrgetter(name)(torch.ops.aten): rule for rule, names in TABLE for name in names.split()}


def rule_for(func: Callable, slots: list, kwargs: dict, is_complex: bool) -> Rule:
    """The rule of an operation, given which of its arguments are tracked: `curved` is then settled. A product with one
    tracked factor is linear in it: it needs neither the adjoint nor the tracked values."""
    rule = RULES.get(func, ANY_OPERATION)
    if is_complex and rule.curved is not Curved.NEVER:  # the curved rules are written for real numbers
        return ANY_OPERATION
    if kwargs and isinstance(rule.curved, IfAll):  # a product with factors of its own: addmm's alpha and beta
        return ANY_OPERATION
    if not isinstance(rule.curved, IfAll):
        return rule
    if all(slots[i] is not None for i in rule.curved.places):
        return replace(rule, curved=Curved.ALWAYS)
    return Rule(rule.push, Curved.NEVER)


DECOMPOSED: dict[Any, Callable] = {torch.ops.aten._weight_norm_interface.default: weight_norm}  # run instead
