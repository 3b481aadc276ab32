"""--clip_sweep: steps at other clip fractions, and the curvature of SGD's step by the size of its coordinates."""

import signal

import pytest
import torch

from curvature.borrowing import measuring
from curvature.direction import Direction
from figures.clip_sweep import clip_sweep_figures, curvature_figures
from landscape.clip_sweep import FRACTIONS, curvature_by_size, sweep, swept_rows
from landscape.cross_checks import full_hessian
from landscape_utils import PseudoUpdates
from runs.tables import read_table
from tests.helpers import tiny_run
from tests.helpers.run_folders import figures_of
from tests.helpers.stored_runs import LANDSCAPE, landscape, refused, stop_at, tables
from tests.helpers.task_examples import objective_of_t5
from tests.helpers.tiny_models import random_direction
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled

SWEEP = [*LANDSCAPE, "--clip_sweep", "--skip_search"]


@pytest.fixture(scope="module")
def objective():
    return objective_of_t5()


@pytest.fixture(scope="module")
def hessian(objective):
    with measuring(objective.model):
        return full_hessian(objective.loss_fn, objective.params, objective.batches)


@pytest.fixture(scope="module")
def swept(tiny_task, tmp_path_factory):
    """A run with the sweep, whose list has SGD and Lion at 10 %, too."""
    rows = [Algorithm("sgd", lr=0.1, momentum=0.9, dampening=0.9),
            Algorithm("sgd", lr=0.1, momentum=0.9, dampening=0.9, coordinate_clip=0.1),
            Algorithm("lion", lr=1e-3), Algorithm("lion", lr=1e-3, coordinate_clip=0.3),
            Algorithm("adam", lr=1e-2, coordinate_clip=0.1)]  # fmt: skip
    folder = tmp_path_factory.mktemp("swept") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_run, "ROWS", rows)
        assert landscape(*SWEEP, "--seeds", "0", "1", "--output_dir", folder) == 0
    return folder


# ---- beside the full Hessian --------------------------------------------------------------------------------------


def test_the_parts_of_sgds_curvature_are_those_of_the_full_hessian(objective, hessian):
    v = Direction(random_direction(objective.params, seed=1))
    flat = torch.cat([t.flatten() for t in v.values()])
    order, square = flat.abs().argsort(descending=True), flat.dot(flat)
    parts = list(curvature_by_size("sgd", v, objective))
    assert [part.fraction for part in parts] == list(FRACTIONS[1:])
    for part in parts:
        top = torch.zeros_like(flat)
        largest = order[: int(part.fraction * len(flat))]
        top[largest] = flat[largest]
        rest = flat - top
        expected = [top @ hessian @ top, 2 * top @ hessian @ rest, rest @ hessian @ rest]
        found = [part.top, part.cross, part.rest]
        assert found == pytest.approx([(one / square).item() for one in expected], rel=1e-8, abs=1e-11)
        assert sum(found) == pytest.approx((flat @ hessian @ flat / square).item(), rel=1e-10)
        assert part.rest_sharpness == pytest.approx((rest @ hessian @ rest / rest.dot(rest)).item(), rel=1e-8)
        assert part.coordinates == len(largest)
        assert part.length_share == pytest.approx((top.dot(top) / square).item())


def test_swept_steps_are_those_of_the_clipped_optimizers_on_the_full_hessian(objective, hessian):
    """Two updates of each optimizer by hand from its own class; slope and sharpness from matrices."""
    params = {name: torch.nn.Parameter(p.clone()) for name, p in objective.params.items()}
    rows = swept_rows(labeled([Algorithm("sgd", lr=1.0, momentum=0.9), Algorithm("lion", lr=1.0)]))
    updates = PseudoUpdates(params, {label: one.row for label, one in rows.items()})
    own = {}
    for k in FRACTIONS:
        own["sgd", k] = Algorithm("sgd", lr=1.0, momentum=0.9, coordinate_clip=k).build(params)
        own["lion", k] = Algorithm("lion", lr=1.0, coordinate_clip=k).build(params)
    for seed in (3, 4):
        for p, g in zip(params.values(), random_direction(objective.params, seed).values(), strict=True):
            p.grad = g
        directions = updates.advance()
        moves = {place: optimizer.directions() for place, optimizer in own.items()}
    steps, _ = sweep(directions, rows, objective)
    assert len(steps) == 2 * len(FRACTIONS)
    for step in steps:
        v = torch.cat([moves[step.label, step.fraction][p].flatten() for p in params.values()])
        sharpness = v @ hessian @ v / v.dot(v)
        assert step.quadratic.sharpness == pytest.approx(sharpness.item(), rel=1e-8), (step.label, step.fraction)
        assert step.length == pytest.approx(v.norm().item())
    by_sgd = {step.fraction: step.length for step in steps if step.label == "sgd"}
    assert list(by_sgd.values()) == sorted(by_sgd.values(), reverse=True) and by_sgd[0.9] < 0.5 * by_sgd[0]


def test_a_step_without_a_length_has_no_parts(objective):
    zero = Direction({name: torch.zeros_like(p) for name, p in objective.params.items()})
    assert list(curvature_by_size("sgd", zero, objective)) == []


# ---- in a run -----------------------------------------------------------------------------------------------------


def test_the_first_unclipped_row_of_each_optimizer_is_swept():
    rows = labeled([Algorithm("adam", lr=1.0, clip_update=0.5), Algorithm("adam", lr=1.0, eps=1e-3),
                    Algorithm("adam", lr=1.0), Algorithm("sign_sgd", lr=1.0), Algorithm("lion", lr=1.0)])  # fmt: skip
    found = swept_rows(rows)
    assert {(one.label, one.fraction) for one in found.values()} == {
        (label, k) for label in ("adam, eps=0.001", "lion") for k in FRACTIONS
    }
    assert found["lion | 0.3"].row.options["coordinate_clip"] == 0.3
    assert found["adam, eps=0.001 | 0.9"].row.options == {"lr": 1.0, "eps": 1e-3, "coordinate_clip": 0.9}
    with pytest.raises(ValueError, match="--clip_sweep takes rows of sgd, adam, adafactor, lion without clipping"):
        swept_rows(labeled([Algorithm("sgd", lr=1.0, coordinate_clip=0.1)]))


def test_a_swept_row_is_the_same_row_of_the_list(swept):
    """Fraction 0 is the row itself, and 0.1 the row that clips so: its state has followed the whole run."""
    listed = {(r["seed"], r["iteration"], r["algorithm"]): r
              for r in read_table(swept / "sharpness.csv") if r["measured_on"] == "test"}  # fmt: skip
    rows = read_table(swept / "clip_sweep.csv")
    same = {("sgd", 0): "sgd", ("sgd", 0.1): "sgd, coordinate_clip=0.1", ("lion", 0): "lion",
            ("lion", 0.3): "lion, coordinate_clip=0.3"}  # fmt: skip
    compared = 0
    for row in rows:
        if label := same.get((row["algorithm"], row["fraction"])):
            other, compared = listed[row["seed"], row["iteration"], label], compared + 1
            for column in ("loss", "slope", "sharpness", "step_norm", "predicted_decrease"):
                assert row[column] == pytest.approx(other[column], rel=1e-4, abs=1e-6), (label, column)
    assert compared == 4 * 4, "two seeds of two epochs"
    assert {row["algorithm"] for row in rows} == {"sgd", "lion"} and len(rows) == 2 * 2 * 2 * len(FRACTIONS)
    parts = read_table(swept / "curvature_by_size.csv")
    assert len(parts) == 2 * 2 * (len(FRACTIONS) - 1)
    for part in parts:
        whole = listed[part["seed"], part["iteration"], "sgd"]["sharpness"]
        assert part["top"] + part["cross"] + part["rest"] == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_a_run_with_a_sweep_continues_to_the_same_bytes(tiny_task, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert landscape(*SWEEP, "--output_dir", whole) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 27)  # every update advances the list and the sweep
        assert landscape(*SWEEP, "--output_dir", stopped) == 128 + signal.SIGTERM
    assert landscape("--resume", stopped) == 0
    assert tables(stopped) == tables(whole)


def test_a_sweep_of_nothing_is_refused(tiny_task, tmp_path, capfd, monkeypatch):
    run = [*tiny_run.FLAGS.split(), "--clip_sweep", "--output_dir", tmp_path / "run"]
    refused([*run, "--skip_sharpness"], "--clip_sweep has no effect with --skip_sharpness", tmp_path, capfd)
    monkeypatch.setattr(
        tiny_run, "ROWS", [Algorithm("sgd", lr=1.0, coordinate_clip=0.1), Algorithm("sign_sgd", lr=1.0)]
    )
    refused(run, "--clip_sweep takes rows of sgd, adam, adafactor, lion without clipping", tmp_path, capfd)


# ---- figures ------------------------------------------------------------------------------------------------------


def test_the_figures_have_a_line_per_optimizer_and_a_place_for_zero(swept):
    figures = figures_of(clip_sweep_figures, swept)
    assert list(figures) == ["clip_sweep_epoch2", "clip_sweep_epoch4"]
    sharpness, slope, _ = figures["clip_sweep_epoch4"].axes
    rows = [r for r in read_table(swept / "clip_sweep.csv") if r["epoch"] == 4 and r["algorithm"] == "sgd"]
    first = [-r["slope"] for r in rows if r["fraction"] == 0]
    line = slope.lines[0]
    assert line.get_ydata()[0] == pytest.approx((first[0] * first[1]) ** 0.5 if min(first) > 0 else sum(first) / 2)
    assert [tick.get_text() for tick in sharpness.get_xticklabels()] == [f"{k:g}" for k in FRACTIONS]
    assert 0 < line.get_xdata()[0] < line.get_xdata()[1] == 0.001


def test_the_shares_of_the_curvature_sum_to_one(swept):
    left, right = figures_of(curvature_figures, swept)["curvature_by_size_epoch2"].axes
    rows = [r for r in read_table(swept / "curvature_by_size.csv") if r["epoch"] == 2]
    drawn = [line.get_ydata() for line in left.lines[:3]]
    own = [[r[part] / abs(r["top"] + r["cross"] + r["rest"]) for r in rows if r["fraction"] == 0.1] for part in
           ("top", "cross", "rest")]  # fmt: skip
    place = FRACTIONS[1:].index(0.1)
    for values, expected in zip(drawn, own, strict=True):
        low, high = sorted(expected)
        assert low - 1e-12 <= values[place] <= high + 1e-12
    assert "curvature of sgd's step" in left.figure.get_suptitle()
    assert right.lines[0].get_ydata()[-1] == pytest.approx(
        _mean([r["rest_sharpness"] / abs(r["top"] + r["cross"] + r["rest"]) for r in rows if r["fraction"] == 0.9],
              right.lines[0].get_ydata()))  # fmt: skip


def _mean(values, drawn):
    return (values[0] * values[1]) ** 0.5 if min(drawn) > 0 else sum(values) / 2
