"""What the classification tasks share: the loss, the held-out examples and the scores on them."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landscape_core.example_losses import chosen
from tasks.base import Task
from tasks.loading.rows import Refused

log = logging.getLogger(__name__)

METRICS = ("accuracy", "matthews_correlation", "f1")


class Classification(Task):
    """A task with one label per example.

    Attributes: evaluation, {"evaluation": examples, "test": examples}, which no training step sees; metric, one of
    METRICS, reported beside the accuracy; label_words, what the data call the labels 0, 1, ..., if they are words.
    """

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        processor: Any,
        examples: Sequence[dict],
        evaluation: dict[str, Sequence[dict]],
        metric: str = "accuracy",
        label_words: Sequence[str] = (),
    ):
        super().__init__(name, model, processor, examples)
        self.evaluation, self.metric, self.label_words = evaluation, metric, label_words

    def training_notes(self, micro_batch_size: int) -> list[str]:
        notes = super().training_notes(micro_batch_size)
        words = ", ".join(f"{number} is {word!r}" for number, word in enumerate(self.label_words))
        return [*notes, f"of the labels, {words}"] if words else notes

    def losses(self, forward: Callable, batch: dict[str, Tensor], only: Tensor | None = None) -> Tensor:
        """Each example's cross-entropy, [B], nats."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        losses = F.cross_entropy(forward(**inputs).logits, batch["labels"], reduction="none")
        return losses if only is None else losses.masked_fill(~chosen(batch["labels"], only), 0)

    def targets(self, index: int) -> list[int]:
        return [self.examples[index]["label"]]

    @torch.inference_mode()
    def scores(self, model: torch.nn.Module, split: str, micro_batch_size: int = 32) -> dict[str, float]:
        """metric -> value of `model` on a split of `evaluation`, each in [0, 1] (Matthews correlation: [-1, 1]).

        The model's train or eval mode is restored.
        """
        examples, device, mode = self.evaluation[split], next(model.parameters()).device, model.training
        predicted, labels = [], []
        model.eval()
        try:
            for start in range(0, len(examples), micro_batch_size):
                group = [examples[i] for i in range(start, min(start + micro_batch_size, len(examples)))]
                batch = self.collate(group)
                labels += batch.pop("labels").tolist()
                inputs = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
                predicted.append(model(**inputs).logits.argmax(-1))  # read in the end: no wait for each
        finally:
            model.train(mode)
        predicted = torch.cat(predicted).tolist()
        num_labels = self.model.config.num_labels
        return {name: score(name, labels, predicted, num_labels) for name in dict.fromkeys(["accuracy", self.metric])}


def score(metric: str, labels: Sequence[int], predicted: Sequence[int], num_labels: int) -> float:
    """A score of these predictions. F1 is that of class 1 for two classes, and the mean over the classes for more."""
    from sklearn import metrics  # slow to import

    if metric == "accuracy":
        return float(metrics.accuracy_score(labels, predicted))
    if metric == "matthews_correlation":
        return float(metrics.matthews_corrcoef(labels, predicted))
    average = "binary" if num_labels == 2 else "macro"
    return float(metrics.f1_score(labels, predicted, average=average, zero_division=0))


# What data sets call their splits, and the field of the label; the last two are names of FGVC-Aircraft's 100 classes.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
LABEL_FIELDS = ("label", "labels", "variant", "variation")


def with_label_field(source: str, splits: Mapping[str, Any]) -> dict[str, Any]:
    """The splits of a data set, name -> `datasets.Dataset`, with the labels in a field called `label`.

    Raises: Refused, with the names of the fields, if the split "train" has none of LABEL_FIELDS.
    """
    if "train" not in splits:
        return dict(splits)  # `assign_splits` refuses
    names = splits["train"].column_names
    field = next((name for name in LABEL_FIELDS if name in names), None)
    if field is None:
        raise Refused(f"{source} has the fields {', '.join(names)}; expected label (or {', '.join(LABEL_FIELDS[1:])})")
    if field == "label":
        return dict(splits)
    return {k: v.rename_column(field, "label") if field in v.column_names else v for k, v in splits.items()}


class Splits(NamedTuple):
    """Splits of a data set by what is done with them: all of `training` are trained and evaluated on; `test` is the
    official test, or None where a part of the training rows takes its place."""

    training: list
    test: Any = None


def assign_splits(source: str, splits: Mapping[str, Any], test: str) -> Splits:
    """Decide what each split of a data set is for; a split without labels is left out, which a line of the log says.

    Args:
        splits: name -> `datasets.Dataset`.
        test: the official test, "test" or "validation". With "test", the validation split is trained on as well, as
            in Tomihari & Sato; with "validation", the split called test is left out, for GLUE keeps its labels secret.

    Raises: Refused for a labeled split of any other name, because its rows would be lost, and if there is no "train".
    """
    split_of, left_out = {}, []
    for name, rows in splits.items():
        role = next((role for role, names in SPLIT_NAMES.items() if name in names), None)
        if role != "train" and not _has_labels(rows):
            left_out.append(f"{_counted(splits, name)} without labels")
        elif role is None or role in split_of:
            raise Refused(
                f"{source} has the splits {', '.join(splits)}; it is not known whether {name} is for training or for "
                f"testing. Save the rows that you want as a file and give it with --dataset FILE"
            )
        else:
            split_of[role] = name
    if "train" not in split_of:
        raise Refused(f"{source} has the splits {', '.join(splits)}; one of them must be called train")
    roles = ["train"] if test == "validation" else ["train", "validation"]
    used = [split_of[role] for role in roles if role in split_of]
    official = split_of.get(test)
    left_out += [_counted(splits, name) for name in split_of.values() if name not in (*used, official)]
    if len(splits) > 1:
        log.info(
            "%s: training and evaluation on %s; test on %s; left out: %s",
            source,
            " and ".join(_counted(splits, name) for name in used),
            _counted(splits, official) if official else "a part of these rows",
            ", ".join(left_out) or "nothing",
        )
    return Splits([splits[name] for name in used], None if official is None else splits[official])


def _counted(splits: Mapping[str, Any], name: str) -> str:
    return f"{name} ({len(splits[name]):,} rows)"


def _has_labels(rows) -> bool:
    """Whether any row of a `datasets.Dataset` has a label; the hub's data sets write -1 where it is kept secret. A
    split without the field is left for the check of its rows."""
    return "label" not in rows.column_names or any(label != -1 for label in rows["label"])


class Parts(NamedTuple):
    """Row numbers of a labeled data set; `test` is empty where another split of the data set is the test."""

    train: list[int]
    evaluation: list[int]
    test: list[int]


def partition(source: str, rows: int, size: int | None, share: float, seed: int | None, with_test: bool) -> Parts:
    """Cut `rows` rows into training, evaluation and test.

    Args:
        size: training examples; None: as many as remain.
        share: of the rows, for the evaluation, and again for the test if `with_test`; a fraction of a row is
            rounded up, as in Tomihari & Sato's code.
        seed: of the order in which they are taken; None keeps the file's: training first, then evaluation, then test.

    Evaluation and test are at most as large as the training part. ValueError if there are too few rows.
    """
    order = shuffled(rows, seed)
    held_out = math.ceil(rows * share)
    first_test = rows - held_out if with_test else rows
    first_evaluation = first_test - held_out
    if first_evaluation < 1:
        raise ValueError(f"{source} has {rows} rows, too few to train on some and evaluate on others")
    size = first_evaluation if size is None else size
    if not 0 < size <= first_evaluation:
        raise ValueError(
            f"{source} has {rows} rows, {first_evaluation} of them for training and the rest to evaluate on, "
            f"fewer than the dataset size of {size}; --dataset_size {first_evaluation} would do"
        )
    return Parts(order[:size], order[first_evaluation:first_test][:size], order[first_test:][:size])


def official_test(rows: int, parts: Parts, size: int | None, seed: int | None) -> list[int]:
    """Row numbers of a data set's own test: all, or as many as train where a `size` was asked for."""
    return shuffled(rows, seed)[: None if size is None else len(parts.train)]


def shuffled(rows: int, seed: int | None) -> list[int]:
    """Row numbers in an order drawn from `seed`; None: as they are."""
    return list(range(rows)) if seed is None else np.random.default_rng(seed).permutation(rows).tolist()


def rows_for(size: int, share: float) -> int:
    """How many rows leave `size` for training when `share` of all goes to the evaluation and as much to the test."""
    return round(size / (1 - 2 * share)) + 4
