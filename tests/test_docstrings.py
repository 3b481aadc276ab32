"""The examples in the docstrings of the measuring core."""

import doctest
import importlib

import pytest
import torch


@pytest.mark.parametrize("name", ["curvature", "curvature.direction"])
def test_examples_in_docstrings_hold(name):
    result = doctest.testmod(importlib.import_module(name), extraglobs=dict(torch=torch))
    assert result.attempted and not result.failed
