"""When a run is stored and when it ends, beside a table of cases; what stays on the disk; the journal of many runs."""

import signal
from types import SimpleNamespace

import pytest
import torch

from convergence.journal import Journal
from runs import background
from runs.checkpoints import Checkpoints, content_hash
from runs.saver import Saver
from runs.stopping import Stopped, StopRequest
from training.loop import Point


def after(folder, every=None, signal=None, **options):
    """(numbers of the checkpoints that one call stored, whether it ended the run)"""
    saver, stopped = Saver(folder, every, SimpleNamespace(signal=signal)), False
    try:
        saver.after(options.pop("count", 6), lambda: {"text": "state"}, place="iteration 6", **options)
    except Stopped as end:
        stopped = end
    else:  # before the run is told that it is stopped, all is written
        background.wait()
    return [int(path.stem[-8:]) for path in sorted(folder.glob("checkpoints/*.pt"))], stopped


@pytest.mark.parametrize(("options", "numbers"), [
    ({}, []),
    ({"every": 3}, [6]),
    ({"every": 4}, []),
    ({"every": 4, "milestone": True}, [6]),
    ({"every": 3, "number": 11}, [11]),
    ({"milestone": True, "number": 2}, [2]),
])  # fmt: skip
def test_a_run_is_stored_at_milestones_and_every_so_many_units(options, numbers, tmp_path):
    assert after(tmp_path, **options) == (numbers, False)


@pytest.mark.parametrize("options", [{}, {"every": 4}, {"milestone": True}])
def test_a_signal_stores_the_run_and_ends_it_wherever_it_is(options, tmp_path):
    numbers, stopped = after(tmp_path, signal=signal.SIGTERM, **options)
    assert numbers == [6] and stopped.number == signal.SIGTERM
    assert str(stopped) == "stopped by SIGTERM after iteration 6"


# ---- what stays on the disk ----------------------------------------------------------------------------------------


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_two_newest_checkpoints_stay_and_the_newest_is_used(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (2, 4, 11):
        checkpoints.save(number, {"text": f"after {number}"})
    background.wait()
    assert names_in(tmp_path) == [f"checkpoint-{n:08d}.{end}" for n in (4, 11) for end in ("json", "pt")]
    assert checkpoints.load() == (11, {"text": "after 11"})
    (tmp_path / "checkpoint-00000011.pt").write_bytes(b"cut short")
    assert checkpoints.load() == (4, {"text": "after 4"})


def test_a_checkpoint_that_cannot_be_written_leaves_the_two_before_it(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        checkpoints.save(number, {"text": "whole"})
    background.wait()
    before = names_in(tmp_path)
    checkpoints.save(3, {"text": lambda: "no state"})
    with pytest.raises(Exception, match="pickle"):
        background.wait()
    assert names_in(tmp_path) == before and checkpoints.load() == (2, {"text": "whole"})


def test_a_change_in_the_last_byte_of_a_large_file_is_another_content(tmp_path):
    path, content = tmp_path / "data", bytearray(3 * 2**20)
    path.write_bytes(content)
    before = content_hash(path)
    content[-1] = 1
    path.write_bytes(content)
    assert content_hash(path) != before


# ---- run_convergence.py's journal ---------------------------------------------------------------------------------


class Part:
    """A thing with a state of one tensor."""

    def __init__(self, value):
        self.value = torch.tensor(value)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def parts(value):
    return {"model": Part(value), "optimizer": Part(10 * value), "scheduler": Part(100 * value)}


def point(iteration, ends_epoch=False):
    return Point(1, iteration, iteration, 5.0, 0.1, 4, ends_epoch)


def journal(folder, every=None):
    return Journal(folder, every, StopRequest())


def test_the_interrupted_run_continues_with_all_of_its_parts_and_no_other_run_does(tmp_path):
    first = journal(tmp_path)
    first.end("sgd, seed 0", {"diverged": False})
    first.after_step("adam, seed 0", parts(1.0), point(4, ends_epoch=True), notes=[["a note"], []])
    again = journal(tmp_path)
    other, own = parts(2.0), parts(2.0)
    assert again.ended == {"sgd, seed 0": {"diverged": False}}
    assert again.resume("adam, seed 1", other) == (0, None)
    assert [part.value for part in other.values()] == [2.0, 20.0, 200.0]
    assert again.resume("adam, seed 0", own) == (4, [["a note"], []])
    assert [part.value for part in own.values()] == [1.0, 10.0, 100.0]
    assert again.resume("adam, seed 0", parts(2.0)) == (0, None), "it is resumed once"


def test_every_checkpoint_of_a_journal_has_a_number_of_its_own(tmp_path):
    one = journal(tmp_path, every=2)
    for key in ("sgd", "adam"):
        for iteration in (1, 2, 3):
            one.after_step(key, parts(1.0), point(iteration, ends_epoch=iteration == 3), notes=[])
        one.end(key, {})
    assert one.number == 6 and journal(tmp_path).number == 6  # after updates 2 and 3 and the end, twice
    assert list(journal(tmp_path).ended) == ["sgd", "adam"]
