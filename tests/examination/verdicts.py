"""Whether slope and curvature of a loss are right, by routes that share nothing."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from curvature import NotTraceable, vhv_by_recording
from curvature.borrowing import KeepPrecision
from curvature.direction import norm
from curvature.objective import Batch, Derivatives, LossFunction, Params
from landscape_utils import directional_sharpness, vhv_by_double_backward

KINDS = "right", "fallback", "wrong", "crash"


@dataclass(frozen=True)
class Verdict:
    """kind: "right" (the fast route agrees with the others), "fallback" (it refused, and double backward agrees with
    differences of the loss), "wrong", or "crash" (an error instead of an answer)."""

    name: str
    kind: str
    detail: str = ""
    single: float = math.nan  # relative error of the curvature in float32, where it was measured


def examine(name: str, loss_fn: LossFunction, params: Params, batch: Batch, rtol: float = 1e-4) -> Verdict:
    """In float64, along a random direction. `rtol`: for the differences of the loss, which are taken at several
    distances, of which one has to agree: a network with kinks needs short ones, a flat one long ones."""
    direction = random_direction(params)
    try:
        with KeepPrecision():
            fast, refusal = None, ""
            try:
                fast = vhv_by_recording(loss_fn, params, [direction], batch)
            except NotTraceable as error:
                refusal = str(error)
            if fast and not all(torch.isfinite(t).all() for t in fast[:3]):
                fast, refusal = None, "not finite"
            try:
                reference = vhv_by_double_backward(loss_fn, params, [direction], batch)
            except ValueError as error:
                if not fast:
                    return Verdict(name, "fallback", f"{refusal}; {error}")
                reference = fast  # torch cannot do it; the differences stay
            if fast and not stacked_agrees(loss_fn, params, direction, batch, fast):
                return Verdict(name, "wrong", "stacked with another direction, its numbers differ")
            fast = fast or reference
            if not torch.isfinite(reference.curvatures).all():
                return Verdict(name, "fallback", f"{refusal}: not finite by double backward, either")
            (measured,) = directional_sharpness(loss_fn, params, [direction], [batch])
            if not differences_agree(loss_fn, params, direction, batch, (measured.slope, measured.sharpness), rtol):
                return Verdict(name, "wrong", "differences of the loss disagree")
    except Exception as error:  # whatever a user would meet
        return Verdict(name, "crash", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
    for found, expected in zip(fast[1:3], reference[1:3], strict=True):
        if not torch.allclose(found, expected, rtol=1e-7, atol=1e-10 * abs(reference[0]).sum().item()):
            return Verdict(name, "wrong", f"{found.item()} for double backward's {expected.item()}")
    return Verdict(name, "fallback" if refusal else "right", refusal)


def random_direction(params: Params, seed: int = 7) -> Params:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for n, p in params.items()}


def stacked_agrees(loss_fn: LossFunction, params: Params, direction: Params, batch: Batch, alone: Derivatives) -> bool:
    """Whether the direction has the numbers `alone` when another one is pushed with it. Caches of the model may refuse
    a second recording, which is its affair."""
    try:
        derivatives = vhv_by_recording(loss_fn, params, [random_direction(params, 8), direction], batch, together=2)
    except NotTraceable:
        return True
    scale = torch.stack([alone.slopes.abs(), alone.magnitudes])[:, 0]
    pairs = torch.stack([derivatives.slopes[1] - alone.slopes[0], derivatives.curvatures[1] - alone.curvatures[0]])
    return bool((pairs.abs() <= 1e-12 * scale + 1e-14 * alone.losses.abs().sum()).all())


@torch.no_grad()
def differences_agree(
    loss_fn: LossFunction, params: Params, direction: Params, batch: Batch, found: tuple[float, float], rtol: float
) -> bool:
    length = norm(direction)

    def loss(distance: float) -> float:
        moved = {n: p + distance / length * direction[n] for n, p in params.items()}
        return loss_fn(moved, batch).mean().item()

    at, slope, sharpness = loss(0), *found
    agreed = [False, False]
    for h in (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5):
        up, down, up2, down2 = loss(h), loss(-h), loss(2 * h), loss(-2 * h)
        by_slope = (8 * (up - down) - (up2 - down2)) / (12 * h)
        by_sharpness = (16 * (up + down) - (up2 + down2) - 30 * at) / (12 * h * h)
        rounding = 4e-15 * max(abs(at), 1e-12)
        agreed[0] |= abs(by_slope - slope) <= rtol * abs(slope) + rounding / h
        agreed[1] |= abs(by_sharpness - sharpness) <= rtol * abs(sharpness) + min(rounding / h**2, 1e-6)
    return all(agreed)


def summary(verdicts: Iterable[Verdict]) -> str:
    verdicts = list(verdicts)
    counts = Counter(v.kind for v in verdicts)
    lines = [f"{len(verdicts)} examined: " + ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)]
    lines += [f"{v.kind}  {v.name}: {v.detail}" for v in verdicts if v.kind != "right"]
    return "\n".join(lines)
