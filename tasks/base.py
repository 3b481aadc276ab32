"""What every task is, whatever its data: examples, a model, and the loss of each example.

The objective of the project is the mean over examples of `Task.losses`. It does not depend on how examples are grouped
into micro-batches, nor on padding. A batched Hugging Face `.loss`, weighted by tokens, is a different objective.

One thing breaks this, and only while training: batch norm averages over a micro-batch (`Task.has_batch_norm`)."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from runs.files import CannotWrite, one_line
from tasks.architectures import tiny_model


class Task:
    """Tokenized examples, a float32 model on the CPU in train mode, and the per-example loss that joins them.

    A subclass gives `length`, `collate`, `losses` and `tiny_batch`. Attributes: name, model, processor (the tokenizer,
    or the image processor), and examples, a sequence of dicts indexed by ints.
    """

    evaluation: dict[str, Sequence[dict]] = {}  # held-out examples by split, of tasks that have `scores`

    def __init__(self, name: str, model: nn.Module, processor: Any, examples: Sequence[dict]):
        self.name, self.model, self.processor, self.examples = name, model, processor, examples

    def length(self, index: int) -> int:
        """Tokens of one example, input and target together; groups of similar length waste little padding."""
        raise NotImplementedError

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """One batch, padded to its longest example; the first dimension of every tensor is the examples."""
        raise NotImplementedError

    def training_collate(self, examples: list[dict], seed: int) -> dict[str, Tensor]:
        """The batch that a training step sees; random augmentation of its examples depends on `seed` alone. Without
        augmentation, `collate`."""
        return self.collate(examples)

    def losses(self, forward: Callable, batch: dict[str, Tensor], only: Tensor | None = None) -> Tensor:
        """Each example's own loss, [B].

        Args:
            forward: takes the model's inputs by name and gives its output: the model, or a functional call.
            only: [targets] of bool. The part of each loss that comes from the targets where it is set, token ids or
                labels. The parts of disjoint sets add up to the loss. Of tasks that have `targets`.
        """
        raise NotImplementedError

    def targets(self, index: int) -> list[int]:
        """What one example is scored on: the token ids, or its label. ValueError for a task without them."""
        raise ValueError(f"the task {self.name} does not tell the targets of its examples")

    def scores(self, model: nn.Module, split: str, micro_batch_size: int = 32) -> dict[str, float]:
        """metric -> value of `model` on a split of `evaluation`."""
        raise NotImplementedError

    def tiny_batch(self) -> dict[str, Tensor]:
        """Four random examples of different lengths, collated; `self.model` is the tiny model here."""
        raise NotImplementedError

    @property
    def has_batch_norm(self) -> bool:
        """Whether the model's training gradients depend on how a batch is cut into micro-batches."""
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())

    def training_notes(self, micro_batch_size: int) -> list[str]:
        """What a reader of a training run's results should know of its model, in sentences."""
        if not self.has_batch_norm:
            return []
        return [
            f"The model has batch norm: in training it normalizes each micro-batch of {micro_batch_size} examples by "
            "itself, so the gradients depend on --micro_batch_size."
        ]

    def shortest_and_longest(self) -> list[dict]:
        """The two examples that a model is tried on."""
        order = sorted(range(len(self.examples)), key=self.length)
        return [self.examples[order[0]], self.examples[order[-1]]]

    def tiny(self) -> tuple[nn.Module, Callable, dict[str, Tensor]]:
        """(model, losses, batch): this task in a size whose full Hessian can be formed.

        At most 3,000 float32 parameters of this architecture in eval mode, the per-example losses
        `losses(forward, batch)`, and one padded batch for them. Always the same.
        """
        small = copy.copy(self)
        small.model = tiny_model(self.model)
        return small.model, small.losses, small.tiny_batch()

    def save_model(self, folder: str | Path) -> None:
        """Write model and processor; `--model FOLDER` reads them again. Raises: CannotWrite."""
        from safetensors import SafetensorError  # slow to import; the model's own library has it

        folder = Path(folder)
        unfinished = folder / ".model.tmp"
        try:
            cast(Any, self.model).save_pretrained(unfinished)
            self.processor.save_pretrained(unfinished)
            for path in unfinished.iterdir():
                path.replace(folder / path.name)
            unfinished.rmdir()
        except (OSError, SafetensorError) as error:
            raise CannotWrite(f"cannot write the model to {folder}: {one_line(error)}") from error


def random_ids(lengths: Sequence[int], first: int = 3, last: int = 22) -> list[list[int]]:
    """Token ids first..last in sequences of these lengths, always the same; for `Task.tiny_batch`."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(first, last + 1, (n,), generator=generator).tolist() for n in lengths]


def pad(sequences: list[list[int]], value: int) -> Tensor:
    """Integer sequences as one matrix [B, longest], filled up on the right with `value`."""
    return nn.utils.rnn.pad_sequence([torch.tensor(s, dtype=torch.long) for s in sequences], True, value)
