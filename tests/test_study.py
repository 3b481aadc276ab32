"""The study's runs are command lines that the scripts accept, and its tables follow from the folders."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest

import run_convergence
from runs.config import described, mark_finished, write_config
from runs.tables import Table, read_table
from study import __main__ as runner
from study import lists
from study.encoders import FRESH_COPY
from study.plan import FULL, SMALL, SOURCES, chosen_rate, missing, runs
from study.tables import Study, of_numbers, of_ratios
from tests.helpers.study_runs import PARSERS, tuned
from torch_optimizer import Algorithm

ROOT = Path(__file__).parent.parent
T2 = 4.302652729911275  # Student's t, 95 %, two degrees of freedom


@pytest.fixture
def data(tmp_path):
    """A folder in which every file of the study is there."""
    for source in SOURCES.values():
        (tmp_path / "data" / source.file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / source.file).touch()
    return tmp_path / "data"


@pytest.mark.parametrize("size", [FULL, SMALL])
def test_every_run_is_a_command_line_that_its_script_takes(size, data, tmp_path):
    study, made = tmp_path / "study", set()
    (study / FRESH_COPY).mkdir(parents=True)
    for run in runs(size, data):
        if run.script == "run_convergence.py":
            tuned(study / run.name, sgd=0.5, adam=0.25)
            (study / run.name / "model" / "seed0-0-adam").mkdir(parents=True)
        settings = PARSERS[run.script]().parse_args(run.flags(study))
        if run.name.startswith("readme"):  # README's commands
            assert size is SMALL or run.flags(study) == []
            continue
        assert run.name not in made
        models = {"pretrained": study / "encoder-pretrained/model/seed0-0-adam", "fresh": study / FRESH_COPY}
        assert settings.model == str(models.get(run.name.split("-")[0], "toy"))
        made.add(run.name)
        if run.script == "run_landscape.py" and run.name != "scaling":
            rates = {"adam": 0.25 if run.name.endswith("adam_tuned") else 2e-3, "sgd": 0.5}
            own = run.name.startswith("own_step")
            assert settings.lr == (1e-2 if own else rates[settings.train_optimizer])
        if run.script != "run_hessian.py":
            file, name = settings.algorithm_list.split(":")
            assert file == "study/lists.py" and getattr(lists, name)[0].name in ("sgd", "adam")
    assert {f"{name}-{kind}" for name in SOURCES for kind in ("convergence", "adam", "sgd")} <= made


def test_runs_on_missing_data_are_left_out_and_named(data):
    (data / SOURCES["cifar10"].file).unlink()
    names = [run.name for run in runs(FULL, data)]
    assert not [name for name in names if name.startswith("cifar10")] and "snli-adam" in names
    assert missing(data) == [str(data / SOURCES["cifar10"].file)]


def test_equal_updates_and_equal_examples_are_that(data):
    by_name = {run.name: PARSERS["run_convergence.py"]().parse_args(run.flags(data)) for run in runs(FULL, data)
               if run.name.startswith("batch") and run.script == "run_convergence.py"}  # fmt: skip
    for name, settings in by_name.items():
        updates = settings.num_epochs * settings.dataset_size / settings.batch_size
        examples = settings.num_epochs * settings.dataset_size
        assert updates == 64 if "updates" in name else examples == 8 * 128
        assert settings.tune_epochs == settings.num_epochs
    assert {settings.batch_size for settings in by_name.values()} == {8, 32, 128}  # 128: the full batch


def test_a_rate_that_was_not_chosen_is_answered(tmp_path):
    tuned(tmp_path / "run", sgd=0.5)
    assert chosen_rate(tmp_path / "run", "sgd") == 0.5
    with pytest.raises(LookupError, match="no learning rate of adam was chosen, all diverged"):
        chosen_rate(tmp_path / "run", "adam")


def test_a_finished_run_is_not_made_again_and_a_stopped_one_is_resumed(tmp_path, monkeypatch):
    commands = []

    class Ended:
        returncode = 3

    run_any = subprocess.run

    def recorded(command, **options):
        if command[0] != sys.executable:  # git, for config.json
            return run_any(command, **options)
        commands.append(command[1:])
        return Ended

    monkeypatch.setattr(runner.subprocess, "run", recorded)
    run = runner.Run("a", "run_landscape.py", lambda study: ["--algorithm_list", "f.py:A", "--lr", "1"])
    assert not runner.finish(run, tmp_path)
    assert commands.pop() == ["run_landscape.py", *run.flags(tmp_path), "--output_dir", str(tmp_path / "a")]
    (tmp_path / "a").mkdir()
    write_config(tmp_path / "a", {}, [])
    assert not runner.finish(run, tmp_path)
    assert commands.pop() == ["run_landscape.py", "--resume", str(tmp_path / "a"), "--algorithm_list", "f.py:A"]
    mark_finished(tmp_path / "a")
    assert runner.finish(run, tmp_path) and commands == []


def test_means_have_students_interval_over_the_seeds():
    assert of_numbers([1.0]) == {"mean": 1.0, "low": None, "high": None, "seeds": 1}
    numbers = of_numbers([1.0, 2.0, 3.0])
    assert (numbers["mean"], numbers["high"] - 2) == (2.0, pytest.approx(T2 / math.sqrt(3)))
    ratios = of_ratios([0.1, 1.0, 10.0])
    assert ratios["mean"] == pytest.approx(1) and ratios["low"] == pytest.approx(10 ** (-T2 / math.sqrt(3)))
    assert of_ratios([-1.0, 2.0, 2.0])["mean"] == 1.0, "a negative ratio has no logarithm"


def losses_folder(folder, losses):
    """A run of two rows; (label, seed) -> losses of the last epoch, one per update of two examples."""
    folder.mkdir(parents=True)
    rows = {row.name: row for row in lists.SGD_AND_ADAM}
    write_config(folder, {"seeds": [0, 1]}, described(rows))
    table = Table(folder / "losses.csv", run_convergence.LOSSES)
    for (label, seed), values in losses.items():
        for i, loss in enumerate([9.0, *values], 1):
            table.append(
                algorithm=label, seed=seed, epoch=min(i, 2), iteration=i, examples=2, loss=loss, lr=1, seconds=0
            )
    table.save()
    summary = Table(folder / "summary.csv", run_convergence.SUMMARY)
    for label in rows:
        summary.append(dict.fromkeys(run_convergence.SUMMARY) | dict(algorithm=label, diverged=0))
    summary.save()
    mark_finished(folder)


def test_the_gap_of_a_batch_size_is_that_of_the_last_epochs(tmp_path):
    losses = {("sgd", 0): [3.0, 5.0], ("sgd", 1): [5.0, 5.0], ("adam", 0): [1.0, 2.0], ("adam", 1): [2.0, 3.0]}
    losses_folder(tmp_path / "batch32-updates-convergence", losses)
    (row,) = Study(tmp_path).batch_sizes()
    half = 12.706204736 * (2.5 - 2.5) / 2
    assert row == {"batch_size": 32, "equal": "updates", "updates": 3, "sgd": 4.5, "adam": 2.0, "gap": 2.5,
                   "low": 2.5 - half, "high": 2.5 + half, "seeds": 2}  # fmt: skip


def test_a_clipped_step_is_counted_as_flatter_predicted_and_scanned(tmp_path):
    """Two points: at the first the clipped step is flatter, but neither model nor scan let it fall further; at the
    second only the scan does."""
    folder = tmp_path / "snli-adam"
    folder.mkdir()
    rows = {"sgd": Algorithm("sgd", lr=1.0), "cut": Algorithm("sgd", lr=1.0, coordinate_clip=0.1)}
    write_config(folder, {"seeds": [0]}, described(rows))
    place = ["seed", "epoch", "batch", "algorithm", "measured_on"]
    sharpness = Table(folder / "sharpness.csv", [*place, "sharpness", "predicted_decrease"])
    scan = Table(folder / "scan.csv", [*place, "distance", "loss"])
    for epoch, label, flat, predicted, lowest in (
        (1, "sgd", 4.0, 0.5, 6.0), (1, "cut", 1.0, 0.4, 6.1), (2, "sgd", 1.0, 0.5, 6.0), (2, "cut", 2.0, 0.4, 5.0),
    ):  # fmt: skip
        at = dict(seed=0, epoch=epoch, batch=1, algorithm=label, measured_on="test")
        sharpness.append(**at, sharpness=flat, predicted_decrease=predicted)
        for distance, loss in enumerate((7.0, lowest, 9.0)):
            scan.append(**at, distance=distance, loss=loss)
    for table in (sharpness, scan):
        table.save()
    mark_finished(folder)
    study = Study(tmp_path)
    study._of_claims = lambda data: [folder] if data == "snli" else []
    (row,) = study.scans()
    assert row == dict(data="snli", pairs=2, flatter=1, predicted_further=0, fell_further=1, as_predicted=1)


def test_class_ratios_are_of_the_last_epoch_and_of_the_outer_classes(tmp_path):
    folder = tmp_path / "zipf1-adam"
    folder.mkdir()
    table = Table(folder / "classes.csv", ["seed", "epoch", "algorithm", "class", "sharpness"])
    for epoch in (1, 2):
        for label, factor in (("sgd", 1.0), ("adam", 0.5)):
            for number in (1, 2, 3):
                sharpness = factor**number * epoch
                table.append(seed=0, epoch=epoch, algorithm=label, **{"class": number}, sharpness=sharpness)
    table.save()
    ratios = Table(folder / "ratios.csv", ["seed", "epoch", "algorithm", "measured_on", "mean_ratio"])
    for epoch in (1, 2):
        ratios.append(seed=0, epoch=epoch, algorithm="adam", measured_on="test", mean_ratio=epoch / 8)
    ratios.save()
    assert Study(tmp_path)._class_ratios("zipf1-adam") == {
        "Adam's ratio, frequent tokens": [0.5],
        "Adam's ratio, rare tokens": [0.125],
        "Adam's ratio, all tokens": [0.25],
    }


def test_class_gaps_are_of_two_trajectories_in_the_last_epoch(tmp_path):
    for name, losses in {"zipf1-sgd": {1: 3.0, 2: 5.0, 3: 9.0}, "zipf1-adam_tuned": {1: 2.5, 2: 1.0, 3: 7.0}}.items():
        table = Table(tmp_path / name / "classes.csv", ["seed", "epoch", "algorithm", "class", "token_loss"])
        for epoch, label, number in itertools.product((1, 2), ("sgd", "adam"), losses):
            table.append(
                seed=4, epoch=epoch, algorithm=label, **{"class": number}, token_loss=losses[number] * (epoch - 1)
            )
        (tmp_path / name).mkdir()
        table.save()
    assert Study(tmp_path)._class_gaps("zipf1-sgd", "zipf1-adam_tuned") == {
        "loss of SGD less that of Adam, per frequent token": [0.5],
        "loss of SGD less that of Adam, per rare token": [2.0],
    }


@pytest.mark.slow
def test_the_small_study_runs_whole_and_fills_every_table(tmp_path):
    study = tmp_path / "study"
    for module, *flags in (["study", "--small", "--output_dir", str(study)],
                           ["study.tables", str(study), "--output_dir", str(tmp_path / "tables")]):  # fmt: skip
        subprocess.run([sys.executable, "-m", module, *flags], cwd=ROOT, check=True, timeout=2400)
    made = {path.name for path in study.iterdir()}
    assert made == {run.name for run in runs(SMALL, None)} | {FRESH_COPY}
    empty = [path.stem for path in (tmp_path / "tables").glob("*.csv") if not read_table(path)]
    assert empty == []
