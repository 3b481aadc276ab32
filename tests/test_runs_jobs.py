"""Jobs that any number of processes take from the run folder: who takes what, what is kept, what happens to a job whose
process dies or that fails."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from runs import jobs as module
from runs.config import mark_finished, write_config
from runs.files import CannotWrite
from runs.folder import remove_run
from runs.jobs import BEFORE, MINE, OTHERS, Job, Jobs, SomeFailed, forget_failures, turn
from runs.lock import claim
from runs.opening import clear
from runs.stopping import Stopped

GO = SimpleNamespace(signal=None)


def job(name, do=lambda place: "done", key="the key", needs=None):
    return Job(name, f"the job {name}", lambda: key, do, needs)


def worked(folder, *jobs, stop=GO, **options):
    """(results, [(job, who ended it)]) of a process that works on these jobs."""
    found, ended = Jobs(folder, jobs, stop, **options), []
    found.work(lambda job, who: ended.append((job.name, who)))
    return found.results, ended


def test_jobs_are_done_in_their_order_and_their_results_are_kept(tmp_path):
    order = []
    jobs = [job(name, lambda place: order.append(place) or {"value": [1.5, float("inf")]}) for name in ("b", "a", "c")]
    results, ended = worked(tmp_path, *jobs)
    assert order == ["b", "a", "c"] and ended == [("b", MINE), ("a", MINE), ("c", MINE)]
    again, ended = worked(tmp_path, *jobs)
    assert len(order) == 3 and again == results == dict.fromkeys(order, {"value": [1.5, float("inf")]})
    assert {who for _, who in ended} == {BEFORE}


def test_a_job_waits_for_the_one_that_it_needs(tmp_path):
    first = job("first", lambda place: 0.25)
    found = Jobs(tmp_path, [], GO)
    second = Job("second", "the second", lambda: f"at {found.results['first']}", lambda place: "there", needs=first)
    found.jobs = [second, first]
    found.work()
    assert list(found.results) == ["first", "second"]
    assert json.loads((tmp_path / "checkpoints/second/result.json").read_text())["key"] == "at 0.25"


@pytest.mark.parametrize("text", [
    '{"key": "another", "result": 1}', "{", "[]", '"text"', "", '{"key": "the key"}', "\xff",
])  # fmt: skip
def test_a_result_that_is_damaged_or_of_another_job_is_not_used(text, tmp_path):
    worked(tmp_path, job("a"))
    (tmp_path / "checkpoints/a/result.json").write_text(text, encoding="latin-1")
    results, ended = worked(tmp_path, job("a", lambda place: "again"))
    assert results == {"a": "again"} and ended == [("a", MINE)]


def test_a_job_of_a_process_that_dies_is_taken_over(tmp_path):
    """The other process holds its claim; this one waits, and takes the job when the other is killed."""
    (tmp_path / "checkpoints/a").mkdir(parents=True)
    code = (
        "import sys; from pathlib import Path; from runs.lock import claim\n"
        "with claim(Path(sys.argv[1])) as mine: print(mine, flush=True); sys.stdin.readline()"
    )
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(module.__file__).parent.parent)
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path / "checkpoints/a"], **pipes)
    assert holder.stdout.readline() == "True\n"
    done = []
    killer = threading.Timer(0.4, lambda: (done.append("killed"), holder.kill()))
    killer.start()
    _, ended = worked(tmp_path, job("a", lambda place: done.append("a")), job("b", lambda place: done.append("b")))
    holder.communicate()
    assert done == ["b", "killed", "a"] and ended == [("b", MINE), ("a", MINE)]


def test_what_another_process_ends_meanwhile_is_not_done_again(tmp_path):
    def other_ends_b(place):
        worked(tmp_path, job("b", lambda place: "by the other"))

    results, ended = worked(tmp_path, job("a", other_ends_b), job("b", lambda place: pytest.fail("done twice")))
    assert results == {"a": None, "b": "by the other"} and ended == [("a", MINE), ("b", OTHERS)]


def test_a_look_tells_what_others_have_ended(tmp_path):
    seen = []
    found = Jobs(tmp_path, [job("a"), job("b"), job("c")], GO)
    found.ended = lambda job, who: seen.append((job.name, who))
    worked(tmp_path, job("b"))
    assert [job.name for job in found.look()] == ["a", "c"] and seen == [("b", OTHERS)]
    assert [job.name for job in found.look()] == ["a", "c"] and len(seen) == 1


def test_a_result_that_comes_between_the_look_and_the_claim_is_used(tmp_path, monkeypatch):
    def claim_late(place):
        monkeypatch.setattr(module, "claim", claim)
        worked(tmp_path, job("a", lambda place: "by the other"))
        return claim(place)

    monkeypatch.setattr(module, "claim", claim_late)
    results, ended = worked(tmp_path, job("a", lambda place: pytest.fail("done twice")))
    assert results == {"a": "by the other"} and ended == [("a", OTHERS)]


# ---- failures -----------------------------------------------------------------------------------------------------


def fail(error):
    def do(place):
        raise error

    return do


def test_a_job_that_fails_is_named_in_one_line_and_the_others_go_on(tmp_path, caplog):
    search = job("search", fail(RuntimeError("no\nway")))
    jobs = [search, job("run", needs=search), job("other"), job("wrong", fail(ValueError("a whole sentence")))]
    found = Jobs(tmp_path, jobs, GO)
    with pytest.raises(SomeFailed, match="^3 of 4 jobs failed: the job search; the job run; the job wrong$"):
        found.work()
    assert found.results == {"other": "done"}
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "the job search failed: RuntimeError: no way; the other jobs go on",
        "the job wrong failed: a whole sentence; the other jobs go on",
    ]
    text = (tmp_path / "checkpoints/search/failed.txt").read_text()
    assert text.startswith("RuntimeError: no way\n") and "Traceback" in text and "in do" in text
    with pytest.raises(SomeFailed, match="^3 of 4 jobs failed"):  # in another process at the same time: not tried again
        Jobs(tmp_path, [job("search", lambda place: pytest.fail("again")), *jobs[1:3], job("wrong")], GO).work()
    forget_failures(tmp_path)
    search = job("search", lambda place: "mended")
    results, _ = worked(tmp_path, search, job("run", needs=search), *jobs[2:3], job("wrong"))
    assert results == {"search": "mended", "run": "done", "other": "done", "wrong": "done"}


@pytest.mark.parametrize("error", [Stopped(signal.SIGTERM, "an update"), CannotWrite("the disk is full")])
def test_a_signal_and_a_full_disk_end_the_process_and_fail_no_job(error, tmp_path):
    with pytest.raises(type(error)):
        worked(tmp_path, job("a", fail(error)), job("b"))
    assert list((tmp_path / "checkpoints/a").iterdir()) == []
    assert worked(tmp_path, job("a"), job("b"))[0] == {"a": "done", "b": "done"}


def test_where_jobs_fail_together_the_first_error_ends_the_process(tmp_path):
    with pytest.raises(FloatingPointError):
        worked(tmp_path, job("a", fail(FloatingPointError("nan"))), job("b"), go_on=False)
    assert not list(tmp_path.rglob("failed.txt"))


def test_running_out_of_memory_is_said_in_a_few_words(tmp_path, caplog):
    with pytest.raises(SomeFailed):
        worked(tmp_path, job("a", fail(RuntimeError("DefaultCPUAllocator: can't allocate memory"))))
    assert "the job a failed: out of memory (DefaultCPUAllocator: can't allocate memory); the other" in caplog.text


# ---- waiting ------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path):
    write_config(tmp_path, {}, [])
    return tmp_path


def test_a_signal_ends_the_waiting_for_others(tmp_path):
    (tmp_path / "checkpoints/a").mkdir(parents=True)
    stop, began = SimpleNamespace(signal=None), time.monotonic()
    threading.Timer(0.1, setattr, [stop, "signal", signal.SIGTERM]).start()
    with claim(tmp_path / "checkpoints/a"), pytest.raises(Stopped, match="others are at work on the rest"):
        worked(tmp_path, job("a"), stop=stop)
    answer = "another process writes the tables"
    with claim(tmp_path / "checkpoints"), pytest.raises(Stopped, match=answer), turn(tmp_path, stop):
        pytest.fail("it is not this one's turn")
    assert time.monotonic() - began < 5


def test_nothing_is_left_to_write_once_another_process_has_ended_the_run(begun):
    """Its last job ends beside the end of the run: a table of what this process knows would lack what others did."""
    with turn(begun, GO) as is_mine:
        assert is_mine
        mark_finished(begun)
    with turn(begun, GO) as is_mine:
        assert not is_mine


def test_one_process_at_a_time_writes_the_tables(begun):
    seen = []

    def write(name):
        with turn(begun, GO):
            seen.append(f"{name} begins")
            time.sleep(0.1)
            seen.append(f"{name} ends")

    other = threading.Thread(target=write, args=["other"])
    with turn(begun, GO):
        other.start()
        time.sleep(0.1)
        seen.append("first ends")
    other.join()
    assert seen == ["first ends", "other begins", "other ends"]


def test_the_end_of_a_run_removes_what_a_killed_process_was_writing(begun):
    worked(begun, job("a"))
    half = [begun / ".losses.csv.17.tmp", begun / "checkpoints/a/.checkpoint-00000002.pt.17.tmp"]
    for path in half:
        path.write_text("half")
    (begun / ".mine.tmp").write_text("mine")
    clear(begun)
    assert {path.name for path in begun.iterdir()} == {"config.json", ".mine.tmp"}


def test_overwrite_removes_what_jobs_have_left_and_nothing_else(tmp_path):
    with pytest.raises(SomeFailed):
        worked(tmp_path, job("a"), job("b", fail(RuntimeError("no"))))
    (tmp_path / "checkpoints/b/mine.txt").write_text("mine")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/result.json").write_text("mine")
    (tmp_path / "checkpoints/link").symlink_to(tmp_path / "precious")
    (tmp_path / "config.json").touch()
    remove_run(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"precious", "precious/result.json", "checkpoints", "checkpoints/b", "checkpoints/b/mine.txt",
                    "checkpoints/link"}  # fmt: skip
