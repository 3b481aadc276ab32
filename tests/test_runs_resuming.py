"""A run that is killed, stopped, damaged or starved of disk ends, resumed, in the same bytes."""

import errno
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch

import run_landscape
from algorithm_list import ALGORITHM_LISTS
from figures.drawing import draw_all
from runs.checkpoints import CannotRead, Checkpoints
from runs.config import read_config, versions, write_config
from runs.lifecycle import _changes_since, _hashes
from runs.machine import machine_state
from runs.tables import read_table
from tests.helpers import tiny_run
from torch_optimizer import Algorithm

ROOT = Path(run_landscape.__file__).parent
LANDSCAPE = [*tiny_run.FLAGS.split(), "--test_batch_size", "8", "--num_epochs", "4", "--test_epochs", "2", "4",
             "--num_sample_sharpness", "2", "--checkpoint_every", "2"]  # fmt: skip
CONVERGENCE = [*tiny_run.FLAGS.split(), "--num_epochs", "2", "--seeds", "0", "1", "--lr_scheduler", "linear",
               "--tune_lr", "--lr_grid", "0.5", "1", "--tune_epochs", "1", "--checkpoint_every", "3"]  # fmt: skip
HESSIAN = ["--task", "tiny", "--dataset_size", "20", "--batch_size", "10", "--checkpoint_every", "3"]
COMMANDS = {
    "landscape": [*LANDSCAPE, "--dtype", "float64", "--num_sample_sharpness", "1"],
    "convergence": CONVERGENCE,
    "hessian": HESSIAN,
}
KILL, ASK = signal.SIGKILL, [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


# ---- real processes -----------------------------------------------------------------------------------------------


def child(script, arguments, log):
    """What a child process does: the script, with its messages in a file."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    torch.set_num_threads(1)
    for number in ASK:  # as in a script that a shell has just started
        signal.signal(number, signal.SIG_DFL)
    os._exit(tiny_run.main(script, [str(a) for a in arguments]))


@pytest.fixture(scope="module")
def start():
    """start(script, arguments, log) -> a process of its own; the imports are paid for once."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.tiny_run"])

    def start(script, arguments, log):
        process = context.Process(target=child, args=(script, arguments, log))
        process.start()
        return process

    server = context.Process()
    server.start()
    server.join()  # the server imports now: no run's seconds count it
    yield start
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


def tables(folder):
    """The bytes of every table, but for the seconds of a run, which end each line of losses.csv."""
    found = {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.csv"))}
    if "losses.csv" in found:
        found["losses.csv"] = b"\n".join(line.rpartition(b",")[0] for line in found["losses.csv"].splitlines())
    return found


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """script -> (tables of the run that nothing interrupts, its seconds)."""
    found = {}
    for script, flags in COMMANDS.items():
        folder = tmp_path_factory.mktemp(script)
        began = time.monotonic()
        process = start(script, [*flags, "--output_dir", folder / "run"], folder / "log")
        process.join(600)
        assert process.exitcode == 0, (folder / "log").read_text()
        assert not (folder / "run" / "checkpoints").exists()
        found[script] = tables(folder / "run"), time.monotonic() - began
    assert [len(tables) for tables, _ in found.values()] == [5, 3, 2]
    return found


def interrupt(start, script, folder, signals, seconds, rng, most):
    """Run to the end through at most so many signals at random moments; (how many hit, everything that was said)."""
    run, log, hits = folder / "run", folder / "log", 0
    arguments = [*COMMANDS[script], "--output_dir", run]
    while True:
        process, number = start(script, arguments, log), rng.choice(signals)
        until = time.monotonic() + rng.uniform(0, seconds)
        while not (run / "config.json").exists():  # before that there is nothing to resume
            assert process.is_alive(), log.read_text()
            time.sleep(0.002)
        process.join(max(0, until - time.monotonic()))
        if process.is_alive() and hits < most:
            with suppress(ProcessLookupError):  # it ended this moment
                os.kill(process.pid, number)
        process.join(600)
        if process.exitcode == 0:
            return hits, log.read_text()
        assert process.exitcode in (-number, 128 + number), log.read_text()
        hits += 1
        arguments = ["--resume", run]


SWEEPS = [("landscape", [KILL], 15), ("landscape", ASK, 4), ("convergence", [KILL], 3), ("convergence", ASK, 3),
          ("hessian", [KILL], 3), ("hessian", ASK, 3)]  # fmt: skip
SLOW = [pytest.param(script, [KILL, *ASK], 100, marks=pytest.mark.slow) for script in COMMANDS]


@pytest.mark.parametrize(("script", "signals", "wanted"), [*SWEEPS, *SLOW])
def test_a_run_stopped_at_random_moments_ends_in_the_same_bytes(start, whole, tmp_path, script, signals, wanted):
    expected, seconds = whole[script]
    rng, hits = random.Random(wanted), 0
    while hits < wanted:
        folder = tmp_path / str(hits)
        folder.mkdir()
        more, log = interrupt(start, script, folder, signals, seconds, rng, wanted - hits)
        hits += more
        assert tables(folder / "run") == expected, log
        assert "Traceback" not in log
        assert {path.name for path in (folder / "run").iterdir()} == {"config.json", "log.txt", *expected}
        shutil.rmtree(folder)


# ---- full disks ---------------------------------------------------------------------------------------------------


@contextmanager
def disk_of(kilobytes, place):
    """A real file system of that size at the folder `place`; afterwards it is gone. Skips where none can be had."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", place]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


def fill_and_resume(start, script, folder, kilobytes):
    """Run on a disk of that size, enlarged whenever it is full; (how often it was, what was said, the tables)."""
    with disk_of(kilobytes, folder / "disk") as disk:
        run, log, full = disk / "run", folder / "log", 0
        arguments = [*COMMANDS[script], "--output_dir", run]
        while True:
            process = start(script, arguments, log)
            process.join(600)
            said = log.read_text()
            if process.exitcode == 0:
                return full, said, tables(run)
            full += 1
            assert process.exitcode in (1, 2) and "No space left on device" in said, said
            assert process.exitcode == 2 or f"continue with: python run_{script}.py --resume {run}" in said
            assert not list(disk.rglob(".*.tmp")), "what could not be written is removed"
            kilobytes *= 2
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)
            if (run / "config.json").exists():
                arguments = ["--resume", run]


DISKS = [("landscape", 3), ("convergence", 1), ("hessian", 2)]
MANY_DISKS = [pytest.param(script, 50, marks=pytest.mark.slow) for script in COMMANDS]


@pytest.mark.parametrize(("script", "wanted"), [*DISKS, *MANY_DISKS])
def test_a_run_on_a_disk_that_fills_up_ends_in_the_same_bytes(start, whole, tmp_path, script, wanted):
    """The sizes are multiples of 4 kB, of which a page has so many."""
    expected, _ = whole[script]
    rng, full = random.Random(wanted), 0
    while full < wanted:
        times, log, found = fill_and_resume(start, script, tmp_path, rng.choice(range(4, 132, 4)))
        full += times
        (tmp_path / "log").unlink()
        assert found == expected and "Traceback" not in log, log


# ---- in this process ----------------------------------------------------------------------------------------------


def landscape(*arguments):
    return tiny_run.main("landscape", [str(a) for a in arguments])


@pytest.fixture(scope="module", autouse=True)
def tiny_task():
    """What `tiny_run.main` changes is put back after the last test."""
    with pytest.MonkeyPatch.context() as patch:
        for script in ("run_landscape", "run_convergence", "run_hessian"):
            patch.setattr(f"{script}.draw_all", None)
        patch.setitem(ALGORITHM_LISTS, "tiny", tiny_run.ROWS)
        patch.setitem(tiny_run.TASKS, "tiny", None)
        yield


def stop_at(monkeypatch, iteration, number=signal.SIGTERM):
    """Have the next run get a signal in the middle of that iteration."""
    advance, count = run_landscape.PseudoUpdates.advance, iter(range(1, 10**6))

    def advance_and_stop(self, collect=True):
        if next(count) == iteration:
            os.kill(os.getpid(), number)
        return advance(self, collect)

    monkeypatch.setattr(run_landscape.PseudoUpdates, "advance", advance_and_stop)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    assert landscape(*LANDSCAPE, "--output_dir", folder) == 0
    return tables(folder)


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    """A run folder stopped after iteration 13 of 20, with checkpoints of 12 and 13."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 13)
        assert landscape(*LANDSCAPE, "--output_dir", folder) == 128 + signal.SIGTERM
    return folder


@pytest.fixture
def stopped(stopped_run, tmp_path):
    return Path(shutil.copytree(stopped_run, tmp_path / "run"))


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    assert landscape("--resume", folder) == 0
    assert tables(folder) == reference
    before = files(folder)
    assert landscape("--resume", folder) == 0
    assert "is complete" in capfd.readouterr().out and files(folder) == before


def test_a_second_signal_ends_the_process_at_once():
    code = (
        "import os, signal; from runs.stopping import StopRequest\n"
        "with StopRequest():\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('never', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM and done.stdout == "still here\n"


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
    assert [name for name, cell in rows[0].items() if cell is not None] == ["epoch", "batch", "iteration", "algorithm"]
    for name, table in tables(folder).items():
        others = [line for line in table.decode().splitlines() if label not in line]
        assert others == reference[name].decode().splitlines(), name


# ---- what has changed since ---------------------------------------------------------------------------------------


def refused(arguments, answer, folder, capfd):
    before = files(folder)
    with pytest.raises(SystemExit) as exit:
        landscape(*arguments)
    error = capfd.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1, error
    assert re.search(answer, error), error
    assert files(folder) == before


@pytest.mark.parametrize("flags, answer", [
    (["--lr", "0.5"], r"was begun otherwise: --lr is 0.5, was 0.001; --allow_changes continues"),
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
    same = [line for line in lines if line.startswith("4,") and line.split(",")[3] in ("sgd", "nadam", "lion")]
    assert len(same) == 6 and set(same) <= set(was)
    assert sum("sign_sgd" in line for line in lines) == 2 and set(lines) - set(was)
    assert [row["label"] for row in read_config(stopped)["gone"]] == ["adafactor"]
    assert draw_all(stopped), "the rows that are gone are drawn with the others"


def test_another_data_file_is_named(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text("one")
    before = _hashes([str(source)])
    source.write_text("two")
    earlier = {"versions": versions(), "data": before, "algorithms": []}
    assert _changes_since(earlier, [], before, machine_state()) == []
    assert _changes_since(earlier, [], _hashes([str(source)]), machine_state()) == [f"{source} has another content"]


def test_another_number_of_threads_is_named(stopped, reference, capfd):
    """It changes the order of sums, and with it the last digits."""
    threads = torch.get_num_threads()
    assert read_config(stopped)["machine"] == {"threads": threads}
    torch.set_num_threads(threads + 1)
    try:
        answer = rf"the number of threads is {threads + 1}, was {threads} \(OMP_NUM_THREADS={threads} sets it\)"
        refused(["--resume", stopped], answer, stopped, capfd)
        assert landscape("--resume", stopped, "--allow_changes") == 0
    finally:
        torch.set_num_threads(threads)
    config = read_config(stopped)
    assert config["machine"] == {"threads": threads + 1} and len(config["resumed"][0]["changes"]) == 1


def test_rows_in_another_order_continue_to_the_same_bytes(stopped, reference, monkeypatch):
    monkeypatch.setattr(tiny_run, "ROWS", tiny_run.ROWS[::-1])
    before = [row["label"] for row in read_config(stopped)["algorithms"]]
    assert landscape("--resume", stopped) == 0
    assert tables(stopped) == reference
    assert [row["label"] for row in read_config(stopped)["algorithms"]] == before


def test_the_row_that_ratios_are_to_must_stay(stopped, monkeypatch, capfd):
    monkeypatch.setattr(tiny_run, "ROWS", tiny_run.ROWS[1:])
    answer = "the ratios in .* would be to two different rows, sgd and none"
    refused(["--resume", stopped, "--allow_changes"], answer, stopped, capfd)
    monkeypatch.setattr(tiny_run, "ROWS", [*tiny_run.ROWS, Algorithm("sgd", lr=0.1)])
    answer = "would be to two different rows, sgd and lion"
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
    "micro_batch_size": "9" * 5_000, "output_dir": "precious", "overwrite": True,
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


def test_a_setting_that_was_damaged_in_the_folder_is_answered_by_its_name(stopped, capfd):
    path = stopped / "config.json"
    path.write_text(path.read_text().replace('"batch_size": 4', '"batch_size": "four"', 1))
    refused(["--resume", stopped], "--batch_size: expected int", stopped, capfd)


def test_after_damage_to_all_checkpoints_those_of_the_new_start_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (90, 100):
        checkpoints.save(number, {"number": number})
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


# ---- saved points -------------------------------------------------------------------------------------------------


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
    assert landscape("--from_points", with_points, "--output_dir", tmp_path / "again") == 0
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
    spacings = {row["distance"] / 0.25 % 1 for row in scans if row["algorithm"] == "sgd"}
    assert spacings == {0.0} or all((s * 5**4) % 1 == pytest.approx(0, abs=1e-6) for s in spacings)
    other, _ = again("batch", "--test_seed", "3")
    assert {row["loss"] for row in other if row["loss"]}.isdisjoint(row["loss"] for row in was)
    larger, _ = again("larger", "--test_batch_size", "20")
    assert {row["loss"] for row in larger if row["loss"]}.isdisjoint(row["loss"] for row in was)


def test_measuring_points_again_can_be_stopped_and_taken_up(with_points, tmp_path, monkeypatch, capfd):
    folder, measure, count = tmp_path / "again", run_landscape.measure_point, iter(range(1, 100))

    def measure_and_stop(*arguments):
        if next(count) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run_landscape, "measure_point", measure_and_stop)
        assert landscape("--from_points", with_points, "--output_dir", folder) == 128 + signal.SIGTERM
        assert "after point 3 of 4" in capfd.readouterr().err
        assert landscape("--resume", folder) == 0
    assert next(count) == 5, "one point was left"
    assert measured(folder) == measured(with_points)


@pytest.mark.parametrize(("flags", "answer"), [
    (["--lr", "3"], "the points of .* are of another run: --lr is 3.0, was 0.001"),
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
    assert f"{path} cannot be used: its checksum is another" in error and "Traceback" not in error
    assert len(read_table(tmp_path / "again" / "sharpness.csv")) == 7
