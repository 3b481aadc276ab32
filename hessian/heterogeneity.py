"""How unevenly gradient and curvature are spread over parameter blocks, and whether they go together.

A block b is one parameter tensor. Every measure here takes three numbers per block (`hessian.blocks.block_curvatures`).
They are the norm of its gradient ||g_b||, the largest eigenvalue lambda_b of its Hessian block, and its number of
elements P_b. The theory is Tomihari & Sato's, arXiv:2502.00213.

How special values are treated:

    eigenvalue below 0      The complexities count it with its sign. Spearman's correlation ranks it lowest. The Gini
                            coefficient takes it as 0, since such a block curves upwards nowhere. The log-log
                            correlation leaves it out, since it has no logarithm.
    gradient norm of 0      The log-log correlation leaves it out. Elsewhere it is an ordinary smallest value.
    not finite              The block is left out of everything.
    nothing to compare      If all values are zero or equal, or blocks too few, the measure is NaN, never 0 or 1.

Give a block that is zero up to rounding as 0: see `resolved`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hessian.tensor_names import GROUPINGS

CONFIDENCE = 0.95  # of the bootstrap intervals
RESAMPLES = 1000


def resolved(eigenvalue: float, residual: float) -> float:
    """An eigenvalue for the statistics: 0 where its residual cannot separate it from 0, as in a block that is zero up
    to rounding (`hessian.blocks.block_curvatures`)."""
    return 0.0 if abs(eigenvalue) <= residual else eigenvalue


# ---- inequality --------------------------------------------------------------------------------------------------


def lorenz_curve(values: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Points of the Lorenz curve: the share of the blocks, from the smallest value up, and the share that they hold.

    Args:
        values: n >= 1 numbers >= 0, in any unit.

    Returns: two arrays [n + 1] from 0 to 1; the second is NaN if all values are zero [Lorenz 1905].
    Raises: ValueError if a value is negative or not finite, or if there is none."""
    x = np.sort(_floats(values))
    if x.size == 0 or not np.isfinite(x).all() or x[0] < 0:
        raise ValueError(f"a Lorenz curve takes at least one value, all finite and >= 0; got {x.tolist()[:5]}")
    held = np.concatenate([[0.0], np.cumsum(x)])
    with np.errstate(invalid="ignore"):
        return np.linspace(0, 1, x.size + 1), held / held[-1]


def gini(values: Sequence[float]) -> float:
    r"""Gini coefficient, the mean absolute difference of two values over twice their mean [Gini 1912]:

        G = sum_ij |x_i - x_j| / (2 n^2 mean(x)) = 1 - 2 * (area under the Lorenz curve)

    0 if all are equal, (n - 1) / n if one block holds everything; without unit. NaN if all values are zero.
    Raises: as `lorenz_curve`."""
    blocks, held = lorenz_curve(values)
    return float(1 - np.sum((held[1:] + held[:-1]) * np.diff(blocks)))


# ---- complexity --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Complexities:
    """The two averages of block curvature that the theory compares (loss per squared unit of distance); their ratio."""

    gradient: float
    sign: float
    ratio: float


def complexities(gradient_norms: Sequence[float], eigenvalues: Sequence[float], sizes: Sequence[int]) -> Complexities:
    r"""Weighted Hessian complexities: the mean curvature that a gradient method meets, and that a sign method meets.

        Lam_G = sum_b lambda_b ||g_b||^2 / ||g||^2       Lam_P = sum_b lambda_b P_b / P

    Let the Hessian be bounded by its diagonal blocks. Then a gradient step of length eta lowers the loss by at least
    eta ||g||^2 (1 - eta Lam_G / 2), and a sign step by at least eta ||g||_1 - eta^2 P Lam_P / 2. [After
    arXiv:2502.00213; the constants are this project's derivation.] Lam_G > Lam_P says that the steep blocks are also
    the curved ones.

    Negative eigenvalues count with their sign, as in the bounds. Lam_G is NaN if every gradient is zero. The ratio is
    NaN unless Lam_P > 0, since a bound without curvature gives no step length to compare."""
    norms, lam, size = map(_floats, (gradient_norms, eigenvalues, sizes))
    _check_same_length(norms, lam, size)
    square = norms**2
    gradient = float(lam @ square / square.sum()) if square.sum() > 0 else math.nan
    sign = float(lam @ size / size.sum()) if size.sum() > 0 else math.nan
    return Complexities(gradient, sign, gradient / sign if sign > 0 else math.nan)


# ---- correlation -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient in [-1, 1], its bootstrap interval, and the number of blocks it rests on."""

    value: float
    low: float
    high: float
    count: int


def spearman(x: Sequence[float], y: Sequence[float], seed: int = 0) -> Correlation:
    """Spearman's rank correlation [Spearman 1904]: Pearson's, of the ranks; equal values share their mean rank.

    Signs and zeros are ranked like any other value. Interval: the central 95 % of 1000 resamplings of the pairs with
    replacement [percentile bootstrap, Efron 1979]. NaN for fewer than 3 pairs, or if either side is constant."""
    return _bootstrapped(lambda a, b: _pearson(_ranks(a), _ranks(b)), _floats(x), _floats(y), seed)


def log_log_pearson(x: Sequence[float], y: Sequence[float], seed: int = 0) -> Correlation:
    """Pearson's correlation of log x and log y: how nearly y is a power of x.

    Pairs in which either value is not positive have no logarithm and are left out; `count` says how many remained.
    Interval and NaN as in `spearman`."""
    a, b = _floats(x), _floats(y)
    _check_same_length(a, b)
    positive = (a > 0) & (b > 0)
    return _bootstrapped(_pearson, np.log(a[positive]), np.log(b[positive]), seed)


def _floats(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _bootstrapped(statistic: Callable, x: np.ndarray, y: np.ndarray, seed: int) -> Correlation:
    _check_same_length(x, y)
    if len(x) < 3:
        return Correlation(math.nan, math.nan, math.nan, len(x))
    draws = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    resampled = statistic(x[draws], y[draws])
    resampled = resampled[np.isfinite(resampled)]  # a resample of one value repeated has no correlation
    if len(resampled) == 0:
        return Correlation(math.nan, math.nan, math.nan, len(x))
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Correlation(float(statistic(x, y)), float(low), float(high), len(x))


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of each row of x and y [..., n]; NaN where either is constant."""
    dx, dy = (a - a.mean(-1, keepdims=True) for a in (x, y))
    varies = (np.ptp(x, -1) > 0) & (np.ptp(y, -1) > 0)
    with np.errstate(invalid="ignore"):
        r = (dx * dy).sum(-1) / np.sqrt((dx**2).sum(-1) * (dy**2).sum(-1))
    return np.where(varies, np.clip(r, -1, 1), math.nan)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks 1..n within each row of x [..., n]; equal values get the mean of the ranks they fill."""
    values, codes = np.unique(x, return_inverse=True)
    codes = codes.reshape(-1, x.shape[-1])  # [rows, n]
    cells = codes + len(values) * np.arange(len(codes))[:, None]
    counts = np.bincount(cells.ravel(), minlength=len(codes) * len(values)).reshape(len(codes), len(values))
    means = np.cumsum(counts, axis=1) - (counts - 1) / 2  # [rows, values]
    return np.take_along_axis(means, codes, axis=1).reshape(x.shape)


def _check_same_length(*columns: np.ndarray) -> None:
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"every block needs each of its numbers; got columns of lengths {lengths}")


# ---- tables ------------------------------------------------------------------------------------------------------


def heterogeneity(
    gradient_norms: Sequence[float], eigenvalues: Sequence[float], sizes: Sequence[int], seed: int = 0
) -> dict[str, float]:
    """All measures of one set of blocks, as a row of a table; each is defined at its function above.

    gini_gradient: of ||g_b||. gini_gradient_rms: of ||g_b|| / sqrt(P_b), the root mean square of the block's gradient
    entries, which does not grow with the block. gini_eigenvalue: of max(lambda_b, 0). Blocks with a number that is not
    finite are left out; `blocks` and `parameters` count the rest."""
    columns = np.array([gradient_norms, eigenvalues, sizes], dtype=np.float64)  # [3, blocks]
    norms, lam, size = columns[:, np.isfinite(columns).all(axis=0)]
    weighted = complexities(norms, lam, size)
    rank, power = spearman(norms, lam, seed), log_log_pearson(norms, lam, seed)
    return dict(
        blocks=len(norms),
        parameters=int(size.sum()),
        gini_gradient=_gini_or_nan(norms),
        gini_gradient_rms=_gini_or_nan(norms / np.sqrt(size)),
        gini_eigenvalue=_gini_or_nan(np.maximum(lam, 0)),
        complexity_gradient=weighted.gradient,
        complexity_sign=weighted.sign,
        complexity_ratio=weighted.ratio,
        spearman=rank.value,
        spearman_low=rank.low,
        spearman_high=rank.high,
        log_log_pearson=power.value,
        log_log_low=power.low,
        log_log_high=power.high,
        log_log_blocks=power.count,
    )


def _gini_or_nan(values: np.ndarray) -> float:
    return gini(values.tolist()) if len(values) else math.nan


def heterogeneity_by_group(
    names: Sequence[str],
    gradient_norms: Sequence[float],
    eigenvalues: Sequence[float],
    sizes: Sequence[int],
    seed: int = 0,
) -> list[dict]:
    """`heterogeneity` over all blocks, within each kind and within each layer: one row each, led by `grouping` (all,
    kind or layer) and `group`, in the order in which the groups first appear in `names`."""
    columns = np.array([gradient_norms, eigenvalues, sizes], dtype=np.float64)  # [3, blocks]
    rows = []
    for grouping, label in dict(all=lambda name: "all", **GROUPINGS).items():
        labels = np.array([label(name) for name in names])
        for group in dict.fromkeys(labels.tolist()):
            measures = heterogeneity(*columns[:, labels == group], seed=seed)
            rows.append(dict(grouping=grouping, group=group, **measures))
    return rows
