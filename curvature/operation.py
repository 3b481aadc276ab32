"""What a recording holds: operations, and the rules that tell how tangents pass through them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NoReturn

import torch
from torch import Tensor

from curvature.leaves import OutOfDate
from curvature.memory import is_out_of_memory


class NotTraceable(RuntimeError):
    """The recorded route cannot serve this loss; the message names the operation that stands in the way."""


@contextmanager
def refusing(task: str) -> Iterator[None]:
    """Turns any error in this context into NotTraceable: a defect here leads to the fallback and not to a traceback.
    Memory that runs out stays what it is, and so does what both routes would get wrong."""
    try:
        yield
    except Exception as error:
        refuse(task, error)


def refuse(task: str, error: Exception) -> NoReturn:
    """As `refusing`, for an error that is caught already."""
    if isinstance(error, (NotTraceable, OutOfDate)) or is_out_of_memory(error):
        raise error
    reason = (str(error).splitlines() or [""])[0]
    raise NotTraceable(f"{task} failed: {type(error).__name__}: {reason}") from error


class Slot:
    """A tensor that depends on the parameters, by its place in the recording: it outlives the tensor itself."""

    __slots__ = ("bytes", "edge", "mark", "shape", "version")

    def __init__(self, tensor: Tensor, version: int, mark: object = None) -> None:
        self.mark = mark  # of the recording that it belongs to
        self.shape = tensor.shape
        self.bytes = tensor.nbytes
        self.version = version  # autograd's count of writes into the storage, to notice a write that we did not follow
        self.edge = None  # where autograd will find its adjoint; set when the tensor is first read


class Curved(Enum):
    """Whether an operation has a second derivative in its tracked inputs."""

    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class IfAll:
    """Curved if the arguments at all these places are tracked, as a product is; linear otherwise."""

    places: tuple[int, ...]


@dataclass(frozen=True)
class Rule:
    """What to do with one kind of operation. A tensor is *tracked* if it depends on the parameters, else a constant.

    push: (operation, tangents) -> (dy, bend without its `factor`).
    factor: of the bend, taken for all operations at once: 2 for a product.
    curved: whether the operation bends. A linear operation needs neither values nor adjoints.
    keep_inputs, keep_output: tracked tensors to keep from the forward pass. Constants are always kept.
    optional_output: keep the output, too, unless the model writes over it. The rule does without it then.
    prepare: (operation, adjoint of its first output) -> what `push` reads as `operation.prepared`. It runs once for all
        directions, after the backward pass.
    only_prepared: `push` reads nothing else, so that values, results and adjoints are freed after `prepare`.
    alone: `push` takes one direction at a time. The others take stacked ones, too, under `torch.vmap`.
    """

    push: Callable
    curved: Curved | IfAll = Curved.ALWAYS
    keep_inputs: bool = False
    keep_output: bool = False
    optional_output: bool = False
    prepare: Callable | None = None
    only_prepared: bool = False
    alone: bool = False
    factor: float = 1.0


@dataclass(eq=False)
class Operation:
    """One executed aten operation."""

    func: Callable
    slots: list  # one per argument: its Slot where it is tracked, else None; for a list of tensors a list of those
    values: list  # one per argument: the argument itself where it is constant or kept, else None
    kwargs: dict
    outputs: list  # one Slot per output tensor
    rule: Rule
    results: list = field(default_factory=list)  # the output tensors, where kept
    adjoints: list = field(default_factory=list)  # d loss / d output, one per output; only for curved rules
    prepared: Any = None  # what `rule.prepare` returned
    drops_results: bool | Tensor = False  # whether `push` is better off without `results`; set by `rule.prepare`
    expiring: list = field(default_factory=list)  # slots whose tangents no later operation reads
    flat: bool = False  # no tracked tensor is in a list, as is usual

    def __post_init__(self):
        self.flat = not any(isinstance(slot, list) for slot in self.slots)

    def run(self, args: list):
        return self.func(*args, **self.kwargs)

    def push_through(self, tangents: dict[Slot, Tensor]) -> Tensor | None:
        """Add the tangents of the outputs, drop those that no later operation reads. Returns: the bend, if there is.

        An operation that no tangent reaches is skipped, as where a part of a direction is pushed."""
        inputs = list(map(tangents.get, self.slots)) if self.flat else nested(tangents.get, self.slots)
        moving = [dx for dx in (inputs if self.flat else flatten(inputs)) if dx is not None]
        if not moving:
            return None
        if not self.flat:  # what takes a list, such as `cat`, takes all of it
            still = moving[0].new_zeros(())
            inputs = nested(lambda dx, s: still.expand(s.shape) if s and dx is None else dx, inputs, self.slots)
        try:
            dys, bend = self.rule.push(self, inputs)
        except Exception as error:  # not `refusing`, which costs as much as a small operation
            refuse(f"the rule of {self.func}", error)
        if isinstance(dys, Tensor):
            tangents[self.outputs[0]] = dys
        else:
            tangents.update(zip(self.outputs, dys, strict=False))
        for slot in self.expiring:
            tangents.pop(slot, None)
        return bend

    def prepare(self, adjoints: list) -> None:
        """Take the adjoints of the outputs, None where the loss does not use one."""
        self.adjoints = adjoints
        if self.rule.prepare:
            self.prepared = self.rule.prepare(self, adjoints[0])
        if self.rule.only_prepared:
            self.values = self.results = self.adjoints = []
        if self.drops_results is True:
            self.results = []


def nested(function: Callable, *args: Sequence) -> list:
    """`function` on every argument, and on every element where the first holds a list, as `cat` takes one."""
    return [
        nested(function, *row) if isinstance(row[0], (list, tuple)) else function(*row)
        for row in zip(*args, strict=True)
    ]


def flatten(args: Sequence) -> list:
    """The arguments and the elements of those that are lists, in one list."""
    return [leaf for a in args for leaf in (a if isinstance(a, (list, tuple)) else [a])]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Sum of a * b, []; pairwise summation keeps float32 rounding near 1e-7. A complex number counts as two real ones,
    as for autograd. Its adjoint of z = x + iy is d loss / dx + i d loss / dy."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return (a * b).sum()


def per_channel(values: Tensor, op: Operation) -> Tensor:
    """Numbers of the channels [C], shaped to meet the operation's output [B, C, ...]."""
    return values.view(-1, *[1] * (len(op.outputs[0].shape) - 2))
