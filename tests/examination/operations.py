"""Every differentiable operation of torch's own list (OpInfo), with torch's own sample inputs."""

import sys
import types
import unittest
from collections.abc import Iterator

import torch
from torch import Tensor

from curvature.operation import flatten
from tests.examination.verdicts import Verdict, examine

SAMPLES = 3  # per operation
# The value is no function of the inputs alone, or not a smooth one; it is defined up to a phase; it is rounded to fewer
# digits than differences need; or entries overlap.
NO_FUNCTIONS = {
    "bernoulli", "multinomial", "normal", "nn.functional.dropout", "nn.functional.dropout2d", "empty_like", "empty",
    "nn.functional.dropout3d", "nn.functional.alpha_dropout", "nn.functional.feature_alpha_dropout", "new_empty",
    "new_empty_strided", "empty_strided", "empty_permuted", "randn_like", "rand_like", "cauchy", "exponential",
    "geometric", "log_normal", "uniform", "nn.functional.fractional_max_pool2d", "nn.functional.fractional_max_pool3d",
    "bfloat16", "half", "cfloat", "chalf", "as_strided", "as_strided_copy", "as_strided_scatter",
    "nn.functional.max_unpool1d",
    "nn.functional.max_unpool2d", "nn.functional.max_unpool3d", "nn.functional.rrelu",
    "nn.functional.cosine_embedding_loss", "nn.functional.hinge_embedding_loss", "svd_lowrank",
    "pca_lowrank", "linalg.eig", "linalg.eigvals", "linalg.qr", "qr", "svd",
    "linalg.svd", "linalg.eigh", "eigh", "symeig", "resize_", "resize_as_", "to_sparse", "sparse.mm",
    "sparse.sampled_addmm",
}  # fmt: skip


def samples() -> Iterator[tuple[str, object, object]]:
    """(name, operation, sample) for every operation that torch can differentiate twice in float64."""
    # torch's list imports a package for tests of its own, of which nothing is used here
    sys.modules.setdefault("expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))
    from torch.testing._internal.common_methods_invocations import op_db

    for op in op_db:
        name = f"{op.name}.{op.variant_test_name}".rstrip(".")
        if not op.supports_gradgrad or torch.float64 not in op.dtypes or op.name in NO_FUNCTIONS or "at_zero" in name:
            continue
        torch.manual_seed(0)
        count = 0
        for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
            tensors = flatten([sample.input, *sample.args, *sample.kwargs.values()])
            tracked = [t for t in tensors if isinstance(t, Tensor) and t.requires_grad]
            if not 0 < sum(t.numel() for t in tracked) <= 3000:
                continue
            count += 1
            yield f"{name} #{count}", op, sample
            if count == SAMPLES:
                break


def examine_operation(name: str, op, sample) -> Verdict | None:
    """The sample's tensors are the parameters; the loss is a curved function of all differentiable outputs. None for a
    sample where that is not finite, or so large that its differences are rounding errors."""
    arguments = [sample.input, *sample.args, *sample.kwargs.values()]
    params = {f"p{i}": t.detach().clone() for i, t in enumerate(t for t in flatten(arguments) if follows(t))}

    def outputs(p: dict[str, Tensor]) -> list[Tensor]:
        names = iter(params)

        def replaced(value):
            if isinstance(value, (list, tuple)):
                return type(value)(map(replaced, value))
            return p[next(names)] * 1 if follows(value) else value

        first, *rest = map(replaced, (sample.input, *sample.args))
        options = {key: replaced(value) for key, value in sample.kwargs.items()}
        result = op.gradcheck_wrapper(op.get_op(), first, *rest, **options)  # such as making a matrix symmetric first
        return flatten([result] if isinstance(result, Tensor) else list(result))

    places = [i for i, y in enumerate(outputs({n: p.requires_grad_() for n, p in params.items()})) if follows(y)]

    def loss_fn(p, batch):
        result = outputs(p)
        return sum(curved(result[i]) for i in places).view(1)

    if not loss_fn(params, {}).abs().item() < 1e6:
        return None
    return examine(name, loss_fn, {n: p.detach() for n, p in params.items()}, {})


def follows(value) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def curved(y: Tensor) -> Tensor:
    y = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
    weights = torch.linspace(0.5, 1.5, y.numel(), dtype=torch.float64).view(y.shape)
    return (weights * (y + 0.3 * y * y)).sum()
