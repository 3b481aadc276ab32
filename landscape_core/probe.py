"""LandscapeProbe: what a landscape run measures, inside of a training loop of one's own."""

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from curvature.borrowing import measuring
from curvature.checks import check_losses
from curvature.direction import Direction
from curvature.objective import Objective
from curvature.ranks import ALONE, Ranks
from landscape_core.batches import entries_of_all, micro_batch, restored
from landscape_core.edges import loss_at
from landscape_core.gradients import noise_coordinates
from landscape_core.measurement import TRAINING, Measurement, measure_steps
from landscape_core.training_state import (
    bare_model,
    called_by_scaler,
    check_gradients,
    divided_gradients,
    is_unscaled,
    left_as_it_was,
    loss_scale,
    rank,
    refuse_sharded,
    samples,
)
from landscape_utils import PseudoUpdates
from torch_optimizer import Algorithm
from torch_optimizer.next_step import next_steps, refuse_closures, unwrapped
from torch_optimizer.rows import check_rows, labeled, plain_sgd

log = logging.getLogger(__name__)

CHANGED = (
    "the gradients changed after observe(): call it after clip_grad_norm_ and the like; with a GradScaler, after "
    "scaler.unscale_(optimizer), or make the probe with scaler="
)
DEFAULT_ROWS = (  # Adam's is the only one that keeps a state
    Algorithm("sgd", lr=1e-2),
    Algorithm("sgd", lr=1e-2, coordinate_clip=0.1),
    Algorithm("sign_sgd", lr=1e-4),
    Algorithm("adam", lr=1e-3),
)


class Observed(NamedTuple):
    """A gradient that the rows have not seen yet, by its marks."""

    marks: list[tuple[int, int] | None]  # per parameter: which tensor its gradient is, and its count of writes
    is_unscaled: bool  # whether the GradScaler had divided it
    versions: list[int]  # the counts of writes of the parameters


class LandscapeProbe:
    """Measures, in a training loop, how the loss bends along the step that each optimizer of a list would take.

        probe = LandscapeProbe(model, losses_of_batch, optimizer=optimizer)
        for step, batch in enumerate(batches):
            losses_of_batch(model, batch).mean().backward()
            probe.observe()                                 # once per update: the gradient is complete, x has not moved
            if step % 100 == 0:
                rows = probe.measure(test_batch)            # a list of dicts
            optimizer.step()
            optimizer.zero_grad()

    The run ends in the same bits as without the probe: parameters, gradients, optimizer, buffers, random state and
    train/eval mode stay as they are, also after an exception.

    Args:
        model: may be compiled, or wrapped by DistributedDataParallel. Its parameters with `requires_grad` are measured.
        losses_of_batch: (model, batch) -> one loss per example, [B]. It calls the model that it is given, and leaves
            autocast to the loop: measurements are in float32. `example_losses` serves models of transformers.
        optimizer: the one that trains, measured as the row "training": its real next step, taken on copies (see
            `next_step`, which tells the memory). A list where several optimizers share the parameters.
        algorithms: rows, `Algorithm(...)`, their names, or optimizer classes; None: sgd, clipped sgd, sign_sgd, adam.
        reference: label of the row that ratios refer to; None: the first sgd without clipping.
        dtype: of the measurement; None: float32, and float64 for a model in float64. Another type than the model's is
            measured on a copy of it.
        scaler: the GradScaler of the loop, if there is one. Gradients are then unscaled on copies, and an update that
            the scaler will skip is not observed.
        optimizer_device: where the rows' states live; None: with the parameters.
        all_ranks: in a distributed run, measure on every rank; otherwise on rank 0, and the others return [].
        ranks: `curvature.ranks.Connected()`, to have the ranks share a measurement: each is given the same
            micro-batches and measures some, and all return the same rows, to the bit those of one process.

    Memory: the state of each row, as its optimizer's; and while measuring, a direction per row and `vhv_by_recording`.
    Raises: ValueError, in one line, for rows that cannot be used, and where FSDP or DeepSpeed shard the model.
    """

    def __init__(
        self,
        model: nn.Module,
        losses_of_batch: Callable[[Any, Any], Tensor],
        *,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        algorithms: Sequence[Algorithm | str | type] | None = None,
        reference: str | None = None,
        dtype: torch.dtype | None = None,
        scaler: Any = None,
        optimizer_device: torch.device | str | None = None,
        all_ranks: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        refuse_sharded(model)
        self.model = bare_model(model)
        refuse_sharded(self.model)
        self.losses_of_batch, self.dtype = losses_of_batch, dtype
        self.params = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not self.params:
            raise ValueError("the model has no parameter with requires_grad: there is nothing to measure")
        given = [] if optimizer is None else [optimizer] if not isinstance(optimizer, (list, tuple)) else optimizer
        self.optimizers = [unwrapped(each) for each in given]
        for each in self.optimizers:
            refuse_closures(each)
        self.scaler = scaler or next((s for s in (getattr(each, "scaler", None) for each in given) if s), None)
        self.rows = rows_of(DEFAULT_ROWS if algorithms is None else algorithms)
        self.reference = plain_sgd(self.rows) if reference is None else reference
        if self.reference is not None and self.reference not in {*self.rows, TRAINING}:
            raise ValueError(f"reference {reference!r} is not a row; the rows are {', '.join(self.rows)}")
        self.ranks = ranks
        self.measures_here = all_ranks or ranks is not ALONE or rank() == 0
        self.updates = PseudoUpdates(self.params, self.rows, optimizer_device, at_least=torch.float32)
        self._observed: Observed | None = None
        self._directions: tuple[dict[str, Direction], dict[str, float], list[str]] | None = None  # of this update
        _watch_steps(self)

    def observe(self) -> None:
        """The gradient of an update is complete: the rows' states are to see it.

        This reads no tensor. The states advance, by one read and one write of each, when `measure` is called, or when a
        torch.optim.Optimizer steps the parameters. If it never does, as when a GradScaler skips the update, this
        gradient is not seen. Call it after gradient clipping; where gradients accumulate, the last call counts.

        Raises: ValueError, in one line, without gradients, or if parameters have become trainable or frozen; and from
            `optimizer.step()`, if the gradients have changed in between.
        """
        if not self.measures_here:
            return
        if self._observed and self._observed.versions != self._versions():
            self._observed = None
            raise ValueError(
                "the parameters moved after observe(), and no torch.optim.Optimizer stepped them: call advance() after "
                "observe(), before you move them"
            )
        now = {name for name, p in self.model.named_parameters() if p.requires_grad}
        if now != self.params.keys():
            name = min(now ^ self.params.keys())
            raise ValueError(f"{name} was made trainable or frozen after the probe was made: make a new probe")
        check_gradients(self.params)
        self._directions = None
        self._observed = Observed(self._marks(), self._is_unscaled(), self._versions())
        self._samples = samples(self.params.values()) if self.scaler is None else []

    def advance(self) -> None:
        """Let the rows see the observed gradient now. A loop needs it only if it moves the parameters by itself."""
        if self._observed:
            self._advance(self._observed, collect=False)

    def measure(self, *batches: Any) -> list[dict[str, Any]]:
        """Measure the step of every row from here, and of "training", on the mean loss over all examples of `batches`.

        Args:
            batches: the test batch as `losses_of_batch` takes it, or several micro-batches of it. The same ones in each
                call, so that the numbers can be compared.

        Returns: per row a dict with the columns of sharpness.csv from `algorithm` on (docs/files.md); NaN where a
            number does not exist. Empty on ranks that do not measure, and where a GradScaler will skip the update.
        Raises: ValueError, in one line, without `observe` before, and for losses that are not one per example.
        """
        if not self.measures_here:
            return []
        if not batches:
            raise ValueError("measure() takes the test batch: measure(batch), or its micro-batches")
        if self._observed:
            self._advance(self._observed, collect=True)
        if self._directions is None:
            if self._skipped:
                return []
            raise ValueError("measure() needs the gradient of this update: call observe() after backward(), before it")
        directions, rates, lost = self._directions
        with left_as_it_was(self.model):
            measurements = self._measure(directions, rates, batches)
        of_reference = {m.label: abs(m.quadratic.sharpness) for m in measurements}.get(self.reference or "", math.nan)
        return [m.row(of_reference) for m in measurements] + [
            Measurement.without_numbers(label).row(math.nan) for label in lost
        ]

    def _measure(self, directions: dict[str, Direction], rates: dict[str, float], batches: tuple) -> list[Measurement]:
        doubled = any(p.dtype == torch.float64 for p in self.params.values())
        dtype = self.dtype or (torch.float64 if doubled else torch.float32)
        given = [micro_batch(b) for b in batches]
        here = Objective(self.model, self._losses, given, ranks=self.ranks).on(None, dtype)
        with measuring(here.model):
            here.shared = self._shared(here)
        noisy = noise_coordinates(here)
        with measuring(here.model):
            start_loss = loss_at(here)
            return measure_steps(directions, rates, here, start_loss, noisy)

    def _losses(self, model: nn.Module, batch: Any) -> Tensor:
        losses = self.losses_of_batch(model, restored(batch))
        check_losses(losses)
        return losses

    def _shared(self, objective: Objective) -> list[str]:
        first = objective.batches[0]
        with torch.no_grad():
            losses = objective.loss_fn(objective.params, first)
        return entries_of_all(lambda batch: objective.loss_fn(objective.params, batch), first, losses)

    # ---- the rows -----------------------------------------------------------------------------------------------

    def _advance(self, observed: Observed, collect: bool) -> None:
        """Show the rows the observed gradient; keep their directions until the step if `collect`."""
        self._observed, self._skipped = None, False
        if observed.marks != self._marks() and self._is_unscaled() == observed.is_unscaled:
            raise ValueError(CHANGED)
        scale = loss_scale(self.scaler, self.optimizers[0] if self.optimizers else None)
        with divided_gradients(self.params.values(), scale):
            if self.scaler is not None and not self._finite_gradients():
                self._skipped = True
                return
            directions = self.updates.advance(collect)
            if not collect:
                return
            lost = self.updates.not_finite(directions)
            for label in lost:
                log.warning("%s: its step or its state is not finite; it is dropped, the others continue", label)
                self.updates.drop(label)
                del directions[label]
            rates = self.updates.learning_rates()
            if self.optimizers:
                step, rates[TRAINING] = next_steps(self.optimizers, self.params)
                directions = {TRAINING: Direction(step), **directions}
            self._directions = directions, rates, lost

    _samples: Sequence[Tensor] = ()  # of the observed gradients, where no GradScaler is known
    _skipped = False  # whether the latest observed gradient was one of an update that a GradScaler skips

    def _finite_gradients(self) -> bool:
        return all(bool(torch.isfinite(p.grad).all()) for p in self.params.values() if p.grad is not None)

    def _before_step(self, optimizer: Optimizer) -> None:
        """Before any torch.optim.Optimizer steps: if it moves our parameters, the rows see the gradient first."""
        if self._observed is None and self._directions is None:
            return
        own = {id(p) for p in self.params.values()}
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            self._directions = None
            if self._samples and called_by_scaler():  # its unscale_ leaves no mark on the gradients
                now = samples(self.params.values())
                same = all(torch.equal(a, b) for a, b in zip(self._samples, now, strict=True))
                if not same or getattr(optimizer, "grad_scale", None) is not None:  # fused ones divide by themselves
                    self._observed = None
                    raise ValueError(CHANGED)
            self.advance()

    def _marks(self) -> list[tuple[int, int] | None]:
        """What tells whether a gradient is still the same, without reading it."""
        return [None if p.grad is None else (id(p.grad), p.grad._version) for p in self.params.values()]

    def _versions(self) -> list[int]:
        return [p._version for p in self.params.values()]

    def _is_unscaled(self) -> bool:
        return self.scaler is not None and bool(self.optimizers) and is_unscaled(self.scaler, self.optimizers[0])

    # ---- resuming -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The rows and their states, for `torch.save`; of an observed gradient, after it was seen."""
        self.advance()
        return {"rows": {label: repr(row) for label, row in self.rows.items()}, "states": self.updates.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore. Raises: ValueError, in one line, for the state of other rows."""
        rows = {label: repr(row) for label, row in self.rows.items()}
        if state["rows"] != rows:
            theirs, ours = ", ".join(state["rows"].values()), ", ".join(rows.values())
            raise ValueError(f"the state belongs to other rows: it has {theirs}; the probe has {ours}")
        for label in self.updates.optimizers.keys() - state["states"].keys():  # it was not finite
            self.updates.drop(label)
        self._observed = self._directions = None
        self.updates.load_state_dict(state["states"])


def rows_of(algorithms: Iterable[Algorithm | str | type]) -> dict[str, Algorithm]:
    """label -> row. Raises: ValueError, in one line, for a row that cannot be used."""
    if isinstance(algorithms, (str, Algorithm)):
        raise ValueError(
            f"algorithms is a list of rows, such as [Algorithm('sgd', lr=0.1), 'adam']; got {algorithms!r}"
        )
    rows = [Algorithm(row) if isinstance(row, (str, type)) else row for row in algorithms]
    check_rows("algorithms", rows)
    by_label = labeled(rows)
    if TRAINING in by_label:
        raise ValueError(f"a row is labeled {TRAINING!r}, which is the optimizer that trains: rename its class")
    return by_label


def _watch_steps(probe: LandscapeProbe) -> None:
    """Tell the probe of every step of any optimizer, as long as the probe lives."""
    reference = weakref.ref(probe)

    def before_step(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        living = reference()
        if living is not None:
            living._before_step(optimizer)

    weakref.finalize(probe, register_optimizer_step_pre_hook(before_step).remove)
