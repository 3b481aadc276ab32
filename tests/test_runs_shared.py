"""Several processes on one run folder, as torchrun, srun or several shells start them: the same bytes for any number of
them, whichever is killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convergence.one_run import Start
from runs.config import read_config
from runs.tables import read_table
from tests.helpers import tiny_run
from tests.helpers.processes import environment, fork, ranks, wait_until
from tests.helpers.several import Command
from tests.helpers.stored_runs import COMMANDS, KILL, ROOT, files, tables
from training.loop import Training

FEW = [*tiny_run.FLAGS.split(), "--only", "sgd", "adam", "--num_epochs", "2", "--seeds", "0", "1"]
SMALL = {
    "convergence": [*FEW, "--save_model", "--tune_lr", "--lr_grid", "1", "--tune_epochs", "1"],
    "hessian": [*COMMANDS["hessian"], "--checkpoint_every", "1"],
}
LONG = [*FEW, "--num_epochs", "12"]


@pytest.fixture(scope="module")
def alone(tiny_task, tmp_path_factory):
    """alone(script, arguments) -> the tables of a single process."""
    known = {}

    def alone(script, arguments):
        key = script, tuple(arguments)
        if key not in known:
            folder = tmp_path_factory.mktemp(script) / "run"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("torch.get_num_threads", lambda: 1)
                assert tiny_run.main(script, [*arguments, "--output_dir", str(folder)]) == 0
            known[key] = tables(folder), models(folder)
        return known[key]

    return alone


@pytest.fixture
def start(tiny_task):
    return fork


def models(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("model.pt")}


def ended(processes):
    """Their exit statuses."""
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def said(log):
    return "".join(path.read_text() for path in sorted(log.parent.glob(f"{log.name}*")) if path.suffix != ".ready")


def assert_complete(run, expected, log):
    assert (tables(run), models(run)) == expected, said(log)
    kept = {"config.json", "log.txt", *expected[0], *(["model"] if expected[1] else [])}
    assert {path.name for path in run.iterdir()} == kept, said(log)
    assert "finished" in read_config(run) and "Traceback" not in said(log)


@pytest.mark.parametrize(("script", "count"), [("convergence", 2), ("hessian", 2),
                                               pytest.param("convergence", 3, marks=pytest.mark.slow),
                                               pytest.param("hessian", 4, marks=pytest.mark.slow)])  # fmt: skip
def test_any_number_of_processes_writes_the_same_bytes(script, count, alone, start, tmp_path):
    run, log, arguments = tmp_path / "run", tmp_path / "log", SMALL[script] if count == 2 else COMMANDS[script]
    processes = ranks(start, count, script, [*arguments, "--output_dir", run], log)
    assert ended(processes) == [0] * count, said(log)
    assert_complete(run, alone(script, arguments), log)
    text = said(log)
    assert text.count("Wrote ") == 1 and text.count("is complete: nothing is left to do") == count - 1
    if script == "convergence":
        assert text.count("sgd, seed 1: loss") == 1, "one process did it"


def holder_of(run, processes):
    """(the process of these that holds the claim of a job, the job's folder), of the first such job."""
    pids = {f"process {process.pid} ": process for process in processes}
    for path in sorted(run.glob("checkpoints/seed*/claim")):
        try:
            holder = path.read_text()
        except FileNotFoundError:
            continue
        for pid, process in pids.items():
            if holder.startswith(pid) and list(path.parent.glob("checkpoint-*.json")):
                return process, path.parent
    return None, None


def test_of_three_processes_one_is_killed_in_the_middle_and_the_others_take_its_job(alone, start, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    processes = ranks(start, 3, "convergence", [*LONG, "--output_dir", run], log)
    wait_until(lambda: holder_of(run, processes)[0] is not None, processes[0])
    victim, job = holder_of(run, processes)
    os.kill(victim.pid, KILL)
    victim.join(60)
    assert victim.exitcode == -KILL and not (job / "result.json").exists()
    assert sorted(ended(processes)) == [-KILL, 0, 0], said(log)
    assert_complete(run, alone("convergence", LONG), log)


def test_shells_join_a_run_and_the_one_that_began_it_may_be_killed(alone, start, tmp_path):
    """Without torchrun: the second one gives --join FOLDER. The same command again is refused, as ever."""
    run, log = tmp_path / "run", tmp_path / "log"
    first = start("convergence", [*LONG, "--output_dir", run], f"{log}.first")
    wait_until(lambda: holder_of(run, [first])[0] is not None, first)
    again = start("convergence", [*LONG, "--output_dir", run], f"{log}.again")
    second = start("convergence", ["--join", run], f"{log}.second")
    assert ended([again]) == [2]
    assert f"process {first.pid} on" in Path(f"{log}.again").read_text()
    assert f"--join {run} takes part in its work" in Path(f"{log}.again").read_text()
    wait_until(lambda: holder_of(run, [second])[0] is not None, second)
    os.kill(first.pid, KILL)
    third = start("convergence", ["--join", run], f"{log}.third")
    assert ended([first, second, third]) == [-KILL, 0, 0], said(log)
    assert_complete(run, alone("convergence", LONG), log)


def test_a_signal_to_all_stores_every_job_and_another_number_of_processes_resumes(alone, start, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    processes = ranks(start, 3, "convergence", [*LONG, "--output_dir", run], log)
    wait_until(lambda: len(list(run.glob("checkpoints/*/checkpoint-*.json"))) > 1, processes[0])
    wait_until(lambda: len(list(run.glob("checkpoints/*/claim"))) > 2, processes[0])  # all are at work
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    assert ended(processes) == [128 + signal.SIGTERM] * 3, said(log)
    assert not (run / "run.lock").exists() and not list(run.rglob("claim"))
    processes = ranks(start, 2, "convergence", ["--resume", run], log)
    assert ended(processes) == [0, 0], said(log)
    assert len(read_config(run)["resumed"]) == 1
    assert_complete(run, alone("convergence", LONG), log)


def test_a_process_that_comes_late_replaces_nothing(alone, start, tmp_path):
    """Of one command of torchrun, the second process begins when the first has finished: though it says --overwrite."""
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = [*SMALL["hessian"], "--output_dir", run, "--overwrite"]
    assert ended([start("hessian", arguments, log, environment(0, 2))]) == [0]
    written = (run / "config.json").stat
    before = written().st_mtime_ns
    time.sleep(1)  # config.json says in which second a run began
    assert ended([start("hessian", arguments, log, environment(1, 2))]) == [0], "it began later: a new command"
    assert written().st_mtime_ns != before
    before, late = files(run), environment(0, 2) | {"TINY_BEGAN": str(time.time() - 60)}
    assert ended([start("hessian", arguments, log, late)]) == [0]
    assert files(run) == before and "is complete: nothing is left to do" in said(log)
    for number, kept in (("4", False), ("4", True), ("5", False)):  # a step of Slurm, and whether it is the run's own
        before = written().st_mtime_ns
        time.sleep(1)
        slurm = environment(1, 2) | {"SLURM_JOB_ID": "31", "SLURM_STEP_ID": number}
        assert ended([start("hessian", arguments, log, slurm)]) == [0]
        assert (written().st_mtime_ns == before) == kept, number
    before = files(run)
    other = start("hessian", [*arguments[:-1], "--seed", "3"], f"{log}.other", late)
    assert ended([other]) == [2] and "is not empty" in Path(f"{log}.other").read_text()
    assert files(run) == before


# ---- one job ------------------------------------------------------------------------------------------------------


def test_a_job_continues_after_its_last_checkpoint(alone, tmp_path, monkeypatch):
    """As if the process had been killed in update 7 of the only run: updates 1 to 6 are not done again."""
    arguments, steps = [*FEW, "--only", "adam", "--seeds", "0", "--checkpoint_every", "3"], []
    step = Training.step

    def step_or_die(self):
        steps.append(self)
        if len(steps) == 7:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Training, "step", step_or_die)
    with pytest.raises(KeyboardInterrupt):
        tiny_run.main("convergence", [*arguments, "--output_dir", str(tmp_path / "run")])
    assert tiny_run.main("convergence", ["--resume", str(tmp_path / "run")]) == 0
    assert len(steps) == 7 + 4, "10 updates, of which 6 are stored"
    monkeypatch.undo()
    assert tables(tmp_path / "run") == alone("convergence", arguments)[0]


def test_a_run_that_fails_is_named_in_one_line_and_the_others_end(alone, tmp_path, monkeypatch, capfd):
    run, train = tmp_path / "run", Start.train

    def train_or_fail(self, row, seed, *arguments):
        if (row.name, seed) == ("sgd", 1):
            raise RuntimeError("an operator\nis missing")
        return train(self, row, seed, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Start, "train", train_or_fail)
        assert tiny_run.main("convergence", [*FEW, "--output_dir", str(run)]) == 1
    error = capfd.readouterr().err
    assert "sgd, seed 1 failed: RuntimeError: an operator is missing; the other jobs go on\n" in error
    assert f"stopped: 1 of 4 jobs failed: sgd, seed 1; what was done before is in {run}; to try them again" in error
    assert "Traceback" not in error and "Traceback" in (run / "checkpoints/seed1-1-sgd/failed.txt").read_text()
    ended = {(row["algorithm"], row["seed"]) for row in read_table(run / "losses.csv")}
    assert ended == {("sgd", 0), ("adam", 0), ("adam", 1)} and not (run / "summary.csv").exists()
    assert tiny_run.main("convergence", ["--resume", str(run)]) == 0
    assert tables(run) == alone("convergence", FEW)[0]


# ---- every job by all processes ------------------------------------------------------------------------------------

DATA = ["--task", "tiny_layers", "--algorithm_list", "tiny", "--dataset_size", "22", "--batch_size", "7",
        "--micro_batch_size", "2", "--only", "sgd", "adam", "--num_epochs", "2", "--seeds", "0", "1", "--save_model",
        "--tune_lr", "--lr_grid", "1", "--tune_epochs", "1", "--checkpoint_every", "1"]  # fmt: skip


def test_processes_that_share_the_batches_of_each_run_write_the_same_bytes(alone, tmp_path):
    """Two of them, one of which gets a signal in the second run; then three, which continue."""
    run = tmp_path / "run"

    def stop_second(rank):
        steps, step = iter(range(10**6)), Training.step

        def step_and_ask(self):
            step(self)
            if next(steps) == 12 and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        Training.step = step_and_ask

    first = Command(2, [*DATA, "--parallel", "data", "--output_dir", run], tmp_path / "a", "convergence", stop_second)
    assert first.statuses() == [128 + signal.SIGTERM] * 2, first.errors()
    assert len(list(run.glob("checkpoints/*/result.json"))) == 2, "the trials of both rows"
    second = Command(3, ["--resume", run, "--parallel=data"], tmp_path / "b", "convergence")
    assert second.statuses() == [0] * 3, second.errors()
    assert (tables(run), models(run)) == alone("convergence", DATA)
    assert second.errors(1) == second.errors(2) == "" and "Wrote" in (tmp_path / "b/out0").read_text()
    assert {path.name for path in run.iterdir()} == {"config.json", "log.txt", "model", *tables(run)}
    refused = Command(2, [*FEW, "--parallel", "data", "--output_dir", tmp_path / "norm"], tmp_path / "c", "convergence")
    assert refused.statuses() == [2, 2] and "batch norm" in refused.errors(0) and not (tmp_path / "norm").exists()


def test_each_process_computes_its_share_of_the_micro_batches_alone(tiny_task, tmp_path):
    """Batches of 7, 7, 7 and 1 examples are 4, 4, 4 and 1 micro-batches: the second process has 2, 2, 2 and none."""

    def count(rank):
        losses = tiny_run.Tiny.losses

        def counted(self, *arguments):
            with (tmp_path / f"losses{rank}").open("a") as file:
                file.write(".")
            return losses(self, *arguments)

        tiny_run.Tiny.losses = counted

    one_run = [*DATA[: DATA.index("--only")], "--only", "adam", "--num_epochs", "1", "--parallel", "data"]
    command = Command(2, [*one_run, "--output_dir", tmp_path / "run"], tmp_path / "said", "convergence", count)
    assert command.statuses() == [0, 0], command.errors()
    assert (tmp_path / "losses1").read_text() == "." * 6


# ---- slow ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("script", ["convergence", "hessian"])
def test_processes_killed_at_random_moments_leave_a_run_that_ends_in_the_same_bytes(script, alone, start, tmp_path):
    """20 kills: of one process or of all, then resumed with one to three processes."""
    arguments = LONG if script == "convergence" else SMALL[script]
    rng, kills = random.Random(20), 0
    while kills < 20:
        run, log = tmp_path / "run", tmp_path / "log"
        words = [*arguments, "--output_dir", run]
        while True:
            count = rng.randint(1, 3)
            processes = ranks(start, count, script, words, log)
            victims = processes if rng.random() < 0.4 else [rng.choice(processes)]
            wait_until((run / "config.json").exists)
            time.sleep(rng.uniform(0, 1.5))
            for victim in victims if kills < 20 else []:
                if victim.is_alive():
                    os.kill(victim.pid, KILL)
                    kills += 1
            statuses = ended(processes)
            assert set(statuses) <= {0, -KILL}, said(log)
            if set(statuses) == {0}:  # one killed while it cleaned up leaves that to the next
                break
            words = ["--resume", run]
        assert_complete(run, alone(script, arguments), log)
        shutil.rmtree(run)


@pytest.mark.slow
def test_torchrun_itself_starts_processes_that_share_a_run(alone, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3", "-m",
               "tests.helpers.tiny_run", "convergence", *SMALL["convergence"], "--output_dir", run]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert (tables(run), models(run)) == alone("convergence", SMALL["convergence"])
