"""Every number of a measurement lands in the column of its name, and the printed answer reads them right."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from curvature.interpolation import ScanPoint
from curvature.objective import objective_at
from curvature.quadratic import QuadraticModel
from landscape import cross_checks
from landscape.answer import answer, verdict
from landscape.cross_checks import check_at_point
from landscape.tables import PointTables
from landscape_core.edges import Edge
from landscape_core.measurement import Measurement
from landscape_utils import Direction
from runs.tables import read_table
from tests.helpers.task_examples import toy
from torch_optimizer import Algorithm
from training.loop import Point

POINT = Point(epoch=3, batch=2, iteration=22, loss=5.5, learning_rate=0.1, examples=64)


def measurement(label, sharpness, slope=-3.0, edge=None, **changes):
    numbers = dict(step_norm=2.0, step_max=0.5, sharpness_error=0.25, gradient_norm=6.0, noise_share=0.125,
                   spectral_length=1.0) | changes  # fmt: skip
    return Measurement(label, QuadraticModel(7.0, slope, sharpness), edge=edge or Edge(), **numbers)


def written(folder, *measurements, reference="sgd", sharpness=True):
    tables = PointTables(folder, reference)
    tables.add(POINT, measurements, sharpness)
    tables.add_ratios()
    tables.save()
    return {name: read_table(folder / f"{name}.csv") for name in ("sharpness", "ratios", "scan", "histogram")}


def test_every_number_has_the_column_of_its_name(tmp_path):
    edge = Edge(learning_rate=0.01, quadratic=0.3, realized=0.6, critical_lr=0.08)
    adam = measurement("adam", 1.5, edge=edge)
    sgd, row = written(tmp_path, measurement("sgd", -12.0), adam)["sharpness"]
    assert sgd["ratio"] == -1  # to its own size
    assert row == pytest.approx({
        "seed": 0, "epoch": 3, "batch": 2, "iteration": 22, "algorithm": "adam", "measured_on": "test",
        "loss": 7.0, "slope": -3.0, "sharpness": 1.5,
        "ratio": 1.5 / 12, "step_norm": 2.0, "step_max": 0.5,
        "best_distance": 2.0,  # 3 / 1.5
        "predicted_decrease": 3.0,  # 9 / (2 * 1.5)
        "sharpness_error": 0.25, "gradient_norm": 6.0, "cosine": -0.5, "noise_share": 0.125,
        "sharpness_inf": 24.0,  # 1.5 * 4 / 0.25
        "sharpness_spectral": 6.0,  # 1.5 * 4 / 1
        "learning_rate": 0.01, "edge_quadratic": 0.3, "edge_realized": 0.6, "edge_quotient": 2.0,
        "critical_lr": 0.08, "best_lr": 0.04,
    })  # fmt: skip


def test_ratios_are_means_over_the_points_of_an_epoch(tmp_path):
    tables = PointTables(tmp_path, "sgd")
    for sharpness, slope, edge in ((1.0, -2.0, 0.25), (3.0, -4.0, 0.75)):
        adam = measurement("adam", sharpness, slope, Edge(0.1, edge, 2 * edge, 1.0))
        tables.add(POINT, [measurement("sgd", 2.0), adam])
    tables.add_ratios()
    row = tables.tables["ratios"].rows[1]
    assert row == pytest.approx({
        "seed": 0, "epoch": 3, "algorithm": "adam", "measured_on": "test",
        "mean_ratio": 1.0, "std": math.sqrt(0.5), "count": 2, "mean_slope": -3.0,
        "mean_predicted_decrease": (4 / 2 + 16 / 6) / 2, "mean_edge_quadratic": 0.5, "mean_edge_realized": 1.0,
        "mean_sharpness": 2.0,
    })  # fmt: skip


def test_scan_and_histogram_hold_what_was_scanned(tmp_path):
    scanned = measurement("sgd", 2.0, histogram=[(0.5, 1.0, 4)], scan=[ScanPoint(0.0, 7.0), ScanPoint(0.1, 6.5, False)])
    tables = written(tmp_path, scanned, sharpness=False)
    at = {"seed": 0, "epoch": 3, "batch": 2, "iteration": 22, "algorithm": "sgd"}
    assert [row.pop("measured_on") for row in tables["scan"]] == ["test", "test"]
    assert tables["scan"] == [
        at | {"distance": 0.0, "loss": 7.0, "evaluated": 1},
        at | {"distance": 0.1, "loss": 6.5, "evaluated": 0},
    ]
    assert tables["histogram"] == [at | {"bin_low": 0.5, "bin_high": 1.0, "count": 4}]
    assert tables["sharpness"] == [] == tables["ratios"]


def test_a_lost_algorithm_has_one_row_with_nothing_in_it(tmp_path):
    tables = PointTables(tmp_path, "sgd")
    tables.mark_lost(POINT, "lion")
    (row,) = tables.tables["sharpness"].rows
    full = {name: value for name, value in row.items() if value is not None}
    assert full == {"seed": 0, "epoch": 3, "batch": 2, "iteration": 22, "algorithm": "lion", "measured_on": "test"}
    tables.mark_lost(POINT, "lion", sharpness=False)
    assert len(tables.tables["sharpness"].rows) == 1


def test_without_a_reference_the_printed_table_shows_the_sharpness_itself(tmp_path):
    written(tmp_path, measurement("adam", 1.5), reference=None)
    text = answer(tmp_path, ["adam"], None)
    assert "directional sharpness\n" in text and "1.5" in text and "|" not in text
    assert read_table(tmp_path / "ratios.csv") == []


def test_a_negative_reference_is_said_below_the_table(tmp_path):
    written(tmp_path, measurement("sgd", -12.0), measurement("adam", 1.5))
    assert "sgd itself has a negative sharpness in epoch 3" in answer(tmp_path, ["sgd", "adam"], "sgd")


def test_the_verdict_names_the_flattest_the_furthest_and_those_beyond_their_edge():
    def row(label, ratio, decrease, edge):
        return dict(algorithm=label, mean_ratio=ratio, mean_predicted_decrease=decrease, mean_edge_realized=edge)

    rows = [row("sgd", 1.0, 0.5, 1.2), row("adam", 0.25, 0.4, 0.3), row("lion", 0.5, None, None)]
    assert verdict(5, rows, "sgd") == (
        "In epoch 5, adam is flattest (0.25 of sgd), sgd could fall furthest (0.5); "
        "1 of 2 rows step beyond their edge (sgd)."
    )


def test_the_printed_numbers_are_the_means_of_their_epoch(tmp_path):
    """Three points in epoch 3, at the second of which adam leads uphill, and one in epoch 4."""
    tables, edges = PointTables(tmp_path, "sgd"), (0.5, math.nan, 0.7)
    for sharpness, slope, edge in zip((1.0, 2.0, 9.0), (-2.0, -4.0, -6.0), edges, strict=True):
        adam = measurement("adam", sharpness, slope, Edge(0.1, edge / 2, edge, 1.0))
        tables.add(POINT, [measurement("sgd", 4.0), adam])
    tables.add(replace(POINT, epoch=4), [measurement("sgd", 4.0), measurement("adam", 2.0, edge=Edge(0.1, 0.2, 0.6))])
    tables.add_ratios()
    tables.add_ratios()  # as a resumed run does: nothing stands there twice
    tables.save()
    rows = read_table(tmp_path / "ratios.csv")
    assert [(row["epoch"], row["algorithm"]) for row in rows] == [(3, "sgd"), (3, "adam"), (4, "sgd"), (4, "adam")]
    assert rows[1]["mean_ratio"] == 1.0 and rows[1]["mean_edge_realized"] == pytest.approx(0.6)  # of the two that are
    assert rows[1]["std"] == pytest.approx(math.sqrt((0.75**2 + 0.5**2 + 1.25**2) / 2)) and rows[1]["count"] == 3
    means, last = answer(tmp_path, ["sgd", "adam"], "sgd").split("\n\n")
    assert [line.split() for line in means.splitlines()[1:]][0] == ["algorithm", "epoch", "3", "epoch", "4"]
    assert [line.split() for line in means.splitlines()[3:5]] == [
        ["sgd", "1", "1"],
        ["adam", "1", "~0.5"],
    ]  # errors of 0.25 beside 2
    header, _, _, adam, said = last.splitlines()[1:]
    assert header.split()[1:4] == ["ratio", "std", "slope"]
    # of epoch 4: the decrease is 9 / (2 * 2)
    assert adam.split() == ["adam", "0.5", "-", "-3", "2.25", "0.2", "0.6", "1"]
    assert said == (
        "In epoch 4, adam is flattest (0.5 of sgd), adam could fall furthest (2.2); 0 of 1 rows step beyond their edge."
    )


def test_a_step_without_length_is_warned_of_once_and_an_uphill_scan_is_noted(tmp_path, caplog):
    caplog.set_level("INFO")
    tables = PointTables(tmp_path, "sgd")
    scans = {"up": [ScanPoint(0.0, 7.0), ScanPoint(0.1, 7.5)], "down": [ScanPoint(0.0, 7.0), ScanPoint(0.1, 6.5)]}
    for _ in range(2):
        tables.add(POINT, [measurement("zero", math.nan, math.nan)])
    tables.add(POINT, [measurement(label, 1.0, scan=scan) for label, scan in scans.items()])
    assert [message.split(":")[0] for message in caplog.messages] == ["zero", "up"]
    assert caplog.messages[1] == "up: its step leads uphill in epoch 3, batch 2"


def test_stored_tables_are_restored_row_by_row(tmp_path):
    tables, again = PointTables(tmp_path, "sgd"), PointTables(tmp_path, "sgd")
    for iteration in (1, 2):
        tables.add_training(replace(POINT, iteration=iteration))
    again.load_state_dict(tables.state_dict())
    assert again.tables["training"].rows == [{"seed": 0, "epoch": 3, "iteration": i, "loss": 5.5} for i in (1, 2)]


# ---- the row of the optimizer that trains -------------------------------------------------------------------------


def with_training_row(folder, both=False):
    """Two points; on the training batch the row `training` alone, or with `both` sgd, too."""
    tables = PointTables(folder, "sgd")
    for sharpness, edge in ((1.0, 0.25), (3.0, 0.75)):
        own = measurement("training", sharpness, edge=Edge(0.1, edge, 2 * edge, 1.0))
        on_own_batch = measurement("training", 2 * sharpness, edge=Edge(0.1, edge, 4 * edge, 1.0))
        tables.add(POINT, [measurement("sgd", 2.0), own])
        tables.add(POINT, [*([measurement("sgd", 8.0)] if both else []), on_own_batch], measured_on="training")
    tables.add_ratios()
    tables.save()
    return read_table(folder / "ratios.csv")


def test_ratios_are_to_the_reference_on_the_same_batch_and_empty_without_it(tmp_path):
    def found(rows):
        return [(r["algorithm"], r["measured_on"], r["mean_ratio"], r["mean_edge_realized"], r["count"]) for r in rows]

    first = [("sgd", "test", 1.0, None, 2), ("training", "test", 1.0, 1.0, 2)]
    assert found(with_training_row(tmp_path / "a")) == [*first, ("training", "training", None, 2.0, 2)]
    assert found(with_training_row(tmp_path / "b", both=True)) == [
        *first, ("sgd", "training", 1.0, None, 2), ("training", "training", 0.5, 2.0, 2)]  # fmt: skip


def test_the_training_row_is_marked_in_print_and_does_not_enter_the_verdict_on_the_list(tmp_path):
    with_training_row(tmp_path)
    text = answer(tmp_path, ["sgd"], "sgd", "adam")
    ratios, judged = text.split("\n\n")
    assert [line.split()[0] for line in ratios.splitlines()[3:5]] == ["sgd", "training"]
    assert "training (adam): the step that the run itself takes" in ratios
    rows = [line.split() for line in judged.splitlines() if line.startswith("training (adam)")]
    assert [(row[2], row[3], row[-2], row[-1]) for row in rows] == [
        ("test", "1", "1", "2"), ("training", "-", "2", "2")]  # fmt: skip
    assert text.endswith(
        "In epoch 3, sgd is flattest (1 of sgd), sgd could fall furthest (2.2). The step that the run takes (adam) has "
        "a realized edge of 1 on the test batch, 2 on the training batch."
    )


def test_a_run_on_the_training_batch_alone_prints_its_numbers(tmp_path):
    tables = PointTables(tmp_path, "sgd")
    rows = [measurement(label, sharpness) for label, sharpness in (("sgd", 2.0), ("adam", 1.0), ("training", 4.0))]
    tables.add(POINT, rows, measured_on="training")
    tables.add_ratios()
    tables.save()
    text = answer(tmp_path, ["sgd", "adam"], "sgd", "lion")
    assert "sharpness of sgd|, on the training batches" in text and "adam is flattest (0.5 of sgd)" in text
    assert "training (lion)" in text


def test_a_check_that_fails_shows_by_how_much(monkeypatch):
    task = toy("machine_translation")
    monkeypatch.setattr(cross_checks, "check_sharpness", lambda *_: [(2.0, 3.0)])
    *_, line = cross_checks.check_on_tiny_model(task, {"sgd": Algorithm("sgd", lr=1.0)}).splitlines()
    assert line.split() == ["sgd", "2", "3", "0.5"]


def test_the_check_at_a_point_takes_each_number_by_its_own_route(monkeypatch):
    """f = w^4 / 4 on a first example, 2 w^4 / 4 on a second, at w = 1: curvatures 3 and 6, slope 1 of the first."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)

    def losses(forward, batch):
        return batch["scale"] * forward(batch["x"])[:, 0] ** 4 / 4

    batch = {"x": torch.ones(2, 1), "scale": torch.tensor([1.0, 2.0])}
    objective = objective_at(model, losses, [batch], torch.float32)
    directions = {"sgd": Direction.of({"weight": torch.full((1, 1), 0.5)})}

    def row():
        title, names, *_, line = check_at_point(directions, objective).splitlines()[1:]
        return [float(number) for number in line.split()[1:]]

    assert row() == pytest.approx([4.5, 4.5, 3.0, 3.0, 1.0, 1.0], rel=1e-3)
    monkeypatch.setattr(cross_checks, "central_differences", lambda *_, h: (7.0, 8.0))
    exact, measured = cross_checks.directional_sharpness, cross_checks.quadratic_models

    def nine(*arguments):
        return {label: replace(model, sharpness=9.0) for label, model in measured(*arguments).items()}

    monkeypatch.setattr(cross_checks, "quadratic_models", nine)
    monkeypatch.setattr(
        cross_checks, "directional_sharpness", lambda *a: [replace(q, sharpness=9.0) for q in exact(*a)]
    )
    assert row() == pytest.approx([9.0, 4.5, 9.0, 8.0, 1.0, 7.0], rel=1e-3)
