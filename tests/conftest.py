"""Fixtures of several test files."""

import os
import shutil
import signal
from functools import cache
from pathlib import Path

import pytest
import torch

from runs import config

MEMORY = Path("/dev/shm")
if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores are at work already
    torch.set_num_threads(1)


def pytest_configure():
    """Temporary folders lie in memory where there is room: small runs would wait for the disk most of the time."""
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4e9:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session", autouse=True)
def asked_once():
    """The commit and the library versions, which hundreds of small runs write into config.json."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("git_state", "versions"):
            patch.setattr(config, name, cache(getattr(config, name)))
        yield


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """The cache of `datasets` (converted files, tokenised texts) goes to a temporary folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


# ---- small runs ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_task():
    """What `tiny_run.main` changes is put back after the last test."""
    from tests.helpers import tiny_run

    with pytest.MonkeyPatch.context() as patch:
        tiny_run.undone_by(patch)
        yield


@pytest.fixture(scope="module")
def reference(tiny_task, tmp_path_factory):
    """The tables of the small run that nothing interrupts."""
    from tests.helpers.stored_runs import LANDSCAPE, landscape, tables

    folder = tmp_path_factory.mktemp("reference") / "run"
    assert landscape(*LANDSCAPE, "--output_dir", folder) == 0
    return tables(folder)


@pytest.fixture(scope="module")
def stopped_run(tiny_task, tmp_path_factory):
    """A run folder stopped after iteration 13 of 20, with checkpoints of 12 and 13."""
    from tests.helpers.stored_runs import LANDSCAPE, landscape, stop_at

    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 13)
        assert landscape(*LANDSCAPE, "--output_dir", folder) == 128 + signal.SIGTERM
    return folder


@pytest.fixture
def stopped(stopped_run, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(stopped_run, tmp_path / "run"))
