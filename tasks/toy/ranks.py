"""Words and labels whose frequencies follow Zipf's law."""

import random


class ZipfRandom(random.Random):
    """Random numbers, and items drawn with probability proportional to rank^-exponent, rank being their place from 1.

    Example:
        >>> rng = ZipfRandom("a seed")
        >>> rng.exponent = 0.0
        >>> rng.by_rank(["every", "item", "alike"]) in ("every", "item", "alike")
        True
    """

    exponent = 1.0

    def by_rank(self, items: list):
        return self.choices(items, weights=rank_weights(len(items), self.exponent))[0]


def rank_weights(count: int, exponent: float) -> list[float]:
    """rank^-exponent for the ranks 1, 2, ..., `count`."""
    return [1 / rank**exponent for rank in range(1, count + 1)]
