"""A curve through few points, with its standard deviation: a quintic spline as the mean of a Gaussian process.

The curve f(s) is taken for a random one: f(0), f'(0) and f''(0) are known, and the third derivative is white noise.
Given the evaluated points, its mean is a quintic spline (Wahba 1978), and its standard deviation follows, too. Three
things are not known beforehand:

- the scale c of the curve. The derivatives are those in u = log(1 + s / c), which is s for a large c. A loss may fall
  steeply at first and then slowly; in u it is smooth for a suitable c.
- whether f''(0) tells anything. The losses of ReLU networks have kinks, which add to the curvature over a distance and
  not to the one at 0. With `FREE_CURVATURE` the true one is random, too.
- how rough the curve is: kinks add a part that differs from one point to the next.

So all combinations are tried, and averaged with their marginal likelihoods as weights (Rasmussen & Williams 2006,
sections 2.2 and 5.4). Line searches use the same model, one order lower (Mahsereci & Hennig, arXiv:1502.02846).
"""

from collections.abc import Sequence

import numpy as np

SCALES = np.array([1e6, 1.0, 0.1, 0.01])  # c, of the farthest point
FREE_CURVATURE = np.array([0.0, 1.0])  # variance of f''(0), of that of the third derivative
ROUGHNESS = np.array([0.0, 1e-5, 1e-4, 1e-3])  # variance of the rough part, of that of the smooth one at u = 1
JITTER = 1e-10  # the same, for the sake of Cholesky's decomposition
UNIT = 1 / 20  # variance of the smooth part at u = 1


def spline(x: Sequence[float], taylor: Sequence[float], nodes: Sequence[tuple[float, float]]) -> np.ndarray:
    """Mean and standard deviation of the curve at x, [2, len(x)].

    Args:
        x: distances, 0 or more.
        taylor: f(0), f'(0), f''(0) / 2.
        nodes: (s > 0, f(s)), one or more, all finite.

    Example:
        >>> mean, std = spline([0.5, 1.0], [1.0, -2.0, 1.0], [(2.0, 1.0)])  # (s - 1)^2
        >>> mean.round(6).tolist(), bool(std.max() < 1e-6)
        ([0.25, 0.0], True)
    """
    s, y = np.array(nodes, float).T
    reach = max(s.max(), np.max(x))
    start, slope, curvature = taylor[0], taylor[1] * reach, 2 * taylor[2] * reach**2
    u, v = _warped(s / reach), _warped(np.asarray(x, float) / reach)  # [c, n], [c, len(x)]
    speed = SCALES * np.log1p(1 / SCALES)  # ds / du at 0
    slope, curvature = slope * speed, (curvature * SCALES**2 + slope * SCALES) * np.log1p(1 / SCALES) ** 2

    def known(u: np.ndarray) -> np.ndarray:
        return start + slope[:, None] * u + curvature[:, None] * u**2 / 2

    rest = y - known(u)
    size = np.abs(rest).max() or 1.0  # squares stay finite
    rough = ROUGHNESS[:, None] * UNIT
    noise = (rough[..., None] + JITTER * UNIT) * np.eye(len(s))
    among = _covariance(u, u)[:, :, None] + noise  # [c, free, rough, n, n]
    across = _covariance(u, v)[:, :, None]
    alone = np.diagonal(_covariance(v, v), axis1=-2, axis2=-1)[:, :, None]
    root = np.linalg.cholesky(among)
    white = np.linalg.solve(root, (rest / size)[:, None, None, :, None])
    weights = np.linalg.solve(root, np.broadcast_to(across, (*root.shape[:3], *across.shape[3:])))
    variance = np.square(white).mean((-2, -1), keepdims=True)[..., 0]  # of the third derivative, its best estimate
    mean = known(v)[:, None, None] / size + (weights * white).sum(-2)  # in units of `size`, as all that follows
    left = np.maximum(alone - np.square(weights).sum(-2), 0) + rough  # what the nodes do not tell
    spread = variance * (1 + 1 / len(s)) * left

    fit = -len(s) / 2 * np.log(np.maximum(variance[..., 0], 1e-300))
    fit = fit - np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(-1)  # log marginal likelihood, [c, free, rough]
    share = np.exp(fit - fit.max())[..., None]
    share = share / share.sum()
    average = (share * mean).sum((0, 1, 2))
    deviation = np.sqrt((share * (spread + (mean - average) ** 2)).sum((0, 1, 2)))
    return size * np.stack([average, deviation])


def _warped(s: np.ndarray) -> np.ndarray:
    """u = log(1 + s / c) / log(1 + 1 / c) for every c, [c, n]"""
    return np.log1p(s / SCALES[:, None]) / np.log1p(1 / SCALES)[:, None]


def _covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the curve at a and at b, for unit noise in the third derivative, [c, free, len(a), len(b)]: the integral of
    (a - t)^2 (b - t)^2 / 4 from 0 to the smaller of the two, and a^2 b^2 / 4 for a free curvature."""
    a, b = a[:, :, None], b[:, None, :]
    low, gap = np.minimum(a, b), np.abs(a - b)
    smooth = low**5 / 20 + gap * low**4 / 8 + gap**2 * low**3 / 12
    return smooth[:, None] + FREE_CURVATURE[:, None, None] * ((a * b) ** 2 / 4)[:, None]
