"""Generated data for the classification tasks: reviews, pairs of sentences, and small pictures. Every row depends on
the seed and its own number alone, so a larger set begins with the smaller one."""

import random

import numpy as np

from tasks.toy.ranks import rank_weights


def _words(text: str) -> list[str]:
    return text.split()


GOOD = _words("good great lovely brilliant funny moving clever gripping charming perfect fresh warm")
BAD = _words("bad awful dull boring weak silly tedious clumsy empty ugly slow cold")
ASPECTS = _words("plot story cast music script ending acting camera dialogue pace hero villain setting humour")
NAMES = _words("Anna Ben Clara David Emma Frank Greta Hugo Ida Jack Kate Leo Maria Nora Oscar Paula")
COLORS = _words("red blue green yellow black white brown grey")
THINGS = _words("apples boxes books cups hats shoes chairs coats bottles bags stones keys")
PLACES = _words("kitchen garden office school shop station hotel museum park cellar")
NUMBERS = _words("two three four five six seven eight nine")


def _label(rng: random.Random, labels: int, zipf: float) -> int:
    """0, 1, ... with probability proportional to (1 + label)^-zipf."""
    return rng.choices(range(labels), rank_weights(labels, zipf))[0] if zipf else rng.randrange(labels)


def reviews(count: int, seed: int, zipf: float = 0.0) -> list[dict]:
    """{"text", "label"}: three to nine short verdicts, each good or bad, some negated; label 1 where most are good.

    `zipf`, here and below: label k occurs with a frequency proportional to (1 + k)^-zipf; 0 makes all alike."""
    rows = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        label, verdicts = _label(rng, 2, zipf), rng.choice([3, 5, 7, 9])
        in_favor = rng.randrange(verdicts // 2 + 1, verdicts + 1)
        opinions = [label] * in_favor + [1 - label] * (verdicts - in_favor)
        rng.shuffle(opinions)
        rows.append({"text": " ".join(_verdict(rng, opinion) for opinion in opinions), "label": label})
    return rows


def _verdict(rng: random.Random, good: int) -> str:
    negated = rng.random() < 0.2
    word = rng.choice(GOOD if good != negated else BAD)
    return f"The {rng.choice(ASPECTS)} was {'not ' * negated}{word}."


def sentence_pairs(count: int, seed: int, num_labels: int, zipf: float = 0.0) -> list[dict]:
    """{"sentence1", "sentence2", "label"}: the second follows from the first (0), contradicts it (1) or, with three
    labels, speaks of something else (2)."""
    rows = []
    for number in range(count):
        rng = random.Random(f"{seed} {number}")
        label = _label(rng, num_labels, zipf)
        name, many, color, thing, place = map(rng.choice, (NAMES, NUMBERS, COLORS, THINGS, PLACES))
        first = f"In the {place} {name} has {many} {color} {thing}."
        if label == 1:
            color = rng.choice([c for c in COLORS if c != color])
        if label == 2:
            name = rng.choice([n for n in NAMES if n != name])
        second = rng.choice([f"{name} has {color} {thing}.", f"The {thing} of {name} are {color}."])
        rows.append({"sentence1": first, "sentence2": second, "label": label})
    return rows


def pictures(count: int, seed: int, num_labels: int = 10, side: int = 32, zipf: float = 0.0) -> list[dict]:
    """{"image", "label"}: stripes on noise as arrays [side, side, 3] of uint8; the label sets their angle, not their
    color, width or place."""
    rows = []
    y, x = np.mgrid[:side, :side] / side
    frequencies = np.array(rank_weights(num_labels, zipf)) / sum(rank_weights(num_labels, zipf))
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        label = int(rng.choice(num_labels, p=frequencies) if zipf else rng.integers(num_labels))
        angle = np.pi * (label + rng.uniform(-0.2, 0.2)) / num_labels
        wave = np.sin(2 * np.pi * (rng.uniform(3, 5) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform()))
        image = 128 + 80 * wave[..., None] * rng.uniform(-1, 1, 3) + rng.normal(0, 20, (side, side, 3))
        rows.append({"image": np.clip(image, 0, 255).astype(np.uint8), "label": label})
    return rows
