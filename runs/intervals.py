"""Intervals over seeds, and the rank correlation of two orderings. Standard library only.

Runs of different seeds are independent of each other; the points of one run are not. So every interval here takes one
number per seed, and one seed gives none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean, geometric_mean, stdev

CONFIDENCE = 0.95


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's t interval of the mean (95 %) of one number per seed; None for fewer than two [Student 1908].

    It takes the numbers for draws from a normal distribution. Equal numbers give an interval of no length.
    """
    if len(values) < 2:
        return None
    half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def factor_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The same of positive numbers that differ by factors, such as ratios: of their logarithms, carried back. So it is
    the interval of their geometric mean. Raises: ValueError for a number that is not positive."""
    if any(value <= 0 for value in values):
        raise ValueError(f"only positive numbers have logarithms, got {list(values)}")
    interval = mean_interval([math.log(value) for value in values])
    return interval and (math.exp(interval[0]), math.exp(interval[1]))


def mean_and_interval(values: Sequence[float], by_factors: bool) -> tuple[float, tuple[float, float] | None, bool]:
    """Mean of one number per seed, its interval, and whether both are of the logarithms: so are those of numbers that
    differ by factors, where all are positive. The mean is the geometric one then."""
    if by_factors and all(value > 0 for value in values):
        mean = geometric_mean(values) if len(values) > 1 else values[0]  # of one number, exactly that number
        return mean, factor_interval(values), True
    return fmean(values), mean_interval(values), False


def share_interval(shares: Sequence[float]) -> tuple[float, float] | None:
    """Interval (95 %) of the mean of one share in [0, 1] per seed; None for fewer than two.

    It is Clopper & Pearson's [1934] with one trial per seed, and with the sum of the shares as its number of successes.
    All points of a seed count as one trial, as if they held or failed together: no shares of the same mean vary more.
    So it has a length where all seeds agree, too: 0.29 to 1 where a claim holds everywhere in three of them.

    Raises: ValueError for a share outside [0, 1].
    """
    if any(not 0 <= share <= 1 for share in shares):
        raise ValueError(f"a share is a number in [0, 1], got {list(shares)}")
    n, held, tail = len(shares), math.fsum(shares), (1 - CONFIDENCE) / 2
    if n < 2:
        return None
    low = _solve(lambda x: beta_cdf(x, held, n - held + 1), tail) if held > 0 else 0.0
    high = _solve(lambda x: beta_cdf(x, held + 1, n - held), 1 - tail) if held < n else 1.0
    return low, high


def student_t(degrees: int) -> float:
    """The number that Student's t with these degrees of freedom exceeds in size with a probability of 5 %."""
    x = _solve(lambda x: beta_cdf(x, 0.5, degrees / 2), CONFIDENCE)  # t^2 / (degrees + t^2) is beta distributed
    return math.sqrt(degrees * x / (1 - x))


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularized incomplete beta function I_x(a, b), a and b positive: the distribution of Beta(a, b).

    A power series with positive terms [DLMF 8.17.8], used where x is at most 1/2.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > 0.5:
        return 1 - beta_cdf(1 - x, b, a)
    term = total = 1.0
    n = 0
    while term > 1e-17 * total:
        term *= x * (a + b + n) / (a + 1 + n)
        total += term
        n += 1
    factor = math.lgamma(a + b) - math.lgamma(a + 1) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(factor) * total


def _solve(rising: Callable[[float], float], value: float) -> float:
    """Where a rising function on [0, 1] has this value, by bisection."""
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if rising(middle) < value else (low, middle)
    return middle


def kendall_tau(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Kendall's tau-b of two orderings of the same things [Kendall 1945]: 1 the same, -1 reversed; equal values count
    in neither direction. None where either side is constant, or for fewer than two things."""
    pairs = list(combinations(zip(x, y, strict=True), 2))
    signs = [(_sign(b[0] - a[0]), _sign(b[1] - a[1])) for a, b in pairs]
    in_x, in_y = sum(s != 0 for s, _ in signs), sum(t != 0 for _, t in signs)
    return sum(s * t for s, t in signs) / math.sqrt(in_x * in_y) if in_x and in_y else None


def _sign(number: float) -> int:
    return (number > 0) - (number < 0)
