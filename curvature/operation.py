"""What a recording holds: operations, and the rules that tell how tangents pass through them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor


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


def per_channel(values: Tensor, op: Operation) -> Tensor:
    """Numbers of the channels [C], shaped to meet the operation's output [B, C, ...]."""
    return values.view(-1, *[1] * (len(op.outputs[0].shape) - 2))
