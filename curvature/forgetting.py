"""A forward pass that leaves nothing behind in the module.

Some models keep a tensor that they computed from their parameters for the next forward pass (LeViT's biases of
attention in evaluation mode). At other parameters it is out of date, and autograd treats it as a constant. Slopes,
curvatures and loss scans would be wrong without an error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

from torch import Tensor, nn

TORCHS_OWN = frozenset(vars(nn.Module())) - {"_buffers"}  # parameters, children, hooks


def modules_with_memory(model: nn.Module) -> list[nn.Module]:
    """Those that may keep something of a forward pass. The layers of torch itself do not."""
    return [module for module in model.modules() if not type(module).__module__.startswith("torch.nn.")]


@contextmanager
def forgetting(modules: Sequence[nn.Module]) -> Iterator[None]:
    """On exit, a module that holds other tensors than on entry is restored: its attributes, its buffers, and the lists
    and dicts in its attributes. Tensors that were written in place, and other changes, stay."""
    before = [_contents(vars(module)) for module in modules]
    try:
        yield
    finally:
        for contents in before:
            if any(_holds_other_tensors(now, was) for now, was in contents):
                for now, was in contents:
                    _restore(now, was)


def _contents(attributes: dict[str, Any]) -> list[tuple[dict | list, dict | list]]:
    """A module's attributes and the containers in them, each beside a copy."""
    pairs: list[tuple[dict | list, dict | list]] = [(attributes, attributes.copy())]
    for name, value in attributes.items():
        if isinstance(value, (dict, list)) and name not in TORCHS_OWN:
            pairs += _with_copies(value)
    return pairs


def _with_copies(container: dict | list) -> list[tuple[dict | list, dict | list]]:
    pairs: list[tuple[dict | list, dict | list]] = [(container, container.copy())]
    for value in _values(container):
        if isinstance(value, (dict, list)):
            pairs += _with_copies(value)
    return pairs


def _values(container: dict | list | tuple) -> Any:
    return container.values() if isinstance(container, dict) else container


def _holds_other_tensors(now: dict | list, was: dict | list) -> bool:
    if len(now) == len(was) and all(map(is_, _values(now), _values(was))):
        return False
    ids = {id(value) for value in _values(was)} ^ {id(value) for value in _values(now)}
    return any(id(value) in ids and _has_tensor(value) for each in (now, was) for value in _values(each))


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple)):
        return any(map(_has_tensor, _values(value)))
    return isinstance(value, Tensor)


def _restore(now: dict | list, was: dict | list) -> None:
    now.clear()
    now.update(was) if isinstance(now, dict) else now.extend(was)
