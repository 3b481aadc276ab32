"""What every task is, whatever its data: examples, a model, and the loss of each example.

The objective of the project is the mean over examples of `Task.losses`. It does not depend on how examples
are grouped into micro-batches, nor on padding; a batched Hugging Face `.loss`, weighted by tokens, is a
different objective."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runs.files import CannotWrite, one_line
from tasks.architectures import tiny_model

IGNORED = -100  # label of a position that is not scored


@dataclass(frozen=True)
class Defaults:
    """The protocol of a task where its user says nothing. It is the papers' as far as they report one; where it is ours
    or differs, `docs/paper_protocols.json` says so. The defaults here are those of Pan & Li's machine translation.

    Sizes count examples, epochs count from 1. A `dataset_size` of None means all there is.
    """

    dataset: str
    model: str
    dataset_size: int | None = 10_240
    batch_size: int = 1_024  # examples an update
    micro_batch_size: int = 32  # examples a forward pass; bounds memory
    test_batch_size: int = 1_024  # examples of the fixed subset on which everything is measured
    num_epochs: int = 20
    test_epochs: tuple[int, ...] = (2, 5, 10, 20)
    num_sample_sharpness: int = 5  # measured iterations in each test epoch
    algorithm_list: str = "machine_translation"
    learning_rates: dict[str, float] = field(default_factory=lambda: {"sgd": 1e-3, "adam": 1e-4})
    lr_scheduler: str = "constant"  # one of training.SCHEDULERS, in run_convergence.py
    max_grad_norm: float = 0.0  # longer gradients are scaled down to it there; 0: never
    max_length: int | None = 128  # tokens, of the input and of the target each; None: the task has no texts
    windows_per_file: int | None = None  # examples from one file at most, 0: all; None: files are no texts to be cut


# What every task does where both data and model are "toy": a minute on a laptop.
TOY = Defaults(
    dataset="toy",
    model="toy",
    dataset_size=640,
    batch_size=64,
    test_batch_size=32,
    num_epochs=5,
    test_epochs=(1, 3, 5),
    num_sample_sharpness=2,
    algorithm_list="toy",
    learning_rates={"sgd": 1e-1, "adam": 1e-3},
)


@dataclass(frozen=True)
class Request:
    """What `load_task` asks a task for: every default filled in. See there for the meaning of each."""

    name: str
    dataset: str
    model: str
    dataset_size: int | None
    max_length: int | None
    seed: int = 0
    model_seed: int = 0
    hf_key: str | None = None
    windows_per_file: int | None = None


class Task:
    """Tokenised examples, a float32 model on the CPU in train mode, and the per-example loss that joins them.

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

    def losses(self, forward: Callable, batch: dict[str, Tensor]) -> Tensor:
        """Each example's own loss, [B].

        `forward` takes the model's inputs by name and gives its output: the model, or a functional call.
        """
        raise NotImplementedError

    def tiny_batch(self) -> dict[str, Tensor]:
        """Four random examples of different lengths, collated, for the tiny model that `model` is at that moment."""
        raise NotImplementedError

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
            self.model.save_pretrained(unfinished)
            self.processor.save_pretrained(unfinished)
            for path in unfinished.iterdir():
                path.replace(folder / path.name)
            unfinished.rmdir()
        except (OSError, SafetensorError) as error:
            raise CannotWrite(f"cannot write the model to {folder}: {one_line(error)}") from error


def token_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over each example's own scored tokens, [B], nats per token.

    logits [B, T, V]; labels [B, T], IGNORED where not scored.
    """
    flat = logits.flatten(0, 1), labels.flatten()  # [B T, V], [B T]
    each = F.cross_entropy(*flat, ignore_index=IGNORED, reduction="none")  # [B T]
    return each.view_as(labels).sum(1) / (labels != IGNORED).sum(1)


def random_ids(lengths: Sequence[int], first: int = 3, last: int = 22) -> list[list[int]]:
    """Token ids first..last in sequences of these lengths, always the same; for `Task.tiny_batch`."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(first, last + 1, (n,), generator=generator).tolist() for n in lengths]


def pad(sequences: list[list[int]], value: int) -> Tensor:
    """Integer sequences as one matrix [B, longest], filled up on the right with `value`."""
    return nn.utils.rnn.pad_sequence([torch.tensor(s, dtype=torch.long) for s in sequences], True, value)
