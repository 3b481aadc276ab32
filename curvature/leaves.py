"""The point of a measurement as leaves of autograd's graph, kept apart from those of other measurements.

Some models keep a tensor from one forward pass to the next. Its graph ends in the leaves of the earlier pass, and
autograd would treat it as a constant, without an error.
"""

from collections.abc import Collection, Iterator
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from curvature.objective import Params

_leaves = WeakTensorKeyDictionary()  # those of all measurements -> their names


class OutOfDate(ValueError):
    """The losses use something that does not follow the parameters passed in."""

    def __init__(self, description: str) -> None:
        super().__init__(
            f"the losses use {description}, which does not follow `params`: let loss_fn compute everything from "
            f"`params` in each call, such as by functional_loss(model, losses) inside `with measuring(model)`"
        )


def leaves_at(params: Params, names: Collection[str] | None = None) -> dict[str, Tensor]:
    """The parameters, sharing memory, each without a history; those in `names` (None: all) are differentiated."""
    leaves = {name: p.detach() for name, p in params.items()}
    for name in leaves if names is None else names:
        leaves[name].requires_grad_()
    _leaves.update((leaf, name) for name, leaf in leaves.items())
    return leaves


def graph_of(losses: Tensor) -> Iterator[Any]:
    """The nodes of autograd's graph that ends in `losses`, each once."""
    nodes, seen = [losses.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [before for before, _ in node.next_functions]
            yield node


def check_sources(losses: Tensor, leaves: Params) -> None:
    """Raises: OutOfDate if the losses depend on `leaves` and also on leaves of another measurement. A tensor in the
    same memory, such as the module's own parameter, counts as one."""
    own = {id(leaf) for leaf in leaves.values()}
    names = {leaf.data_ptr(): name for name, leaf in leaves.items() if leaf.numel()}
    sources = [node.variable for node in graph_of(losses) if hasattr(node, "variable")]
    if not any(id(source) in own for source in sources):
        return  # they do not depend on the parameters at all
    for source in sources:
        name = _leaves.get(source) or names.get(source.data_ptr())
        if id(source) not in own and name:
            raise OutOfDate(f"{name} from an earlier forward pass, or the module's own")
