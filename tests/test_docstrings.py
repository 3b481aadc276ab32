"""The examples in docstrings hold."""

import doctest
import importlib

import pytest
import torch


@pytest.mark.parametrize("name", ["curvature", "curvature.direction", "convergence.best_epochs"])
def test_examples_in_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(name), extraglobs=dict(torch=torch))
    assert result.attempted and not result.failed
