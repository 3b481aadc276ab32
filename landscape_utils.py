"""How the loss bends along the step that an optimizer would take.

At a point x of a training run, with f the mean over examples of each example's loss:

    v                       the step an optimizer would take, per unit of its learning rate (its *update direction*)
    <grad f, v> / |v|       the slope along it ("gradient correlation", arXiv:2306.00204, eq. 1)
    v' H v / |v|^2          the *directional sharpness* of f along it (sec. 3)
    f(x + s v / |v|)        the loss scan: s, the distance, on a grid (fig. 3)

Everything here takes a closure `loss_fn(params, batch) -> losses [B]`, the per-example losses of one micro-batch at
`params` (name -> tensor), and tensors; nothing knows a task, a file or a figure. |.| is the Euclidean norm over all
parameters together.
"""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from curvature import NotTraceable, vhv_by_recording
from curvature.borrowing import twice_differentiable
from curvature.checks import (
    NO_DEPENDENCE,
    check_count,
    check_losses,
    check_twice_differentiable,
    checked_batches,
    checked_directions,
    twice_or_not_at_all,
)
from curvature.direction import Direction, are_finite, by_groups, norm
from curvature.histogram import update_histogram
from curvature.leaves import check_sources, leaves_at
from curvature.memory import has_room_for, say_once
from curvature.objective import Batch, Derivatives, LossFunction, Params, examples_of, halves
from curvature.quadratic import QuadraticModel
from curvature.ranks import ALONE, Ranks
from curvature.scan import mean_loss, scan_loss, scan_spacing
from curvature.together import Together

try:
    from torch_optimizer import Algorithm
except ImportError as error:
    raise ImportError(
        f"torch_optimizer is another package here, such as torch-optimizer of PyPI, which has the same import name: "
        f"keep the two in different environments ({error})"
    ) from error

__all__ = [
    "PseudoUpdates",
    "directional_sharpness",
    "mean_loss",
    "norm",
    "scan_loss",
    "scan_spacing",
    "update_histogram",
    "vhv_by_double_backward",
]
SPARE = 2  # copies of the parameters that are held for a moment while pseudo-updates advance

# ---- pseudo-updates ---------------------------------------------------------------------------------------------


class PseudoUpdates:
    """The steps that several algorithms would take along one trajectory, which none of them steers.

    Each algorithm keeps its own state (momentum, second moments) and sees the gradient of every iteration
    (arXiv:2306.00204, appendix A.3). Rows that differ only in what they make of one state, such as the signs of the
    same momentum, keep it once. The parameters are never moved.

    Args:
        params: name -> parameter of the model that is trained; `.grad` is read at each `advance`.
        algorithms: label -> row of an algorithm list.
        device: where the algorithms' states live; None: with the parameters. On another device the parameters and
            gradients are copied there at each `advance`.
        at_least: parameters in a narrower dtype are copied to this one in the same way; None: never.
    """

    def __init__(
        self,
        params: dict[str, nn.Parameter],
        algorithms: dict[str, Algorithm],
        device=None,
        at_least: torch.dtype | None = None,
    ):
        self.params = params
        self.mirrors = None
        places = {n: (device or p.device, torch.promote_types(p.dtype, at_least or p.dtype)) for n, p in params.items()}
        if any((p.device, p.dtype) != (torch.device(places[n][0]), places[n][1]) for n, p in params.items()):
            self.mirrors = {n: nn.Parameter(p.detach().to(*places[n])) for n, p in params.items()}
        seen = self.mirrors or params
        self.optimizers = {label: algorithm.build_pseudo(seen) for label, algorithm in algorithms.items()}
        by_key = {}  # the first optimizer of each state; the others read that one's
        self.states = {label: by_key.setdefault(own.state_key(), own) for label, own in self.optimizers.items()}

    @torch.no_grad()
    def advance(self, collect: bool = True) -> dict[str, Direction]:
        """Show the present gradients to every algorithm.

        Returns: label -> update direction (name -> tensor, zero where a parameter has no gradient), on the algorithms'
            device, or on the CPU where that device has no room for all of them. Empty if not `collect`, so that twelve
            copies of a large model are held only where they are measured.
        Raises: ValueError if no parameter has a gradient.
        """
        if all(p.grad is None for p in self.params.values()):
            raise ValueError("no parameter has a gradient: call backward() on the mean loss before advance()")
        if self.mirrors:
            for name, p in self.params.items():
                self.mirrors[name].data.copy_(p.detach())
                self.mirrors[name].grad = None if p.grad is None else p.grad.to(self.mirrors[name])
        seen = self.mirrors or self.params
        # a state advances once: it must not run out of memory half way
        full = collect and not has_room_for(len(self.optimizers) + SPARE, seen.values())
        if full:
            say_once("out of memory: continuing with directions in the memory of the CPU")
        directions, thresholds = {}, {}
        for state in dict.fromkeys(self.states.values()):
            labels = [label for label in self.optimizers if self.states[label] is state]
            moves = state.advance(collect, thresholds)
            if collect:
                for label in labels:
                    own = self.optimizers[label].directions(moves)
                    directions[label] = {p: v.cpu() for p, v in own.items()} if full else own
            del moves
        if not collect:
            return {}
        return {
            label: Direction({n: own[p] if p in own else _zeros(p, full) for n, p in seen.items()})
            for label, own in ((label, directions[label]) for label in self.optimizers)
        }

    def not_finite(self, directions: Mapping[str, Params]) -> list[str]:
        """The labels of `directions` (of `advance`) where a coordinate, or a number of the state, is not finite."""
        states = list(dict.fromkeys(self.states[label] for label in directions))
        kept = [[v for own in state.state_dict()["state"].values() for v in own.values()] for state in states]
        values = [*kept, *(direction.values() for direction in directions.values())]
        sound = are_finite([[v for v in group if isinstance(v, Tensor)] for group in values])
        of_state, of_direction = dict(zip(states, sound, strict=False)), sound[len(states) :]
        pairs = zip(directions, of_direction, strict=True)
        return [label for label, is_sound in pairs if not (is_sound and of_state[self.states[label]])]

    def learning_rates(self) -> dict[str, float]:
        """label -> lr, where x_{t+1} - x_t = lr v is the latest step, v of `advance`. It is 1 for an optimizer
        of another package whose rate is 0 or its own affair."""
        return {label: own.latest_rate(self.states[label]) for label, own in self.optimizers.items()}

    @property
    def labels(self) -> list[str]:
        """Of the algorithms that see the gradients."""
        return list(self.optimizers)

    def drop(self, label: str) -> None:
        """Show this algorithm no further gradients."""
        del self.optimizers[label], self.states[label]

    def state_dict(self) -> dict[str, dict]:
        """label -> state of its optimizer."""
        return {label: state.state_dict() for label, state in self.states.items()}

    def load_state_dict(self, states: dict[str, dict]) -> None:
        """Restore the algorithms that `states` has; the others stay as they are."""
        stored = {state: states[label] for label, state in self.states.items() if label in states}
        for state, content in stored.items():
            state.load_state_dict(content)


def _zeros(p: Tensor, on_cpu: bool) -> Tensor:
    return torch.zeros_like(p, device="cpu" if on_cpu else p.device)


# ---- slope and curvature: the definition ------------------------------------------------------------------------


@torch.enable_grad()
def vhv_by_double_backward(
    loss_fn: LossFunction, params: Params, directions: Sequence[Params], batch: Batch
) -> Derivatives:
    """<grad f, v> and v' H v of the summed loss of one micro-batch, by a Hessian-vector product (HVP) per direction.

    The graph of the gradient is differentiated once more along each v. This is the definition; it serves any model that
    can be differentiated twice. `vhv_by_recording` gives the same numbers about twice as fast.

    Args: as those of `vhv_by_recording`.
    Raises: ValueError if the losses are not [B] or do not depend on `params`.
    """
    point = leaves_at(params)
    leaves = list(point.values())
    with twice_differentiable():
        losses = loss_fn(point, batch)
    check_losses(losses)
    grads = [None]
    if losses.requires_grad:
        check_twice_differentiable(losses)
        check_sources(losses, point)
        with twice_or_not_at_all():
            grads = torch.autograd.grad(losses.sum(), leaves, create_graph=True, allow_unused=True)
    if all(g is None for g in grads):
        raise ValueError(NO_DEPENDENCE)
    slopes, curvatures, magnitudes = torch.zeros(3, len(directions), dtype=torch.float64, device=losses.device)
    for k, direction in enumerate(directions):
        used = [(g, direction[n]) for n, g in zip(point, grads, strict=True) if g is not None and n in direction]
        if not used:
            continue
        slopes[k] = _dots((g.detach(), v) for g, v in used).sum()
        curved = [(g, v) for g, v in used if g.requires_grad]  # the others are constant
        if curved:
            along, weights = zip(*curved, strict=True)
            with twice_or_not_at_all():
                hv = torch.autograd.grad(along, leaves, weights, retain_graph=True, materialize_grads=True)  # H v
            terms = _dots((h, direction[n]) for n, h in zip(point, hv, strict=True) if n in direction)
            curvatures[k], magnitudes[k] = terms.sum(), terms.abs().sum()
    return Derivatives(losses.detach(), slopes, curvatures, magnitudes)


def _dots(pairs: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """The inner product of each pair, in float64. A complex number counts as two real ones."""
    flat = [[torch.view_as_real(t) if t.is_complex() else t for t in pair] for pair in pairs]
    return torch.stack([torch.dot(x.flatten(), y.flatten()).double() for x, y in flat])


# ---- slope and curvature: the fast route ------------------------------------------------------------------------


def directional_sharpness(
    loss_fn: LossFunction,
    params: Params,
    directions: Sequence[Params],
    batches: Sequence[Batch],
    *,
    per_example: Collection[str] = (),
    progress: Callable[[Sequence[Batch]], Iterable[Batch]] = iter,
    together: int | None = None,
    ranks: Ranks = ALONE,
) -> list[QuadraticModel]:
    """Loss, slope and directional sharpness along every direction, on the mean loss over all examples of `batches`.

    One forward and one backward pass per micro-batch serve all directions; each direction then costs two to three
    forward passes (`curvature`). A model that this route cannot follow is measured by `vhv_by_double_backward`, which
    the log says once. H is never formed. The length of v cancels; its sign turns the slope only. Directions on another
    device than `params` are brought there in groups, each once.

    Args:
        loss_fn: (params, batch) -> per-example losses [B]; twice differentiable and deterministic (dropout off).
        params: name -> tensor, the point. Not modified.
        directions: each name -> tensor, with the names and shapes of `params`; or a `Direction.part`.
        batches: micro-batches, in any grouping of the examples.
        per_example: names of the entries of a batch that hold its examples along their first dimension. A micro-batch
            is then measured in two halves. That takes 1.4 times the memory of one forward and backward pass of the
            whole micro-batch, beyond parameters and directions. Without names it is measured whole, for up to three
            times.
        progress: wraps the iteration over `batches`, such as tqdm.
        together: how many directions are pushed through a recording at once (`curvature.together`); by default two on a
            CPU, elsewhere as many as a quarter of the device's memory holds. It changes no number beyond rounding.
        ranks: the processes that measure together. Each is given all of `batches` and measures its share.

    Returns: one per direction; slope and sharpness NaN where the direction is zero or not finite.
    Raises: ValueError, in one line, for a direction whose names or shapes differ (it names the tensor), for no
        examples, or for losses that are not [B], do not depend on `params` or change between evaluations.
    """
    directions = checked_directions(params, directions)
    if not len(checked_batches(batches)):
        raise ValueError("directional_sharpness got no examples: `batches` is empty")
    measurable = {place: v.tangent(params) for place, v in enumerate(directions) if v.has_length}
    pushes, route = Together(together), vhv_by_recording

    def measured(tangents: list[Direction], batch: Batch) -> Derivatives:
        nonlocal route
        if route is vhv_by_recording:
            try:
                return _finite_where_possible(loss_fn, params, tangents, batch, pushes)
            except NotTraceable as reason:
                say_once(f"measuring by double backward, about half as fast: {reason}", logging.INFO)
                route = vhv_by_double_backward
        return route(loss_fn, params, tangents, batch)  # here the error is gone, and with it the recording

    def sums_of(tangents: list[Direction], batch: Batch) -> Tensor:
        """[halves, 3 + 3 K]: examples, whether measured by double backward, and sums of loss, slopes, ..."""
        rows = []
        # a recording takes two to three times the memory of a backward pass: half of the examples, little more than one
        for part in halves(batch, per_example):
            derivatives = measured(tangents, part)
            check_count(derivatives.losses, part, per_example)
            head = [len(derivatives.losses), route is not vhv_by_recording]
            loss = derivatives.losses.sum(dtype=torch.float64).view(1)
            rows.append(torch.cat([*(loss.new_full((1,), number) for number in head), loss, *derivatives[1:]]))
        return torch.stack([*rows, *[torch.zeros_like(rows[0])] * (2 - len(rows))])

    def means(tangents: list[Direction]) -> tuple[float, list[list[float]]]:
        """Of the loss, and slopes, curvatures and magnitudes along these directions, over all examples."""
        nonlocal route
        rows = ranks.rows(partial(sums_of, tangents), batches, progress)
        sums = added(rows.flatten(0, 1))
        if sums[1]:  # one process measures all that follow in this way: so do those that other ranks have
            route = vhv_by_double_backward
            if others := recorded_late(rows):
                rows[others] = ranks.rows(partial(sums_of, tangents), [batches[j] for j in others])
                sums = added(rows.flatten(0, 1))
        examples, _, loss, *rest = sums
        if not examples:
            raise ValueError("directional_sharpness got no examples: the micro-batches in `batches` are empty")
        rest = [number / examples for number in rest]
        return loss / examples, [rest[i :: len(tangents)] for i in range(len(tangents))]

    can_be_less = any(examples_of(batch, per_example) > 1 for batch in batches)
    groups = by_groups(means, list(measurable.values()), params, can_be_less, ranks)
    loss = groups[0][0]
    result = [QuadraticModel(loss, math.nan, math.nan)] * len(directions)
    rows = [row for _, of_group in groups for row in of_group]
    for (place, v), (slope, curvature, magnitude) in zip(measurable.items(), rows, strict=True):
        result[place] = QuadraticModel(loss, slope / v.length, curvature / v.length**2, magnitude / v.length**2)
    return result


def added(rows: Tensor) -> list[float]:
    """The sum of the rows [N, ...], one after the other."""
    total = torch.zeros((), device=rows.device)
    for row in rows:
        total = total + row
    return total.tolist()


def recorded_late(rows: Tensor) -> list[int]:
    """The micro-batches that were recorded though one before them could not be; `rows` as of `sums_of`."""
    has_examples, by_double_backward = rows[:, :, 0] > 0, rows[:, :, 1] > 0
    failed = by_double_backward.any(1).tolist()
    recorded = (has_examples & ~by_double_backward).any(1).tolist()
    return [j for j in range(failed.index(True) + 1, len(failed)) if recorded[j]]


def _finite_where_possible(
    loss_fn: LossFunction, params: Params, directions: list[Direction], batch: Batch, pushes: Together
) -> Derivatives:
    """By recording; where a number is not finite although the losses are, by double backward. A rule may divide zero by
    zero where autograd does not."""
    derivatives = vhv_by_recording(loss_fn, params, directions, batch, pushes)
    sound = torch.isfinite(derivatives.slopes + derivatives.curvatures).tolist()  # not `nonzero`, which waits by itself
    places = [k for k, is_sound in enumerate(sound) if not is_sound]
    if places and torch.isfinite(derivatives.losses).all():
        message = "the fast route gave numbers that are not finite: measuring these again by double backward"
        say_once(message, logging.INFO)
        again = [directions[k] for k in places]
        exact = vhv_by_double_backward(loss_fn, params, again, batch)
        for numbers, replacements in zip(derivatives[1:], exact[1:], strict=True):
            numbers[places] = replacements
    return derivatives
