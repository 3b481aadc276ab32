"""Stacked bars of the groups' shares: what is drawn, where it stands, and which color it has."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from figures.decomposition import colors_of, decomposition_figures, shares
from tests.helpers.run_folders import figures_of, labels_of, one_figure, write_run


def rows(label, *numbers, measured_on="test", **point):
    """Rows of the groups a, b, ...: (slope, within, cross) each."""
    return [
        dict(point, algorithm=label, measured_on=measured_on, grouping="kind", group=group, slope=s, within=w, cross=c)
        for group, (s, w, c) in zip("abcdefghij", numbers, strict=False)
    ]


def bars(ax, place):
    """(left, width, color, whether hatched) of every bar of one row."""
    patches = [p for p in ax.patches if isinstance(p, Rectangle) and round(p.get_y() + p.get_height() / 2) == place]
    return [(p.get_x(), p.get_width(), to_hex(p.get_facecolor()).upper(), bool(p.get_hatch())) for p in patches]


def test_bars_stack_the_shares_of_the_sums_over_the_points(tmp_path):
    # two points; together a: -3, 5, -1 and b: -1, 2, 2, so the magnitudes of the curvature sum to 10
    first = rows("sgd", (-1.0, 2.0, -1.0), (-1.0, 1.0, 0.5), batch=1)
    second = rows("sgd", (-2.0, 3.0, 0.0), (0.0, 1.0, 1.5), batch=2)
    run = write_run(tmp_path, ["sgd", "adam"], decomposition=[*first, *second, *rows("adam", (1.0, 1.0, 1.0))])
    figure = one_figure(decomposition_figures, run)
    left, right = figure.axes
    a, b = "#0072B2", "#D55E00"
    assert bars(left, 0) == [(0, 0.75, a, False), (0.75, 0.25, b, False)]  # downhill is positive
    assert bars(left, 1) == [(0, -1.0, a, False), (-1.0, 0, b, False)]  # uphill, and b has no part
    expected = [(0, 0.5, a, False), (0.5, 0.2, b, False), (0, -0.1, a, True), (0.7, 0.2, b, True)]
    assert [x for bar in bars(right, 0) for x in bar] == pytest.approx([x for bar in expected for x in bar])
    nets = [line.get_xdata()[0] for line in right.lines if line.get_marker() == "|"]
    assert nets[0] == pytest.approx(0.8)
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["sgd", "adam"]
    assert (
        labels_of(figure)[:2] == ["a", "b"] and "epoch 2" in figure.get_suptitle() and "kind" in figure.get_suptitle()
    )


def test_each_epoch_has_a_figure_of_the_rows_that_are_complete(tmp_path):
    lost = rows("adam", (None, None, None), epoch=5)
    of_epochs = [rows("sgd", (-1.0, 1.0, 0.0), epoch=epoch) for epoch in (2, 5)]
    run = write_run(tmp_path, ["sgd", "adam"], decomposition=[*of_epochs[0], *of_epochs[1], *lost])
    figures = figures_of(decomposition_figures, run)
    assert list(figures) == ["decomposition_epoch2", "decomposition_epoch5"]
    names = [tick.get_text() for tick in figures["decomposition_epoch5"].axes[0].get_yticklabels()]
    assert names == ["sgd"]


def test_the_training_batch_is_not_mixed_into_the_test_batch(tmp_path):
    own = rows("sgd", (-1.0, 1.0, 0.0), (-1.0, 1.0, 0.0))
    other = rows("sgd", (-9.0, 9.0, 0.0), (0.0, 0.0, 0.0), measured_on="training")
    left, _ = one_figure(decomposition_figures, write_run(tmp_path, ["sgd"], decomposition=[*own, *other])).axes
    assert [width for _, width, *_ in bars(left, 0)] == [0.5, 0.5]


def test_runs_without_the_table_have_no_such_figure(tmp_path):
    assert figures_of(decomposition_figures, write_run(tmp_path, ["sgd"])) == {}


def test_shares_of_nothing_are_nothing_and_cancelling_ones_stay_short():
    assert shares({"a": 0.0, "b": 0.0}) == {"a": 0, "b": 0}
    assert shares({"a": 100.0, "b": -100.0}) == {"a": 0.5, "b": -0.5}


def test_many_layers_have_different_colors_in_order():
    many = [f"block.{i}" for i in range(14)]
    assert len(set(colors_of(many).values())) == 14 and list(colors_of(many)) == many
    assert colors_of(many[:2]) == {"block.0": "#0072B2", "block.1": "#D55E00"}
