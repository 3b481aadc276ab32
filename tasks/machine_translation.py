"""English to French with an encoder-decoder: t5-small on opus_books as in the paper, or anything in the same form."""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from landscape_core.example_losses import IGNORED, token_losses
from tasks.architectures import fresh_model
from tasks.base import Task, pad, random_ids
from tasks.loading.encoding import encode
from tasks.loading.own import TRANSLATION, splits_of
from tasks.loading.pretrained import load_pretrained
from tasks.loading.rows import load_rows, require_text
from tasks.protocols import Request
from tasks.toy.corpus import toy_corpus
from tasks.toy.tokenizer import train_tokenizer

PREFIX = "translate English to French: "  # T5 was pretrained with it; every model gets it, so that runs compare


class MachineTranslation(Task):
    """Examples {"input_ids", "labels"}: the prefixed English and the French, each with its end-of-sequence token."""

    def length(self, index: int) -> int:
        example = self.examples[index]
        return len(example["input_ids"]) + len(example["labels"])

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """input_ids, attention_mask [B, S]; labels, decoder_input_ids [B, T], the labels one place later."""
        inputs = [example["input_ids"] for example in examples]
        labels = pad([example["labels"] for example in examples], IGNORED)
        return {
            "input_ids": pad(inputs, self.model.config.pad_token_id),
            "attention_mask": pad([[1] * len(ids) for ids in inputs], 0),
            "decoder_input_ids": self.model.prepare_decoder_input_ids_from_labels(labels),
            "labels": labels,
        }

    def losses(self, forward: Callable, batch: dict[str, Tensor], only: Tensor | None = None) -> Tensor:
        """Mean cross-entropy of each example's French tokens, [B], nats per token."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        # The decoder sees no padding before a scored token: its attention is causal and padding is on the right.
        return token_losses(forward(**inputs, use_cache=False).logits, batch["labels"], only)

    def targets(self, index: int) -> list[int]:
        return self.examples[index]["labels"]

    def tiny_batch(self) -> dict[str, Tensor]:
        english, french = random_ids([7, 5, 3, 7]), random_ids([6, 3, 6, 1])
        return self.collate([{"input_ids": i, "labels": t} for i, t in zip(english, french, strict=True)])


def load(request: Request) -> MachineTranslation:
    """The first pairs of the data set, and the model."""
    if request.dataset == "toy":
        rows = toy_corpus(request.dataset_size, request.seed, request.zipf)
    else:
        size = request.dataset_size
        splits = partial(splits_of, request, TRANSLATION, size)
        rows = load_rows(request.dataset, size, check_row, splits, fewest=1 if request.is_own else None)
    prefix = "" if request.is_own else PREFIX
    pairs = [(prefix + row["translation"]["en"], row["translation"]["fr"]) for row in rows]
    if request.model == "toy":
        tokenizer = train_tokenizer(text for pair in pairs for text in pair)
        # generated sentences are shorter than people's, and their run should take a minute
        width = 64 if request.dataset == "toy" else 128
        network = toy_model(len(tokenizer), width, request.model_seed)
    else:
        network, tokenizer = load_pretrained(request.model, "AutoModelForSeq2SeqLM", request.hf_key, request.model_seed)
    english, french = zip(*pairs, strict=True)
    options = dict(cached=request.dataset != "toy", max_length=request.max_length)
    inputs = encode(tokenizer, english, **options)
    labels = encode(tokenizer, french, target=True, **options)
    examples = [{"input_ids": i["input_ids"], "labels": t["input_ids"]} for i, t in zip(inputs, labels, strict=True)]
    return MachineTranslation(request.name, network, tokenizer, examples)


def check_row(row: dict) -> None:
    """Refuse a row that is not {"translation": {"en": text, "fr": text}}."""
    for language in ("en", "fr"):
        require_text(row, "translation", language)


def toy_model(vocabulary_size: int, width: int, seed: int):
    """A T5 of 2 + 2 layers, freshly initialized; 0.9 million parameters at width 128."""
    from transformers import T5Config, T5ForConditionalGeneration  # slow to import, and only needed here

    config = T5Config(
        vocab_size=vocabulary_size,
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return fresh_model(T5ForConditionalGeneration, config, seed)
