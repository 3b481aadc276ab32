"""Shares of slope and sharpness, beside the blocks of a full Hessian and sums that are known."""

import math
from collections import Counter

import pytest
import torch
from torch import nn

from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.objective import Objective
from hessian.tensor_names import grouped
from landscape.cross_checks import full_hessian
from landscape.decomposition import decompose
from landscape_core.measurement import quadratic_models
from runs.tables import read_table
from tests.helpers.stored_runs import LANDSCAPE, landscape
from tests.helpers.task_examples import objective_of_t5
from tests.helpers.tiny_models import random_direction


@pytest.fixture(scope="module")
def objective():
    return objective_of_t5()


@pytest.fixture(scope="module")
def directions(objective):
    return {name: Direction(random_direction(objective.params, seed)) for name, seed in (("sgd", 1), ("adam", 2))}


@pytest.fixture(scope="module")
def hessian(objective):
    with measuring(objective.model):
        return full_hessian(objective.loss_fn, objective.params, objective.batches)


@pytest.mark.parametrize("grouping", ["kind", "layer"])
def test_shares_are_those_of_the_full_hessians_blocks(objective, directions, hessian, grouping):
    contributions = {(c.label, c.group): c for c in decompose(directions, objective, grouping)}
    groups = grouped(objective.params, grouping)
    assert len(groups) > 3 and contributions.keys() == {(label, group) for label in directions for group in groups}
    owner = [group for name, p in objective.params.items() for group in [_group_of(name, groups)] * p.numel()]
    for (label, group), c in contributions.items():
        v = torch.cat([t.flatten() for t in directions[label].values()])
        own = torch.tensor([o == group for o in owner])
        square = v.dot(v).item()
        within = (v * own) @ hessian @ (v * own) / square
        whole = (v * own) @ hessian @ v / square
        assert c.within == pytest.approx(within.item(), rel=1e-8, abs=1e-10)
        assert c.cross == pytest.approx((whole - within).item(), rel=1e-8, abs=1e-10)
        assert c.step_share == pytest.approx(((v * own).square().sum() / square).item())
        assert c.parameters == own.sum().item()


def _group_of(name, groups):
    return next(group for group, names in groups.items() if name in names)


@pytest.mark.parametrize("grouping", ["kind", "layer"])
def test_they_sum_to_slope_and_sharpness(objective, directions, grouping):
    with measuring(objective.model):
        whole = quadratic_models(directions, objective)
    for label, model in whole.items():
        parts = [c for c in decompose(directions, objective, grouping) if c.label == label]
        assert math.fsum(c.slope for c in parts) == pytest.approx(model.slope, rel=1e-6)
        assert math.fsum(c.within + c.cross for c in parts) == pytest.approx(model.sharpness, rel=1e-6)
        assert math.fsum(c.step_share for c in parts) == pytest.approx(1)


class Product(nn.Module):
    """f = x a b, a in one layer and b in another."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
        with torch.no_grad():
            self.layers[0].weight.fill_(3.0)
            self.layers[1].weight.fill_(5.0)

    def forward(self, x):
        return self.layers[1](self.layers[0](x))


def test_what_two_groups_make_together_counts_half_in_each():
    """f = a b at (3, 5) along (1, 2): g = (5, 3), H = [[0, 1], [1, 0]], |v|^2 = 5."""
    objective = Objective(Product().double(), lambda forward, batch: forward(batch["x"]).flatten(),
                          [{"x": torch.ones(2, 1, dtype=torch.float64)}])  # fmt: skip
    names = ["layers.0.weight", "layers.1.weight"]
    v = Direction(dict(zip(names, torch.tensor([[[1.0]], [[2.0]]]).double(), strict=True)))
    first, second = decompose({"sgd": v}, objective, "layer")
    assert (first.group, second.group) == ("layers.0", "layers.1")
    assert [first.slope, second.slope] == pytest.approx([5 / 5**0.5, 6 / 5**0.5])
    assert [first.within, second.within] == [0, 0]
    assert [first.cross, second.cross] == pytest.approx([2 / 5, 2 / 5])  # together 4 / 5 = v'Hv / |v|^2
    assert [first.step_share, second.step_share] == pytest.approx([0.2, 0.8])


def test_a_step_that_is_zero_in_a_group_has_no_share_there(objective, directions):
    layer = "decoder.block.0"
    v = Direction({n: t if n.startswith(layer) else torch.zeros_like(t) for n, t in directions["sgd"].items()})
    still = Direction({n: torch.zeros_like(t) for n, t in v.items()})
    for c in decompose({"sgd": v, "none": still}, objective, "layer"):
        assert c.label == "sgd", "a step without a length has no shares"
        if c.group == layer:
            assert c.step_share == pytest.approx(1) and c.cross == pytest.approx(0, abs=1e-9) and c.within != 0
        else:
            assert (c.slope, c.within, c.cross, c.step_share) == (0, 0, 0, 0)


@pytest.mark.usefixtures("tiny_task")
def test_the_tables_of_a_run_sum_to_its_sharpness_table(tmp_path):
    assert landscape(*LANDSCAPE, "--dtype", "float64", "--output_dir", tmp_path / "run") == 0
    tables = {name: read_table(tmp_path / "run" / f"{name}.csv") for name in ("sharpness", "decomposition", "classes")}

    def sums(table, columns):
        found = {}
        for row in tables[table]:
            total = found.setdefault((row["iteration"], row["algorithm"], row.get("measured_on", "test")), Counter())
            for name in columns:
                total["sharpness" if name in ("within", "cross") else name] += row[name]
        return found

    whole = sums("sharpness", ["loss", "slope", "sharpness"])
    groups = sums("decomposition", ["slope", "within", "cross"])
    classes = sums("classes", ["loss", "slope", "sharpness"])
    assert groups.keys() == whole.keys() and classes.keys() == {place for place in whole if place[2] == "test"}
    for place, numbers in [*groups.items(), *classes.items()]:
        assert dict(numbers) == pytest.approx({name: whole[place][name] for name in numbers}, rel=1e-6)
