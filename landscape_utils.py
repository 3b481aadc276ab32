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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from curvature import NotTraceable, vhv_by_recording
from curvature.borrowing import differentiable_attention
from curvature.objective import Batch, LossFunction, Params, halves
from torch_optimizer import Algorithm

log = logging.getLogger(__name__)

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
    """

    def __init__(self, params: dict[str, nn.Parameter], algorithms: dict[str, Algorithm], device=None):
        self.params = params
        self.mirrors = None
        if device is not None and any(p.device != torch.device(device) for p in params.values()):
            self.mirrors = {name: nn.Parameter(p.detach().to(device)) for name, p in params.items()}
        seen = self.mirrors or params
        self.optimizers = {label: algorithm.build_pseudo(seen) for label, algorithm in algorithms.items()}
        by_key = {}  # the first optimizer of each state; the others read that one's
        self.states = {label: by_key.setdefault(own.state_key(), own) for label, own in self.optimizers.items()}

    @torch.no_grad()
    def advance(self, collect: bool = True) -> dict[str, Params]:
        """Show the present gradients to every algorithm.

        Returns: label -> update direction (name -> tensor, on the algorithms' device; zero where a parameter has no
        gradient); empty if not `collect`, so that twelve copies of a large model are held only where they are measured.
        """
        if self.mirrors:
            for name, p in self.params.items():
                self.mirrors[name].data.copy_(p.detach())
                self.mirrors[name].grad = None if p.grad is None else p.grad.to(self.mirrors[name].device)
        seen = self.mirrors or self.params
        found = {}
        for state in dict.fromkeys(self.states.values()):
            labels = [label for label in self.optimizers if self.states[label] is state]
            moves = state.advance(collect)
            if collect:
                found |= {label: self.optimizers[label].directions(moves) for label in labels}
        if not collect:
            return {}
        return {
            label: {n: found[label][p] if p in found[label] else torch.zeros_like(p) for n, p in seen.items()}
            for label in self.optimizers
        }

    def not_finite(self, directions: dict[str, Params]) -> list[str]:
        """The labels of `directions` (of `advance`) where a coordinate, or a number of the state, is not finite."""

        def is_finite(tensors: Iterable) -> bool:
            found = [torch.isfinite(t).all() for t in tensors if isinstance(t, Tensor)]
            return all(torch.stack([f for f in found if f.device == d]).all() for d in {f.device for f in found})

        sound = {
            state: is_finite(value for own in state.state_dict()["state"].values() for value in own.values())
            for state in {self.states[label] for label in directions}
        }
        return [
            label for label, direction in directions.items()
            if not sound[self.states[label]] or not is_finite(direction.values())
        ]  # fmt: skip

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


# ---- slope and curvature ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuadraticModel:
    """The loss at a point and its first two derivatives along one unit direction: the quadratic model
    f + slope s + sharpness s^2 / 2 of the loss at distance s.

    Units: loss; loss per unit of parameter distance; loss per squared unit. NaN for a direction without length.
    """

    loss: float
    slope: float
    sharpness: float

    @property
    def best_distance(self) -> float:
        """Where the quadratic model is lowest, -slope / sharpness; inf where it falls for ever, 0 where it rises."""
        if math.isnan(self.slope) or math.isnan(self.sharpness):
            return math.nan
        if self.slope >= 0:
            return 0.0
        return -self.slope / self.sharpness if self.sharpness > 0 else math.inf

    @property
    def predicted_decrease(self) -> float:
        """How far the quadratic model falls up to there, slope^2 / (2 sharpness)."""
        best = self.best_distance
        return best if best in (0.0, math.inf) or math.isnan(best) else self.slope**2 / (2 * self.sharpness)


def norm(direction: Params) -> float:
    """Euclidean norm over all tensors together, accumulated in float64."""
    if not direction:
        return 0.0
    norms = [torch.linalg.vector_norm(v, dtype=torch.float64) for v in direction.values()]
    return torch.linalg.vector_norm(torch.stack(norms)).item()


def unit(direction: Params, like: Params | None = None) -> Params | None:
    """v / |v|, on the devices and in the number types of `like`; None if v is zero or not finite."""
    length = norm(direction)
    if not 0 < length < math.inf:
        return None
    like = like or direction
    # divided before it is rounded to the target type: a float16 target must not see the unscaled v
    return {n: (v.to(torch.promote_types(v.dtype, like[n].dtype)) / length).to(like[n]) for n, v in direction.items()}


class _Tangents(Sequence):
    """The directions that have a length, as a route takes them, in the number types and on the devices of `like`: those
    that fit, as they are; others, and those of extreme length, as unit vectors made one at a time, so that no copies
    pile up."""

    def __init__(self, directions: Sequence[Params], like: Params):
        self.like, self.directions = like, []
        self.places, self.lengths = [], []  # in `directions`; |v| of what a route is given
        for place, direction in enumerate(directions):
            length = norm(direction)
            if 0 < length < math.inf:
                alike = all((v.dtype, v.device) == (like[n].dtype, like[n].device) for n, v in direction.items())
                self.lengths.append(length if alike and 1e-4 < length < 1e5 else 1.0)  # float32 can square it
                self.directions.append(direction)
                self.places.append(place)

    def __len__(self) -> int:
        return len(self.directions)

    def __getitem__(self, k: int) -> Params:
        return self.directions[k] if self.lengths[k] != 1.0 else unit(self.directions[k], self.like)


def directional_sharpness(
    loss_fn: LossFunction, params: Params, directions: Sequence[Params], batches: Sequence[Batch], progress=iter
) -> list[QuadraticModel]:
    """Loss, slope and directional sharpness along every direction, on the mean loss over all examples of `batches`.

    One forward and one backward pass per micro-batch serve all directions (`curvature`, two to three forward passes
    more a direction); a model that it cannot follow is measured by `vhv_by_double_backward`, which the log says once.
    H is never formed. The length of v cancels; its sign turns the slope only. Peak memory beyond parameters and
    directions is up to 1.4 times that of one forward and backward pass of a micro-batch, however many there are.

    Args:
        loss_fn: per-example losses [B], twice differentiable and deterministic (see curvature/borrowing.py).
        params: name -> tensor, the point. Not modified.
        directions: each name -> tensor, with the names and shapes of `params`.
        batches: micro-batches; how the examples are grouped does not matter. Each is measured in two halves.
        progress: wraps the iteration over `batches`, such as tqdm.

    Returns: one per direction; slope and sharpness NaN where the direction is zero or not finite.
    Raises: ValueError naming the first tensor whose name or shape differs, if there are no examples, or if the losses
        of a micro-batch are not as many as its examples.
    """
    for direction in directions:
        _check_direction(params, direction)
    tangents, route = _Tangents(directions, like=params), vhv_by_recording

    def measured(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal route
        try:
            return route(loss_fn, params, tangents, batch)
        except NotTraceable as reason:
            _say_once("measuring by double backward, about half as fast: %s", str(reason))
            route = vhv_by_double_backward
        return route(loss_fn, params, tangents, batch)  # here the error is gone, and with it the recording

    examples, sums = 0, 0.0  # sums: of the loss, slopes and curvatures over examples
    for batch in progress(batches):
        # a recording takes two to three times the memory of a backward pass: half of the examples, little more than one
        for part in halves(batch):
            losses, slopes, curvatures = measured(part)
            _check_count(losses, part)
            examples += len(losses)
            sums = sums + torch.cat([losses.sum(dtype=torch.float64).view(1), slopes, curvatures])
    if not examples:
        raise ValueError("directional_sharpness got no examples: `batches` is empty")
    loss, *rest = (sums / examples).tolist()
    result = [QuadraticModel(loss, math.nan, math.nan)] * len(directions)
    for i, (place, length) in enumerate(zip(tangents.places, tangents.lengths, strict=True)):
        result[place] = QuadraticModel(loss, rest[i] / length, rest[len(tangents) + i] / length**2)
    return result


@cache
def _say_once(message: str, reason: str) -> None:
    log.info(message, reason)


@torch.enable_grad()
def vhv_by_double_backward(
    loss_fn: LossFunction, params: Params, directions: Sequence[Params], batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """As `vhv_by_recording`, for any model: the graph of the gradient is differentiated once more a direction."""
    point = {n: p.detach().requires_grad_() for n, p in params.items()}
    with differentiable_attention():
        losses = loss_fn(point, batch)
    grads = torch.autograd.grad(losses.sum(), list(point.values()), create_graph=True, materialize_grads=True)
    slopes, curvatures = torch.zeros(2, len(directions), dtype=torch.float64, device=losses.device)
    for k, direction in enumerate(directions):
        v = [direction[n] for n in point]
        slopes[k] = _dot([g.detach() for g in grads], v)
        curved = [(g, dx) for g, dx in zip(grads, v, strict=True) if g.requires_grad]  # the others are constant
        if curved:
            along, weights = zip(*curved, strict=True)
            product = torch.autograd.grad(
                along, list(point.values()), weights, retain_graph=True, materialize_grads=True
            )  # H v
            curvatures[k] = _dot(product, v)
    return losses.detach(), slopes, curvatures


def _dot(a: Iterable[Tensor], b: Iterable[Tensor]) -> Tensor:
    """Inner product over all tensors together, 0-d float64."""
    return torch.stack([torch.dot(x.flatten(), y.flatten()).double() for x, y in zip(a, b, strict=True)]).sum()


def _check_count(losses: Tensor, batch: Batch) -> None:
    sizes = {len(t) for t in batch.values() if t.dim()}
    if len(sizes) == 1 and len(losses) not in sizes:
        raise ValueError(
            f"loss_fn gave {len(losses)} losses for {sizes.pop()} examples: it returns one for each, [B], and a batch "
            f"holds them along the first dimension of its tensors"
        )


def _check_direction(params: Params, direction: Params) -> None:
    for name in params.keys() | direction.keys():
        expected, got = (tuple(d[name].shape) if name in d else "no such tensor" for d in (params, direction))
        if expected != got:
            raise ValueError(f"a direction has the names and shapes of the parameters: {name} is {expected}, got {got}")


# ---- loss scan --------------------------------------------------------------------------------------------------


def scan_spacing(derivatives: QuadraticModel, params: Params, num_points: int = 20) -> float:
    """Spacing of a grid of `num_points` that reaches 2.5 times the distance at which the quadratic model turns, so that
    the minimum lies inside. Where the loss has no curvature along the direction: a thousandth of |x| in all."""
    turn = abs(derivatives.slope / derivatives.sharpness) if derivatives.sharpness else 0.0
    reach = 2.5 * turn if 0 < turn < math.inf else 1e-3 * norm(params)
    return reach / num_points


@torch.inference_mode()
def mean_loss(loss_fn: LossFunction, params: Params, batches: Sequence[Batch]) -> float:
    """f(params): the mean over all examples of `batches` of their own losses."""
    losses = [loss_fn(params, batch) for batch in batches]
    return (torch.stack([part.sum(dtype=torch.float64) for part in losses]).sum() / sum(map(len, losses))).item()


@torch.no_grad()
def scan_loss(
    loss_fn: LossFunction,
    params: Params,
    direction: Params,
    batches: Sequence[Batch],
    *,
    start_loss: float,
    spacing: float,
    num_points: int = 20,
    refine: bool = True,
) -> list[tuple[float, float]]:
    """The loss along a unit direction: [(distance, f(x + distance v/|v|))] at 0, s, 2s, ..., 20 s.

    Ends one point after the loss has exceeded its start. If that leaves fewer than 4 points below, the grid is refined
    towards 0, five times finer each time, until distances approach the rounding of the parameters.

    Args:
        start_loss: f(x), evaluated once for all directions by the caller.
        spacing: s, a distance in parameter space.
        refine: False for a direction known to lead uphill.
    """
    u = unit(direction, like=params)
    if u is None or not 0 < spacing < math.inf:
        raise ValueError(f"a scan needs a direction with a length and a positive spacing, got spacing {spacing}")
    floor = torch.finfo(next(iter(params.values())).dtype).eps * norm(params)
    moved = {n: torch.empty_like(p) for n, p in params.items()}
    while True:
        points = [(0.0, start_loss)]
        for i in range(1, num_points + 1):
            for n, p in params.items():
                torch.add(p, u[n], alpha=i * spacing, out=moved[n])
            points.append((i * spacing, mean_loss(loss_fn, moved, batches)))
            if len(points) > 2 and not points[-2][1] <= start_loss:
                break
        below = next((i for i, (_, loss) in enumerate(points) if not loss <= start_loss), num_points)
        if below >= 4 or not refine or spacing / 5 < floor:
            return points
        spacing /= 5


# ---- distribution over coordinates ------------------------------------------------------------------------------


def update_histogram(direction: Params) -> list[tuple[float, float, int]]:
    """How the coordinates' magnitudes |v_i| are distributed: [(bin_low, bin_high, count)], three bins a decade from
    1e-16 to 1e4 (arXiv:2306.00204, fig. 1). The first bin starts at 0; the last also holds what is larger."""
    edges = np.concatenate([[0.0], np.logspace(-16, 4, 61)])
    counts = np.zeros(len(edges) - 1, dtype=np.int64)
    for v in direction.values():
        # a bin holds low <= |v_i| < high
        place = np.searchsorted(edges, v.detach().abs().flatten().double().cpu().numpy(), side="right") - 1
        counts += np.bincount(place.clip(0, len(counts) - 1), minlength=len(counts))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True))
