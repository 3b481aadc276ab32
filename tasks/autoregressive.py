"""The next token of program text with a decoder: GPT-Neo on the-stack's Python files as in the paper, or any rows
{"content"} or {"text"}. A file is cut into windows of `max_length` tokens. Each of the first `windows_per_file` of
them is an example."""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

from torch import Tensor

from landscape_core.example_losses import IGNORED, token_losses
from tasks.architectures import fresh_model
from tasks.base import Task, pad, random_ids
from tasks.loading.encoding import encode
from tasks.loading.own import PROGRAM, splits_of
from tasks.loading.pretrained import load_pretrained
from tasks.loading.rows import load_rows
from tasks.protocols import Request
from tasks.toy.python_library import source_files
from tasks.toy.tokenizer import train_byte_tokenizer

log = logging.getLogger(__name__)

FILES_AT_ONCE = 64  # tokenized at once, until there are enough windows


class Autoregressive(Task):
    """Examples {"input_ids"}: a window of 2 to `max_length` tokens. Every token but the first is a target."""

    def length(self, index: int) -> int:
        return len(self.examples[index]["input_ids"])

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """input_ids, attention_mask and labels, each [B, T]; labels[:, t] is the token that follows input_ids[:, t]."""
        windows = [example["input_ids"] for example in examples]
        return {
            "input_ids": pad([window[:-1] for window in windows], 0),  # masked, and after all that is scored
            "attention_mask": pad([[1] * (len(window) - 1) for window in windows], 0),
            "labels": pad([window[1:] for window in windows], IGNORED),
        }

    def losses(self, forward: Callable, batch: dict[str, Tensor], only: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of each window's tokens after the first, [B], nats per token."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return token_losses(forward(**inputs, use_cache=False).logits, batch["labels"], only)

    def targets(self, index: int) -> list[int]:
        return self.examples[index]["input_ids"][1:]

    def tiny_batch(self) -> dict[str, Tensor]:
        return self.collate([{"input_ids": ids} for ids in random_ids([9, 6, 4, 2])])


def load(request: Request) -> Autoregressive:
    """The first windows of the data set's files, and the model.

    With one window per file, an example is the beginning of a file. Files too short for a target are left out.
    """
    one_each = request.windows_per_file == 1 and request.dataset != "toy"
    if request.dataset == "toy":
        texts = source_files(request.seed)
    else:
        fewest = None if one_each and not request.is_own else 1
        splits = partial(splits_of, request, PROGRAM, request.dataset_size)
        rows = load_rows(request.dataset, request.dataset_size, check_row, splits, fewest)
        texts = [text for row in rows if (text := text_of(row)).strip()]
    if request.model == "toy":
        texts = list(islice(texts, request.dataset_size))
        tokenizer = train_byte_tokenizer(texts[:200], request.max_length, framed=False, vocabulary_size=1_000)
        network = toy_model(len(tokenizer), request.max_length, request.model_seed)
    else:
        network, tokenizer = load_pretrained(request.model, "AutoModelForCausalLM", request.hf_key, request.model_seed)
    limit = min(request.max_length, getattr(network.config, "max_position_embeddings", request.max_length))
    token_windows = windows(tokenizer, texts, limit, request.windows_per_file, cached=request.dataset != "toy")
    examples = [{"input_ids": window} for window in islice(token_windows, request.dataset_size)]
    missing = request.dataset_size - len(examples)
    if missing and not (one_each and examples):
        raise ValueError(
            f"the first {request.dataset_size} rows of {request.dataset} give {len(examples)} windows of up to {limit} "
            f"tokens, fewer than the dataset size; a smaller --max_length or --windows_per_file 0 gives more"
        )
    if missing:
        log.info("%s: %d of %d files have fewer than 2 tokens", request.dataset, missing, request.dataset_size)
    return Autoregressive(request.name, network, tokenizer, examples)


def text_of(row: dict) -> str | None:
    return row["content"] if "content" in row else row.get("text")


def check_row(row: dict) -> None:
    """Refuse a row without text. An empty file is allowed; it gives no window."""
    if not isinstance(text_of(row), str):
        raise ValueError(f"field content (or text) is missing or not text; the row has {', '.join(row)}")


def windows(tokenizer, texts: Iterable[str], length: int, per_text: int, cached: bool) -> Iterator[list[int]]:
    """Consecutive pieces of at most `length` tokens, the first `per_text` of each text (0: all). A piece of one token
    has no target and is left out."""
    texts = iter(texts)
    while group := list(islice(texts, FILES_AT_ONCE)):
        for encoding in encode(tokenizer, group, cached=cached):
            ids = encoding["input_ids"]
            starts = range(0, len(ids) - 1, length)
            for start in starts[: per_text or None]:
                yield ids[start : start + length]


def toy_model(vocabulary_size: int, max_length: int, seed: int):
    """A GPT-Neo of a quarter of a million parameters, one layer of global and one of local attention."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    config = GPTNeoConfig(
        vocab_size=vocabulary_size,
        hidden_size=96,
        num_layers=2,
        num_heads=4,
        intermediate_size=192,
        max_position_embeddings=max_length,
        attention_types=[[["global", "local"], 1]],
        window_size=8,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return fresh_model(GPTNeoForCausalLM, config, seed)
