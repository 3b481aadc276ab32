"""Processes of their own that run a script on the tiny task: forks of the test, which has imported everything."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from runs import opening
from tests.helpers import tiny_run
from tests.helpers.stored_runs import ASK


def child(script, arguments, log, environment):
    """What a child process does: the script, with its messages in a file."""
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
    for number in ASK:  # as in a script that a shell has just started
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(environment)
    opening.BEGAN = float(environment.get("TINY_BEGAN", time.time()))
    Path(f"{log}.ready").touch()
    torch.set_num_threads(1)
    try:
        status = tiny_run.main(script, [str(a) for a in arguments])
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 70
    os._exit(status)


def fork(script, arguments, log, environment=None):
    """A process that has just started: a fork of the test's own, so nothing is imported."""
    process = multiprocessing.get_context("fork").Process(
        target=child, args=(script, arguments, log, environment or {})
    )
    process.start()
    return process


def ranks(start, count, script, arguments, log):
    """As many processes as torchrun would start, all at the same moment."""
    now = {"TINY_BEGAN": str(time.time())}
    return [start(script, arguments, f"{log}.{rank}", environment(rank, count) | now) for rank in range(count)]


def environment(rank, count):
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}


def wait_until(true: Callable[[], bool], process=None, seconds=120):
    """Look until it is so; that the process lives meanwhile is asserted."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until and (process is None or process.is_alive())
        time.sleep(0.002)
