"""The one command for a machine with a GPU works on a machine without one, at a tiny size."""

import csv
import importlib
import multiprocessing
import socket
import sys
from itertools import islice

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checks, protocol, stopwatch

CPU = torch.device("cpu")


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr("run_landscape.draw_all", lambda folder: [])


def test_the_whole_protocol_is_timed_by_stage_and_an_earlier_table_is_kept(tmp_path, without_figures):
    (tmp_path / "gpu_t5-small.csv").write_text("of yesterday\n")
    assert gpu.run(["t5-small"], CPU, True, tmp_path, gpu.in_this_process) == {}
    assert (tmp_path / "gpu_t5-small.1.csv").read_text() == "of yesterday\n"
    rows = {row["stage"]: row for row in rows_of(tmp_path / "gpu_t5-small.csv")}
    stages = {*stopwatch.MEASURING, *stopwatch.OTHER, stopwatch.REST}
    assert rows.keys() == {*stages, "measuring", "the whole run"}
    seconds = {stage: float(row["seconds"]) for stage, row in rows.items()}
    assert all(seconds[stage] > 0 for stage in stages)
    assert seconds["the whole run"] == pytest.approx(sum(seconds[stage] for stage in stages), rel=1e-6)
    assert seconds["measuring"] == pytest.approx(sum(seconds[stage] for stage in stopwatch.MEASURING), rel=1e-6)
    whole = rows["the whole run"]
    assert (whole["updates"], whole["points"], whole["finished"]) == ("2", "1", "True")
    assert 0 < float(whole["share_of_rate"]) < 1 and float(whole["peak_gb"]) > 0
    text = (tmp_path / "summary.md").read_text()
    assert "this says nothing about speed" in text and "share of the chip's rate: sharpness" in text


def test_a_failed_part_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("CUDA error: no such kernel")

    fine = [dict(check="one", difference=0.0, allowed=0.0, passed=True)]
    monkeypatch.setattr(gpu, "PARTS", {"agreement": broken, "correctness": lambda *_: fine})
    monkeypatch.setattr(gpu, "run", lambda parts, *rest, run=gpu.run: run(parts, *rest, gpu.in_this_process))
    assert gpu.main(["--output", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "failed: agreement: RuntimeError: CUDA error: no such kernel" in said
    assert "| correctness | passed | 1 of 1 | all | yes |" in said
    assert {row["part"]: row["met"] for row in rows_of(tmp_path / "summary.csv")} == dict(
        agreement="no", correctness="yes"
    )
    fine[0]["passed"] = False
    assert gpu.main(["--output", str(tmp_path)]) == 1  # a check that fails is a part that fails
    assert (tmp_path / "summary.1.csv").exists()


def test_a_part_that_takes_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LIMIT", 0.01)
    assert gpu.by_command("agreement", CPU, True, tmp_path) == "took more than 0.01 s"


def test_every_check_passes_on_the_cpu_and_notices_a_wrong_number(monkeypatch):
    rows = checks.correctness(CPU, tiny=True)
    assert len(rows) > 30 and [row["check"] for row in rows if not row["passed"]] == []
    numbers = iter(range(99))
    monkeypatch.setattr(checks, "clip_threshold", lambda tensors, fraction: next(numbers))
    before_the_models = islice(checks.found(CPU, tiny=True), 12 * 2 + 3)
    assert all(
        (difference > allowed) == name.startswith("threshold") for name, difference, allowed in before_the_models
    )


def test_the_first_point_is_compared_in_both_precisions(monkeypatch):
    monkeypatch.setattr(checks, "MODELS", {"ResNet-18": checks.MODELS["ResNet-18"]})
    rows = checks.agreement(CPU, tiny=True)
    assert {(row["dtype"], row["allowed"]) for row in rows} == {("float32", 1e-3), ("float64", 1e-9)}
    assert all(row["passed"] for row in rows) and {row["what"] for row in rows} == {
        "loss",
        "slope",
        "sharpness",
        "scan",
    }
    assert checks.relative(1.0, float("nan")) == float("inf") and checks.relative(1.001, 1.0) == pytest.approx(1e-3)


def test_a_stage_within_another_counts_for_itself_alone():
    times = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    watch = stopwatch.Stopwatch(CPU, clock=lambda: next(times))
    with watch.stage("outer"), watch.stage("inner"):
        pass
    assert watch.seconds == {stopwatch.REST: 1.0, "outer": 2.0 + 4.0, "inner": 3.0}


@pytest.mark.parametrize("seconds, over, finished, met", [
    (299, 1.9, "True", [True, True]), (301, 2.1, "True", [False, False]), (200, 1.0, "False", [False, True]),
])  # fmt: skip
def test_the_goals_are_five_minutes_and_twice_the_training(seconds, over, finished, met):
    row = dict(stage="the whole run", seconds=str(seconds), measuring_over_training=str(over), finished=finished)
    assert [goal[2] for goal in protocol.goals([row | {"updates": "7"}])] == met


def make_every_model_alone():
    """In a process of its own: what it imports anew and takes away would stay."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("benchmarks", "tasks")]:
        del sys.modules[name]
    sys.modules["datasets"] = None  # an import of it fails
    socket.socket.connect = None
    importlib.import_module("benchmarks.gpu.__main__")
    for make in importlib.import_module("benchmarks.gpu.models").MODELS.values():
        task = make(2, True)
        task.losses(task.model, task.collate(task.examples))


def test_neither_the_network_nor_datasets_is_needed():
    process = multiprocessing.get_context("fork").Process(target=make_every_model_alone)
    process.start()
    process.join(120)
    assert process.exitcode == 0
