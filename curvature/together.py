"""Several directions pushed through a recording together, by torch.vmap over the rules.

On a GPU launching a kernel often takes longer than its arithmetic. Tangents of G directions, stacked along a new first
dimension, share each launch. On a CPU nothing is gained where tensors are large, so directions go one by one there, two
of them side by side: what an operation kept is then read from memory once for both.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from curvature.direction import even_groups
from curvature.memory import planned_bytes, retried
from curvature.objective import Params
from curvature.operation import NotTraceable, Operation, Slot, flatten

if TYPE_CHECKING:
    from curvature.tape import Tape

log = logging.getLogger(__name__)

PAIR = 2  # directions that a CPU pushes side by side
Tangents = dict[Slot, Tensor]  # of several directions: [G, *shape of the slot]
_one_by_one: set[Callable] = set()  # operations whose rule torch.vmap could not take


class Together:
    """How many directions are pushed at once through the recordings of one measurement.

    Args:
        size: this many, stacked; 1 pushes them one by one. None: pairs, not stacked, on a CPU. On another device as
            many as a quarter of its memory holds, found at the first recording.
    """

    def __init__(self, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"together is the number of directions pushed at once, 1 or more; got {size}")
        self.size = size

    def push(self, tape: "Tape", directions: Sequence[Params]) -> Tensor:
        """As `Tape.push`, [3, K]. Where memory runs out, half as many go together, in later recordings, too."""
        parts, left = [torch.zeros(3, 0, dtype=torch.float64, device=tape.device)], list(directions)

        def rest() -> None:
            while left:
                size, push = self._size_and_route(tape, len(directions))
                group = left[:size] if push == tape.push else alike(left[:size])
                parts.append(push(group))
                del left[: len(group)]

        def fewer() -> str | None:
            size, _ = self._size_and_route(tape, len(directions))
            self.size = (size + 1) // 2
            return None if size == 1 else f"{self.size} directions at once"

        retried(rest, fewer)
        return torch.cat(parts, 1)

    def _size_and_route(self, tape: "Tape", most: int) -> tuple[int, Callable[[Sequence[Params]], Tensor]]:
        if self.size is None:
            budget = planned_bytes(tape.device)
            if budget is None:
                return PAIR, tape.push
            self.size = even_groups(most, budget // max(tape.bytes_per_direction(), 1))
        return self.size, tape.push if self.size == 1 else partial(push_stacked, tape)


def alike(directions: Sequence[Params]) -> Sequence[Params]:
    """The first ones, as far as they move the same tensors: only these can be stacked."""
    other = next((i for i, v in enumerate(directions) if v.keys() != directions[0].keys()), len(directions))
    return directions[:other]


# ---- stacked directions -----------------------------------------------------------------------------------------


def push_stacked(tape: "Tape", directions: Sequence[Params]) -> Tensor:
    """As `Tape.push`, [3, G], for all directions at once. An operation whose rule torch.vmap cannot take gets them one
    by one, which the log says once."""
    while True:
        try:
            return _push_stacked(tape, directions)
        except _NotStackable as error:
            _one_by_one.add(error.func)
            log.info("%s takes the directions one by one: %s", error.func, error)


class _NotStackable(RuntimeError):
    def __init__(self, func: Callable, reason: object) -> None:
        super().__init__(reason)
        self.func = func


def _push_stacked(tape: "Tape", directions: Sequence[Params]) -> Tensor:
    read = {name: slot for name, slot in tape.leaves.items() if slot in tape.needed and name in directions[0]}
    tangents = {slot: torch.stack([v[name] for v in directions]) for name, slot in read.items()}
    bends = [(1.0, torch.zeros(len(directions), dtype=torch.float64, device=tape.device))]  # (factor, [G])
    for alone, run in groupby(tape.operations, _goes_alone):
        operations = list(run)
        bends += (_each_alone if alone else _all_at_once)(operations, tangents)
    factors, terms = zip(*bends, strict=True)
    slopes = tangents[tape.loss].sum(-1, dtype=torch.float64) if tape.loss in tangents else terms[0]
    terms = torch.stack(terms).double() * tape.column(list(factors)).unsqueeze(-1)
    return torch.stack([slopes, terms.sum(0), terms.abs().sum(0)])


def _goes_alone(op: Operation) -> bool:
    return op.rule.alone or op.func in _one_by_one


def _all_at_once(operations: list[Operation], tangents: Tangents) -> list[tuple[float, Tensor]]:
    """Push through a run of operations under one torch.vmap. Returns: (factor, bend [G]) of those that bend."""
    if not tangents:
        return []
    before, after, factors = list(tangents), [], []

    def through(*values: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        known, bends = dict(zip(before, values, strict=True)), []
        for op in operations:
            try:
                bend = op.push_through(known)
            except NotTraceable as error:
                raise _NotStackable(op.func, error) from error
            if bend is not None:
                bends.append(bend)
                factors.append(op.rule.factor)
        after[:] = known
        return list(known.values()), bends

    values, bends = torch.vmap(through)(*tangents.values())
    tangents.clear()
    tangents.update(zip(after, values, strict=True))
    return list(zip(factors, bends, strict=True))


def _each_alone(operations: list[Operation], tangents: Tangents) -> list[tuple[float, Tensor]]:
    """Push through a run of operations, one direction after the other. Returns: (factor, bend [G])."""
    weighted_bends = []
    for op in operations:
        inputs = {slot: tangents[slot] for slot in flatten(op.slots) if slot in tangents}
        each = [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)]
        if not inputs:
            continue
        bends = [op.push_through(known) for known in each]
        for slot in op.outputs:
            if each[0].get(slot) is not None:
                tangents[slot] = torch.stack([known[slot] for known in each])
        for slot in op.expiring:
            tangents.pop(slot, None)
        if bends[0] is not None:
            weighted_bends.append((op.rule.factor, torch.stack(bends)))  # pyright: ignore[reportArgumentType]
    return weighted_bends
