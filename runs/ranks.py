"""The processes that torchrun or srun started, at work on one run: how they meet, and how they end together.

    ranks = connect()          # `curvature.ranks.ALONE` where one process was started
    ...
    with watching(folder): ... # a rank that is gone, or no longer moves, ends all within a minute

One that raises or is killed closes its connections, and the others notice at their next message (`RankLost`). One that
waits for ever finds that its process neither computes, nor reads or writes a disk, nor waits for another rank. So
nothing depends on how long a step takes. One that is frozen no longer beats: each rank sets a counter in the store
where they met. A rank of the same machine then kills it, since who started it would first ask it to end, and wait.
"""

import datetime
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from curvature.ranks import ALONE, Connected, Ranks
from runs.processes import local_rank, rank, world_size

log = logging.getLogger(__name__)

LONGEST_WAIT = datetime.timedelta(days=1)  # of one rank for another, such as one that downloads
BEAT = 2.0  # seconds between two signs of life
STUCK = 25.0  # seconds without any progress after which a process gives itself up
HEAD_START = 1.0  # seconds, of those who know more
SILENT = 20.0  # seconds without a beat after which the others give it up
LEAST_WORK = 0.1  # seconds of CPU time in `STUCK` seconds that count as progress, without those of the watch
OVER = "over"  # key that says that the run has ended
PORTS = 20_000, 20_000  # the first one that a job of Slurm may take, and how many

_current: Ranks = ALONE
_store: Any = None  # where they met; of torch.distributed
_end_store: Any = None  # a connection to it for the last words
_over = threading.Event()  # set when this process has seen that another one told of the end


def current() -> Ranks:
    """The ranks that this process has joined by `connect`."""
    return _current


def connect() -> Ranks:
    """Meet the other processes of this command, if it started several. Raises: ValueError, in one line, where the
    environment does not say where to meet."""
    global _current, _store, _end_store
    if world_size() > 1 and _current is ALONE:
        _agree_on_a_place()
        _store, number, count = next(iter(rendezvous("env://", rank(), world_size(), timeout=LONGEST_WAIT)))
        _store.set(f"process/{number}", _name_of(os.getpid()))
        # The process that holds the store may be the one that ends, even at once: connect before any rank goes on.
        _end_store = _store.clone()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=_store, rank=number, world_size=count, timeout=LONGEST_WAIT)
        _current = Connected()
    return _current


def _agree_on_a_place() -> None:
    """torchrun says where the processes meet; of srun's, those on one machine meet there."""
    if "MASTER_ADDR" not in os.environ and os.environ.get("SLURM_STEP_NUM_NODES") == "1":
        first, count = PORTS
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        os.environ.setdefault("MASTER_PORT", str(first + int(os.environ.get("SLURM_JOB_ID", "0")) % count))
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ValueError(
            f"{world_size()} processes were started without {' and '.join(missing)}, so they cannot connect; "
            "start them by torchrun, or export both as docs/many_gpus.md shows"
        )


def end_at_once(status: int) -> None:
    """End this process after a failure, without Python's cleaning up: until the process is gone, the others wait for
    its messages."""
    if not _over.is_set():
        with suppress(RuntimeError):  # of a store that is gone
            _end_store.set(OVER, "")
    if _current.leads:
        time.sleep(BEAT + HEAD_START)  # its process may hold the store, and the others look there who tells of the end
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def disconnect() -> None:
    """Leave the others; what follows is for one process."""
    global _current, _store
    if _current is not ALONE:
        with suppress(RuntimeError):  # a connection that is gone already
            dist.destroy_process_group()
    _current, _store = ALONE, None
    _over.clear()


def is_first_here() -> bool:
    """Whether this is the process of its machine that downloads and tokenizes for all of them."""
    return local_rank() == 0


def may_tell_of_the_end() -> bool:
    """Whether this process is the first to ask: then it says why the run ended, and the others are silent.

    The leader, who also writes to log.txt, comes before the others. Who has an error of its own asks before its process
    ends, and so before those who only notice that.
    """
    if _store is None:
        return True
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # of torchrun, which ends all when one has ended
    time.sleep(0.0 if _current.leads else HEAD_START)
    if _over.is_set():
        return False
    try:
        return _end_store.add("end", 1) == 1
    except RuntimeError:  # the store went with the leader
        return True


# ---- the watch ------------------------------------------------------------------------------------------------------


@contextmanager
def watching(again: str) -> Iterator[None]:
    """While active, this process ends, with status 1, when it is stuck or when another rank no longer beats.

    again: how to continue, for the message.
    """
    if _store is None:
        yield
        return
    done = threading.Event()
    watched = range(1, _current.world) if _current.leads else [0]
    processes = {other: _store.get(f"process/{other}").decode() for other in watched}
    thread = threading.Thread(target=_watch, args=(_current, _store.clone(), processes, done, again), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(BEAT + 1)


def _watch(ranks: Connected, store: Any, processes: dict[int, str], done: threading.Event, again: str) -> None:
    """The leader watches all, the others the leader: what is sent grows with the number of ranks and not its square.

    processes: of those that this one watches, as `_name_of` names them."""
    heard = {other: (b"", time.monotonic()) for other in processes}
    life, beats = Progress(lambda: ranks.waits), 0
    while not done.wait(BEAT):
        if life.seconds_without() > STUCK:
            _end(f"rank {ranks.rank} of {ranks.world} has done nothing for {STUCK:.0f} seconds", again)
        beats, still = beats + 1, life.still if ranks.waits else 0.0  # in vain, then
        frozen = threading.Timer(
            SILENT, _end, ("the process of rank 0 does not answer", again, False, processes.get(0))
        )
        frozen.start()
        try:
            store.set(f"beat/{ranks.rank}", f"{beats} {still}")
            now = {other: store.get(f"beat/{other}") for other in processes if store.check([f"beat/{other}"])}
            over = store.check([OVER])
        except RuntimeError:  # the leader's process, which held the store, has ended
            frozen.cancel()
            if not done.wait(4 * HEAD_START):
                _end("", again)
            return
        frozen.cancel()
        for other, beat in now.items():
            if beat != heard[other][0]:
                heard[other] = beat, time.monotonic()
        silent = [other for other, (_, when) in heard.items() if time.monotonic() - when > SILENT]
        if silent and not done.is_set():
            _end(f"rank {silent[0]} of {ranks.world} does not answer", again, process=processes[silent[0]])
        others_still = [float(beat.split()[1]) for beat in now.values()]
        if ranks.leads and len(now) == len(processes) and min(still, *others_still) > STUCK and not done.is_set():
            _end(f"all {ranks.world} ranks have waited for each other for {STUCK:.0f} seconds", again)
        if over:
            _over.set()
            if not done.wait(4 * HEAD_START):  # it may be about to end by itself
                _end("", again)


def _end(said: str, again: str, asks: bool = True, process: str | None = None) -> None:
    """End this process at once, without a message to the others: who is stuck answers none.

    asks: whether the others may have told of the end already, in the store.
    process: of a rank that does not answer, as `_name_of` names it: it is killed if it runs on this machine.
    """
    if said and (not asks or may_tell_of_the_end()):
        log.error("stopped: %s; %s", said, again)
    if process:
        with suppress(OSError, ValueError):  # it has ended
            number = int(process.split()[0])
            if _name_of(number) == process:
                os.kill(number, signal.SIGKILL)
    if asks:
        end_at_once(1)
    os._exit(1)


def _name_of(process: int) -> str:
    """A process by its number, as no other is named, on no other machine; "" where the system does not tell."""
    with suppress(OSError, IndexError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbers = Path("/proc/self/ns/pid").stat().st_ino  # of a container, say
        began = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{process} {began} {numbers} {boot}"
    return ""


class Progress:
    """Whether this process moves: it computes, it reads or writes a disk, or it waits for another rank. Ask every few
    seconds: what happens in between is seen by its CPU time alone.

    still: seconds since it last computed, or read or wrote a disk, when it was last asked.
    """

    def __init__(self, waits: Callable[[], bool], clock=time.monotonic, cpu_time: Callable[[], float] | None = None):
        cpu_time = cpu_time or _cpu_time_of_others
        self.waits, self.clock, self.cpu_time = waits, clock, cpu_time
        self.waited_at = self.worked_at = self.looked_at = clock()
        self.cpu_then, self.still = cpu_time(), 0.0

    def _look(self) -> None:
        now, cpu = self.clock(), self.cpu_time()
        worked = cpu - self.cpu_then > LEAST_WORK * (now - self.looked_at) / STUCK
        self.looked_at, self.cpu_then = now, cpu
        if worked or _is_at_a_disk():
            self.worked_at = now
        self.still = now - self.worked_at

    def seconds_without(self) -> float:
        """Seconds since it last moved."""
        self._look()
        if self.waits():
            self.waited_at = self.clock()
        return min(self.still, self.clock() - self.waited_at)


def _cpu_time_of_others() -> float:
    """Seconds of CPU time of this process, without the thread that asks."""
    return time.process_time() - time.thread_time()


def _is_at_a_disk() -> bool:
    """Whether a thread of this process waits for a disk, or for a file system behind a network."""
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(OSError, IndexError):
            if (thread / "stat").read_text().rpartition(")")[2].split()[0] == "D":
                return True
    return False
