"""Coordinate-wise clipping of the largest magnitudes, the one implementation that every optimizer calls.

    tau = |g|_(floor(k n)),  the magnitude at that index when all n are sorted in descending order
    c   = sign(g) min(|g|, tau)                                        [Pan & Li, arXiv:2306.00204]

The n magnitudes are those of all tensors together. They are not sorted: two entries of a small sample bracket tau. One
pass over the data counts what lies above the bracket and collects what lies inside it. tau is picked among those few.
The counts prove the answer; where they do not (constants, repeated values, a sample that was not typical) a slower
exact selection takes over. So tau is always an entry of the data, never an estimate.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

SAMPLE_SIZE = 2**18
PIECE_SIZE = {"cpu": 2**17}  # elements handled at once: on a CPU what its cache holds, elsewhere what memory allows
LARGE_PIECE = 2**26


def clip_threshold(tensors: Sequence[Tensor], fraction: float) -> float:
    """Magnitude at index int(n * fraction) of the n magnitudes in `tensors`, in descending order.

    Exact in every floating dtype. A NaN counts in n but ranks below every number, so it can never be the threshold.
    Random state is left alone. On an accelerator the host waits five times, whatever the number of tensors.

    Args:
        tensors: any shapes, floating dtypes and devices; only their magnitudes count.
        fraction: part of the n coordinates to set aside, in [0, 1).

    Returns: the threshold, in the tensors' unit; inf where there is no number at all to rank.
    Raises: ValueError if `fraction` is outside [0, 1).

    Example:
        >>> clip_threshold([torch.tensor([4.0, -1.0]), torch.tensor([[-3.0], [2.0]])], fraction=0.25)
        3.0
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), got {fraction}")
    flats = [_flat(t) for t in tensors if t.numel()]
    n = sum(t.numel() for t in flats)
    rank = int(n * fraction)
    if n <= 2 * SAMPLE_SIZE:
        return _select(flats, rank)

    low, high = _bracket(_sample(flats, n), fraction)
    counts_above_low, inside = zip(*_count_and_collect(flats, low, high), strict=True)
    inside = torch.cat([m.to(flats[0].device) for m in inside])
    above_low = total_count(counts_above_low)
    above_inside = above_low - inside.numel()  # how many are >= high
    if above_inside <= rank < above_low:
        return _nth_largest(inside, rank - above_inside)

    # tau is one of the bracket's ends, repeated, or the sample misled us
    if rank < above_inside and total_count([torch.count_nonzero(m > high) for m in _magnitudes(flats)]) <= rank:
        return high
    if rank >= above_low and total_count([torch.count_nonzero(m >= low) for m in _magnitudes(flats)]) > rank:
        return low
    return _select(flats, rank)


def clip(tensor: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
    """sign(x) min(|x|, threshold) coordinate by coordinate, as a new tensor or in `out`; NaN stays NaN.

    Example:
        >>> clip(torch.tensor([4.0, -1.0, -math.inf]), 2.0)
        tensor([ 2., -1., -2.])
    """
    if threshold > torch.finfo(tensor.dtype).max:  # tau of a wider dtype: nothing finite reaches it
        threshold = math.inf
    return torch.clamp(tensor, -threshold, threshold, out=out)


def _flat(tensor: Tensor) -> Tensor:
    """The entries in the order they lie in memory, which spares the copy of a transposed tensor."""
    by_stride = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.detach().permute(by_stride).reshape(-1)


def _common_dtype(flats: Sequence[Tensor]) -> torch.dtype:
    """One dtype in which all entries are exact and comparable."""
    return torch.float64 if any(t.dtype == torch.float64 for t in flats) else torch.float32


def _magnitudes(flats: Sequence[Tensor]) -> Iterator[Tensor]:
    """|entries| of all tensors, in pieces."""
    dtype = _common_dtype(flats)
    return (_joined(views, dtype) for views in _pieces(flats))


def _pieces(flats: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """One list of views per piece: large tensors are cut, small ones joined to be worth a kernel."""
    for device in dict.fromkeys(t.device for t in flats):
        size = PIECE_SIZE.get(device.type, LARGE_PIECE)
        held, count = [], 0
        for piece in (p for t in flats if t.device == device for p in t.split(size)):
            if held and count + piece.numel() > size:
                yield held
                held, count = [], 0
            held.append(piece)
            count += piece.numel()
        yield held


def _joined(views: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    values = views[0].to(dtype) if len(views) == 1 else torch.cat([v.to(dtype) for v in views])
    return torch.from_numpy(np.abs(values.numpy())) if numpy_reads(values) else values.abs()


def _sample(flats: Sequence[Tensor], n: int) -> Tensor:
    """About SAMPLE_SIZE magnitudes, evenly spaced over all entries."""
    stride = n // SAMPLE_SIZE
    if stride % 2 == 0:
        stride += 1  # rows often have an even length: an even stride would stay in the same columns
    taken, seen = [], 0
    for t in flats:
        first = (-seen) % stride  # continues where the tensor before ended
        taken.append(t[first::stride].to(flats[0].device, _common_dtype(flats)))
        seen += t.numel()
    return _nan_last(torch.cat(taken).abs_())


def _bracket(sample: Tensor, fraction: float) -> tuple[float, float]:
    """Two values with the data's order statistic strictly between them, were the sample a random one (four sigma)."""
    size = sample.numel()
    margin = 4 * math.sqrt(size * fraction * (1 - fraction)) + 4
    first, last = int(size * fraction - margin), math.ceil(size * fraction + margin)
    high = _nth_largest(sample, first) if first >= 0 else math.inf
    low = _nth_largest(sample, last) if last < size else -1.0
    return low, high


def _count_and_collect(flats: Sequence[Tensor], low: float, high: float) -> list[tuple[Tensor, Tensor]]:
    """Of parts of the data: how many magnitudes are > low (0-d), and those of them that are < high. NaN is neither."""
    if all(numpy_reads(t) for t in flats):  # other threads would leave the caller's CUDA stream
        pieces, workers = list(_pieces(flats)), torch.get_num_threads()
        with ThreadPoolExecutor(workers) as pool:
            parts = [pieces[i::workers] for i in range(workers)]
            return list(pool.map(lambda part: _count_and_collect_numpy(part, _common_dtype(flats), low, high), parts))
    counted = []
    for m in _magnitudes(flats):
        above_low = m > low
        counted.append((torch.count_nonzero(above_low), m[above_low.logical_and_(m < high)]))
    return counted


def _count_and_collect_numpy(
    pieces: Sequence[Sequence[Tensor]], dtype: torch.dtype, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """The same on a CPU. There NumPy compares and gathers several times faster than torch, most of all when its output
    stays in the cache."""
    count, inside = 0, []
    size = max((sum(v.numel() for v in views) for views in pieces), default=0)
    magnitudes = torch.empty(size, dtype=dtype).numpy()
    above_low, below_high = np.empty((2, size), dtype=bool)
    for views in pieces:
        x = (views[0] if len(views) == 1 else torch.cat([v.to(dtype) for v in views])).to(dtype).numpy()
        n = len(x)
        m = np.abs(x, out=magnitudes[:n])
        above = np.greater(m, low, out=above_low[:n])
        below = np.less(m, high, out=below_high[:n])
        count += np.count_nonzero(above)
        inside.append(m.compress(np.logical_and(above, below, out=below)))
    return torch.tensor(count), torch.from_numpy(np.concatenate([magnitudes[:0], *inside]))


def _select(flats: Sequence[Tensor], rank: int) -> float:
    """The same order statistic from all entries at once."""
    if not flats:
        return math.inf
    values = torch.cat([m.to(flats[0].device) for m in _magnitudes(flats)])
    numbers = total_count([torch.count_nonzero(values >= 0)])
    return _nth_largest(_nan_last(values), min(rank, numbers - 1)) if numbers else math.inf


def _nan_last(magnitudes: Tensor) -> Tensor:
    return magnitudes.masked_fill_(magnitudes.isnan(), -1.0)


def _nth_largest(values: Tensor, rank: int) -> float:
    index = values.numel() - 1 - rank
    if numpy_reads(values):
        return np.partition(values.numpy(), index)[index].item()
    return values.sort().values[index].item()  # torch.kthvalue keeps only one block of a GPU busy


def numpy_reads(tensor: Tensor) -> bool:
    """Whether NumPy, which is faster on a CPU, sees the tensor without a copy."""
    return tensor.is_cpu


def total_count(counts: Sequence[Tensor]) -> int:
    """Their sum. The host waits once for each device."""
    return int(sum(torch.stack([c for c in counts if c.device == d]).sum().item() for d in {c.device for c in counts}))
