"""run_landscape.py on several processes: the same tables, one voice, and one end."""

import os
import random
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import run_landscape
import runs.ranks
from landscape.memory import of_fullest, pseudo_state_bytes
from landscape.sharded import ShardedUpdates, check_size
from runs.ranks import Progress
from runs.stopping import StopRequest
from tests.helpers import tiny_run
from tests.helpers.several import Command, Torchrun, on_ranks
from tests.helpers.stored_runs import tables
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled

TASK = "--task tiny_layers --algorithm_list tiny --dataset_size 22 --batch_size 7 --micro_batch_size 2"
MEASURED = "--test_batch_size 9 --num_epochs 2 --test_epochs 1 2 --num_sample_sharpness 1"
MORE = "--decompose kind --frequency_classes 2 --checkpoint_every 1"
FLAGS = f"{TASK} {MEASURED} {MORE}".split()


def finished(world, folder, *flags, **options):
    """The tables of a run that came to its end."""
    arguments = flags if "--resume" in flags else [*FLAGS, *flags, "--output_dir", folder]
    command = Command(world, arguments, f"{folder}-said", **options)
    assert command.statuses() == [0] * world, command.errors()
    return tables(folder)


@pytest.fixture(scope="module")
def alone(tiny_task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    found = finished(1, folder)
    assert {"training.csv", "sharpness.csv", "scan.csv", "decomposition.csv", "classes.csv"} <= found.keys()
    return found


def at_iteration(number, action, only_rank):
    """Something to do first in each process: have `only_rank` do `action` when it comes to that iteration."""

    def before(rank):
        advance, count = run_landscape.PseudoUpdates.advance, iter(range(1, 10**6))

        def advance_and_act(self, collect=True):
            if next(count) == number and rank == only_rank:
                action()
            return advance(self, collect)

        run_landscape.PseudoUpdates.advance = advance_and_act

    return before


def test_two_processes_write_the_tables_of_one_and_speak_with_one_voice(alone, tmp_path):
    folder = tmp_path / "run"
    command = Command(2, [*FLAGS, "--output_dir", folder], tmp_path / "said")
    assert command.statuses() == [0, 0], command.errors()
    assert tables(folder) == alone
    assert command.errors(1) == "" and (tmp_path / "said" / "out1").read_text() == ""
    assert "Wrote" in (tmp_path / "said" / "out0").read_text()
    assert sorted(p.name for p in folder.iterdir()) == sorted([*alone, "config.json", "log.txt"])


def test_a_signal_to_one_stops_all_at_the_same_update_and_other_numbers_continue(alone, tmp_path):
    folder = tmp_path / "run"
    ask = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    command = Command(2, [*FLAGS, "--output_dir", folder], tmp_path / "a", before=at_iteration(3, ask, only_rank=1))
    assert command.statuses() == [128 + signal.SIGTERM] * 2, command.errors()
    assert command.errors().count("stopped by SIGTERM after iteration 3") == 1
    assert "torchrun --nproc_per_node=2 run_landscape.py --resume" in command.errors(0)
    command = Command(3, ["--resume", folder], tmp_path / "b", before=at_iteration(2, ask, only_rank=2))
    assert command.statuses() == [128 + signal.SIGTERM] * 3, command.errors()
    assert "after iteration 5" in command.errors(0)
    assert finished(1, folder, "--resume", folder) == alone


def ending(tmp_path, action, only_rank=1, seconds=300, world=3):
    """(exit statuses, what all said, seconds from the action to the end of all processes) of a run in which one rank
    does this in iteration 3; the run folder can be resumed."""
    folder, mark = tmp_path / "run", tmp_path / "when"

    def act():
        mark.write_text(str(time.time()))
        action()

    command = Command(world, [*FLAGS, "--output_dir", folder], tmp_path / "a", before=at_iteration(3, act, only_rank))
    statuses = command.statuses(seconds)
    return statuses, command.errors(), time.time() - float(mark.read_text()), folder


def fail():
    raise TypeError("a mistake\nin two lines")


def test_a_rank_that_raises_ends_all_with_its_error_in_one_line(alone, tmp_path):
    statuses, said, took, folder = ending(tmp_path, fail)
    assert statuses == [1, 1, 1] and took < 60
    (line,) = [line for line in said.splitlines() if "stopped" in line]
    assert line.startswith("rank 1: stopped: TypeError: a mistake in two lines; ") and "Traceback" not in said
    assert finished(2, folder, "--resume", folder) == alone


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_is_killed_ends_all_and_one_of_them_says_so(rank, tmp_path):
    statuses, said, took, folder = ending(tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL), rank)
    assert statuses.pop(rank) == -signal.SIGKILL and statuses == [1, 1] and took < 60
    lines = [line for line in said.splitlines() if "stopped" in line]
    assert all("another process of this run has ended" in line for line in lines)
    assert len(lines) == 1 or rank == 0  # the place where they meet may go with the first


def shorter_waits(monkeypatch):
    monkeypatch.setattr(runs.ranks, "BEAT", 0.2)
    monkeypatch.setattr(runs.ranks, "STUCK", 3.0)
    monkeypatch.setattr(runs.ranks, "SILENT", 2.0)


@pytest.mark.slow
def test_a_rank_that_waits_for_ever_gives_itself_up(tmp_path, monkeypatch):
    shorter_waits(monkeypatch)
    statuses, said, took, _ = ending(tmp_path, lambda: time.sleep(1000))
    assert statuses == [1, 1, 1] and 3 < took < 60
    (line,) = [line for line in said.splitlines() if "stopped" in line]
    assert "rank 1 of 3 has done nothing for 3 seconds" in line


@pytest.mark.slow
def test_a_rank_that_is_frozen_is_given_up_by_the_others(tmp_path, monkeypatch):
    shorter_waits(monkeypatch)
    statuses, said, took, _ = ending(tmp_path, lambda: os.kill(os.getpid(), signal.SIGSTOP), seconds=60)
    assert statuses == [1, -signal.SIGKILL, 1]  # the leader kills it
    assert "rank 1 of 3 does not answer" in said


def wait_for_a_message_that_nobody_sends():
    ranks = runs.ranks.current()
    with ranks.waiting():
        torch.distributed.recv(torch.zeros(1), (ranks.rank + 1) % ranks.world, tag=77)


@pytest.mark.slow
def test_ranks_that_wait_for_each_other_end(tmp_path, monkeypatch):
    shorter_waits(monkeypatch)
    statuses, said, took, _ = ending(tmp_path, wait_for_a_message_that_nobody_sends)
    assert statuses == [1, 1, 1] and 3 < took < 60
    (line,) = [line for line in said.splitlines() if "stopped" in line]
    assert line.startswith("stopped: all 3 ranks have waited for each other for 3 seconds; ")


def test_what_the_leader_cannot_write_ends_all_with_one_line(tmp_path):
    def full(*_):
        raise runs.files.CannotWrite("cannot write it: no space left on device")

    def before(rank):
        runs.tables.write_whole = full

    command = Command(2, [*FLAGS, "--output_dir", tmp_path / "run"], tmp_path / "said", before=before)
    assert command.statuses() == [1, 1]
    assert [line for line in command.errors().splitlines() if "stopped" in line] == [
        line for line in command.errors(0).splitlines() if "no space left on device" in line
    ]


def test_wrong_input_is_answered_once(tmp_path):
    for flags in ("--lr 0", "--test_batch_size 23", "--task tiny"):
        command = Command(2, [*FLAGS, *flags.split(), "--output_dir", tmp_path / "run"], tmp_path / "said")
        assert command.statuses() == [2, 2]
        assert command.errors().count("\n") == 1 and command.errors(1) == ""
        assert not (tmp_path / "run").exists()
    assert "batch norm" in command.errors(0)


def test_a_rank_that_comes_late_to_a_refused_run_does_not_wait_for_the_one_that_left(tmp_path):
    def late(rank):
        meet = runs.ranks.dist.init_process_group

        def slowly(*arguments, **options):
            meet(*arguments, **options)
            time.sleep(5 * rank)

        runs.ranks.dist.init_process_group = slowly

    command = Command(2, [*FLAGS, "--lr", "0"], tmp_path / "said", before=late)
    assert command.statuses(20) == [2, 2]


def test_processes_that_do_not_know_where_to_meet_are_told_so(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(ValueError, match="2 processes were started without MASTER_ADDR, so they cannot connect; "):
        runs.ranks.connect()


def test_progress_is_computing_waiting_for_others_or_a_disk(monkeypatch):
    now, cpu, waits, disk = [0.0], [0.0], [False], [False]
    monkeypatch.setattr(runs.ranks, "_is_at_a_disk", lambda: disk[0])
    life = Progress(lambda: waits[0], lambda: now[0], lambda: cpu[0])
    now[0] = 30
    assert life.seconds_without() == 30
    now[0], cpu[0] = 32, 0.005  # the watch itself
    assert life.seconds_without() == 32
    for sign, works in ((cpu, True), (waits, False), (disk, True)):
        sign[0], still = 1.0, life.still
        assert life.seconds_without() == 0 and life.still == still * (not works)
        waits[0] = disk[0] = False
        now[0] += 7
        assert life.seconds_without() == 7 and life.still == 7 + still * (not works)


def test_a_signal_that_is_passed_on_twice_counts_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with StopRequest(patience=60) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and not ended
        stop.came_at -= 61
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [128 + signal.SIGTERM]


# ---- states and directions by the rank ------------------------------------------------------------------------------


def test_sharded_states_give_the_same_tables_and_another_number_continues_from_them(alone, tmp_path):
    folder = tmp_path / "run"
    ask = at_iteration(4, lambda: os.kill(os.getpid(), signal.SIGTERM), only_rank=1)
    command = Command(2, [*FLAGS, "--shard", "--output_dir", folder], tmp_path / "a", before=ask)
    assert command.statuses() == [128 + signal.SIGTERM] * 2, command.errors()
    assert finished(3, folder, "--resume", folder) == alone


def test_a_rank_keeps_the_states_of_its_own_rows_alone():
    def kept(ranks):
        params = {"w": torch.nn.Parameter(torch.ones(3, 2))}
        params["w"].grad = torch.arange(6.0).view(3, 2)
        signs = Algorithm("sign_sgd", lr=0.1, momentum=0.9, dampening=0.9)  # of the first row's momentum
        updates = ShardedUpdates(params, labeled([*tiny_run.ROWS, signs]), None, ranks)
        found = updates.advance()
        at_once = {label: (v.length, v.fetched()["w"].tolist()) for label, v in found.items()}
        return list(updates.own.states), at_once, sorted(updates.state_dict())

    ((rows, expected, labels),) = on_ranks(1, kept)
    *states, signs = rows
    assert len(states) == 6 and len(labels) == 7
    found = on_ranks(2, kept)
    assert [own for own, _, _ in found] == [[*states[0::2], signs], states[1::2]]
    assert [at_once for _, at_once, _ in found] == [expected] * 2 and found[0][2] == labels


def test_the_memory_of_the_fullest_rank_is_estimated():
    algorithms = labeled([*tiny_run.ROWS, Algorithm("sign_sgd", lr=0.1, momentum=0.9, dampening=0.9)])
    labels = list(algorithms)
    params = {"w": torch.zeros(3, 2)}  # 24 bytes
    nbytes = dict(zip(labels[:6], [24, 0, 52, 0, 400, 24], strict=True))  # the last row has the first one's state
    assert pseudo_state_bytes(Plan(algorithms), params).keys() == nbytes.keys()
    assert of_fullest(Plan(algorithms), params, nbytes) == (6, 500, 7)
    # the ranks have (states 0, 2, 4 and 4 rows) and (1, 3, 5); (0, 3 and 3 rows), (1, 4) and (2, 5)
    assert of_fullest(Plan(algorithms, world=2), params, nbytes) == (3, 476, 4)
    assert of_fullest(Plan(algorithms, world=3), params, nbytes) == (2, 400, 2)


class Plan:
    def __init__(self, algorithms, world=1):
        self.pseudo_rows, self.ranks = algorithms, SimpleNamespace(world=world)
        self.settings = SimpleNamespace(shard=world > 1)


def test_a_model_whose_parameters_must_be_sharded_is_refused_in_one_line():
    with torch.device("meta"):
        model = torch.nn.Linear(70_000, 70_000, bias=False)
    with pytest.raises(ValueError, match="at most 4 billion parameters, got 4.9; larger ones"):
        check_size(model)


# ---- longer ones ----------------------------------------------------------------------------------------------------


UPDATES = "--num_epochs 6 --test_epochs 1 6 --test_batch_size 11 --micro_batch_size 3"  # 24
LONG = UPDATES.split()


def stopped(world, folder, number, *flags):
    """A run that a signal to one of its ranks has stopped after that update."""
    ask = at_iteration(number, lambda: os.kill(os.getpid(), signal.SIGTERM), only_rank=world - 1)
    command = Command(world, [*FLAGS, *flags, "--output_dir", folder], f"{folder}-begun", before=ask)
    assert command.statuses() == [128 + signal.SIGTERM] * world, command.errors()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_24_updates_from_two_seeds_give_the_same_tables_on_one_two_and_three_processes(dtype, tiny_task, tmp_path):
    flags = [*LONG, "--seeds", "0", "1", "--dtype", dtype]
    alone = finished(1, tmp_path / "alone", *flags)
    for shard in ([], ["--shard"]):
        for world in (2, 3):
            assert finished(world, tmp_path / f"{world}{shard}", *flags, *shard) == alone
        for world in (1, 3):
            folder = tmp_path / f"2, then {world}{shard}"
            stopped(2, folder, 30, *flags, *shard)  # in the second seed
            assert finished(world, folder, "--resume", folder) == alone


@pytest.mark.slow
@pytest.mark.parametrize("flags", [
    "--dtype float64 --scan full --top_eigenvalues",
    "--train_optimizer sgd --lr 0.1 --measure_on both",
])  # fmt: skip
def test_what_else_is_measured_is_the_same_on_one_two_and_three_processes(flags, tiny_task, tmp_path):
    alone = finished(1, tmp_path / "1", *LONG, *flags.split())
    for world in (2, 3):
        assert finished(world, tmp_path / str(world), *LONG, *flags.split()) == alone


@pytest.mark.slow
def test_twenty_kills_at_random_places_under_torchrun_leave_no_trace_in_the_tables(alone, tmp_path):
    draw, kills, longest = random.Random(0), 0, 0.0
    while kills < 20:
        folder, said = tmp_path / f"run{kills}", tmp_path / "said"
        arguments = [*FLAGS, "--output_dir", folder]
        while True:
            shutil.rmtree(said, ignore_errors=True)
            command = Torchrun(draw.choice([1, 2, 3]), arguments, said)
            while not (folder / "config.json").exists() or len(command.rank_processes()) < command.world:
                assert command.processes[0].is_alive(), command.errors()
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 4))
            victim = draw.choice([*command.rank_processes().values()])
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            began = time.monotonic()
            (status,) = command.statuses(100)
            if status == 0:
                break
            assert status == 1, command.errors()
            longest, kills = max(longest, time.monotonic() - began), kills + 1
            arguments = ["--resume", folder, *(["--shard"] if draw.random() < 0.3 else [])]
        assert tables(folder) == alone
    assert longest < 60


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("what", ["raises", "is killed", "waits for ever", "is frozen", "waits for the others"])
def test_torchrun_and_all_ranks_end_within_a_minute(what, rank, alone, tmp_path):
    folder, mark = tmp_path / "run", tmp_path / "when"
    action = {
        "raises": fail,
        "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "waits for ever": lambda: time.sleep(1000),
        "is frozen": lambda: os.kill(os.getpid(), signal.SIGSTOP),
        "waits for the others": wait_for_a_message_that_nobody_sends,
    }[what]

    def act():
        mark.write_text(str(time.time()))
        action()

    before = at_iteration(3, act, only_rank=rank)
    command = Torchrun(3, [*FLAGS, "--output_dir", folder], tmp_path / "said", before=before)
    assert command.statuses() == [1]
    took = time.time() - float(mark.read_text())
    lines = [line for line in command.errors().splitlines() if "stopped" in line]
    print(f"{what}, rank {rank}: {took:.1f} s: {lines}")
    assert took < 60 and len(lines) == 1
    assert not [number for number in command.rank_processes().values() if Path(f"/proc/{number}").exists()]
    assert finished(2, folder, "--resume", folder) == alone
