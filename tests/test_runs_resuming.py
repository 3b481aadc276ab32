"""A run is resumed with its own settings, and what is no longer the same is named."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from matplotlib.text import Text

from convergence import one_run
from figures import drawing
from runs.config import numbered, read_config, versions, write_config
from runs.machine import machine_state
from runs.opening import _changes_since, _hashes
from runs.saver import Saver
from runs.tables import read_table
from tests.helpers import tiny_run
from tests.helpers.stored_runs import LANDSCAPE, ROOT, files, landscape, refused, stop_at, tables
from torch_optimizer import Algorithm

pytestmark = pytest.mark.usefixtures("tiny_task")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stores_the_run_and_says_how_to_go_on(number, reference, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "a run"
    with monkeypatch.context() as patch:
        stop_at(patch, 7, number)
        assert landscape(*LANDSCAPE, "--output_dir", folder) == 128 + number
    error = capfd.readouterr().err
    hint = f"continue with: python run_landscape.py --resume '{folder}'"
    assert f"stopped by {number.name} after iteration 7; {hint}" in error
    assert not (folder / "run.lock").exists()
    assert (folder / "checkpoints" / "checkpoint-00000007.json").exists(), "stored where it stopped"
    assert landscape("--resume", folder) == 0
    assert tables(folder) == reference
    before = files(folder)
    assert landscape("--resume", folder) == 0
    assert "is complete" in capfd.readouterr().out and files(folder) == before


def test_the_end_of_every_epoch_is_stored(tmp_path, monkeypatch):
    kept = []
    after = Saver.after

    def recorded(saver, count, state, **options):
        kept.extend([count] * options["milestone"])
        after(saver, count, state, **options)

    monkeypatch.setattr(Saver, "after", recorded)
    flags = f"{tiny_run.FLAGS} --num_epochs 2 --test_epochs 2 --test_batch_size 8 --skip_search"
    assert landscape(*flags.split(), "--output_dir", tmp_path / "run") == 0
    assert kept == [5, 10]  # 20 examples in batches of 4


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal; from runs.stopping import StopRequest\n"
        "with StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('never', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM and done.stdout == "still here\n"


# ---- numbers ------------------------------------------------------------------------------------------------------


def test_an_algorithm_that_is_not_finite_is_marked_and_dropped_and_the_others_go_on(
    reference, tmp_path, monkeypatch, capfd
):
    exploding = Algorithm("sgd", lr=0.1, momentum=1e25, coordinate_clip=0.2)  # its momentum overflows at once
    monkeypatch.setattr(tiny_run, "ROWS", [*tiny_run.ROWS, exploding])
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 13)  # after it was dropped
        assert landscape(*LANDSCAPE, "--output_dir", folder) == 128 + signal.SIGTERM
    assert landscape("--resume", folder) == 0
    label = "sgd, coordinate_clip=0.2"
    assert capfd.readouterr().err.count(f"{label}: its step or its state is not finite in epoch 2") == 1
    rows = [row for row in read_table(folder / "sharpness.csv") if row["algorithm"] == label]
    assert len(rows) == 1 and rows[0]["epoch"] == 2
    told = [name for name, cell in rows[0].items() if cell is not None]
    assert told == ["seed", "epoch", "batch", "iteration", "algorithm", "measured_on"]
    for name, table in tables(folder).items():
        others = [line for line in table.decode().splitlines() if label not in line]
        assert others == reference[name].decode().splitlines(), name


# ---- what has changed since ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags, answer", [
    (["--lr", "0.5"], r"was started with other settings: --lr is 0.5, was 0.001; --allow_changes continues"),
    (["--task", "toy"], "--task is toy, was tiny"),
    (["--test_epochs", "2", "3"], r"--test_epochs is \[2, 3\], was \[2, 4\]"),
    (["--num_epochs", "5", "--seed", "1"], "--num_epochs is 5, was 4; --seed is 1, was 0"),
    (["--save_model"], "--save_model is True, was False"),
    (["--output_dir", "other"], "leave out --overwrite and --output_dir"),
    (["--overwrite"], "leave out --overwrite and --output_dir"),
])  # fmt: skip
def test_a_flag_that_contradicts_the_run_is_named(flags, answer, stopped, capfd):
    refused(["--resume", stopped, *flags], answer, stopped, capfd)


def test_flags_that_repeat_the_runs_settings_are_welcome(stopped, reference):
    assert landscape("--resume", stopped, "--lr", "1e-3", "--test_epochs", "2", "4", "--checkpoint_every", "3") == 0
    assert tables(stopped) == reference


@pytest.mark.parametrize("script, flags", [
    ("landscape", f"{tiny_run.FLAGS} --num_epochs 1 --test_epochs 1 --test_batch_size 8"),
    ("convergence", f"{tiny_run.FLAGS} --num_epochs 1"),
    ("hessian", "--task tiny --dataset_size 20 --batch_size 10"),
])  # fmt: skip
def test_a_run_with_few_flags_is_taken_up(script, flags, tmp_path):
    assert tiny_run.main(script, [*flags.split(), "--output_dir", str(tmp_path / "run")]) == 0
    before = tables(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["finished"]
    path.write_text(json.dumps(config))
    assert tiny_run.main(script, ["--resume", str(tmp_path / "run")]) == 0
    assert tables(tmp_path / "run") == before
    notes = read_config(tmp_path / "run").get("notes", [])  # the tiny model has batch norm, which matters in training
    assert ["batch norm" in note for note in notes] == [True] * (script != "hessian")


def test_another_library_version_is_named(stopped, monkeypatch, capfd):
    path = stopped / "config.json"
    config = json.loads(path.read_text())
    now, config["versions"]["torch"] = config["versions"]["torch"], "1.0"
    path.write_text(json.dumps(config))
    refused(["--resume", stopped], f"torch is {re.escape(now)}, was 1.0", stopped, capfd)
    assert landscape("--resume", stopped, "--allow_changes") == 0
    assert read_config(stopped)["resumed"][0]["changes"] == [f"torch is {now}, was 1.0"]


def test_an_edited_list_is_named_and_allowed_rows_start_anew(stopped, reference, monkeypatch, capfd):
    edited = [*tiny_run.ROWS[:2], Algorithm("adam", lr=1e-2, eps=1e-3), *tiny_run.ROWS[4:], Algorithm("sign_sgd")]
    monkeypatch.setattr(tiny_run, "ROWS", edited)
    answer = r"row 'adam' is \(lr=0.01, eps=0.001, .*was \(lr=0.01, step.*'adafactor' is gone.*'sign_sgd' is new"
    refused(["--resume", stopped], answer, stopped, capfd)
    assert landscape("--resume", stopped, "--allow_changes") == 0
    lines = tables(stopped)["sharpness.csv"].decode().splitlines()
    was = reference["sharpness.csv"].decode().splitlines()
    same = [line for line in lines if line.startswith("0,4,") and line.split(",")[4] in ("sgd", "nadam", "lion")]
    assert len(same) == 6 and set(same) <= set(was)
    assert sum("sign_sgd" in line for line in lines) == 2 and set(lines) - set(was)
    assert [row["label"] for row in read_config(stopped)["gone"]] == ["adafactor"]
    monkeypatch.setattr(drawing, "FIGURES", {"ratios": drawing.FIGURES["ratios"]})
    drawn = []
    drawing.draw_all(stopped, lambda name, figure: drawn.extend(text.get_text() for text in figure.findobj(Text)))
    assert {"adafactor", "sign_sgd"} <= set(drawn), "the rows that are gone are drawn with the others"


def test_another_data_file_is_named(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text("one")
    before = _hashes([str(source)])
    source.write_text("two")
    earlier = {"versions": versions(), "data": before, "algorithms": []}
    assert _changes_since(earlier, [], before, machine_state()) == []
    assert _changes_since(earlier, [], _hashes([str(source)]), machine_state()) == [f"{source} has another content"]


def test_another_number_of_threads_is_named(stopped, reference, capfd, monkeypatch):
    """It changes the order of sums, and with it the last digits."""
    threads = torch.get_num_threads()
    assert read_config(stopped)["machine"] == {"threads": threads}
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    answer = rf"the number of threads is {threads + 1}, was {threads} \(OMP_NUM_THREADS={threads} sets it\)"
    refused(["--resume", stopped], answer, stopped, capfd)
    assert landscape("--resume", stopped, "--allow_changes") == 0
    config = read_config(stopped)
    assert config["machine"] == {"threads": threads + 1} and len(config["resumed"][0]["changes"]) == 1


def test_rows_in_another_order_continue_to_the_same_bytes(stopped, reference, monkeypatch):
    monkeypatch.setattr(tiny_run, "ROWS", tiny_run.ROWS[::-1])
    before = [row["label"] for row in read_config(stopped)["algorithms"]]
    assert landscape("--resume", stopped) == 0
    assert tables(stopped) == reference
    assert [row["label"] for row in read_config(stopped)["algorithms"]] == before


def test_a_row_keeps_its_number_and_that_of_a_row_that_is_gone_is_not_given_again():
    def rows(*labels):
        return [{"label": label, "name": label, "options": {}} for label in labels]

    def numbers(found):
        return {row["label"]: row["number"] for row in found}

    first = numbered(rows("a", "b", "c"), None)
    assert numbers(first) == {"a": 1, "b": 2, "c": 3}
    second = numbered(rows("c", "d", "a"), {"algorithms": first})
    assert numbers(second) == {"c": 3, "d": 4, "a": 1}
    gone = {"algorithms": second, "gone": [first[1]]}
    assert numbers(numbered(rows("e", "b"), gone)) == {"e": 5, "b": 2}
    assert numbers(numbered(rows("b", "e"), {"algorithms": rows("a", "b")})) == {"b": 2, "e": 3}, "an older config.json"


def test_the_model_of_one_row_is_never_written_over_by_that_of_another(tmp_path, monkeypatch):
    """The first row is taken out of the list before the run is resumed, so the second one comes first."""
    flags = [*tiny_run.FLAGS.split(), "--num_epochs", "1", "--save_model", "--output_dir", str(tmp_path / "run")]
    train, count = one_run.Start.train, iter(range(1, 10**6))

    def train_and_stop(self, *arguments, **options):
        if next(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return train(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tiny_run, "ROWS", tiny_run.ROWS[:2])
        patch.setattr(one_run.Start, "train", train_and_stop)
        assert tiny_run.main("convergence", flags) == 128 + signal.SIGTERM
    [kept] = (tmp_path / "run" / "model").iterdir()
    before = (kept / "model.pt").read_bytes()
    monkeypatch.setattr(tiny_run, "ROWS", tiny_run.ROWS[1:2])
    assert tiny_run.main("convergence", ["--resume", str(tmp_path / "run"), "--allow_changes"]) == 0
    names = sorted(path.name for path in (tmp_path / "run" / "model").iterdir())
    assert names == ["seed0-1-sgd", "seed0-2-sgd"] and kept.name == names[0]
    assert (kept / "model.pt").read_bytes() == before != (kept.parent / names[1] / "model.pt").read_bytes()


def test_the_row_that_ratios_are_to_must_stay(stopped, monkeypatch, capfd):
    monkeypatch.setattr(tiny_run, "ROWS", tiny_run.ROWS[1:])
    answer = "the ratios in .* would be relative to two different rows, sgd and none"
    refused(["--resume", stopped, "--allow_changes"], answer, stopped, capfd)
    monkeypatch.setattr(tiny_run, "ROWS", [*tiny_run.ROWS, Algorithm("sgd", lr=0.1)])
    answer = "would be relative to two different rows, sgd and lion"
    refused(["--resume", stopped, "--allow_changes", "--reference", "lion"], answer, stopped, capfd)


def test_a_real_run_records_the_commit_of_the_source(stopped):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    if not commit:
        pytest.skip("this is no checkout")
    git = read_config(stopped)["git"]
    assert git["commit"] == commit and re.fullmatch("[0-9a-f]{40}", commit) and git["dirty"] in (True, False)


INJECTED = {
    "sample_iterations": ["1", "--overwrite", "--output_dir=precious"], "dataset": "--overwrite", "seed": "--overwrite",
    "test_epochs": ["--resume", "x"], "task": ["tiny", "--overwrite"], "skip_search": "--overwrite", "lr": {"a": 1},
    "num_epochs": True, "test_seed": [], "momentum": 3, "device": None, "dtype": "float16", "batch_size": 1e400,
    "micro_batch_size": "9" * 5_000, "model": True, "output_dir": "precious", "overwrite": True,
}  # fmt: skip


@pytest.mark.parametrize("name", INJECTED)
def test_a_value_from_a_file_is_never_a_flag(name, stopped, reference, tmp_path, monkeypatch, capfd):
    """Of a config.json from elsewhere, each value is its own flag's alone; those of one command only are not used."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "training.csv").write_text("years of work")
    write_config(tmp_path / "precious", {}, [])
    precious = files(tmp_path / "precious")
    path = stopped / "config.json"
    config = json.loads(path.read_text())
    config["settings"][name] = INJECTED[name]
    path.write_text(json.dumps(config))
    if name in ("output_dir", "overwrite", "device", "dataset"):  # the tiny task has no data to find
        assert landscape("--resume", stopped) == 0
        assert tables(stopped) == reference and read_config(stopped)["settings"]["overwrite"] is False
    else:
        refused(["--resume", stopped], rf"config.json: --{name}: (expected|unknown)", stopped, capfd)
    assert files(tmp_path / "precious") == precious


@pytest.mark.parametrize("text, answer", [
    (None, "is not a run folder: it has no config.json"),
    ("{", "cannot read .*config.json"),
    ("[]", "was not written by a run: it has no 'settings'"),
    ('{"settings": 3, "algorithms": [], "versions": {}, "command": "", "started": ""}', "its 'settings' is 3"),
    ('{"settings": {}, "algorithms": [], "versions": {}, "command": "", "started": ""}', "no run of this script"),
    ('{"settings": {}, "algorithms": [3], "versions": {}, "command": "", "started": ""}', "its 'algorithms' is 3"),
])  # fmt: skip
def test_a_folder_that_holds_no_run_is_answered_in_one_line(text, answer, tmp_path, capfd):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    refused(["--resume", tmp_path], answer, tmp_path, capfd)


def test_allow_changes_without_resume_is_refused(tmp_path, capfd):
    flags = [*LANDSCAPE, "--allow_changes", "--output_dir", tmp_path / "run"]
    refused(flags, "--allow_changes is for --resume, which is not given", tmp_path, capfd)


def test_a_run_of_before_a_flag_existed_is_resumed_only_when_that_is_allowed(stopped, reference, capfd):
    path = stopped / "config.json"
    config = json.loads(path.read_text())
    del config["settings"]["scan"]
    path.write_text(json.dumps(config))
    refused(["--resume", stopped], "was started with other settings: --scan did not exist then", stopped, capfd)
    assert landscape("--resume", stopped, "--allow_changes") == 0
    assert tables(stopped) == reference


def test_a_setting_that_was_damaged_in_the_folder_is_answered_by_its_name(stopped, capfd):
    path = stopped / "config.json"
    path.write_text(path.read_text().replace('"batch_size": 4', '"batch_size": "four"', 1))
    refused(["--resume", stopped], "--batch_size: expected int", stopped, capfd)
