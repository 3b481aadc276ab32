"""The loss of each example of a batch, where a model's own `.loss` is one mean over all tokens."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # label of a position that is not scored
SHIFTED = ("ForCausalLM", "LMHeadModel", "DoubleHeadsModel")  # whose logits at a token are for the next one
IN_PLACE = (
    "ForMaskedLM",
    "ForConditionalGeneration",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForImageClassification",
)


def token_losses(logits: Tensor, labels: Tensor, only: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over each example's own scored tokens, [B], nats per token.

    logits [B, T, V]; labels [B, T], IGNORED where not scored; only [V]: the labels whose losses count, the others being
    0 and no less scored; None: all.
    """
    flat = logits.flatten(0, 1), labels.flatten()  # [B T, V], [B T]
    each = F.cross_entropy(*flat, ignore_index=IGNORED, reduction="none")  # [B T]
    if only is not None:
        each = each.masked_fill(~chosen(flat[1], only), 0)
    return each.view_as(labels).sum(1) / (labels != IGNORED).sum(1)


def chosen(labels: Tensor, only: Tensor) -> Tensor:
    """Whether `only` is set for each label; labels that are not scored may give anything."""
    return only.to(labels.device)[labels.clamp_min(0)]


def example_losses(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """Cross-entropy of each example, [B]: a model of transformers, and a batch with `labels` as its collator gives it.

    Language models: the mean over the example's own scored tokens, shifted by one for causal models. Classifiers: the
    cross-entropy of the example's class.

    Raises: ValueError, in one line, for a batch without labels, and for a model of another kind.
    """
    name = type(model).__name__
    given = "pass losses_of_batch=, a function of model and batch that returns one loss per example, [B]"
    if not isinstance(batch, Mapping) or not isinstance(batch.get("labels"), Tensor):
        raise ValueError(f"the losses of {name} need a batch with the entry labels; {given}")
    labels = batch["labels"]
    if not name.endswith(SHIFTED + IN_PLACE) or labels.is_floating_point():
        kind = "with labels that are no classes" if labels.is_floating_point() else "of an unknown kind"
        raise ValueError(f"no losses are known for {name}, a model {kind}; {given}")
    needs_labels = getattr(getattr(model, "config", None), "is_encoder_decoder", False)  # its decoder reads them
    logits = model(**{k: v for k, v in batch.items() if k != "labels" or needs_labels}).logits
    if labels.dim() == 1 and logits.dim() == 2:
        return F.cross_entropy(logits, labels, reduction="none")
    if name.endswith(SHIFTED):
        logits, labels = logits[:, :-1], labels[:, 1:]
    return token_losses(logits, labels)
