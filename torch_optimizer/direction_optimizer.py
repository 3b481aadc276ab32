"""What the optimizers of this package share: one rule gives both the step they make and the step they would make."""

import math
import numbers
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torch_optimizer.clipping import clip, clip_threshold, total_count
from torch_optimizer.values import brief, value_key

CACHE_SIZE = 2**18  # elements

Group = dict[str, Any]
Move = tuple[Group, Tensor, Tensor]  # options, x, and -v: x moves by -lr times the tensor
NOT_IN_STATE = ("params", "lr", "initial_lr", "foreach", "clip_update")  # options that no state depends on


def require_range(options: Group, name: str, low: float, high: float, *, closed: bool = False) -> None:
    """Raise ValueError unless options[name], where present, is a number in [low, high), or [low, high] if `closed`."""
    if name not in options:
        return
    require_number(name, options[name], low, high, closed=closed)


def require_number(name: str, value: Any, low: float, high: float, *, closed: bool = False) -> None:
    """Raise ValueError unless `value` is a number in [low, high), or in [low, high] if `closed`."""
    is_number = isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.numel() == 1)
    try:
        number = float(value) if is_number else math.nan
    except OverflowError:  # an integer beyond every float
        number = math.nan
    if not (low <= number < high or closed and number == high):
        bracket = "]" if closed else ")"
        raise ValueError(f"{name} must be a number in [{low}, {high}{bracket}, got {brief(value)}")


def require_betas(options: Group) -> None:
    """Raise ValueError unless options["betas"] is a pair of numbers in [0, 1)."""
    betas = options["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
    for i, beta in enumerate(betas):
        require_number(f"betas[{i}]", beta, 0, 1)


def _in_cache_sizes(p: Tensor, grad: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Flat views of `p` and its gradient that fit a CPU's cache together. One buffer holds each clipped piece in turn,
    which then never goes to memory."""
    if not (p.is_cpu and p.is_contiguous() and grad.is_contiguous()):
        yield p, grad, None
        return
    place = torch.empty(min(p.numel(), CACHE_SIZE), dtype=grad.dtype)
    for x, piece in zip(p.view(-1).split(CACHE_SIZE), grad.view(-1).split(CACHE_SIZE), strict=True):
        yield x, piece, place[: piece.numel()]


class DirectionOptimizer(Optimizer):
    r"""An optimizer whose step is `x_t = x_{t-1} + lr v_t`, with v_t to be had without making the step.

    A subclass supplies `_rule`, from gradient and state to -v_t, and `_shape_move`, where it does something to the
    result that leaves the state alone, such as taking signs. This class supplies the rest:

        g_t   = the gradient, negated if `maximize`
        tau_t = threshold_scale |g_t|_(floor(k N)), over all N coordinates of the optimizer     [arXiv:2306.00204]
        c_t   = sign(g_t) min(|g_t|, tau_t)                                                     (g_t itself if k = 0)

    Groups may differ in k = `coordinate_clip`: each takes its own order statistic of the same N magnitudes. Where a
    group has a `clip_update`, the finished moves of all tensors are clipped together by the same rule.

    Raises: ValueError for an option outside its range, before any parameter is looked at; RuntimeError from `step`
        and `directions` if a gradient is sparse or complex, before anything has changed.
    """

    _warned_of_zero_threshold = False

    def __init__(self, params: Any, defaults: Group) -> None:
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, options: Group) -> None:
        """Raise ValueError for the first option outside its range. `options` holds a value for every default."""
        require_range(options, "lr", 0, math.inf)
        require_range(options, "weight_decay", 0, math.inf)
        require_range(options, "coordinate_clip", 0, 1)
        require_range(options, "threshold_scale", 0, math.inf)

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters with options of their own; checked like those of the constructor."""
        if isinstance(param_group, dict):
            self._check_options(self.defaults | param_group)
        super().add_param_group(param_group)

    def __setstate__(self, state: Group) -> None:
        """Restore a copy, or groups saved by another class, whose missing options take this optimizer's defaults."""
        super().__setstate__(state)
        self.defaults.pop("differentiable", None)  # of torch: groups would have a key more than before they were saved
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict: Group) -> None:
        """As torch.optim.Optimizer, but state is copied, and comes in the dtype that the rule computes in.

        The base class shares tensors with `state_dict`, and casts them to the parameter's dtype. That would round the
        float32 second moments of half-precision parameters, or set them to zero.
        """
        seen: list[Group] = []  # the dictionary as other hooks leave it
        handle = self.register_load_state_dict_pre_hook(lambda _, final: seen.append(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
        saved_ids = chain.from_iterable(group["params"] for group in seen[0]["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for saved_id, p in zip(saved_ids, parameters, strict=True):
            for name, value in seen[0]["state"].get(saved_id, {}).items():
                if isinstance(value, Tensor):
                    as_is = name == "step" or not value.is_floating_point()
                    dtype = value.dtype if as_is else self._state_dtype(p)
                    self.state[p][name] = value.to(self.state[p][name].device, dtype, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient by lr times its direction.

        Args:
            closure: re-evaluates the model, with gradients enabled, and returns the loss.

        Returns: what `closure` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        together: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
        one_by_one = not any(group.get("foreach") or group.get("clip_update") for group in self.param_groups)
        for group, p, descent in self._final_moves(self._raw_moves(in_pieces=one_by_one)):
            lr = self.learning_rate(group, p)
            if isinstance(lr, Tensor) and not lr.is_cpu:
                p.addcmul_(descent, lr, value=-1)  # lr stays on its device: no wait for it
            elif group.get("foreach") or (group.get("foreach") is None and p.is_cuda):
                moving, moves = together.setdefault(float(lr), ([], []))
                moving.append(p)
                moves.append(descent)
            else:
                p.add_(descent, alpha=-float(lr))
        for lr, (moving, moves) in together.items():
            torch._foreach_add_(moving, moves, alpha=-lr)  # pyright: ignore[reportPrivateImportUsage]
        return loss

    @torch.no_grad()
    def directions(self, moves: Iterable[Move] | None = None) -> dict[Tensor, Tensor]:
        """The step this optimizer makes from here, per unit of lr, without making it.

        Momentum and the other state advance on the present `p.grad`, as `step` would; parameters and gradients stay.

        Args:
            moves: what `advance` gave for another optimizer of the same `state_key`, whose state then serves both;
                None: this one's own.

        Returns: parameter -> v, same shape, with x_{t+1} - x_t = lr * v; new tensors. For a half-precision
            parameter v is float32 where the rule computes in it. Parameters without gradient are left out.
        """
        own = {p: group for group in self.param_groups for p in group["params"]}
        moves = self._raw_moves() if moves is None else moves
        return {p: descent.neg() for _, p, descent in self._final_moves((own[p], p, d) for _, p, d in moves)}

    @torch.no_grad()
    def advance(self, collect: bool = True, thresholds: dict[float, float] | None = None) -> list[Move]:
        """Advance the state of every parameter on the present `p.grad`.

        Args:
            thresholds: fraction -> clipping threshold of these gradients, as far as other optimizers of the same
                parameters have found them; what is missing is added.

        Returns: (group, p, -v_t before `_shape_move`) of every parameter with a gradient, for `directions` of each
            optimizer of this `state_key`, good until the next call; empty if not `collect`, which holds one at a time.
        """
        if not collect and not any(self._keeps_state(group) for group in self.param_groups):
            return []
        moves = []
        for move in self._raw_moves(known=thresholds):
            if collect:
                moves.append(move)
        return moves

    def state_key(self) -> Hashable:
        """Equal for two optimizers whose states are always the same, if they see the same parameters from the start."""
        return type(self)._rule, tuple(
            (len(group["params"]), value_key({k: v for k, v in group.items() if k not in NOT_IN_STATE}))
            for group in self.param_groups
        )

    def learning_rate(self, group: Group, p: Tensor) -> float | Tensor:
        """The lr that multiplies the direction of `p` at its latest step."""
        return group["lr"]

    def latest_rate(self, holder: "DirectionOptimizer | None" = None) -> float:
        """The lr that multiplies the direction of the first parameter at the latest step.

        Args:
            holder: the optimizer of the same `state_key` whose state serves this one; None: itself."""
        holder = holder or self
        group = self.param_groups[0]
        moved = [p for p in group["params"] if p in holder.state] or group["params"]
        return float(holder.learning_rate(group, moved[0]))

    def _state_dtype(self, p: Tensor) -> torch.dtype:
        """The dtype of the tensors that `_rule` keeps in self.state[p]."""
        return p.dtype

    def _rule(self, p: Tensor, grad: Tensor, clipped: Tensor, group: Group) -> Tensor:
        """Advance self.state[p] and return -v_t before `_shape_move`, which may alias the state or `clipped`.

        Args:
            p: the parameter; read only, as are all tensors here.
            grad: g_t, same shape.  clipped: c_t, same shape, without weight decay.
            group: the options of p's group.
        """
        raise NotImplementedError

    def _shape_move(self, p: Tensor, descent: Tensor, group: Group) -> Tensor:
        """-v_t from what `_rule` returned, which stays as it is; a new tensor or the same."""
        return descent

    def _keeps_state(self, group: Group) -> bool:
        """Whether the rule keeps anything from one step to the next."""
        return True

    def _is_coordinatewise(self, group: Group) -> bool:
        """Whether the rule keeps no state and treats each coordinate by itself, so that it can go piece by piece."""
        return False

    def _final_moves(self, moves: Iterable[Move]) -> Iterator[Move]:
        """The moves as they are applied: one at a time unless they must be clipped together."""
        if any(group.get("clip_update") for group in self.param_groups):
            moves = self._clipped_together(list(moves))
        return ((group, p, self._shape_move(p, descent, group)) for group, p, descent in moves)

    def _clipped_together(self, moves: list[Move]) -> Iterator[Move]:
        thresholds = self._thresholds("clip_update", [(group, d) for group, _, d in moves])
        return ((group, p, self._clip("clip_update", d, group, thresholds)) for group, p, d in moves)

    def _raw_moves(self, in_pieces: bool = False, known: dict[float, float] | None = None) -> Iterator[Move]:
        """Advance the state parameter by parameter, as far as the result is asked for; inside `torch.no_grad`.

        With `in_pieces`, p may be a flat view of part of a parameter, where the rule allows it. -v_t then is good until
        the next one is asked for.
        """
        with_grad = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for _, p in with_grad:
            self._refuse_unsupported(p.grad)
        thresholds = self._thresholds("coordinate_clip", [(group, p.grad) for group, p in with_grad], known)
        for group, p in with_grad:
            in_parts = in_pieces and group.get("coordinate_clip") and self._is_coordinatewise(group)
            for x, grad, place in _in_cache_sizes(p, p.grad) if in_parts else [(p, p.grad, None)]:
                grad = -grad if group.get("maximize") else grad
                clipped = self._clip("coordinate_clip", grad, group, thresholds, place)
                yield group, x, self._rule(x, grad, clipped, group)

    def _thresholds(
        self, option: str, tensors: list[tuple[Group, Tensor]], known: dict[float, float] | None = None
    ) -> dict[float, float]:
        """fraction -> order statistic of all `tensors`, for every fraction > 0 that a group asks for in `option`. Those
        that are `known` are not computed again; the others are added there."""
        values = [tensor for _, tensor in tensors]
        fractions = {group[option] for group, _ in tensors if group.get(option)}
        computed = {} if known is None else known
        computed |= {fraction: clip_threshold(values, fraction) for fraction in fractions - computed.keys()}
        thresholds = {fraction: computed[fraction] for fraction in fractions}
        if 0 in thresholds.values() and not self._warned_of_zero_threshold:
            nonzero = total_count([torch.count_nonzero(tensor) for tensor in values])
            if nonzero:
                self._warned_of_zero_threshold = True
                zeros = 1 - nonzero / sum(tensor.numel() for tensor in values)
                warnings.warn(
                    f"{type(self).__name__}: the clipping threshold is 0, which erases the step, because "
                    f"{zeros:.2%} of the coordinates are exactly zero; {option} should stay below {1 - zeros:.3g}",
                    stacklevel=4,
                )
        return thresholds

    def _clip(
        self, option: str, tensor: Tensor, group: Group, thresholds: dict[float, float], out: Tensor | None = None
    ) -> Tensor:
        """The tensor cut to its group's threshold; itself if the group does not clip."""
        if not group.get(option):
            return tensor
        return clip(tensor, group["threshold_scale"] * thresholds[group[option]], out)

    def _refuse_unsupported(self, grad: Tensor) -> None:
        if grad.layout != torch.strided:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients, got layout {grad.layout}")
        if grad.is_complex():
            raise RuntimeError(f"{type(self).__name__} does not support complex gradients, got dtype {grad.dtype}")
