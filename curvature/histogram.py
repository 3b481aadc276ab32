"""How the magnitudes of a direction's coordinates are distributed."""

import numpy as np
import torch
from torch import Tensor

from curvature.memory import retried
from curvature.objective import Params
from curvature.products import is_free_to_read


def update_histogram(direction: Params) -> list[tuple[float, float, int]]:
    """How the coordinates' magnitudes |v_i| are distributed: [(bin_low, bin_high, count)], three bins per decade from
    1e-16 to 1e4 (arXiv:2306.00204, fig. 1). The first bin starts at 0; the last also holds what is larger."""
    bounds = [0.0, *np.logspace(-16, 4, 61).tolist()]
    size = 2**24  # coordinates at once

    def fewer() -> str | None:
        nonlocal size
        size //= 2
        return f"{size} coordinates of a histogram at once" if size else None

    total = retried(lambda: _counts(direction, bounds, size), fewer)
    return list(zip(bounds[:-1], bounds[1:], total, strict=True))


def _counts(direction: Params, bounds: list[float], size: int) -> list[int]:
    """How many coordinates lie between each two of the bounds, `size` of them looked at together."""
    total = np.zeros(len(bounds) - 1, dtype=np.int64)
    for device in dict.fromkeys(v.device for v in direction.values()):
        edges = torch.tensor(bounds, dtype=torch.float64, device=device)
        counts = torch.zeros(len(total), dtype=torch.int64, device=device)
        for v in (v for v in direction.values() if v.device == device):
            for part in v.detach().flatten().split(size):
                # a bin holds low <= |v_i| < high
                place = torch.bucketize(part.abs().double(), edges, right=True) - 1
                counts += _occurrences(place.clamp_(0, len(counts) - 1), len(counts))
        total += counts.tolist()  # the only wait
    return total.tolist()


def _occurrences(places: Tensor, count: int) -> Tensor:
    """How often each of 0 ... count - 1 occurs, [count]; `count` is at most 255. On a GPU `bincount` would wait."""
    if is_free_to_read(places):
        return torch.bincount(places, minlength=count)
    ends = torch.arange(count + 1, dtype=torch.uint8, device=places.device)
    return torch.searchsorted(places.to(torch.uint8).sort().values, ends).diff()
