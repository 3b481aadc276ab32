"""A direction in parameter space, which knows its length."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from curvature.memory import is_out_of_memory, planned_bytes, retried
from curvature.objective import Params
from curvature.ranks import ALONE, Ranks

T = TypeVar("T")
SAFE_LENGTHS = 1e-4, 1e5  # between these float32 can square a direction's coordinates


class Direction(Mapping[str, Tensor]):
    """v, as name -> tensor, with its length and its largest coordinate. Both are computed when first asked for.

    Example:
        >>> v = Direction({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0, -4.0]])})
        >>> v.length, v.largest, v.unit()["b"].tolist()
        (5.0, 4.0, [[0.0, -0.800000011920929]])
    """

    def __init__(self, tensors: Params, is_part: bool = False) -> None:
        self._tensors = tensors
        self.is_part = is_part  # tensors that it lacks stand still

    @classmethod
    def of(cls, tensors: Params) -> "Direction":
        """`tensors` itself where it is a direction already."""
        return tensors if isinstance(tensors, Direction) else cls(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @cached_property
    def length(self) -> float:
        """|v|, the Euclidean norm over all tensors together, accumulated in float64."""
        return norm(self)

    @cached_property
    def largest(self) -> float:
        """max |v_i|"""
        return max(numbers([v.abs().max() for v in self.values() if v.numel()]), default=0.0)

    @property
    def has_length(self) -> bool:
        """Whether |v| is a positive, finite number: only then is anything measured along v."""
        return 0 < self.length < math.inf

    def unit(self, like: Params | None = None) -> "Direction":
        """v / |v|, in the dtypes and on the devices of `like`. A tensor is computed each time it is asked for, so that
        no copy of v piles up; `dict(v.unit())` holds one. Raises: ValueError without `has_length`."""
        if not self.has_length:
            raise ValueError(f"a direction of length {self.length} has no unit vector")
        return _Copied(self, like or self, self.length)

    def part(self, names: Collection[str]) -> "Direction":
        """v in the tensors `names`, and zero elsewhere. It holds these alone: along it, only the operations that they
        reach cost anything."""
        return Direction({name: self[name] for name in names}, is_part=True)

    def tangent(self, params: Params) -> "Direction":
        """v as it is where float32 can square it and dtypes are those of `params`, else its unit vector; on the devices
        of `params`."""
        low, high = SAFE_LENGTHS
        if any(v.dtype != params[n].dtype for n, v in self.items()) or not low < self.length < high:
            return self.unit(params)
        return self if all(v.device == params[n].device for n, v in self.items()) else _Copied(self, params, 1.0)

    def held(self, params: Params) -> "Direction":
        """Itself; one that computes its tensors, with these in the memory of a GPU."""
        return self


class _Copied(Direction):
    """v / divisor in the dtypes and on the devices of `like`, computed each time that a tensor is asked for."""

    def __init__(self, direction: Direction, like: Params, divisor: float) -> None:
        super().__init__(direction, direction.is_part)
        self._divisor, self._like = divisor, like
        self.length = 1.0 if divisor == direction.length else direction.length / divisor

    def __getitem__(self, name: str) -> Tensor:
        v, like = self._tensors[name], self._like[name]
        # divided before it is rounded to the target type: a float16 target must not see the unscaled v
        return (v.to(torch.promote_types(v.dtype, like.dtype)) / self._divisor).to(like)

    def held(self, params: Params) -> Direction:
        return self if room_for_copies(params) is None else Direction(dict(self), self.is_part)


def by_groups(
    measure: Callable[[list[Direction]], T],
    directions: Sequence[Direction],
    params: Params,
    can_be_less: bool,
    ranks: Ranks = ALONE,
) -> list[T]:
    """measure(group) of every group of `in_groups`, with the copies of one held at a time.

    Where memory runs out, groups are halved: at once if the copies themselves found no room, and else unless the
    caller can make its micro-batches smaller, `can_be_less`, and gets the error. All `ranks` do so alike.
    """
    groups, results, are_held = in_groups(directions, params), [], False

    def rest() -> None:
        nonlocal are_held
        while len(results) < len(groups):
            are_held = False
            copies = _held_by_all(groups[len(results)], params, ranks)
            are_held = True
            results.append(measure(copies))
            del copies  # before those of the next group are made

    def smaller_groups() -> str | None:
        left = groups[len(results) :]
        size = (len(left[0]) + 1) // 2
        are_copies = any(isinstance(v, _Copied) for v in left[0])
        if len(left[0]) < 2 or are_held and (can_be_less or not are_copies):
            return None
        groups[len(results) :] = [group[i : i + size] for group in left for i in range(0, len(group), size)]
        return f"copies of at most {size} directions at once"

    retried(rest, smaller_groups)
    return results


def _held_by_all(group: Sequence[Direction], params: Params, ranks: Ranks) -> list[Direction]:
    """The directions with their copies made, if all ranks have room for them. Raises: torch.OutOfMemoryError."""
    copies, failed = [], None
    try:
        copies = [v.held(params) for v in group]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        failed = str(error)
    if ranks.largest(failed is not None):
        raise torch.OutOfMemoryError(failed or "another rank is out of memory")
    return copies


def in_groups(directions: Sequence[Direction], params: Params) -> list[Sequence[Direction]]:
    """The directions (of `tangent`) in groups such that the device of `params` holds the copies of one group: those
    that are not used as they are. One group on a CPU, where nothing is copied, and for no direction."""
    room = room_for_copies(params)
    copies = sum(isinstance(v, _Copied) for v in directions)
    if room is None or not copies:
        return [directions]
    size = even_groups(len(directions), room)
    return [directions[start : start + size] for start in range(0, len(directions), size)]


def room_for_copies(params: Params) -> int | None:
    """How many directions a GPU holds besides everything else; None on a CPU."""
    budget = planned_bytes(next(iter(params.values())).device)
    return None if budget is None else budget // max(1, sum(p.nbytes for p in params.values()))


def even_groups(count: int, most: int) -> int:
    """The size of groups of at most `most` among `count`, in as few groups as possible, all about alike; at least 1."""
    groups = -(-count // max(1, min(most, count)))
    return -(-count // groups)


def norm(tensors: Params) -> float:
    """Euclidean norm over all tensors together, accumulated in float64."""
    norms = [torch.linalg.vector_norm(t, dtype=torch.float64) for t in tensors.values()]
    return torch.linalg.vector_norm(torch.stack(norms)).item() if norms else 0.0


def are_finite(groups: Sequence[Sequence[Tensor]]) -> list[bool]:
    """Whether each group of tensors is finite in every coordinate. The host waits once for each device.

    Example:
        >>> are_finite([[torch.ones(3), torch.tensor([2])], [torch.tensor([0.0, math.nan])], []])
        [True, False, True]
    """
    magnitudes, places = [], []
    for place, tensors in enumerate(groups):
        inexact = [t for t in tensors if t.numel() and (t.is_floating_point() or t.is_complex())]
        for device in dict.fromkeys(t.device for t in inexact):
            own = [t.detach() for t in inexact if t.device == device]
            magnitudes.append(torch.nn.utils.get_total_norm(own, math.inf))  # the largest magnitude; NaN if one is NaN
            places.append(place)
    broken = {place for place, size in zip(places, numbers(magnitudes), strict=True) if not math.isfinite(size)}
    return [place not in broken for place in range(len(groups))]


def numbers(tensors: Sequence[Tensor]) -> list[float]:
    """0-d tensors as floats. The host waits once for each device, however many tensors there are."""
    floats = [0.0] * len(tensors)
    for device in dict.fromkeys(t.device for t in tensors):
        places = [i for i, t in enumerate(tensors) if t.device == device]
        together = torch.stack([tensors[i].detach().double() for i in places])
        for i, number in zip(places, together.tolist(), strict=True):
            floats[i] = number
    return floats
