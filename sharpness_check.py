"""The measured numbers beside numbers that were found another way: rounding errors, and --check_sharpness's tables."""

import math

import numpy as np
import torch

from landscape_utils import (
    PseudoUpdates,
    central_differences,
    check_sharpness,
    directional_derivatives,
    reverse_over_reverse,
    unit,
)
from measuring import Batch, Objective, Params, measuring, objective_at
from results import format_table
from torch_optimizer import Algorithm


def rounding_errors(directions: dict[str, Params], objective: Objective, task, examples: int = 2) -> list[float]:
    """How far float32 arithmetic may put each directional sharpness off, in the same unit; NaN without a length.

    On a few single examples of the test batch, e is the sharpness in float32 minus that in float64. The estimate is
    sqrt(mean(e)^2 + var(e) / n): what the examples have in common stays in the mean over the whole test batch, and what
    they do not have in common shrinks at least as far.
    """
    places = [(batch, i) for batch in objective.batches for i in range(len(next(iter(batch.values()))))]
    places = places[:: max(1, len(places) // examples)][:examples]
    singles = [{name: t[i : i + 1] for name, t in batch.items()} for batch, i in places]
    exact = objective_at(task.model, task.losses, [in_float64(one) for one in singles], torch.float64)
    vectors = list(directions.values())
    differences = []  # [n][K]
    for one, same in zip(singles, exact.batches, strict=True):
        with measuring(objective.model):
            rounded = directional_derivatives(objective.loss_fn, objective.params, vectors, [one])
        with measuring(exact.model):
            true = directional_derivatives(exact.loss_fn, exact.params, vectors, [same])
        differences.append([r.sharpness - t.sharpness for r, t in zip(rounded, true, strict=True)])
    e = np.array(differences)
    spread = e.std(axis=0, ddof=1) / math.sqrt(len(e)) if len(e) > 1 else 0.0
    return np.hypot(e.mean(axis=0), spread).tolist()


def in_float64(batch: Batch) -> Batch:
    return {name: t.double() if t.is_floating_point() else t for name, t in batch.items()}


def check_on_tiny_model(task, algorithms: dict[str, Algorithm]) -> str:
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


def check_at_point(directions: dict[str, Params], objective: Objective, task) -> str:
    """At a measured point: the whole test batch in float64 by reverse-over-reverse; and one example alone beside loss
    values. (More examples would put too many kinks of a ReLU network inside the differences; v'Hv does not see them.)

    `objective` is as it was measured; directions without a length are left out.
    """
    directions = {label: v for label, v in directions.items() if unit(v) is not None}
    vectors = list(directions.values())
    with measuring(objective.model):
        found = directional_derivatives(objective.loss_fn, objective.params, vectors, objective.batches)
    exact = objective_at(task.model, task.losses, [in_float64(b) for b in objective.batches], torch.float64)
    one = [{name: tensor[:1] for name, tensor in exact.batches[0].items()}]
    rows = []
    with measuring(exact.model):
        units = [unit(v, like=exact.params) for v in vectors]
        parts = [reverse_over_reverse(exact.loss_fn, exact.params, units, batch) for batch in exact.batches]
        examples = sum(len(losses) for losses, _, _ in parts)
        by_float64 = sum(curvatures for _, _, curvatures in parts) / examples
        alone = directional_derivatives(exact.loss_fn, exact.params, vectors, one)
        for k, label in enumerate(directions):
            slope, sharpness = central_differences(exact.loss_fn, exact.params, vectors[k], one, h=1e-5)
            rows.append({
                "algorithm": label, "measured": found[k].sharpness, "in float64": by_float64[k].item(),
                "one example": alone[k].sharpness, "differences": sharpness,
                "its slope": alone[k].slope, "by differences": slope,
            })  # fmt: skip
    title = (
        "Directional sharpness at the first measured point, beside reverse-over-reverse in float64;\n"
        "and of its first example alone, beside central differences of the float64 loss"
    )
    return f"{title}\n{format_table(rows, list(rows[0]))}"
