"""The recording of the loss, and the tangents pushed through it."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from curvature.borrowing import twice_differentiable
from curvature.checks import NO_DEPENDENCE, check_losses, check_repeatable
from curvature.leaves import OutOfDate, leaves_at
from curvature.objective import Batch, Derivatives, LossFunction, Params
from curvature.operation import Curved, NotTraceable, Operation, Slot, flatten, nested, refusing
from curvature.rules import DECOMPOSED, rule_for
from curvature.together import Together

SLOT = "_curvature_slot"  # where a tensor keeps its slot: as long as it lives, and without a table of weak references
HOLDERS = (Tensor, list, tuple)  # what may be tracked among the arguments of an operation


def vhv_by_recording(
    loss_fn: LossFunction,
    params: Params,
    directions: Sequence[Params],
    batch: Batch,
    together: Together | int | None = None,
) -> Derivatives:
    """Slope and curvature of the summed loss of one micro-batch along every direction, each as long as it is.

    Memory beyond `params` and `directions` does not grow with their number: the values and adjoints that the rules read
    (two to three times what a backward pass keeps), and the tangents of the directions that are pushed together, two on
    a CPU, freed after their last use. Smaller micro-batches take proportionally less.

    Args:
        loss_fn: per-example losses [B]; deterministic. Attention is sent through the math backend here.
        params: name -> tensor, the point. Not modified.
        directions: each name -> tensor, with the shapes and types of `params`. Where one lacks a tensor, that tensor
            stands still, and only the operations that the others reach cost anything.
        together: how many directions are pushed at once, as in `Together`. It changes no number beyond rounding.

    Raises: NotTraceable, with the reason, if an operation cannot be followed; double backward may still serve.
    """
    leaves = leaves_at(params)
    tape = Tape(leaves)
    with torch.enable_grad():
        losses = record(tape, loss_fn, leaves, batch)
        tape.finish(losses)
    losses = losses.detach()  # releases what is left of autograd's graph
    together = together if isinstance(together, Together) else Together(together)
    with torch.no_grad():
        return Derivatives(losses, *together.push(tape, directions))


def record(tape: "Tape", loss_fn: LossFunction, leaves: Params, batch: Batch) -> Tensor:
    """The losses, computed under the tape. Random numbers in them are allowed as long as they change nothing."""
    tape.allows_inference = any(isinstance(value, Tensor) and value.is_inference() for value in batch.values())
    try:
        with refusing("recording the loss"), twice_differentiable(), tape:
            losses = loss_fn(leaves, batch)
    finally:
        if tape.draws:
            check_repeatable(loss_fn, leaves, batch, tape.draws)
    check_losses(losses)
    return losses


class Tape(TorchDispatchMode):
    """Records every operation that autograd follows from `leaves` on, and keeps only the values that rules will read.

    Autograd decides what depends on the parameters. A tensor that it follows but no recorded operation made (a
    custom autograd.Function did, or checkpointing, or a write through a view) is refused, not treated as a constant.
    """

    def __init__(self, leaves: Params) -> None:
        super().__init__()
        self.mark = object()  # of this recording's slots
        self.device = next(iter(leaves.values())).device
        self.leaves = {name: Slot(leaf, leaf._version, self.mark) for name, leaf in leaves.items()}
        for name, slot in self.leaves.items():
            leaves[name].__dict__[SLOT] = slot  # pyright: ignore[reportIndexIssue]
        self.operations: list[Operation] = []
        self.kept: list[tuple[Tensor, int]] = []  # (tensor that a rule will read, its count of writes)
        self.spare: dict[int, Operation] = {}  # address of an output that its rule could use -> its operation
        self.loss: Any = None  # the Slot of the losses
        self.needed: set[Slot] = set()  # what the loss depends on
        self.draws = ""  # an operation that drew random numbers
        self.allows_inference = True  # reads tensors that were made in inference mode

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # measurements are not compiled; the guard against it would cost as much as an operation

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        draws, writes, _ = traits(func)
        if writes:
            self.release(flatten([*args, *kwargs.values()]))
        if not torch.is_grad_enabled() or func is torch.ops.aten.detach.default:
            return func(*args, **kwargs)
        if draws:
            self.draws = str(func)
        slots = [self.slot_of(a, func) if isinstance(a, HOLDERS) else None for a in args]
        if kwargs and any(self.slot_of(value, func) for value in kwargs.values()):
            raise NotTraceable(f"{func} takes a tensor that depends on the parameters as a keyword")
        tracked = any(slots)
        if draws and tracked:
            raise NotTraceable(f"{func} draws random numbers")
        result = func(*args, **kwargs)
        if tracked:
            self.record(func, slots, args, kwargs, result)
        return result

    def slot_of(self, value, reader) -> Slot | list | None:
        """The slot of a tensor that autograd follows, the slots of a list with such; None for constants."""
        if isinstance(value, (list, tuple)):
            slots = [self.slot_of(element, reader) if isinstance(element, HOLDERS) else None for element in value]
            return slots if any(slots) else None
        if not isinstance(value, Tensor):
            return None
        if not value.requires_grad:
            if not self.allows_inference and value.is_inference():  # of a forward pass without derivatives
                raise OutOfDate(f"a tensor of shape {list(value.shape)} that was made in inference mode")
            return None
        slot = value.__dict__.get(SLOT)
        # a custom function's own backward is not ours
        if slot is None or slot.mark is not self.mark or isinstance(value.grad_fn, BackwardCFunction):
            raise NotTraceable(f"{reader} reads a tensor that autograd follows but no recorded operation made")
        if slot.version != value._version:
            raise NotTraceable(f"{reader} reads a tensor that was overwritten through another view")
        if slot.edge is None and not value.is_leaf:
            slot.edge = get_gradient_edge(value)
        return slot

    def record(self, func, slots: list, args, kwargs: dict, result) -> None:
        results = [result] if isinstance(result, Tensor) else result
        if not isinstance(results, (list, tuple)) or not all(isinstance(y, Tensor) for y in results):
            raise NotTraceable(f"{func} returns something other than tensors")
        # a view or a write shares its target's count of writes; autograd raises it only after we return
        _, writes, shares = traits(func)
        version = args[0]._version + writes if shares else 0
        func = functional_twin(func, args[0]) if writes else DECOMPOSED.get(func) or func
        tracked = [a for a in flatten([a for a, slot in zip(args, slots, strict=True) if slot]) if follows(a)]
        rule = rule_for(func, slots, kwargs, is_complex=any([t.is_complex() for t in [*tracked, *results]]))
        values = list(args)
        if rule.keep_inputs:
            self.kept += [(a, a._version) for a in tracked]
        else:
            values = nested(lambda slot, a: a if slot is None else None, slots, args)
        op = Operation(func, slots, values, kwargs, [Slot(y, version, self.mark) for y in results], rule)
        if rule.keep_output:
            op.results = list(results)
            self.kept += [(y, version) for y in results]
        if rule.optional_output:
            op.results = list(results)
            self.spare[result.untyped_storage().data_ptr()] = op
        self.operations.append(op)
        for y, slot in zip(results, op.outputs, strict=True):
            y.__dict__[SLOT] = slot  # pyright: ignore[reportIndexIssue]

    def release(self, written: list) -> None:
        """Release outputs that are about to be overwritten. Counts of writes do not show it: `linear` hands on its
        product under a new name and a new count."""
        for tensor in written:
            op = self.spare.pop(tensor.untyped_storage().data_ptr(), None) if isinstance(tensor, Tensor) else None
            if op:
                op.results = []

    def finish(self, losses: Tensor) -> None:
        """After the forward pass: make ready for `push`."""
        self.loss = self.slot_of(losses, "the caller")
        if self.loss is None:
            raise ValueError(NO_DEPENDENCE)
        if any(tensor._version != version for tensor, version in self.kept):
            raise NotTraceable("a value that a derivative needs was overwritten in place")
        self.kept.clear()
        self.spare.clear()
        with refusing("the backward pass of the loss"):
            self.prune()
            self.prepare(losses)

    def prune(self) -> None:
        """Keep the operations that the loss needs, and note after which one a tangent is no longer read."""
        needed, live = self.needed, []
        needed.add(self.loss)
        for op in reversed(self.operations):
            if needed.isdisjoint(op.outputs):
                continue
            inputs = {slot for slot in flatten(op.slots) if slot}
            op.expiring = [slot for slot in {*inputs, *op.outputs} if slot not in needed]
            needed |= inputs
            live.append(op)
        self.operations = live[::-1]

    def prepare(self, losses: Tensor) -> None:
        """Fetch the adjoints of all curved operations in one backward pass, and let their rules prepare."""
        curved = [op for op in self.operations if op.rule.curved is Curved.ALWAYS]
        slots = [y for op in curved for y in op.outputs if y in self.needed and y.edge]
        edges = [y.edge for y in slots]
        gradients = torch.autograd.grad(losses.sum(), edges, allow_unused=True) if edges else ()
        adjoints = dict(zip(slots, gradients, strict=True))
        with torch.no_grad():
            for op in curved:
                given = [adjoints.get(y) for y in op.outputs]
                if any(y in self.needed and adjoint is None for y, adjoint in zip(op.outputs, given, strict=True)):
                    raise NotTraceable(f"autograd's backward pass goes around {op.func}, whose output the loss reads")
                with refusing(f"the rule of {op.func}"):
                    op.prepare(given)
            unread = [(op, op.drops_results) for op in curved if isinstance(op.drops_results, Tensor)]
            flags = torch.stack([drops for _, drops in unread]).tolist() if unread else []  # the only wait
        for (op, _), drops in zip(unread, flags, strict=True):
            if drops:
                op.results = []

    def push(self, directions: Sequence[Params]) -> Tensor:
        """Slopes, curvatures and magnitudes (see `Derivatives`) along the directions, [3, K] in float64."""
        tangents = [{slot: v[name] for name, slot in self.leaves.items() if name in v} for v in directions]
        still = torch.zeros((), dtype=torch.float64, device=self.device)
        bends = [[still] for _ in directions]
        factors = [[1.0] for _ in directions]
        for op in self.operations:
            for k, known in enumerate(tangents):
                bend = op.push_through(known)
                if bend is not None:
                    bends[k].append(bend)
                    factors[k].append(op.rule.factor)
        slopes = [known[self.loss].sum(dtype=torch.float64) if self.loss in known else still for known in tangents]
        terms = [torch.stack(b).double() * self.column(f) for b, f in zip(bends, factors, strict=True)]
        return torch.stack(
            [
                torch.stack(slopes),
                torch.stack([of_one.sum() for of_one in terms]),
                torch.stack([of_one.abs().sum() for of_one in terms]),
            ]
        )

    def column(self, numbers: list[float]) -> Tensor:
        """The numbers in float64 on this device, without waiting for it."""
        return torch.tensor(numbers, dtype=torch.float64).to(self.device, non_blocking=True)

    def bytes_kept(self, besides: Iterable[Tensor]) -> int:
        """The memory that the recording holds until all directions are pushed, without the tensors `besides`."""
        held = {}
        for op in self.operations:
            parts = op.prepared if isinstance(op.prepared, tuple) else [op.prepared]
            for t in flatten([*op.values, *op.results, *op.adjoints, *parts]):
                if isinstance(t, Tensor):
                    held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        for t in besides:
            held.pop(t.untyped_storage().data_ptr(), None)
        return sum(held.values())

    def bytes_per_direction(self) -> int:
        """The memory that the tangents of one direction take where they are most, with those of the parameters. What a
        rule computes in between counts as three tensors of the largest size."""
        live = sum(slot.bytes for slot in self.leaves.values())
        most, largest = live, 0
        for op in self.operations:
            live += sum(slot.bytes for slot in op.outputs)
            largest = max(largest, *(slot.bytes for slot in op.outputs))
            most = max(most, live)
            live -= sum(slot.bytes for slot in op.expiring)
        return most + 3 * largest


def follows(value) -> bool:
    """Whether autograd follows it."""
    return isinstance(value, Tensor) and value.requires_grad


class Traits(NamedTuple):
    draws: bool  # random numbers
    writes: bool  # into an argument
    shares: bool  # the storage of its first argument


@cache
def traits(func) -> Traits:
    arguments = func._schema.arguments
    shares = bool(arguments) and arguments[0].alias_info is not None
    return Traits(torch.Tag.nondeterministic_seeded in func.tags, func._schema.is_mutable, shares)


def functional_twin(func, target: Tensor) -> Callable:
    """add for add_: what an operation computes that writes into its first argument."""
    name, overload = str(func).split(".")[1:]
    twin = getattr(getattr(torch.ops.aten, name.removesuffix("_"), None), overload, None)
    if not name.endswith("_") or twin is None or not target.requires_grad or target._is_view():
        raise NotTraceable(f"{func} writes into a tensor that cannot be followed")
    return twin
