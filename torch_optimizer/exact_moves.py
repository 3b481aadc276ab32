"""How far an optimizer moves its parameters, to every coordinate's own precision.

A float32 parameter of size 100 that moves by 1e-6 has not moved at all: x' - x loses the small coordinates. Stepping on
float64 copies keeps them, but then the rule itself may be another one. It may read the parameters' dtype (an epsilon
that follows it) or keep state in float32. So the optimizer steps on copies in the parameters' own dtype. Each of its
operations is computed once more in float64.
"""

import logging
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

log = logging.getLogger(__name__)

SLACK = 4  # how many units in the last place x' may lie from its value in float64


class ExactMoves(TorchDispatchMode):
    """While active, keeps a float64 twin of every tensor that is computed from `params`, the parameters included.

    An operation that reads or writes a tensor with a twin runs twice: as it is, and on the twins. The first run decides
    every value, branch and state that the optimizer sees. All tensors on one storage share a twin, so views need
    nothing. Draws of random numbers, and casts to a narrower dtype, are part of the rule: what they give has no twin.

    The twin of x' is believed where it agrees with x' up to rounding. Elsewhere (a sign that falls on the other side
    of zero, a kernel that PyTorch does not see) the move is x' - x as it stands.

    Args:
        params: the tensors that will be moved, of any floating dtype.

    Example:
        >>> x = torch.tensor([100.0, 1.0])
        >>> with ExactMoves([x]) as moves:
        ...     _ = x.sub_(torch.tensor([1e-6, 1e-6]))
        >>> x.tolist(), moves.of(x)
        ([100.0, 0.9999989867210388], tensor([-1.0000e-06, -1.0000e-06], dtype=torch.float64))
    """

    _told_of: ClassVar[set[Any]] = set()  # operations that a line of the log has named

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__()
        self.before = {p: p.detach().clone() for p in params}
        self.twins: dict[StorageWeakRef, Tensor] = {}  # storage -> its numbers in float64, a flat tensor
        for p in self.before:
            if p.dtype != torch.float64:
                self._add_twin(p)

    def of(self, p: Tensor) -> Tensor:
        """x' - x of one of the parameters, float64, same shape.

        Each coordinate is as exact as the optimizer's own arithmetic: about 1e-6 of itself for a float32 parameter,
        however small it is relative to x. For a float64 parameter it is the plain difference.
        """
        x, moved = self.before[p].to(torch.float64), p.detach().to(torch.float64)
        if not self._has_twin(p):
            return moved - x
        twin, slack = self._twin(p), SLACK * torch.finfo(p.dtype).eps
        rounding = slack * (moved.abs() + x.abs()) + torch.finfo(p.dtype).tiny
        unseen = (twin == x).all()  # moved, if at all, where PyTorch does not see it; not read, which would wait
        return torch.where(((twin - moved).abs() <= rounding) & ~unseen, twin, moved) - x

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        written = _written(operation, args, kwargs)
        if not any(self._has_twin(t) for t in tensors) or not (written or _makes_tensors(operation)):
            return operation(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in operation.tags or _narrows(operation, args, kwargs):
            return self._only_as_it_is(operation, args, kwargs, written)
        try:
            for t in written:
                if t.is_floating_point() and not self._has_twin(t):
                    self._add_twin(t)
            exact_args, exact_kwargs = self._on_twins((args, kwargs), written)
            exact = operation(*exact_args, **exact_kwargs)  # first: the operation may write to what it reads
        except (RuntimeError, TypeError, ValueError) as error:
            if operation not in self._told_of:
                self._told_of.add(operation)
                log.info("%s has no float64 form: its moves are rounded (%s)", operation, error)
            return self._only_as_it_is(operation, args, kwargs, written)
        result = operation(*args, **kwargs)
        if _makes_tensors(operation):
            for made, twin in zip(tree_leaves(result), tree_leaves(exact), strict=True):
                if isinstance(made, Tensor) and made.is_floating_point() and not self._has_twin(made):
                    self._add_twin(made, twin)
            self._forget_the_dead()
        return result

    def _only_as_it_is(self, operation: Any, args: tuple, kwargs: dict, written: list[Tensor]) -> Any:
        """Run the operation once; a twin of what it writes takes the value written."""
        result = operation(*args, **kwargs)
        for t in written:
            if self._has_twin(t):
                self._twin(t).copy_(t)
        return result

    def _on_twins(self, arguments: Any, written: list[Tensor]) -> Any:
        """The arguments with twins, and float64 copies of what has none, in place of the tensors."""

        def exact(value: Any) -> Any:
            if isinstance(value, torch.dtype):
                return torch.float64 if value.is_floating_point else value
            if not isinstance(value, Tensor):
                return value
            if self._has_twin(value):
                return self._twin(value)
            if any(value is t for t in written):
                return value.clone()  # an integer: the operation itself will count it
            return value.to(torch.float64) if value.is_floating_point() else value

        return tree_map(exact, arguments)

    def _has_twin(self, t: Tensor) -> bool:
        return t.layout == torch.strided and StorageWeakRef(t.untyped_storage()) in self.twins

    def _twin(self, t: Tensor) -> Tensor:
        flat = self.twins[StorageWeakRef(t.untyped_storage())]
        return flat.as_strided(t.size(), t.stride(), t.storage_offset())

    def _add_twin(self, t: Tensor, exact: Tensor | None = None) -> None:
        """Give the storage of `t` a twin, with `exact` in the place of `t` itself if given."""
        storage = t.untyped_storage()
        storage_view = t.detach().as_strided((storage.nbytes() // t.element_size(),), (1,), 0)
        flat = (
            torch.empty_like(storage_view, dtype=torch.float64)
            if exact is not None
            else storage_view.to(torch.float64, copy=True)
        )
        self.twins[StorageWeakRef(storage)] = flat
        if exact is not None:
            self._twin(t).copy_(exact)

    def _forget_the_dead(self) -> None:
        """Free the twins of intermediate results that are gone. Their keys were held, so none was given out again."""
        for storage in [s for s in self.twins if s.expired()]:
            del self.twins[storage]


def _written(operation: Any, args: tuple, kwargs: dict) -> list[Tensor]:
    """The tensors that the operation writes to, by its schema."""
    schema = operation._schema.arguments
    given = [*zip(schema, args, strict=False), *((a, kwargs[a.name]) for a in schema if a.name in kwargs)]
    values = [value for argument, value in given if argument.alias_info is not None and argument.alias_info.is_write]
    return [t for t in tree_leaves(values) if isinstance(t, Tensor)]


def _makes_tensors(operation: Any) -> bool:
    """Whether the operation returns tensors that are not views of its arguments."""
    return any("Tensor" in str(value.type) and value.alias_info is None for value in operation._schema.returns)


def _narrows(operation: Any, args: tuple, kwargs: dict) -> bool:
    """Whether the operation is a cast to a dtype that cannot hold what it is given."""
    to = kwargs.get("dtype")
    if operation is not torch.ops.aten._to_copy.default or to is None:
        return False
    return to.is_floating_point and torch.promote_types(args[0].dtype, to) != to
