"""A run that is killed, stopped or starved of disk at any moment ends, resumed, in the same bytes."""

import os
import random
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.processes import fork
from tests.helpers.stored_runs import ASK, COMMANDS, KILL, tables

# ---- real processes -----------------------------------------------------------------------------------------------


pytestmark = pytest.mark.usefixtures("tiny_task")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """whole(script) -> (tables of the run that nothing interrupts, its seconds)."""

    @cache
    def whole(script):
        folder = tmp_path_factory.mktemp(script)
        began = time.monotonic()
        process = fork(script, [*COMMANDS[script], "--output_dir", folder / "run"], folder / "log")
        process.join(600)
        assert process.exitcode == 0, (folder / "log").read_text()
        assert not (folder / "run" / "checkpoints").exists()
        found = tables(folder / "run")
        assert len(found) == {"landscape": 8, "convergence": 3, "hessian": 2}[script]
        return found, time.monotonic() - began

    return whole


def interrupt(script, folder, signals, seconds, rng, most):
    """Run to the end through at most this many signals at random moments; (how many hit, everything that was said)."""
    run, log, hits = folder / "run", folder / "log", 0
    arguments = [*COMMANDS[script], "--output_dir", run]
    while True:
        ready = Path(f"{log}.ready")
        ready.unlink(missing_ok=True)
        process, number = fork(script, arguments, log), rng.choice(signals)
        until = time.monotonic() + rng.uniform(0, seconds)
        while not ((run / "config.json").exists() and ready.exists()):  # before that there is nothing to resume
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


SWEEPS = [("landscape", [KILL], 6), ("landscape", ASK, 4), ("convergence", [KILL], 3), ("convergence", ASK, 3),
          ("hessian", [KILL], 3), ("hessian", ASK, 3)]  # fmt: skip
SLOW = [pytest.param(script, [KILL, *ASK], 100, marks=pytest.mark.slow) for script in COMMANDS]


@pytest.mark.parametrize(("script", "signals", "wanted"), [*SWEEPS, *SLOW])
def test_a_run_stopped_at_random_moments_ends_in_the_same_bytes(whole, tmp_path, script, signals, wanted):
    expected, seconds = whole(script)
    rng, hits = random.Random(wanted), 0
    while hits < wanted:
        folder = tmp_path / str(hits)
        folder.mkdir()
        more, log = interrupt(script, folder, signals, seconds, rng, wanted - hits)
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


def fill_and_resume(script, folder, kilobytes):
    """Run on a disk of that size, enlarged whenever it is full; (how often it was, what was said, the tables)."""
    with disk_of(kilobytes, folder / "disk") as disk:
        run, log, full = disk / "run", folder / "log", 0
        arguments = [*COMMANDS[script], "--output_dir", run]
        while True:
            process = fork(script, arguments, log)
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
def test_a_run_on_a_disk_that_fills_up_ends_in_the_same_bytes(whole, tmp_path, script, wanted):
    """The sizes are multiples of 4 kB, of which a page has so many."""
    expected, _ = whole(script)
    rng, full = random.Random(wanted), 0
    while full < wanted:
        times, log, found = fill_and_resume(script, tmp_path, rng.choice(range(4, 132, 4)))
        full += times
        (tmp_path / "log").unlink()
        assert found == expected and "Traceback" not in log, log
