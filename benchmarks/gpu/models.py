"""Models of real size with random weights, on random examples: neither the network nor `datasets` is needed."""

from collections.abc import Callable

import numpy as np
import torch

from landscape_core.example_losses import IGNORED
from tasks.architectures import fresh_model
from tasks.base import Task
from tasks.classification import Classification
from tasks.machine_translation import MachineTranslation
from tasks.masked_language_modeling import MASKED_SHARE, MaskedLanguageModeling

MASK = 4  # token id
FIRST = 10  # smaller token ids have a meaning


class RandomPictures(Classification):
    """Normal noise in place of pictures, as the processor would give it."""

    side = 224

    def length(self, index: int) -> int:
        return 0

    def collate(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        shape = (3, self.side, self.side)
        pixels = [torch.randn(shape, generator=torch.Generator().manual_seed(e["seed"])) for e in examples]
        return {"pixel_values": torch.stack(pixels), "labels": torch.tensor([e["label"] for e in examples])}


def t5_small(examples: int, tiny: bool) -> Task:
    options = dict(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2) if tiny else {}
    return t5(examples, 6 if tiny else 50, **options)


def t5(examples: int, tokens: int, **options: int) -> Task:
    """Pairs of about `tokens` + `tokens`, between half of that and half as much again."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(decoder_start_token_id=0, pad_token_id=0, **options)
    draw = _sequences(config.vocab_size, tokens)
    pairs = [{"input_ids": draw(), "labels": draw()} for _ in range(examples)]
    return MachineTranslation("t5-small", fresh_model(T5ForConditionalGeneration, config, 0), None, pairs)


def distilroberta(examples: int, tiny: bool) -> Task:
    options = dict(vocab_size=50265, num_hidden_layers=6)
    if tiny:
        options |= dict(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=2)
    return roberta(examples, 12 if tiny else 100, **options)


def roberta(examples: int, tokens: int, **options: int) -> Task:
    """Texts of about `tokens`, 15 % of them masked."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    config = RobertaConfig(pad_token_id=1, max_position_embeddings=514, type_vocab_size=1, **options)
    draw, random = _sequences(config.vocab_size, tokens), np.random.default_rng(1)
    texts = []
    for _ in range(examples):
        ids = draw()
        hidden = random.random(len(ids)) < MASKED_SHARE
        hidden[0] = True
        masked = [MASK if h else i for i, h in zip(ids, hidden, strict=True)]
        labels = [i if h else IGNORED for i, h in zip(ids, hidden, strict=True)]
        texts.append({"input_ids": masked, "labels": labels})
    return MaskedLanguageModeling("distilroberta", fresh_model(RobertaForMaskedLM, config, 0), None, texts)


def resnet_18(examples: int, tiny: bool) -> Task:
    options = dict(depths=[1, 1], hidden_sizes=[4, 6], embedding_size=4) if tiny else {}
    return resnet(examples, 32 if tiny else 224, **options)


def resnet(examples: int, side: int, **options: list[int] | int) -> Task:
    """Pictures of `side` x `side` in ten classes; a ResNet-18 without `options`."""
    from transformers import ResNetConfig, ResNetForImageClassification

    options = dict(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic", num_labels=10) | options
    model = fresh_model(ResNetForImageClassification, ResNetConfig(**options), 0)
    pictures = [{"seed": i, "label": i % 10} for i in range(examples)]
    task = RandomPictures("ResNet-18", model, None, pictures, evaluation={})
    task.side = side
    return task


MODELS: dict[str, Callable[[int, bool], Task]] = {
    "t5-small": t5_small,
    "distilroberta": distilroberta,
    "ResNet-18": resnet_18,
}


def _sequences(vocabulary: int, tokens: int) -> Callable[[], list[int]]:
    """Draws token ids, between half of `tokens` and half as many again."""
    random = np.random.default_rng(0)

    def draw() -> list[int]:
        length = int(random.integers(tokens // 2, 3 * tokens // 2 + 1))
        return random.integers(FIRST, vocabulary, length).tolist()

    return draw
