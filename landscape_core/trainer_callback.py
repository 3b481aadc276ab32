"""LandscapeCallback: the probe in the Trainer of transformers."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape_core.example_losses import example_losses
from landscape_core.probe import LandscapeProbe

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError(
        "LandscapeCallback needs transformers 4.45 or newer: pip install transformers accelerate"
    ) from error
if not hasattr(TrainerCallback, "on_pre_optimizer_step"):
    raise ImportError("LandscapeCallback needs transformers 4.45 or newer: pip install --upgrade transformers")

log = logging.getLogger(__name__)

COLUMNS = ("sharpness", "ratio", "slope", "predicted_decrease", "edge_quadratic", "edge_realized", "critical_lr")
STATE = "landscape_probe.pt"  # in a checkpoint of the Trainer


class LandscapeCallback(TrainerCallback):
    """Measures the landscape in a run of `transformers.Trainer` (4.45 or newer), and logs it as the Trainer's own logs.

        trainer.add_callback(LandscapeCallback(trainer, train_dataset.select(range(64)), every=100))

    The rows see every update's gradient after clipping. Before the updates 0, every, 2 every, ... the numbers go
    through `Trainer.log`, as landscape/LABEL/COLUMN, and so to TensorBoard, Weights & Biases or trackio, whatever the
    Trainer reports to. The rows' states are stored in the Trainer's checkpoints, and restored with them.

    Args:
        trainer: its model and its optimizer, the row "training", are measured.
        examples: rows of a data set, the test batch; the Trainer's own collator makes batches of them, once. In a
            distributed run, rank 0 measures its share of them.
        every: updates between two measurements.
        losses_of_batch: (model, batch) -> one loss per example; None: `example_losses`.
        columns: which columns of sharpness.csv are logged, where they have a number. `rows` holds all of them.
        options: of `LandscapeProbe`, such as algorithms=["sgd", "adam"].

    Attributes:
        rows: the dicts of every measurement, with `step`, the updates made before it.

    Raises: ValueError, in one line, when the training starts, for what the probe refuses.
    """

    def __init__(
        self,
        trainer: Any,
        examples: Any,
        *,
        every: int = 100,
        losses_of_batch: Callable[[Any, Any], Tensor] | None = None,
        columns: Sequence[str] = COLUMNS,
        **options: Any,
    ) -> None:
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every is a number of updates, 1 or more, got {every!r}")
        if not hasattr(trainer, "get_test_dataloader"):
            raise ValueError(
                f"LandscapeCallback(trainer, examples) takes the Trainer first, got {type(trainer).__name__}"
            )
        self.trainer, self.examples, self.every, self.columns = trainer, examples, every, tuple(columns)
        self.losses_of_batch, self.options = losses_of_batch or example_losses, options
        self.batches: list[Any] = []
        self.rows: list[dict[str, Any]] = []

    probe: LandscapeProbe  # made when the training starts

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=list(cuda)):  # a collator may draw, such as masks
            self.batches = list(self.trainer.get_test_dataloader(self.examples))
        trainer = self.trainer
        model = getattr(trainer, "model_wrapped", None) or trainer.model
        self.probe = LandscapeProbe(model, self.losses_of_batch, optimizer=trainer.optimizer, **self.options)
        stored = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
        if state.global_step and stored.is_file():
            self.probe.load_state_dict(torch.load(stored, weights_only=True))
        elif state.global_step:
            log.warning("%s is not there: the rows start with fresh states at update %d", stored, state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.probe.observe()
        if state.global_step % self.every:
            return
        rows = self.probe.measure(*self.batches)
        self.rows += [{"step": state.global_step, **row} for row in rows]
        numbers = {f"landscape/{row['algorithm']}/{name}": row[name] for row in rows for name in self.columns}
        if rows:
            numbers = {"landscape/loss": rows[0]["loss"], **numbers}
        numbers = {name: value for name, value in numbers.items() if math.isfinite(value)}
        if numbers:
            self.trainer.log(numbers)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.probe.measures_here and folder.is_dir():
            torch.save(self.probe.state_dict(), folder / STATE)
