"""Filling in hidden words with an encoder: distilroberta-base on IMDb reviews as in the paper, or any rows {"text"}."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from landscape_core.example_losses import IGNORED, token_losses
from tasks.architectures import fresh_model
from tasks.base import Task, pad, random_ids
from tasks.loading.encoding import encode
from tasks.loading.own import TEXT, splits_of
from tasks.loading.pretrained import load_pretrained
from tasks.loading.rows import load_rows, require_text
from tasks.protocols import Request
from tasks.toy.python_library import docstrings
from tasks.toy.tokenizer import train_byte_tokenizer

MASKED_SHARE = 0.15  # of the tokens, drawn once for the whole run


class MaskedLanguageModeling(Task):
    """Examples {"input_ids", "labels"}: a text with its masks, and the hidden tokens at their places."""

    def length(self, index: int) -> int:
        return len(self.examples[index]["input_ids"])

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """input_ids, attention_mask and labels, each [B, T]."""
        inputs = [example["input_ids"] for example in examples]
        return {
            "input_ids": pad(inputs, self.model.config.pad_token_id),
            "attention_mask": pad([[1] * len(ids) for ids in inputs], 0),
            "labels": pad([example["labels"] for example in examples], IGNORED),
        }

    def losses(self, forward: Callable, batch: dict[str, Tensor], only: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of each example's masked tokens, [B], nats per token."""
        logits = forward(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits  # [B, T, V]
        return token_losses(logits, batch["labels"], only)

    def targets(self, index: int) -> list[int]:
        return [label for label in self.examples[index]["labels"] if label != IGNORED]

    def tiny_batch(self) -> dict[str, Tensor]:
        ids, hidden = random_ids([9, 6, 4, 9]), [(1, 5), (0, 3), (2,), (0, 4, 7)]
        labels = [[t if i in h else IGNORED for i, t in enumerate(row)] for row, h in zip(ids, hidden, strict=True)]
        return self.collate([{"input_ids": i, "labels": t} for i, t in zip(ids, labels, strict=True)])


def load(request: Request) -> MaskedLanguageModeling:
    """The first texts of the data set, their masks, and the model."""
    if request.dataset == "toy":
        texts = docstrings(request.dataset_size, request.seed)
    else:
        splits = partial(splits_of, request, TEXT, request.dataset_size)
        rows = load_rows(request.dataset, request.dataset_size, check_row, splits)
        texts = [row["text"] for row in rows]
    if request.model == "toy":
        tokenizer = train_byte_tokenizer(texts, request.max_length, vocabulary_size=1_000)
        network = toy_model(tokenizer, request.max_length, request.model_seed)
    else:
        network, tokenizer = load_pretrained(request.model, "AutoModelForMaskedLM", request.hf_key, request.model_seed)
    if tokenizer.mask_token is None:
        raise ValueError(f"the tokenizer of {request.model} has no mask token; masked_language_modeling needs one")
    encodings = encode(tokenizer, texts, cached=request.dataset != "toy", max_length=request.max_length)
    examples = draw_masks(tokenizer, [encoding["input_ids"] for encoding in encodings], request.seed)
    return MaskedLanguageModeling(request.name, network, tokenizer, examples)


def check_row(row: dict) -> None:
    require_text(row, "text")


def draw_masks(tokenizer, rows: list[list[int]], seed: int) -> list[dict[str, list[int]]]:
    """Choose 15 % of each row's tokens, at least one, as targets. Of these, 80 % become the mask token, 10 % a random
    token, and 10 % stay (BERT's rule, by transformers' collator). A row's draw depends on the seed and the row's
    number alone.
    """
    from transformers import DataCollatorForLanguageModeling

    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=MASKED_SHARE)
    examples = []
    with torch.random.fork_rng(devices=[]):
        for number, ids in enumerate(rows):
            if all(tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True)):
                raise ValueError(f"row {number + 1} of the data has no token that can be masked")
            torch.manual_seed(int(np.random.default_rng((seed, number)).integers(2**63)))
            while True:
                batch = collator([{"input_ids": ids}])
                if (batch["labels"] != IGNORED).any():
                    break
            examples.append({"input_ids": batch["input_ids"][0].tolist(), "labels": batch["labels"][0].tolist()})
    return examples


def toy_model(tokenizer, max_length: int, seed: int):
    """A RoBERTa of a quarter of a million parameters."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=192,
        max_position_embeddings=max_length + 2,
        type_vocab_size=1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return fresh_model(RobertaForMaskedLM, config, seed)
