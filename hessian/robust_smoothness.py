"""Smoothness of a two-class model, and what is left of it without its steepest coordinates.

For example i, with p its predicted probability and z0, z1 its two scores,

    g_i = sqrt(p (1 - p)) (grad z0 - grad z1)         rows of G, [n, P]
    smoothness        = ||G||_2^2,  the largest eigenvalue of the Gauss-Newton matrix G'G, a sum over examples
    robust smoothness = the same without the columns whose norm exceeds twice the mean column norm

as the code released with arXiv:2306.00204 measures it (`hessian_utils.py`). Its Theorem 1 supposes that removing a
fraction of the coordinates leaves a much smaller value.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from curvature.memory import retried
from curvature.objective import Batch, LossFunction, Params

STEEP = 2.0  # columns longer than this many mean column norms are removed
RANDOM_SHARE = 0.02  # of the columns, removed at random as a control
CHUNK = 2**27  # numbers of G that are held at once: half a gigabyte


@dataclass(frozen=True)
class RobustSmoothness:
    """The three values, of G'G summed over `examples`, and what was removed."""

    examples: int
    coordinates: int  # columns of G
    smoothness: float
    robust_smoothness: float
    removed_share: float  # of the columns, for the robust value
    random_smoothness: float  # without `RANDOM_SHARE` of the columns, drawn at random


def robust_smoothness(
    loss_fn: LossFunction, params: Params, batches: Sequence[Batch], names: Collection[str], generator: torch.Generator
) -> RobustSmoothness:
    """Smoothness over the examples of `batches` and the coordinates of the tensors `names`.

    A row follows from the gradient of the example's own cross-entropy l = -log p_y alone: it is
    sqrt(p_y / (1 - p_y)) grad l, up to its sign, which changes no eigenvalue. Costs two backward passes per example,
    and one more for each further `CHUNK` of G; G itself is never held.

    Args:
        loss_fn: per-example cross-entropies [B] of a model of two classes.
        batches: every entry holds its examples along the first dimension.
        generator: draws the columns of the control.
    """
    names = [name for name in params if name in set(names)]
    examples = sum(len(next(iter(batch.values()))) for batch in batches)
    squares = {name: torch.zeros_like(params[name], dtype=torch.float64) for name in names}
    for row in rows(loss_fn, params, batches, names):
        for name, g in row.items():
            squares[name] += g.double().square()
    column_norms = torch.cat([square.sqrt().flatten() for square in squares.values()])
    steep = column_norms > STEEP * column_norms.mean()
    drawn = torch.rand(len(column_norms), generator=generator).to(steep.device) < RANDOM_SHARE
    grams = torch.zeros(3, examples, examples, dtype=torch.float64, device=steep.device)
    left, start, numbers = list(names), 0, CHUNK

    def rest() -> None:
        nonlocal start
        while left:
            part = next(chunks(left, params, numbers // max(examples, 1)))
            flat = [torch.cat([g.flatten() for g in row.values()]) for row in rows(loss_fn, params, batches, part)]
            g = torch.stack(flat).double()  # [n, columns of the part]
            stop = start + g.shape[1]
            masks = (None, steep[start:stop], drawn[start:stop])
            kept = (g if removed is None else g[:, ~removed] for removed in masks)
            products = [k @ k.T for k in kept]  # the largest eigenvalue of k k' is that of k' k
            for gram, own in zip(grams, products, strict=True):
                gram += own
            start = stop
            del left[: len(part)]

    def fewer() -> str | None:
        nonlocal numbers
        if len(next(chunks(left, params, numbers // max(examples, 1)))) < 2:
            return None
        numbers //= 2
        return f"the robust smoothness of {numbers} numbers at once"

    retried(rest, fewer)
    smoothness, robust, random = (torch.linalg.eigvalsh(gram)[-1].item() for gram in grams)
    return RobustSmoothness(examples, len(steep), smoothness, robust, steep.double().mean().item(), random)


def rows(
    loss_fn: LossFunction, params: Params, batches: Sequence[Batch], names: Sequence[str]
) -> Iterator[dict[str, Tensor]]:
    """The rows of G over the tensors `names`, one per example, up to their signs."""
    leaves = {name: p.detach().requires_grad_(name in names) for name, p in params.items()}
    for batch in batches:
        for i in range(len(next(iter(batch.values())))):
            with torch.enable_grad():
                loss = loss_fn(leaves, {name: value[i : i + 1] for name, value in batch.items()}).sum()
            gradients = torch.autograd.grad(loss, [leaves[name] for name in names], materialize_grads=True)
            cross_entropy = loss.detach().double()
            weight = torch.sqrt(torch.exp(-cross_entropy) / -torch.expm1(-cross_entropy))
            yield {name: (weight * g).to(g) for name, g in zip(names, gradients, strict=True)}


def chunks(names: Sequence[str], params: Params, most: int) -> Iterator[list[str]]:
    """The names in groups of at most `most` elements, or of one tensor."""
    part: list[str] = []
    size = 0
    for name in names:
        if part and size + params[name].numel() > most:
            yield part
            part, size = [], 0
        part.append(name)
        size += params[name].numel()
    if part:
        yield part
