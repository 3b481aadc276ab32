"""One process per run folder, and a lock file that never harms a file of somebody else."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runs import lock as locks
from runs.lock import lock, unlock


def test_a_lock_can_be_taken_again_once_let_go(tmp_path):
    for _ in range(2):
        lock(tmp_path)
        with pytest.raises(ValueError, match=f"process {os.getpid()} on {socket.gethostname()} is at work"):
            lock(tmp_path)
        unlock(tmp_path)
        assert not list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_removed_is_let_go_all_the_same(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    lock(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        unlock(tmp_path)
    lock(tmp_path)
    unlock(tmp_path)


def test_of_processes_that_start_together_one_gets_the_folder(tmp_path):
    code = (
        "import sys, time; from runs.lock import lock\n"
        "sys.stdin.readline()\n"
        "try: lock(sys.argv[1]); print('mine', flush=True); time.sleep(1)\n"
        "except ValueError as error: print(error, flush=True)"
    )
    root = Path(locks.__file__).parent.parent
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    each = [subprocess.Popen([sys.executable, "-c", code, tmp_path], **pipes) for _ in range(4)]
    for process in each:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=60)[0] for process in each]
    assert answers.count("mine\n") == 1 and sum("is at work in" in answer for answer in answers) == 3, answers


def test_a_lock_file_that_vanished_between_opening_and_locking_is_not_relied_on(tmp_path, monkeypatch):
    """Its holder ended and removed it in that moment: a lock on the removed file would let a third process in."""
    flock, seen = locks.fcntl.flock, []

    def remove_and_lock(file, how):
        if not seen:
            (tmp_path / "run.lock").unlink()
        seen.append(os.fstat(file.fileno()).st_ino)
        flock(file, how)

    monkeypatch.setattr(locks.fcntl, "flock", remove_and_lock)
    lock(tmp_path)
    assert len(seen) == 2 and (tmp_path / "run.lock").stat().st_ino == seen[1]
    with pytest.raises(ValueError, match="is at work"):
        lock(tmp_path)
    unlock(tmp_path)


@pytest.mark.parametrize("kind", ["link", "second name", "text", "folder", "pipe", "dangling link"])
def test_a_lock_file_that_no_run_wrote_is_refused_and_left_as_it_is(kind, tmp_path):
    precious, path = tmp_path / "precious", tmp_path / "run" / "run.lock"
    path.parent.mkdir()
    text = "process 7 on my machine" if kind == "second name" else "years of work"
    precious.write_text(text)
    if kind in ("link", "dangling link"):
        path.symlink_to(precious if kind == "link" else tmp_path / "nowhere")
    elif kind == "second name":
        os.link(precious, path)
    elif kind == "text":
        path.write_text("years of work")
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(ValueError, match=r"run\.lock is not the lock of a run; move it away"):
        lock(path.parent)
    assert precious.read_text() == text and os.path.lexists(path) and not (tmp_path / "nowhere").exists()
    if kind == "text":
        assert path.read_text() == "years of work"


def test_the_lock_of_a_process_that_ended_is_taken(tmp_path):
    (tmp_path / "run.lock").write_text("process 1 on another-machine, with a longer name than ours")
    lock(tmp_path)
    assert (tmp_path / "run.lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}"
    unlock(tmp_path)


# ---- several processes in one folder ------------------------------------------------------------------------------

OTHER = (
    "import sys; from pathlib import Path; from runs.lock import claim, lock, unlock\n"
    "folder = Path(sys.argv[1])\n"
    "if sys.argv[2] == 'claim':\n"
    "    with claim(folder) as mine: print(mine, flush=True); sys.stdin.readline()\n"
    "else:\n"
    "    try: lock(folder, shared=sys.argv[2] == 'shared')\n"
    "    except ValueError as error: print(error, flush=True); sys.exit()\n"
    "    print('in', flush=True); sys.stdin.readline(); unlock(folder)"
)


@pytest.fixture
def other():
    """other(folder, how) -> (a process that tries to get in, and stays until its input ends; its answer)."""
    started = []

    def other(folder, how):
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(locks.__file__).parent.parent)
        started.append(subprocess.Popen([sys.executable, "-c", OTHER, folder, how], **pipes))
        return started[-1], started[-1].stdout.readline().strip()

    yield other
    for process in started:
        process.kill()
        process.communicate()


def test_a_shared_folder_is_joined_and_stays_locked_until_the_last_one_leaves(tmp_path, other, monkeypatch):
    lock(tmp_path)
    locks.share(tmp_path)
    second, answer = other(tmp_path, "shared")
    assert answer == "in"
    assert "is at work in" in other(tmp_path, "alone")[1]
    called = []
    unlock(tmp_path, lambda: called.append("first"))
    assert called == [] and (tmp_path / "run.lock").exists()
    with pytest.raises(locks.Busy, match=f"process {os.getpid()} on .* is at work"):
        lock(tmp_path)  # the first one has left, the second has not
    second.communicate("leave\n", timeout=60)
    assert not (tmp_path / "run.lock").exists()
    lock(tmp_path)
    unlock(tmp_path, lambda: called.append("alone"))
    assert called == ["alone"] and not list(tmp_path.iterdir())


def test_who_wants_to_join_waits_until_the_first_process_shares(tmp_path, other, monkeypatch):
    lock(tmp_path)
    started = time.monotonic()
    threading.Timer(0.3, locks.share, [tmp_path]).start()
    assert other(tmp_path, "shared")[1] == "in" and time.monotonic() - started > 0.3
    unlock(tmp_path)
    monkeypatch.setattr(locks, "SECONDS", 0.0)
    (tmp_path / "own").mkdir()
    lock(tmp_path / "own")
    with pytest.raises(locks.Busy, match="wait for it, or choose another folder"):
        lock(tmp_path / "own", shared=True)
    unlock(tmp_path / "own")


def test_a_claim_is_one_process_own_and_is_free_when_that_process_is_killed(tmp_path, other):
    holder, answer = other(tmp_path, "claim")
    assert answer == "True"
    with locks.claim(tmp_path) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    assert (tmp_path / "claim").exists(), "the file of a killed process stays, its lock does not"
    with locks.claim(tmp_path) as mine:
        assert mine and other(tmp_path, "claim")[1] == "False"
    assert not (tmp_path / "claim").exists()
