"""How numbers are written on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def short(value: Any) -> str:
    """Four significant digits, for a table; a dash for what does not exist.

    >>> short(0.238312), short(7), short(None), short(1.5e-7)
    ('0.2383', '7', '–', '1.5e-07')
    """
    if value is None:
        return "–"
    if isinstance(value, (str, int)):
        return str(value)
    return f"{value:.4g}" if math.isfinite(value) else "–"


def said(value: float) -> str:
    """Two significant digits, for a sentence.

    >>> said(4.123), said(0.0317), said(588.2), said(12345), said(-0.02), said(0.99999), said(0.0000004)
    ('4.1', '0.032', '590', '12,000', '−0.02', '1.0', '4e-07')
    """
    text = f"{value:.2g}"
    number = float(text)
    if abs(number) >= 100:
        text = f"{number:,.0f}"
    elif 1 <= abs(number) < 10:
        text = f"{number:.1f}"
    elif 1e-6 <= abs(number) < 1e-4:
        text = f"{number:.7f}".rstrip("0")
    return text.replace("-", "−") if text.startswith("-") else text


def hundredths(value: float) -> str:
    """A correlation, for a sentence.

    >>> hundredths(-0.5)
    '−0.50'
    """
    return f"{value:.2f}".replace("-", "−")


def between(values: Sequence[float]) -> str:
    """The lowest and the highest, for a sentence: "3.2 to 5.0"."""
    return f"{said(min(values))} to {said(max(values))}"


def count(number: int, thing: str, things: str = "") -> str:
    """
    >>> count(1, "seed"), count(3, "seed")
    ('one seed', '3 seeds')
    """
    return f"one {thing}" if number == 1 else f"{number:,} {things or f'{thing}s'}"


def listed(words: Sequence[str]) -> str:
    """
    >>> listed(["1", "3", "5"])
    '1, 3 and 5'
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
