"""Fixtures of several test files."""

import pytest


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """The cache of `datasets` (converted files, tokenised texts) goes to a temporary folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
