"""Fixtures of several test files."""

import os

import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores are at work already
    torch.set_num_threads(1)


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """The cache of `datasets` (converted files, tokenised texts) goes to a temporary folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
