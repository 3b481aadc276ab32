"""Scans from few evaluations: the same points as the full grid, their losses within 1 % of the curve's depth."""

import math

import numpy as np
import pytest
import torch

from curvature.interpolation import FullScan, ScanPoint, SparseScan, last_of_scan
from curvature.quadratic import QuadraticModel
from landscape_utils import scan_loss

GRID = [i * 0.1 for i in range(21)]


def scan_both(f, slope, curvature, grid=GRID):
    """(sparse points, full points, distances that the sparse scan evaluated) of f with these derivatives at 0."""
    asked = []

    def counted(s):
        asked.append(s)
        return f(s)

    sparse = SparseScan(counted, f(0.0), QuadraticModel(f(0.0), slope, curvature)).on(grid)
    return sparse, FullScan(f, f(0.0)).on(grid), asked


def error(sparse, full):
    """Largest difference of the losses, relative to the depth of the full scan; the distances must be the same."""
    assert [p.distance for p in sparse] == [p.distance for p in full]
    depth = full[0].loss - min(p.loss for p in full)
    return max(abs(a.loss - b.loss) for a, b in zip(sparse, full, strict=True)) / depth


# name: (f, f'(0), f''(0))
CURVES = {
    "a parabola": (lambda s: (s - 1) ** 2, -2.0, 2.0),
    "a quintic": (lambda s: 3 - s + 0.2 * s**2 + 0.1 * s**3 - 0.05 * s**4 + 0.02 * s**5, -1.0, 0.4),
    "a cosine": (lambda s: 2 + math.cos(2 * s + 0.5), -2 * math.sin(0.5), -4 * math.cos(0.5)),
    "a loss that falls for ever": (lambda s: math.exp(-s), -1.0, 1.0),
    "a softplus": (lambda s: math.log1p(math.exp(3 - 4 * s)) + s, None, None),
    "a steep fall before a wide bowl": (lambda s: math.exp(-40 * s) + (s - 1.2) ** 2, -42.4, 1602.0),
}


def derivatives(f, h=1e-4):
    return (f(h) - f(-h)) / (2 * h), (f(h) - 2 * f(0.0) + f(-h)) / h**2


@pytest.mark.parametrize("name", CURVES)
def test_a_sparse_scan_is_within_a_percent_of_the_depth(name):
    f, slope, curvature = CURVES[name]
    if slope is None:
        slope, curvature = derivatives(f)
    else:
        assert (slope, curvature) == pytest.approx(derivatives(f), rel=1e-2)
    sparse, full, asked = scan_both(f, slope, curvature)
    assert error(sparse, full) < 0.01
    assert len(asked) == len(set(asked)) == sum(p.evaluated for p in sparse[1:])


def test_smooth_curves_need_few_evaluations():
    counts = {name: len(scan_both(f, *(derivatives(f)))[2]) for name, (f, _, _) in CURVES.items()}
    assert counts["a parabola"] <= 5 and counts["a quintic"] <= 7
    assert np.mean(list(counts.values())) <= 8


def test_even_a_parabola_is_checked_across_its_grid():
    sparse, _, asked = scan_both(lambda s: (s - 0.7) ** 2, -1.4, 2.0)
    places = sorted(round(s / 0.1) for s in [0.0, *asked] if s <= sparse[-1].distance)
    assert np.diff(places).max() <= 6


@pytest.mark.parametrize("end", [11, 13, 15, 17, 19])
def test_where_the_loss_meets_its_start_again_it_is_evaluated(end):
    """There, the scan ends, or goes on."""
    low = 0.05 * end
    sparse, full, _ = scan_both(lambda s: (s - low) ** 2, -2 * low, 2.0)
    assert sparse[end].evaluated and len(sparse) == len(full)


def test_evaluated_points_have_the_loss_itself_and_interpolated_ones_say_so():
    f, slope, curvature = CURVES["a cosine"]
    sparse, _, asked = scan_both(f, slope, curvature)
    assert {p.distance for p in sparse if p.evaluated} == {0.0, *asked}
    assert all(p.loss == f(p.distance) for p in sparse if p.evaluated)
    assert any(not p.evaluated for p in sparse)


def test_a_rough_curve_is_evaluated_wherever_it_is_rough():
    def f(s):
        return (s - 1) ** 2 + 0.1 * (round(s * 10) % 2)  # jumps from one point of the grid to the next

    sparse, full, asked = scan_both(f, -2.0, 2.0)
    assert error(sparse, full) < 0.01 and len(asked) == len(full) - 1


def test_what_a_coarse_grid_evaluated_serves_the_finer_one():
    asked = []

    def f(s):
        asked.append(s)
        return (s - 1) ** 2

    scan = SparseScan(f, 1.0, QuadraticModel(1.0, -2.0, 2.0))
    scan.on([0.5 * i for i in range(21)])
    before = set(asked)
    fine = scan.on([0.1 * i for i in range(21)])
    assert len(asked) == len(set(asked))
    assert [p.loss for p in fine] == pytest.approx([(p.distance - 1) ** 2 for p in fine], abs=1e-7)
    assert set(asked[len(before) :]).isdisjoint(before)


def test_a_loss_that_is_not_finite_ends_the_scan_and_spoils_nothing():
    def f(s):
        return (s - 1) ** 2 if s < 1.55 else math.nan

    sparse, full, _ = scan_both(f, -2.0, 2.0)
    assert len(sparse) == len(full) == 18  # 1.6 is the first that does not stay below; one more
    assert [p.loss for p in sparse[:16]] == pytest.approx([(p.distance - 1) ** 2 for p in full[:16]], abs=1e-7)
    assert math.isnan(sparse[16].loss)


def test_the_scan_ends_one_point_after_the_start_was_exceeded():
    assert last_of_scan([1.0, 0.5, 1.2, 3.0, 4.0], 1.0) == 3
    assert last_of_scan([1.0, 0.5, 0.4], 1.0) == 2
    assert last_of_scan([1.0, math.nan, 0.4], 1.0) == 2
    assert FullScan(lambda s: 2.0, 1.0).on(GRID) == [ScanPoint(s, 1.0 if s == 0 else 2.0) for s in GRID[:3]]


@pytest.mark.parametrize("steep", [1.0, 3.0, 9.0, 27.0])
@pytest.mark.parametrize("coarse", [0.1, 2.0, 11.0, 60.0])
def test_a_sparse_scan_refines_its_grid_as_the_full_one_does(steep, coarse):
    def loss(params, batch):  # falls along a line at first, and rises all at once
        s = params["x"]
        return (1 - s - 0.005 * s**2 + torch.exp(steep * (s - 1)) - math.exp(-steep)).expand(1)

    params, step = {"x": torch.zeros((), dtype=torch.float64)}, {"x": torch.ones((), dtype=torch.float64)}
    quadratic = QuadraticModel(1.0, -1 + steep * math.exp(-steep), -0.01 + steep**2 * math.exp(-steep))
    problem = dict(start_loss=1.0, spacing=coarse, batches=[{}], refine=True)
    full = scan_loss(loss, params, step, **problem)
    few = scan_loss(loss, params, step, **problem, quadratic=quadratic)
    assert error(few, full) < 0.01
