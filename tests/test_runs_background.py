"""Checkpoints written beside the work: of the state as it was, one at a time, and none forgotten."""

import gc
import os
import re
import signal
import threading
import time
import weakref
from collections import OrderedDict
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import runs.checkpoints
import runs.jobs
from runs import background, snapshot
from runs.checkpoints import Checkpoints
from runs.files import CannotWrite
from runs.saver import Saver
from runs.stopping import Stopped
from tests.helpers.stored_runs import LANDSCAPE, landscape, tables

GO_ON = SimpleNamespace(signal=None)


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    background.wait()


@pytest.fixture
def gate(monkeypatch):
    """Writes wait until `gate` is set."""
    gate, write = threading.Event(), runs.checkpoints.save_tensors

    def when_open(path, state):
        assert gate.wait(20)
        write(path, state)

    monkeypatch.setattr(runs.checkpoints, "save_tensors", when_open)
    yield gate
    gate.set()


def stored(folder):
    return sorted(int(path.stem[-8:]) for path in folder.glob("checkpoints/*.json"))


def test_what_is_written_is_the_state_of_the_call_and_the_run_does_not_wait_for_it(gate, tmp_path):
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    saver = Saver(tmp_path, 1, GO_ON)
    saver.after(1, model.state_dict, place="iteration 1")
    with torch.no_grad():
        model.weight += 1
    assert stored(tmp_path) == []
    gate.set()
    number, state = saver.checkpoints.load()
    assert number == 1 and torch.equal(state["weight"], before)


def test_one_write_is_under_way_at_most(gate, tmp_path):
    saver = Saver(tmp_path, 1, GO_ON)
    saver.after(1, dict, place="iteration 1")
    threading.Timer(0.2, gate.set).start()
    saver.after(2, dict, place="iteration 2")
    assert stored(tmp_path)[:1] == [1], "the second write began before the end of the first"
    background.wait()
    assert stored(tmp_path) == [1, 2]


def test_a_signal_is_answered_when_the_run_is_stored(gate, tmp_path):
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(Stopped):
        Saver(tmp_path, None, SimpleNamespace(signal=signal.SIGTERM)).after(3, dict, place="iteration 3")
    assert stored(tmp_path) == [3]


def test_a_write_that_fails_ends_the_run_at_the_next_update_and_leaves_the_ones_before(tmp_path, monkeypatch):
    saver = Saver(tmp_path, 2, GO_ON)
    saver.after(2, lambda: {"text": "whole"}, place="iteration 2")
    background.wait()

    def refuse(path, state):
        raise CannotWrite("cannot write it: No space left on device")

    monkeypatch.setattr(runs.checkpoints, "save_tensors", refuse)
    saver.after(4, dict, place="iteration 4")
    background._latest.join()
    with pytest.raises(CannotWrite, match="No space left on device"):
        saver.after(5, dict, place="iteration 5")
    saver.after(5, dict, place="iteration 5")  # it is said once
    assert saver.checkpoints.load() == (2, {"text": "whole"})


def test_what_was_begun_is_waited_for_and_its_error_raised_or_said(caplog):
    done = []
    background.begin(lambda: (time.sleep(0.1), done.append(1)))
    background.wait()
    assert done == [1]

    def refuse():
        raise CannotWrite("cannot write it")

    background.begin(refuse)
    with pytest.raises(CannotWrite, match="cannot write it"):
        background.wait()
    background.wait()  # it is raised once
    background.begin(refuse)
    background.finish()
    assert [record.message for record in caplog.records] == ["cannot write it"]


def test_a_copy_is_held_no_longer_than_it_is_written():
    class State:
        pass

    state = State()
    background.begin(partial(repr, state))
    held = weakref.ref(state)
    del state
    background._latest.join()
    gc.collect()
    assert held() is None


def test_without_room_for_a_copy_the_state_itself_is_written_at_once(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    free = 2 * 4 * 1000
    monkeypatch.setattr(snapshot, "free_memory", lambda device: free)
    checkpoints, big = Checkpoints(tmp_path / "checkpoints"), torch.zeros(1001)
    monkeypatch.setattr(background, "begin", lambda write: pytest.fail("a copy was made"))
    for number in (1, 2):
        checkpoints.save(number, {"big": big, "same": big.view(7, -1)})
        assert stored(tmp_path)[-1] == number
    assert [r.message for r in caplog.records] == [
        "not enough memory to copy 4 kB: the run waits while a checkpoint is written"
    ]
    assert snapshot.has_room({"small": big[:1000].clone(), "same": None})
    free = None
    assert not snapshot.has_room({})


# ---- copies -------------------------------------------------------------------------------------------------------


def state_of_all_kinds():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    whole = torch.arange(12.0)
    followed, complex_ones = (2 * model[0].weight)[0], torch.ones(2, dtype=torch.cfloat)
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "views": [whole[2:6], whole.view(3, 4).T, torch.zeros(0), torch.tensor(3), followed, complex_ones],
        "other": (nn.Parameter(torch.ones(2)), torch.eye(2).to_sparse(), None, "text"),
    }


def test_a_copy_gives_the_bytes_of_the_state_and_shares_nothing_with_it(tmp_path):
    state = state_of_all_kinds()
    copied = snapshot.snapshot(state)
    assert type(copied["model"]) is OrderedDict and copied["model"]._metadata == state["model"]._metadata
    first, second = tmp_path / "a" / "state.pt", tmp_path / "b" / "state.pt"  # the name stands in the file
    for path, content in ((first, state), (second, copied)):
        path.parent.mkdir()
        torch.save(content, path)
    assert first.read_bytes() == second.read_bytes()
    ours = {t.untyped_storage().data_ptr() for t in snapshot.plain_tensors(state)}
    theirs = {t.untyped_storage().data_ptr() for t in snapshot.plain_tensors(copied)}
    assert ours & theirs <= {0} and len(ours) == len(theirs)
    assert snapshot.size_of(copied) == snapshot.size_of(state)
    conjugate = torch.tensor([1 + 2j]).conj()
    assert torch.equal(snapshot.snapshot([conjugate])[0], conjugate)


# ---- a whole run --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny_task")
def test_a_run_whose_last_checkpoint_fails_is_not_called_finished(tmp_path, reference, monkeypatch, capfd):
    write = runs.checkpoints.save_tensors

    def refuse_the_last(path, state):
        if path.name == "checkpoint-00000020.pt":
            raise CannotWrite(f"cannot write {path}: {os.strerror(28)}")
        write(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(runs.checkpoints, "save_tensors", refuse_the_last)
        assert landscape(*LANDSCAPE, "--output_dir", tmp_path / "run") == 1
    error = capfd.readouterr().err
    assert re.search(r"^stopped: cannot write .*: No space left on device; .*--resume", error, re.M), error
    assert "finished" not in (tmp_path / "run" / "config.json").read_text()
    assert landscape("--resume", tmp_path / "run") == 0 and tables(tmp_path / "run") == reference


def test_a_job_is_free_for_others_when_its_checkpoint_is_whole(gate, tmp_path, monkeypatch):
    found, claim = [], runs.jobs.claim

    @contextmanager
    def claim_and_look(place):
        with claim(place) as mine:
            yield mine
            found.extend(path.name for path in place.glob("checkpoint-*.json"))

    def fail(name):
        Checkpoints(tmp_path / "checkpoints" / name).save(1, {"text": "whole"})
        raise RuntimeError("a defect")

    monkeypatch.setattr(runs.jobs, "claim", claim_and_look)
    threading.Timer(0.2, gate.set).start()
    jobs = runs.jobs.Jobs(tmp_path, [runs.jobs.Job("one", "one", lambda: "key", fail)], GO_ON)
    with pytest.raises(runs.jobs.SomeFailed, match="1 of 1 jobs failed: one"):
        jobs.work()
    assert found == ["checkpoint-00000001.json"]
