"""Points that a run kept are measured again without training."""

import json
import math
import os
import re
import shutil
import signal
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import run_landscape
from runs.checkpoints import load_tensors, save_tensors
from runs.tables import on_batch, read_table
from tests.helpers import tiny_run
from tests.helpers.stored_runs import LANDSCAPE, landscape, refused, tables
from torch_optimizer import Algorithm

pytestmark = pytest.mark.usefixtures("tiny_task")


@pytest.fixture(scope="module")
def with_points(tmp_path_factory):
    """A run of five algorithms, one of which was lost, with its points kept."""
    folder = tmp_path_factory.mktemp("points") / "run"
    with pytest.MonkeyPatch.context() as patch:
        exploding = Algorithm("sgd", lr=0.1, momentum=1e25, coordinate_clip=0.2)
        patch.setattr(tiny_run, "ROWS", [*tiny_run.ROWS, exploding])
        assert landscape(*LANDSCAPE, "--save_points", "--output_dir", folder) == 0
    return folder


def measured(folder):
    return {name: table for name, table in tables(folder).items() if name != "training.csv"}


def test_saved_points_measured_again_give_the_same_bytes_without_training(with_points, tmp_path, monkeypatch):
    assert len(list(with_points.glob("points/*.pt"))) == 4
    monkeypatch.setattr(run_landscape, "Training", None)
    assert landscape("--from_points", with_points, "--top_eigenvalues", "--output_dir", tmp_path / "again") == 0
    assert measured(tmp_path / "again") == measured(with_points)
    assert not (tmp_path / "again" / "training.csv").exists()


def test_saved_points_take_another_number_type_test_batch_and_grid(with_points, tmp_path):
    def again(name, *flags):
        assert landscape("--from_points", with_points, "--output_dir", tmp_path / name, *flags) == 0
        return read_table(tmp_path / name / "sharpness.csv"), read_table(tmp_path / name / "scan.csv")

    was = [row for row in read_table(with_points / "sharpness.csv") if row["loss"]]
    exact, scans = again("float64", "--dtype", "float64", "--step_size", "0.25")
    exact = [row for row in exact if row["loss"]]
    assert all(row["sharpness_error"] is None for row in exact)
    for one, other in zip(was, exact, strict=True):
        assert one["sharpness"] == pytest.approx(other["sharpness"], rel=1e-3, abs=1e-5)
        assert one["sharpness"] != other["sharpness"]
    firsts = [row["distance"] for before, row in pairwise(scans) if before["distance"] == 0]
    finer = [math.log(0.25 / distance, 5) for distance in firsts]  # a scan is refined five-fold
    assert 0.25 in firsts and finer == pytest.approx([round(power) for power in finer], abs=1e-9)
    losses = {row["loss"] for row in on_batch(was, "test")}
    for name, *flags in (("batch", "--test_seed", "3"), ("larger", "--test_batch_size", "20")):
        other, _ = again(name, *flags)
        assert losses.isdisjoint(row["loss"] for row in on_batch(other, "test"))
        assert on_batch(other, "training") == on_batch(was, "training")  # of four examples in every run


def test_points_of_before_a_flag_existed_are_measured_with_its_default(with_points, tmp_path):
    shutil.copytree(with_points, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["settings"]["scan"], config["settings"]["zipf"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    again = "--from_points", tmp_path / "old", "--top_eigenvalues", "--output_dir", tmp_path / "again"
    assert landscape(*again) == 0
    assert measured(tmp_path / "again") == measured(with_points)


def test_saved_points_take_another_grouping_and_other_classes(with_points, tmp_path):
    flags = ["--decompose", "layer", "--frequency_classes", "1"]
    assert landscape("--from_points", with_points, "--output_dir", tmp_path / "again", *flags) == 0
    before, again = (
        {name: read_table(folder / f"{name}.csv") for name in ("decomposition", "classes", "sharpness")}
        for folder in (with_points, tmp_path / "again")
    )
    assert again["sharpness"] == before["sharpness"]
    assert {row["grouping"] for row in again["decomposition"]} == {"layer"}
    assert {row["class"] for row in again["classes"]} == {1} and {row["class"] for row in before["classes"]} == {1, 2}
    measured = [row["sharpness"] for row in before["sharpness"] if row["loss"] and row["measured_on"] == "test"]
    assert [row["sharpness"] for row in again["classes"]] == pytest.approx(measured)


def test_measuring_points_again_can_be_stopped_and_taken_up(with_points, tmp_path, monkeypatch, capfd):
    folder, measure, count = tmp_path / "again", run_landscape.measure, iter(range(1, 100))

    def measure_and_stop(*arguments):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run_landscape, "measure", measure_and_stop)
        again = "--from_points", with_points, "--top_eigenvalues", "--output_dir", folder
        assert landscape(*again) == 128 + signal.SIGTERM
        assert "after point 3 of 4" in capfd.readouterr().err
        assert landscape("--resume", folder) == 0
    assert next(count) == 5, "one point was left"
    assert measured(folder) == measured(with_points)


@pytest.mark.parametrize(("flags", "answer"), [
    (["--lr", "3"], "the points of .* belong to another run: --lr is 3.0, was 0.001"),
    (["--save_points"], "--save_points has no effect with --from_points"),
    (["--save_model"], "--save_model has no effect with --from_points, which trains nothing"),
    (["--optimizer_device", "cpu"], "--optimizer_device has no effect with --from_points"),
    (["--checkpoint_every", "3"], "--checkpoint_every has no effect with --from_points"),
    (["--output_dir", "FOLDER", "--overwrite"], "is the run that --from_points reads"),
])  # fmt: skip
def test_what_contradicts_saved_points_is_named(flags, answer, with_points, capfd):
    flags = [with_points if flag == "FOLDER" else flag for flag in flags]
    refused(["--from_points", with_points, *flags], answer, with_points, capfd)


def test_a_run_without_points_is_answered_by_name(stopped, capfd):
    refused(["--from_points", stopped], "holds no saved points; --save_points keeps them", stopped, capfd)


def test_a_damaged_point_is_named(with_points, tmp_path, capfd):
    copy = Path(shutil.copytree(with_points, tmp_path / "copy"))
    path = sorted(copy.glob("points/*.pt"))[1]
    path.write_bytes(path.read_bytes()[:-100])
    assert landscape("--from_points", copy, "--output_dir", tmp_path / "again") == 1
    error = capfd.readouterr().err
    assert f"{path} cannot be used: its checksum does not match" in error and "Traceback" not in error
    assert len(read_table(tmp_path / "again" / "sharpness.csv")) == 9


@pytest.mark.parametrize("change, answer", [
    (lambda s: s.pop("point"), "'point'"),
    (lambda s: s.pop("model"), "'model'"),
    (lambda s: s.update(more=1), "more"),
    (lambda s: s["point"].update(more=1), "more"),
    (lambda s: s["point"].pop("epoch"), "epoch"),
    (lambda s: s["point"].update(epoch="two"), "its epoch, batch and iteration are not all numbers"),
    (lambda s: s.update(point=[1, 2]), "does not fit"),
    (lambda s: s.update(directions=[1, 2]), "does not fit"),
    (lambda s: s.update(lost=3), "does not fit"),
    (lambda s: s["directions"].update(mine=s["directions"]["sgd"]), "config.json has no row 'mine'"),
    (lambda s: s.update(lost=["mine"]), "config.json has no row 'mine'"),
    (lambda s: s["directions"]["sgd"].popitem(), "its directions do not fit this model"),
    (lambda s: s["directions"].update(sgd={k: v[:1] for k, v in s["directions"]["sgd"].items()}), "fit this model"),
    (lambda s: s.update(model={"x": torch.zeros(1)}), "Error.s. in loading state_dict"),
    (lambda s: s.clear(), "does not fit"),
])  # fmt: skip
def test_a_point_of_another_form_is_named_though_its_checksum_is_right(change, answer, with_points, tmp_path, capfd):
    copy = Path(shutil.copytree(with_points, tmp_path / "copy"))
    path = sorted(copy.glob("points/*.pt"))[0]
    state = load_tensors(path)
    change(state)
    save_tensors(path, state)
    assert landscape("--from_points", copy, "--output_dir", tmp_path / "again") == 1
    error = capfd.readouterr().err
    line = error.splitlines()[-1]
    assert line.startswith(f"stopped: the saved point {path.name} does not fit this run: ") and "Traceback" not in error
    assert re.search(answer, line), line
