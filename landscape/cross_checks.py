"""Compare the measured numbers with the same numbers by other routes: the tables of --check_sharpness."""

from collections.abc import Sequence

import torch
from torch import Tensor

from curvature.borrowing import measuring, twice_differentiable, within_memory
from curvature.objective import Batch, LossFunction, Objective, Params, objective_at
from landscape_core.measurement import quadratic_models
from landscape_utils import Direction, PseudoUpdates, directional_sharpness, mean_loss, vhv_by_double_backward
from runs.tables import format_table
from tasks.base import Task
from torch_optimizer import Algorithm


def check_on_tiny_model(task: Task, algorithms: dict[str, Algorithm]) -> str:
    """Every algorithm's first step on a tiny float64 model of the task's architecture: v'Hv from its full Hessian."""
    model, losses, batch = task.tiny()
    model.double()
    losses(model, batch).mean().backward()
    directions = PseudoUpdates(dict(model.named_parameters()), algorithms).advance()
    tiny = objective_at(model, losses, [batch], torch.float64)
    with measuring(tiny.model):
        pairs = check_sharpness(tiny.loss_fn, tiny.params, list(directions.values()), tiny.batches)
    rows = [
        {"algorithm": label, "full Hessian": brute, "measured": ours, "relative error": abs(ours / brute - 1)}
        for label, (brute, ours) in zip(directions, pairs, strict=True)
    ]
    title = "Directional sharpness on a tiny model in float64: v'Hv / v'v from its full Hessian, and as it is measured"
    return f"{title}\n{format_table(rows, list(rows[0]))}"


def check_at_point(directions: dict[str, Direction], objective: Objective) -> str:
    """At a measured point: the whole test batch in float64 by double backward; and one example alone by loss values.
    (More examples would put too many kinks of a ReLU network inside the differences; v'Hv does not see them.)

    `objective` is as it was measured; directions without a length are left out.
    """
    directions = {label: v for label, v in directions.items() if v.has_length}
    vectors = list(directions.values())
    with measuring(objective.model):
        as_measured = list(quadratic_models(directions, objective).values())
    exact = objective.on(objective.batches, torch.float64)
    one = [{name: tensor[:1] for name, tensor in exact.batches[0].items()}]
    rows = []
    with measuring(exact.model):
        units = [v.unit(like=exact.params) for v in vectors]
        parts = within_memory(
            lambda batches: [vhv_by_double_backward(exact.loss_fn, exact.params, units, batch) for batch in batches],
            exact.batches,
            exact.per_example,
        )
        examples = sum(len(part.losses) for part in parts)
        by_float64 = sum(part.curvatures for part in parts) / examples
        alone = directional_sharpness(exact.loss_fn, exact.params, vectors, one)
        for k, label in enumerate(directions):
            slope, sharpness = central_differences(exact.loss_fn, exact.params, vectors[k], one, h=1e-5)
            rows.append(
                {
                    "algorithm": label,
                    "measured": as_measured[k].sharpness,
                    "in float64": by_float64[k].item(),
                    "one example": alone[k].sharpness,
                    "differences": sharpness,
                    "its slope": alone[k].slope,
                    "by differences": slope,
                }
            )
    title = (
        "Directional sharpness at the first measured point, beside double backward in float64;\n"
        "and of its first example alone, beside central differences of the float64 loss"
    )
    return f"{title}\n{format_table(rows, list(rows[0]))}"


# ---- other routes to the same numbers ------------------------------------------------------------------------------


def check_sharpness(
    loss_fn: LossFunction, params: Params, directions: Sequence[Params], batches: Sequence[Batch]
) -> list[tuple[float, float]]:
    """Directional sharpness by brute force and by the fast route: (v'Hv / v'v from the full Hessian, ours), per
    direction.

    The Hessian is formed column by column: for tiny models only.

    Raises: ValueError if the model has more than 20,000 parameters.
    """
    size = sum(p.numel() for p in params.values())
    if size > 20_000:
        raise ValueError(f"the full Hessian of {size:,} parameters does not fit; check_sharpness takes at most 20,000")
    hessian = full_hessian(loss_fn, params, batches)
    pairs = []
    for direction, ours in zip(directions, directional_sharpness(loss_fn, params, directions, batches), strict=True):
        v = torch.cat([direction[n].flatten() for n in params]).to(hessian)
        pairs.append(((v @ hessian @ v / (v @ v)).item(), ours.sharpness))
    return pairs


@torch.no_grad()
def central_differences(
    loss_fn: LossFunction, params: Params, direction: Params, batches: Sequence[Batch], h: float = 1e-3
) -> tuple[float, float]:
    """Slope and directional sharpness from loss values alone, at distances h and 2 h on both sides, extrapolated to
    fourth order. A route without automatic differentiation; its error is of order h^4 + eps / h^2: pass float64. A
    network of ReLUs has kinks, seen by these differences and not by v'Hv: h must be so small that none is near.
    """
    u = dict(Direction.of(direction).unit(like=params))
    f = {
        i: mean_loss(loss_fn, {n: torch.add(p, u[n], alpha=i * h) for n, p in params.items()}, batches)
        for i in (-2, -1, 0, 1, 2)
    }
    slope = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * h)
    sharpness = (16 * (f[1] + f[-1]) - (f[2] + f[-2]) - 30 * f[0]) / (12 * h**2)
    return slope, sharpness


def full_hessian(loss_fn: LossFunction, params: Params, batches: Sequence[Batch]) -> Tensor:
    """H [P, P] of the mean loss at `params`, by torch.func: a route that shares nothing with the one it checks."""
    names, shapes = list(params), [p.shape for p in params.values()]
    sizes = [p.numel() for p in params.values()]

    def mean(flat: Tensor) -> Tensor:
        pieces = [piece.view(shape) for piece, shape in zip(flat.split(sizes), shapes, strict=True)]
        with twice_differentiable():
            losses = [loss_fn(dict(zip(names, pieces, strict=True)), batch) for batch in batches]
        return torch.cat(losses).mean()

    flat = torch.cat([p.detach().flatten() for p in params.values()])
    return torch.func.jacrev(torch.func.jacrev(mean), chunk_size=256)(flat)
