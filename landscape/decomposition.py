"""Where slope and sharpness of a step sit: the share of each layer, or of each kind of tensor.

With v_b the step v within group b and zero elsewhere, g the gradient and H the Hessian,

    g'v  =  sum_b g_b'v_b
    v'Hv =  sum_b v_b'H_bb v_b  +  sum_b cross_b,      cross_b = v_b'Hv - v_b'H_bb v_b = sum over c != b of v_b'H_bc v_c

So a group owns its row of the Hessian's blocks: what it bends by itself, and what it bends together with the others. A
term that two groups make together counts half in each. The sums over the groups are the within-layer and cross-layer
parts of arXiv:2606.04662.

v_b'H_bb v_b costs as many operations as the group reaches, two to three forward passes at most (`Direction.part`). All
v_b'Hv of a step cost one Hessian-vector product together, and all g_b'v_b one gradient. The six layers of the toy model
took 8.8 forward passes per step, where zeros elsewhere would have taken 17.3, and the Hessian-vector product 6.4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from curvature.borrowing import measuring, twice_differentiable, within_memory
from curvature.direction import Direction
from curvature.gradient_graph import GradientGraph
from curvature.objective import Batch, Objective, halves
from curvature.operation import inner
from hessian.tensor_names import grouped
from landscape.measurements import BAR
from landscape.sharded import at_hand
from landscape_core.measurement import quadratic_models
from runs.messages import progress


@dataclass(frozen=True)
class Contribution:
    """What one group of tensors adds to slope and sharpness along v / |v|. Over the groups, `slope` sums to the slope,
    and `within` and `cross` together to the sharpness."""

    label: str  # of the algorithm
    group: str
    parameters: int  # elements of its tensors
    step_share: float  # |v_b|^2 / |v|^2
    slope: float  # g_b'v_b / |v|
    within: float  # v_b'H_bb v_b / |v|^2
    cross: float  # (v_b'Hv - v_b'H_bb v_b) / |v|^2


def decompose(directions: Mapping[str, Direction], objective: Objective, grouping: str) -> list[Contribution]:
    """As `contributions_of`, where other ranks may have some of the directions."""
    return [each for group in at_hand(directions) for each in contributions_of(group, objective, grouping)]


def contributions_of(directions: Mapping[str, Direction], objective: Objective, grouping: str) -> list[Contribution]:
    """The contribution of every group to every direction that has a length.

    Args:
        directions: label -> update direction.
        grouping: "layer" or "kind", as `hessian.tensor_names` tells them from the tensors' names.

    Raises: FloatingPointError where loss or gradient is not finite.
    """
    directions = {label: v for label, v in directions.items() if v.has_length}
    groups = grouped(objective.params, grouping)
    with measuring(objective.model):
        parts = {(label, group): v.part(names) for label, v in directions.items() for group, names in groups.items()}
        alone = quadratic_models(parts, objective, BAR)
        together = slopes_and_curvatures(directions, groups, objective)  # [directions, 2, groups]
    contributions = []
    for (label, v), (slopes, curvatures) in zip(directions.items(), together.tolist(), strict=True):
        for (group, names), slope, curvature in zip(groups.items(), slopes, curvatures, strict=True):
            part = parts[label, group]
            share = (part.length / v.length) ** 2
            within = alone[label, group].sharpness * share if part.has_length else 0.0
            size = sum(objective.params[name].numel() for name in names)
            contributions.append(Contribution(label, group, size, share, slope, within, curvature - within))
    return contributions


def slopes_and_curvatures(
    directions: Mapping[str, Direction], groups: Mapping[str, Sequence[str]], objective: Objective
) -> Tensor:
    """g_b'v_b / |v| and v_b'Hv / |v|^2, [directions, 2, groups] in float64, by double backward."""

    def along(batches: list[Batch]) -> Tensor:
        rows = objective.ranks.rows(of_batch, batches, partial(progress, desc="decomposition", leave=False))
        examples, total = 0.0, torch.zeros(len(directions), 2, len(groups), dtype=torch.float64)
        for row in rows.flatten(0, 1):
            examples += row[0].item()
            total += row[1:].view_as(total)
        return total / examples

    def of_batch(batch: Batch) -> Tensor:
        """[halves, 1 + directions * 2 * groups]: examples, and the sums over them"""
        sums = torch.zeros(2, 1 + len(directions) * 2 * len(groups), dtype=torch.float64)
        for row, part in zip(sums, halves(batch, objective.per_example), strict=False):
            with twice_differentiable():  # one graph is held at a time
                graph = GradientGraph(
                    objective.loss_fn, objective.params, [part], list(objective.params), keep_graphs=True
                )
                along = [_by_group(graph, v.tangent(objective.params), groups) for v in directions.values()]
            row[0] = graph.examples
            row[1:] = graph.examples * torch.stack(along).cpu().flatten()
        return sums

    if not directions:
        return torch.zeros(0, 2, len(groups))
    return within_memory(along, objective.batches, objective.per_example)


def _by_group(graph: GradientGraph, v: Direction, groups: Mapping[str, Sequence[str]]) -> Tensor:
    """[2, groups]"""
    hv = graph.product(v)

    def dots(left: Mapping[str, Tensor]) -> Tensor:
        by_tensor = {name: inner(left[name], v[name].to(left[name])).double() for name in v}
        return torch.stack([torch.stack([by_tensor[name] for name in names]).sum() for names in groups.values()])

    return torch.stack([dots(graph.gradients) / v.length, dots(hv) / v.length**2])
