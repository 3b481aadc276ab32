"""A line of the table of known cases: what was measured, what it should be, and where that is published."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

COLUMNS = ("case", "measured", "expected", "source", "pass")


@dataclass(frozen=True)
class Row:
    """Measured numbers, each with the interval [low, high] that it must lie in; NaN lies in none.

    `expected` is the intervals in words. A case that could not run has no numbers; `expected` then says why.
    """

    case: str
    measured: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    expected: str
    source: str

    @property
    def skipped(self) -> bool:
        return not self.measured

    @property
    def passed(self) -> bool:
        triples = list(zip(self.low, self.measured, self.high, strict=True))
        return bool(triples) and all(low <= value <= high for low, value, high in triples)

    def cells(self) -> dict[str, str]:
        """column -> text, for the table."""
        verdict = "skipped" if self.skipped else "yes" if self.passed else "NO"
        measured = ", ".join(f"{value:.6g}" for value in self.measured) or "-"
        return dict(zip(COLUMNS, (self.case, measured, self.expected, self.source, verdict), strict=True))


def near(
    case: str,
    measured: float | Sequence[float],
    expected: float | Sequence[float],
    source: str,
    *,
    within: float = 1e-9,
    text: str = "",
) -> Row:
    """Each number may differ from the expected one by the share `within` of it.

    `text`: the numbers as the source writes them.
    """
    numbers, right = _numbers(measured), _numbers(expected)
    slack = [within * abs(value) for value in right]
    words = text or ", ".join(f"{value:.6g}" for value in right)
    if within > 1e-6:
        words += f" within {100 * within:.3g} %"
    low = tuple(value - s for value, s in zip(right, slack, strict=True))
    high = tuple(value + s for value, s in zip(right, slack, strict=True))
    return Row(case, numbers, low, high, words, source)


def below(case: str, measured: float | Sequence[float], bound: float, source: str) -> Row:
    """Each number should be smaller than `bound`."""
    numbers = _numbers(measured)
    top = math.nextafter(bound, -math.inf)
    return Row(case, numbers, (-math.inf,) * len(numbers), (top,) * len(numbers), f"below {bound:.5g}", source)


def above(case: str, measured: float | Sequence[float], bound: float, source: str) -> Row:
    """Each number should be larger than `bound`."""
    numbers = _numbers(measured)
    bottom = math.nextafter(bound, math.inf)
    return Row(case, numbers, (bottom,) * len(numbers), (math.inf,) * len(numbers), f"above {bound:.5g}", source)


def skipped(case: str, reason: str, source: str) -> Row:
    """A case that cannot run here."""
    return Row(case, (), (), (), reason, source)


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(value) if isinstance(value, Sequence) else (value,)
