"""Several runs in one figure: which are refused, how they are named, and which figures the command draws."""

import logging
from pathlib import Path

import pytest

from figures import overlay
from figures.__main__ import main
from figures.comparing import SETTINGS, named_runs, script_of_all, title_of
from figures.overlay import overlay_sharpness
from figures.run_tables import read_run
from tests.helpers.run_folders import write_run
from tests.helpers.small_runs import convergence_run, hessian_run, landscape_run, overlaid, refused

# ---- what can be compared ------------------------------------------------------------------------------------


def test_the_same_run_twice_is_refused_by_name_however_it_is_written(tmp_path, capsys):
    run = convergence_run(tmp_path / "run", {("sgd", 0): [5, 4]})
    message = "twice; it compares different runs"
    assert refused(capsys, run, run) == f"--overlay got {run} {message}"
    assert refused(capsys, run, run / ".." / "run") == f"--overlay got {run / '..' / 'run'} {message}"


def test_names_must_fit_the_folders(tmp_path, capsys):
    one, two = (convergence_run(tmp_path / name, {("sgd", 0): [5, 4]}) for name in ("one", "two"))
    assert refused(capsys, one, two, "--names", "a") == "--names takes one name per folder: got 1 for 2 folders"
    assert refused(capsys, one, two, "--names", "a", "a") == "--names got 'a' twice; each run needs a name of its own"


def test_runs_are_named_by_their_folders_or_by_their_paths_where_those_are_alike(tmp_path):
    runs = [read_run(write_run(tmp_path / place, [])) for place in ("a/run", "b/run", "c/other")]
    assert list(named_runs(runs[1:], None)) == ["run", "other"]
    assert list(named_runs(runs, None)) == [str(run.folder) for run in runs]
    assert list(named_runs(runs, ["x", "y", "z"])) == ["x", "y", "z"]


def test_runs_of_scripts_that_measure_different_things_are_named(tmp_path, capsys):
    trained, measured = convergence_run(tmp_path / "a", {("sgd", 0): [5]}), hessian_run(tmp_path / "b", (1, 1))
    message = refused(capsys, trained, measured)
    assert message.startswith(
        f"these runs cannot be compared: {trained} is of run_convergence.py, {measured} is of run_hessian.py; give runs"
    )
    seen = landscape_run(tmp_path / "c", {"sgd": [1.0]})
    assert "these runs cannot be compared" in refused(
        capsys, trained, seen, convergence_run(tmp_path / "d", {("sgd", 0): [5]})
    )
    assert refused(capsys, write_run(tmp_path / "e", []), seen) == (
        f"{tmp_path / 'e'} has nothing to compare: none of losses.csv, sharpness.csv, blocks.csv"
    )


def test_losses_of_two_tasks_are_not_compared_but_their_hessians_are(tmp_path, capsys):
    one = convergence_run(tmp_path / "a", {("sgd", 0): [5]})
    other = convergence_run(tmp_path / "b", {("sgd", 0): [5]}, {"task": "glue/rte"})
    assert refused(capsys, one, other) == (
        f"these runs cannot be compared: {one} is of the task toy, {other} is of the task glue/rte; "
        "the losses of two tasks have no common scale"
    )
    both = [hessian_run(tmp_path / task, (1, 1), settings={"task": task}) for task in ("c", "d")]
    assert script_of_all(named_runs([read_run(run) for run in both], None)) == "run_hessian.py"


def test_runs_without_a_common_algorithm_and_runs_without_a_number_are_named(tmp_path, capsys):
    one, other = landscape_run(tmp_path / "a", {"sgd": [1.0]}), landscape_run(tmp_path / "b", {"adam": [1.0]})
    assert refused(capsys, one, other) == f"these runs cannot be compared: {one}, {other} have no algorithm in common"
    empty = write_run(tmp_path / "c", ["sgd"], sharpness=[])
    assert refused(capsys, one, empty) == f"{empty} has nothing to compare: its tables have no numbers yet"
    unborn = write_run(tmp_path / "d", ["sgd"], losses=[])
    assert refused(capsys, unborn, convergence_run(tmp_path / "e", {("sgd", 0): [5]})) == (
        f"{unborn} has nothing to compare: its tables have no numbers yet"
    )
    lost = [convergence_run(tmp_path / name, {("sgd", 0): [None]}, diverged={"sgd": 1}) for name in ("f", "g")]
    assert refused(capsys, *lost) == "these runs have no finite loss to draw"
    assert refused(capsys, one, hessian_run(tmp_path / "h")).startswith("these runs cannot be compared")
    flat = hessian_run(tmp_path / "i", (0.0, 0.0))
    assert "with a curvature" in refused(capsys, flat, hessian_run(tmp_path / "j", (1, 1)))
    assert not (tmp_path / "sharpness_overlay.png").exists()


def test_rows_that_only_one_run_has_are_left_out_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    one = landscape_run(tmp_path / "a", {"sgd": [1.0], "adam": [0.5], "lion": [0.1]})
    other = landscape_run(tmp_path / "b", {"adam": [1.0], "sgd": [0.5]})
    drawn = overlaid(overlay_sharpness, one, other)
    assert [ax.get_title() for ax in drawn["sharpness_overlay"].axes if ax.axison] == ["sgd", "adam"]
    assert f"{one} alone has, and the figure leaves out: lion" in caplog.messages


def test_the_title_names_the_settings_in_which_the_runs_differ(tmp_path):
    settings = {"train_optimizer": "adam", "lr": 1e-3, "seed": 0, "output_dir": "a"}
    one = read_run(write_run(tmp_path / "a", [], settings))
    same = read_run(write_run(tmp_path / "b", [], settings | {"output_dir": "b"}))
    other = read_run(write_run(tmp_path / "c", [], settings | {"train_optimizer": "sgd", "lr": 1.0, "seed": 0}))
    assert title_of({"a": one, "b": same}) == "toy"
    assert title_of({"a": one, "b": same, "c": other}) == "toy: runs that differ in train_optimizer, lr"
    assert set(SETTINGS) == {
        "dataset", "model", "dataset_size", "max_length", "batch_size", "train_optimizer", "lr", "momentum", "seed",
        "seeds", "lr_scheduler", "warmup_ratio", "max_grad_norm", "test_batch_size", "test_seed", "dtype",
    }  # fmt: skip


# ---- the command ---------------------------------------------------------------------------------------------


DATA = {hessian_run: (1, 2), landscape_run: {"sgd": [1.0]}, convergence_run: {("sgd", 0): [6, 5]}}


@pytest.mark.parametrize("runs, stems", [
    ((hessian_run, hessian_run), ["heterogeneity_overlay"]),
    ((landscape_run, landscape_run), ["sharpness_overlay", "sharpness_ratios_overlay"]),
    ((convergence_run, convergence_run), ["loss_overlay"]),
    ((convergence_run, landscape_run), ["speed_and_sharpness"]),
    ((landscape_run, convergence_run), ["speed_and_sharpness"]),
])  # fmt: skip
def test_the_scripts_of_the_runs_decide_which_figures_are_drawn(tmp_path, monkeypatch, capsys, runs, stems):
    monkeypatch.setattr(overlay, "save_figure", lambda figure, stem: [stem])
    folders = [str(run(tmp_path / f"run{i}", DATA[run])) for i, run in enumerate(runs)]
    assert main(["--overlay", *folders, "--output_dir", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "both" / stem) for stem in stems]


def test_an_overlay_goes_into_a_new_folder_or_where_the_user_stands(tmp_path, monkeypatch, capsys):
    folders = [str(hessian_run(tmp_path / name, (1, 2))) for name in ("a", "b")]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for flags, place in (([], Path()), (["--output_dir", "new/place"], Path("new/place"))):
        assert main(["--overlay", *folders, "--names", "x", "y", *flags]) == 0
        drawn = [place / f"heterogeneity_overlay.{kind}" for kind in ("png", "pdf")]
        assert capsys.readouterr().out.splitlines() == [str(path) for path in drawn]
        assert sorted(path for path in (tmp_path / "here" / place).iterdir() if path.is_file()) == sorted(
            tmp_path / "here" / path for path in drawn
        )


def test_a_place_that_is_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    folders = [landscape_run(tmp_path / name, {"sgd": [1.0]}) for name in ("a", "b")]
    assert refused(capsys, *folders, "--output_dir", tmp_path / "file").startswith("cannot create folder")
    assert (tmp_path / "file").read_text() == "mine"
