"""Damaged, foreign and unreadable checkpoints; folders that are taken; disks that refuse."""

import errno
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import run_landscape
from runs import background
from runs.checkpoints import CannotRead, Checkpoints, content_hash, load_tensors, save_tensors
from runs.folder import remove_checkpoints
from tests.helpers import tiny_run
from tests.helpers.stored_runs import LANDSCAPE, ROOT, files, landscape, refused, stop_at, tables

pytestmark = pytest.mark.usefixtures("tiny_task")


@pytest.mark.parametrize("kind", ["flip", "cut", "empty", "lost"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(kind, stopped, reference, capfd):
    newest, previous = sorted(stopped.glob("checkpoints/*.pt"), reverse=True)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    if kind == "lost":
        newest.unlink()
    else:
        newest.write_bytes({"flip": data, "cut": data[: len(data) // 2], "empty": b""}[kind])
    assert landscape("--resume", stopped) == 0
    error = capfd.readouterr().err
    assert f"{newest} cannot be used" in error and "continuing after iteration 12" in error
    assert tables(stopped) == reference


def test_with_every_checkpoint_damaged_the_run_starts_again_and_says_so(stopped, reference, capfd):
    for path in stopped.glob("checkpoints/*.pt"):
        path.write_bytes(b"")
    assert landscape("--resume", stopped) == 0
    assert capfd.readouterr().err.count("cannot be used") == 2
    assert tables(stopped) == reference


def test_no_damage_goes_unseen(stopped):
    """Fifty times bytes flipped or cut at random places of the newest checkpoint or its checksum."""
    checkpoints, rng = Checkpoints(stopped / "checkpoints"), random.Random(0)
    paths = sorted(stopped.glob("checkpoints/checkpoint-00000013.*"))
    good = {path: path.read_bytes() for path in paths}
    state = {13: checkpoints.load()[1]}
    assert sorted(good) and checkpoints.load()[0] == 13
    for _ in range(50):
        path = rng.choice(paths)
        data = bytearray(good[path])
        place = rng.randrange(len(data))
        if rng.random() < 0.5:
            data[place] ^= 1 << rng.randrange(8)
        else:
            del data[place:]
        path.write_bytes(data)
        iteration, loaded = checkpoints.load()
        assert iteration == 12 or path.suffix == ".json" and _equal(loaded, state[13])  # the name in it is for people
        path.write_bytes(good[path])


def _equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def test_after_damage_to_all_checkpoints_those_of_the_new_start_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (90, 100):
        checkpoints.save(number, {"number": number})
        background.wait()
        (tmp_path / f"checkpoint-{number:08d}.pt").write_bytes(b"damaged")
    assert checkpoints.load() is None
    for number in (10, 20, 30):
        checkpoints.save(number, {"number": number})
        assert checkpoints.load() == (number, {"number": number})
    assert len(list(tmp_path.iterdir())) == 4, "two of two files each"


@pytest.mark.parametrize("error", [PermissionError("no"), MemoryError(), OSError(errno.EIO, "Input/output error")])
def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_damaged(error, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise error

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {})
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(CannotRead, match="cannot read .*checkpoint-00000001.pt: (no|MemoryError|Input/output error)"):
        checkpoints.load()


# ---- of something else --------------------------------------------------------------------------------------------


def foreign_states():
    """States that another script, another model or nobody stored, each with a right checksum."""
    linear = torch.nn.Linear(3, 2)
    return {
        "hessian": {"key": "batch 1: 0.weight", "rows": []},
        "hessian, earlier": {"blocks": "[]", "generator": torch.Generator().get_state()},
        "convergence": {"ended": "{}", "at_work": {"key": "a run", "iteration": 3, "notes": "[]"}},
        "convergence, odd": {"ended": "[3]", "at_work": [1]},
        "points": {"tables": {"sharpness": "[]"}},
        "another model": {"model": linear.state_dict(), "rows": {}, "pseudo_updates": {}, "train_optimizer": "adam",
                          "optimizer": {}, "tables": {}, "train_row": ""},
        "nothing": {}, "a list": [1, 2], "a number": 3, "text": "text", "none": None,
    }  # fmt: skip


@pytest.mark.parametrize("kind", foreign_states())
@pytest.mark.parametrize("script", ["landscape", "convergence", "hessian", "points"])
def test_a_checkpoint_of_something_else_is_one_line_and_stays(script, kind, begun, tmp_path, capfd):
    if (script, kind) in {("hessian", "hessian"), ("points", "points"), ("convergence", "convergence")}:
        pytest.skip("that is its own")
    folder = Path(shutil.copytree(begun / script, tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    place = folder / "checkpoints" / {"convergence": "seed0-1-sgd", "hessian": "batch1-part1"}.get(script, "")
    place.mkdir(parents=True)
    Checkpoints(place).save(9, foreign_states()[kind])
    background.wait()
    before = files(place)
    capfd.readouterr()
    assert tiny_run.main("landscape" if script == "points" else script, ["--resume", str(folder)]) == 1
    error = capfd.readouterr().err
    answer = r"^stopped: .*checkpoint.* does not fit this run: .*; what was done before is"
    if script == "convergence":
        answer = r"^sgd, seed 0 failed: .*checkpoint.* does not fit this run: .*; the other jobs go on$"
        assert (place / "failed.txt").exists() and "stopped: 1 of 6 jobs failed: sgd, seed 0; " in error
        (place / "failed.txt").unlink()
    assert re.search(answer, error, re.M), error
    assert "Traceback" not in error and files(place) == before


@pytest.mark.parametrize("script", ["convergence", "hessian"])
def test_a_run_of_before_there_were_jobs_is_refused_in_one_line(script, begun, tmp_path, capfd):
    folder = Path(shutil.copytree(begun / script, tmp_path / "run"))
    Checkpoints(folder / "checkpoints").save(9, {"ended": "{}", "at_work": None})
    background.wait()
    before = files(folder)
    with pytest.raises(SystemExit) as exit:
        tiny_run.main(script, ["--resume", str(folder)])
    error = capfd.readouterr().err.splitlines()
    assert exit.value.code == 2 and files(folder) == before
    assert len(error) == 1 and "was begun by an earlier version, whose checkpoints had another form" in error[0]


@pytest.fixture(scope="module")
def begun(tiny_task, tmp_path_factory):
    """A folder of each script, and of --from_points, with a run that can be resumed."""
    place = tmp_path_factory.mktemp("begun")
    few = ["--task", "tiny", "--dataset_size", "8", "--batch_size", "4"]
    listed = [*few, "--algorithm_list", "tiny", "--num_epochs", "1"]
    landscape = [*listed, "--test_epochs", "1", "--test_batch_size", "4", "--num_sample_sharpness", "1"]
    flags = {"landscape": [*landscape, "--save_points"], "convergence": listed, "hessian": [*few, "--num_batches", "1"],
             "points": ["--from_points", str(place / "landscape")]}  # fmt: skip
    for name, words in flags.items():
        script = "landscape" if name == "points" else name
        assert tiny_run.main(script, [*words, "--output_dir", str(place / name)]) == 0
        path = place / name / "config.json"
        config = json.loads(path.read_text())
        del config["finished"]
        path.write_text(json.dumps(config))
    return place


# ---- links and other disks ----------------------------------------------------------------------------------------


def test_checkpoints_may_lie_on_another_disk_behind_a_link(stopped, reference, tmp_path):
    scratch = tmp_path / "scratch"
    (stopped / "checkpoints").rename(scratch)
    (stopped / "checkpoints").symlink_to(scratch)
    (scratch / "mine.txt").write_text("mine")
    assert landscape("--resume", stopped) == 0
    assert tables(stopped) == reference
    assert [path.name for path in scratch.iterdir()] == ["mine.txt"] and (stopped / "checkpoints").is_symlink()


def test_a_new_run_takes_a_link_for_its_checkpoints(reference, tmp_path):
    folder, scratch = tmp_path / "run", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    (folder / "checkpoints").symlink_to(scratch)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 13)
        assert landscape(*LANDSCAPE, "--output_dir", folder) == 128 + signal.SIGTERM
    assert len(list(scratch.glob("checkpoint-*.pt"))) == 2
    assert landscape("--resume", folder) == 0 and tables(folder) == reference and not list(scratch.iterdir())


def test_only_files_of_the_run_are_removed_when_it_is_resumed(stopped, reference):
    mine = [".mine.tmp", ".my.csv.17.tmp", "notes/.mine.tmp", "notes/.scan.csv.17.tmp", "checkpoints/note", "my.csv"]
    for name in mine:
        (stopped / name).parent.mkdir(exist_ok=True)
        (stopped / name).write_text("mine")
    (stopped / ".scan.csv.17.tmp").write_text("left by a process that was killed")
    assert landscape("--resume", stopped) == 0
    assert all((stopped / name).read_text() == "mine" for name in mine)
    assert not (stopped / ".scan.csv.17.tmp").exists()
    assert {name: table for name, table in tables(stopped).items() if name != "my.csv"} == reference


def test_checkpoints_that_cannot_be_removed_are_named_and_end_nothing(tmp_path, monkeypatch, caplog):
    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    Checkpoints(tmp_path / "checkpoints").save(1, {})
    background.wait()
    monkeypatch.setattr(Path, "unlink", refuse)
    remove_checkpoints(tmp_path)
    assert f"cannot remove {tmp_path / 'checkpoints'}: Permission denied" in caplog.text


def test_a_finished_run_on_a_read_only_disk_is_complete(small_disk, reference, capfd):
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    folder = small_disk / "run"
    assert landscape(*LANDSCAPE, "--output_dir", folder) == 0
    for left in (False, True):  # with what a kill in the last moment leaves, and without
        if left:
            Checkpoints(folder / "checkpoints").save(1, {})
            background.wait()
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        assert landscape("--resume", folder) == 0
        assert "is complete: nothing is left to do" in capfd.readouterr().out
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert landscape("--resume", folder) == 0 and not (folder / "checkpoints").exists()


def test_memory_that_cannot_be_had_is_one_line_and_the_run_goes_on(tmp_path, reference, monkeypatch, capfd):
    advance, count = run_landscape.PseudoUpdates.advance, iter(range(1, 10**6))

    def advance_and_fail(self, collect=True):
        if next(count) == 7:
            torch.empty(10**15)  # a petabyte or four
        return advance(self, collect)

    with monkeypatch.context() as patch:
        patch.setattr(run_landscape.PseudoUpdates, "advance", advance_and_fail)
        assert landscape(*LANDSCAPE, "--output_dir", tmp_path / "run") == 1
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert re.search(r"^stopped: out of memory \(.*allocate.*\); less is taken by an --algorithm_list of fewer rows or "
                     r".*a smaller --model; .*; continue with: python run_landscape.py --resume ", error,
                     re.M), error  # fmt: skip
    assert landscape("--resume", tmp_path / "run") == 0 and tables(tmp_path / "run") == reference


def test_memory_that_data_and_model_do_not_find_is_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(run_landscape, "load_task", lambda *_, **__: torch.empty(10**15))
    refused([*LANDSCAPE, "--output_dir", tmp_path / "run"], "out of memory while data and model are prepared", tmp_path,
            capfd)  # fmt: skip


# ---- the lock -----------------------------------------------------------------------------------------------------


@pytest.fixture
def holder(stopped):
    """Another process, at work in the folder of a stopped run."""
    code = "import sys, time; from runs.lock import lock; lock(sys.argv[1]); print('locked', flush=1); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, stopped], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    yield other
    other.kill()
    other.wait()


def test_a_second_process_is_refused_with_the_firsts_number_and_host(stopped, holder, capfd):
    answer = f"process {holder.pid} on {re.escape(socket.gethostname())} is at work in"
    refused(["--resume", stopped], answer, stopped, capfd)
    refused([*LANDSCAPE, "--output_dir", stopped, "--overwrite"], answer, stopped, capfd)


def test_the_lock_of_a_process_that_was_killed_is_nobodys(stopped, holder, reference):
    holder.kill()
    holder.wait()
    assert (stopped / "run.lock").exists()
    assert landscape("--resume", stopped) == 0
    assert tables(stopped) == reference and not (stopped / "run.lock").exists()


def test_what_a_run_reads_is_not_removed_for_it(tmp_path, capfd):
    folder = tmp_path / "run"
    assert landscape(*LANDSCAPE, "--output_dir", folder) == 0
    (folder / "model").mkdir()
    capfd.readouterr()
    for source in (folder, folder / "model"):
        flags = [*LANDSCAPE, "--model", source, "--output_dir", folder, "--overwrite"]
        refused(flags, f"--overwrite would remove {source}, which this run reads", folder, capfd)


# ---- a disk that refuses ------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 96 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(small_disk, reference, capfd):
    folder = small_disk / "run"
    assert landscape(*LANDSCAPE, "--output_dir", folder) == 1
    error = capfd.readouterr().err
    assert re.search(r"stopped: cannot write .*: No space left on device; .* python run_landscape.py --resume", error)
    assert "Traceback" not in error and not list(folder.rglob(".*.tmp"))
    assert tables(folder) != reference
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert landscape("--resume", folder) == 0
    assert tables(folder) == reference


def test_a_folder_that_cannot_be_written_to_is_one_line(small_disk, stopped, reference, capfd):
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    folder = Path(shutil.copytree(stopped, small_disk / "run"))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    refused(["--resume", folder], "cannot write .*run.lock: Read-only file system", folder, capfd)
    refused([*LANDSCAPE, "--output_dir", small_disk / "new"], "Read-only file system", folder, capfd)
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    assert landscape("--resume", folder) == 0
    assert tables(folder) == reference


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "code has run"),)

    save_tensors(tmp_path / "checkpoint.pt", {"a": Code()})
    with pytest.raises(ValueError, match="checkpoint.pt cannot be used: Weights only load failed"):
        load_tensors(tmp_path / "checkpoint.pt")
    assert not (tmp_path / "code has run").exists()


def test_the_hash_of_a_folder_is_over_names_and_contents(tmp_path):
    def hash_of(**files):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        (tmp_path / "data" / "below").mkdir(parents=True)
        for name, text in files.items():
            (tmp_path / "data" / name).write_text(text)
        return content_hash(tmp_path / "data")

    assert hash_of(a="1", b="2") == hash_of(b="2", a="1")
    assert len({hash_of(a="1", b="2"), hash_of(a="2", b="1"), hash_of(a="12"), hash_of(b="1", c="2")}) == 4
