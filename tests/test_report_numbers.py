"""Numbers, names and colors of a page."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import figures
from figures.style import LOOKS, OTHER_LOOKS, PALETTE
from reporting.captions import KINDS, PLACE
from reporting.svg import DARK_PAPER, on_dark


@pytest.mark.parametrize("module", ["numbers", "markup", "contents", "hover", "captions"])
def test_examples_in_docstrings_hold(module):
    result = doctest.testmod(importlib.import_module(f"reporting.{module}"))
    assert result.attempted and not result.failed


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("color", sorted({look[0] for look in (*LOOKS.values(), *OTHER_LOOKS)} | set(PALETTE)))
def test_every_color_of_an_optimizer_can_be_read_on_dark_paper(color):
    assert contrast(on_dark(color.lower()), DARK_PAPER) >= 4.5


def test_paper_and_ink_change_places_and_the_grid_stays_faint():
    assert on_dark("#ffffff") == DARK_PAPER
    assert contrast(on_dark("#000000"), DARK_PAPER) > 12
    assert contrast(on_dark("#e6e6e6"), DARK_PAPER) < 2


def test_every_figure_that_a_run_can_have_has_a_title_and_a_caption():
    sources = "".join(path.read_text() for path in Path(figures.__file__).parent.glob("*.py"))
    stems = re.findall(r'yield f?"([a-z_]+)', sources) + re.findall(r'^ +\("([a-z_]+)", _', sources, re.MULTILINE)
    kinds = {PLACE.sub("", f"{stem}1").removesuffix("1").removesuffix("_epoch").removesuffix("_") for stem in stems}
    assert len(kinds) > 15
    assert kinds - {*KINDS, "loss_by"} == set() and {"loss_by_epoch", "loss_by_iteration"} <= set(KINDS)
