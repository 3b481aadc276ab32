"""A run in jobs, which any number of processes take from its folder: no process group, no scheduler.

    folder/checkpoints/JOB/claim           held by the process that works on the job; the system frees it when that dies
                           checkpoint-*    where the job is resumed, by whichever process takes it next
                           result.json     how it ended, written whole
                           failed.txt      why it could not end

Every process takes the first job that has not ended and that no other process holds, until all jobs have ended. A
single process takes them in their order. What a job gives depends on nothing but the job, so the results are the same
for any number of processes.
"""

import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from curvature.memory import is_out_of_memory
from curvature.ranks import ALONE, Ranks
from runs import background
from runs.checkpoints import CannotRead, Checkpoints
from runs.config import is_finished
from runs.files import CannotWrite, one_line, write_whole
from runs.folder import CHECKPOINTS, FAILURE, RESULT
from runs.lock import claim
from runs.stopping import Stopped, StopRequest

log = logging.getLogger(__name__)

BEFORE, MINE, OTHERS = range(3)  # who ended a job: an earlier process, this one, or another at the same time
PAUSES = 0.05, 2.0  # seconds between two looks at the jobs of others, the first and the longest


class SomeFailed(Exception):
    """Jobs could not end, and the others have; the message is one line."""


@dataclass(frozen=True)
class Job:
    """A part of a run that one process does at a time.

    name: of its folder, the same however often the run is resumed.
    title: what people call it: "adam, seed 1".
    key: everything that makes its result differ. A stored result with another key is of another job.
    do: does it, from its last checkpoint if it has one; returns what JSON can hold. The argument is its folder, below
        the folder of all checkpoints.
    needs: the job whose result `key` and `do` use.
    """

    name: str
    title: str
    key: Callable[[], str]
    do: Callable[[str], Any]
    needs: "Job | None" = None


class Jobs:
    """The jobs of the run in `folder`, as this process sees them.

    results: name -> result, of those that have ended.
    failures: name -> why, of those that could not.

    Args:
        stop: what a signal sets.
        go_on: whether a job that raises an error leaves the others to go on; otherwise the error ends this process.
        ranks: processes that do every job together, one after the other, and end together. The leader stores for all.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job], stop: StopRequest, go_on: bool = True, ranks: Ranks = ALONE):
        self.ranks = ranks
        self.place, self.jobs, self.stop, self.go_on = folder / CHECKPOINTS, jobs, stop, go_on
        self.results: dict[str, Any] = {}
        self.failures: dict[str, str] = {}
        self.ended: Callable[[Job, int], None] = lambda job, who: None

    def work(self, ended: Callable[[Job, int], None] | None = None) -> None:
        """Take jobs until all have ended, here or in other processes.

        ended: called once for every job that has a result, with who ended it.

        Raises: Stopped, after a signal; CannotWrite; CannotRead; SomeFailed at the end, if jobs failed.
        """
        self.ended = ended or self.ended
        self.ranks.leading(self._make_folders)
        for job in self.jobs:
            if self._has_result(job):
                self.ended(job, BEFORE)
        self.ranks.agree(None)  # all have looked: what comes now is no result of before
        if self.ranks.world > 1:
            self._work_together()
            return
        pause, longest = PAUSES
        while waiting := self.look():
            if any(self._took(job) for job in waiting):
                pause = PAUSES[0]
                continue
            if self.stop.signal:
                raise Stopped(self.stop.signal, "its last job; others are at work on the rest")
            time.sleep(pause)
            pause = min(2 * pause, longest)
        if self.failures:
            titles = "; ".join(job.title for job in self.jobs if job.name in self.failures)
            raise SomeFailed(f"{len(self.failures)} of {len(self.jobs)} jobs failed: {titles}")

    def _work_together(self) -> None:
        for job in self.jobs:
            if job.name not in self.results and not self._has_result(job):  # it may need a job that has ended now
                result = job.do(job.name)
                self.ranks.leading(background.wait)
                self.ranks.leading(partial(self._keep, job, result))
                self.results[job.name] = result
                self.ended(job, MINE)

    def look(self) -> list[Job]:
        """Learn which jobs other processes have ended; those that have not ended."""
        return [job for job in self.jobs if not self._has_ended(job)]

    def _has_ended(self, job: Job) -> bool:
        if job.name in self.results or job.name in self.failures:
            return True
        if job.needs is not None and job.needs.name in self.failures:
            self.failures[job.name] = f"{job.needs.title} failed"
        elif self._has_result(job):
            self.ended(job, OTHERS)
        elif (self.place / job.name / FAILURE).exists():
            self.failures[job.name] = _first_line(self.place / job.name / FAILURE)
        return job.name in self.results or job.name in self.failures

    def _has_result(self, job: Job) -> bool:
        """Whether there is one, now in `results`. One that is damaged, or of another job, is not used."""
        path = self.place / job.name / RESULT
        if (job.needs is None or job.needs.name in self.results) and path.exists():
            try:
                stored = json.loads(path.read_bytes())
                if stored["key"] == job.key():
                    self.results[job.name] = stored["result"]
            except (ValueError, LookupError, TypeError) as error:
                log.warning("%s cannot be used: %s; the job is done again", path, one_line(error))
            except OSError as error:
                raise CannotRead(f"cannot read {path}: {error.strerror or error}") from error
        return job.name in self.results

    def _took(self, job: Job) -> bool:
        """Do the job, unless another process holds it or what it needs is missing; whether anything has changed."""
        if job.needs is not None and job.needs.name not in self.results:
            return False
        did = False
        with claim(self.place / job.name) as mine:
            if mine and not self._has_ended(job):  # its holder may have ended it since the last look
                try:
                    did = self._do(job)
                finally:
                    background.finish()  # nothing is written any more when another process may take the job
        if did:
            self.ended(job, MINE)
        return mine

    def _do(self, job: Job) -> bool:
        """Do a job that this process holds; whether it has a result."""
        place = self.place / job.name
        try:
            result = job.do(job.name)
            background.wait()
        except (Stopped, CannotWrite, CannotRead):
            raise
        except Exception as error:
            if not self.go_on:
                raise
            self.failures[job.name] = said = _said(error)
            write_whole(place / FAILURE, f"{said}\n\n{traceback.format_exc()}")
            log.debug("traceback", exc_info=True)
            log.error("%s failed: %s; the other jobs go on", job.title, said)
            return False
        self._keep(job, result)
        return True

    def _keep(self, job: Job, result: Any) -> None:
        place = self.place / job.name
        text = json.dumps({"key": job.key(), "result": result})
        write_whole(place / RESULT, text)
        self.results[job.name] = json.loads(text)["result"]
        with suppress(OSError):  # they go at the end of the run
            Checkpoints(place).remove()

    def _make_folders(self) -> None:
        for job in self.jobs:
            _make_folder(self.place / job.name)


@contextmanager
def turn(folder: Path, stop: StopRequest) -> Iterator[bool]:
    """Wait until no other process writes what belongs to all: the tables of the run in `folder`, and its end. Whether
    there is something to write: not any more once another process has ended the run.

    Raises: Stopped, after a signal; CannotWrite."""
    pause, longest = PAUSES
    _make_folder(folder / CHECKPOINTS)
    while True:
        with claim(folder / CHECKPOINTS) as mine:
            if mine:
                yield not is_finished(folder)
                return
        if stop.signal:
            raise Stopped(stop.signal, "its last job; another process writes the tables")
        time.sleep(pause)
        pause = min(2 * pause, longest)


def forget_failures(folder: Path) -> None:
    """Let the jobs that failed be tried again. Only while no other process is at work."""
    for path in (folder / CHECKPOINTS).glob(f"*/{FAILURE}"):
        path.unlink()


def _make_folder(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotWrite(f"cannot write {place}: {error.strerror or error}") from error


def _said(error: Exception) -> str:
    """An error of a job, in one line."""
    if is_out_of_memory(error):
        return f"out of memory ({one_line(error)})"  # micro-batches were halved by then
    return one_line(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {one_line(error)}"


def _first_line(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
