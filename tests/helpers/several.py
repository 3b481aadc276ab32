"""Functions run by several processes, connected by gloo: forks of the process of the test, which import nothing."""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from curvature.ranks import ALONE, Connected
from tests.helpers import tiny_run


def on_ranks(world, function, seconds=300):
    """[function(ranks) of every rank]; with world 1, of `ALONE`. What it returns goes through a pipe."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            context.Process(target=_work, args=(rank, world, f"{folder}/store", function, pipes[rank][1]))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        answers = [pipe.recv() if pipe.poll(seconds) else ("no answer", None) for pipe, _ in pipes]
        for process in processes:
            process.kill()
            process.join()
    errors = [error for error, _ in answers if error]
    assert not errors, errors[0]
    return [answer for _, answer in answers]


def _work(rank, world, store, function, pipe):
    torch.set_num_threads(1)  # the test's own threads are not here
    try:
        if world > 1:
            dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
        pipe.send((None, function(Connected() if world > 1 else ALONE)))
    except BaseException:
        pipe.send((traceback.format_exc(), None))
    os._exit(0)


# ---- whole runs -----------------------------------------------------------------------------------------------------


class Command:
    """A script on the tiny task, as torchrun would start it in `world` processes. `with` waits for their end."""

    def __init__(self, world, arguments, output, script="landscape", before=None):
        self.world, self.arguments, self.script = world, [str(a) for a in arguments], script
        self.output, self.before = Path(output), before  # before(rank): in each process, first
        self.output.mkdir(exist_ok=True)
        context = multiprocessing.get_context("fork")
        self.processes = [context.Process(target=target, args=args) for target, args in self._targets()]
        for process in self.processes:
            process.start()

    def _targets(self):
        """What each process does: (function, arguments)."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        return [(self._as_rank, (rank, place)) for rank in range(self.world)]

    def _as_rank(self, rank, place):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.world}
        os.environ.update({name: str(n) for name, n in numbers.items()} if self.world > 1 else {}, **place)
        os._exit(self._work(rank))

    def _redirect(self, name):
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(self.output / f"{stream}{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))

    def _work(self, rank):
        torch.set_num_threads(1)
        self._redirect(rank)
        (self.output / f"process{rank}").write_text(str(os.getpid()))
        status = 70
        try:
            if self.before is not None:
                self.before(rank)
            status = tiny_run.main(self.script, self.arguments)
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        return status

    def statuses(self, seconds=300):
        """Of every process, when all have ended; None for one that had to be killed. A signal's are negative."""
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        late = [process for process in self.processes if process.exitcode is None]
        for process in late:
            process.kill()
            process.join()
        return [None if process in late else process.exitcode for process in self.processes]

    def errors(self, rank=None):
        """What was written to standard error, by one rank or by all."""
        ranks = range(self.world) if rank is None else [rank]
        return "".join((self.output / f"err{each}").read_text() for each in ranks)


class Torchrun(Command):
    """The same, started by torchrun's own agent, whose process is the only one of `processes`: its status is 1 where a
    rank's is not 0. The ranks are forks of it."""

    def _targets(self):
        return [(self._as_torchrun, ())]

    def _as_torchrun(self):
        self._redirect("agent")
        place = dict(rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id=str(os.getpid()))  # of --standalone
        many = dict(min_nodes=1, max_nodes=1, nproc_per_node=self.world, max_restarts=0)
        status = 0
        try:
            elastic_launch(LaunchConfig(**many, **place, start_method="fork"), self._as_worker)()
        except ChildFailedError:
            status = 1
        os._exit(status)

    def _as_worker(self):
        status = self._work(int(os.environ["RANK"]))
        if status:  # the agent waits for what the others return
            os._exit(status)

    def rank_processes(self):
        """rank -> the number of its process, of those that have begun."""
        files = [self.output / f"process{rank}" for rank in range(self.world)]
        written = {rank: file.read_text() for rank, file in enumerate(files) if file.exists()}
        return {rank: int(text) for rank, text in written.items() if text}
