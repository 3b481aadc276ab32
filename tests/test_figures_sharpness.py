"""Sharpness over the epochs: means and spreads at their places; a negative and a missing reference."""

import pytest
from matplotlib.markers import CARETDOWN, CARETUP
from matplotlib.patches import Polygon

from figures.run_tables import read_run
from figures.sharpness import negative_references, ratio_figures, ratio_means, sharpness_figures
from tests.helpers.run_folders import (
    assert_legend_is_clear,
    believable_landscape,
    labels_of,
    legend_looks,
    look_of,
    one_figure,
    points,
    write_run,
)

LABELS = ["sgd", "adam", "adam, coordinate_clip=0.5"]
CUT_NOTE = "bar cut short: its end is near 0 or beyond"


def ratio_rows(means, stds=(), count=5, epochs=(2, 5, 10)):
    """Rows of ratios.csv from {label: mean per epoch}."""
    return [dict(epoch=epoch, algorithm=label, mean_ratio=mean, std=dict(stds).get(label, 0.0), count=count)
            for label, of_one in means.items() for epoch, mean in zip(epochs, of_one, strict=False)]  # fmt: skip


def ratios(folder, means, labels=LABELS, settings=None, **rows):
    return one_figure(ratio_figures, write_run(folder, labels, settings, ratios=ratio_rows(means, **rows)))


def curves(ax, epochs=3):
    """The lines over the epochs, without arrows and reference lines."""
    return [line for line in ax.lines if len(line.get_xdata()) == epochs and line.get_linestyle() != "None"]


def bars(ax):
    """Per algorithm: the (low, high) of each bar."""
    return [[(low[1], high[1]) for low, high in lines.get_segments()] for lines in ax.collections]


def arrows(ax):
    return [points(line)[0] for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 1]


# ---- ratios --------------------------------------------------------------------------------------------------


def test_ratios_stand_at_their_epochs_with_a_std_up_and_down_and_a_line_at_one(tmp_path):
    means = {"sgd": (1.0, 1.0, 1.0), "adam": (0.5, 0.25, 0.125), "adam, coordinate_clip=0.5": (0.3, 0.2, 0.1)}
    figure = ratios(tmp_path, means, stds={"adam": 0.0625, "adam, coordinate_clip=0.5": 0.05})
    (ax,) = figure.axes
    # Three algorithms share 0.3 of the distance between two epochs, which are 0, 1 and 2: 0.1 apart, centered.
    assert [points(line) for line in curves(ax)] == [
        [(pytest.approx(i - 0.1), 1.0) for i in range(3)],
        [(pytest.approx(i), mean) for i, mean in enumerate((0.5, 0.25, 0.125))],
        [(pytest.approx(i + 0.1), mean) for i, mean in enumerate((0.3, 0.2, 0.1))],
    ]
    assert bars(ax)[1] == [(0.4375, 0.5625), (0.1875, 0.3125), (0.0625, 0.1875)]
    assert bars(ax)[2] == [pytest.approx(bar) for bar in ((0.25, 0.35), (0.15, 0.25), (0.05, 0.15))]
    places = [low[0] for low, _ in ax.collections[2].get_segments()]
    assert places == pytest.approx([0.1, 1.1, 2.1])
    (reference,) = [line for line in ax.lines if set(line.get_ydata()) == {1} and line not in curves(ax)]
    assert reference.get_color() == "0.5" and list(reference.get_xdata()) == [0, 1]  # from edge to edge
    assert (ax.get_yscale(), ax.get_xscale()) == ("log", "linear")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2\nn = 5", "5\nn = 5", "10\nn = 5"]
    assert list(ax.get_xticks()) == [0, 1, 2] and ax.get_xlim() == (-0.5, 2.5)
    assert ax.get_ylabel() == "directional sharpness / |that of sgd|\nmean and std over the epoch's points"
    assert ax.get_xlabel() == "epoch (n: points measured in it)"
    assert ax.get_title() == "toy: directional sharpness relative to sgd"
    assert labels_of(figure) == LABELS


def test_rows_look_as_everywhere_and_the_legend_says_which_is_which(tmp_path):
    means = {"sgd": (1.0, 1.0), "adam": (0.5, 0.25), "adam, coordinate_clip=0.5": (0.3, 0.2)}
    figure = ratios(tmp_path, means)
    looks = [("#D55E00", "o", "filled"), ("#0072B2", "s", "filled"), ("#0072B2", "s", "hollow")]
    assert legend_looks(figure) == dict(zip(LABELS, looks, strict=True))
    lines = curves(figure.axes[0], epochs=2)
    assert [look_of(line) for line in lines[:3]] == looks
    assert [line.get_linestyle() for line in lines[:3]] == ["-", "-", "-."]
    assert [lines.get_color().shape for lines in figure.axes[0].collections] == [(1, 4)] * 3
    assert len({tuple(lines.get_color()[0]) for lines in figure.axes[0].collections}) == 2


def test_the_rows_of_one_epoch_stand_closer_to_each_other_than_to_the_next_epoch(tmp_path):
    figure = one_figure(ratio_figures, believable_landscape(tmp_path, epochs=(2, 5)))
    lines = curves(figure.axes[0], epochs=2)[:12]
    first, second = ([line.get_xdata()[i] for line in lines] for i in (0, 1))
    assert max(first) - min(first) < (min(second) - max(first)) / 2
    assert max(first) - min(first) == pytest.approx(0.3 * 11 / 12)
    assert_legend_is_clear(figure, entries=12)


def test_counts_that_differ_are_given_as_a_range(tmp_path):
    rows = ratio_rows({"sgd": (1.0,)}, count=5) + ratio_rows({"adam": (0.5,)}, count=3)
    (ax,) = one_figure(ratio_figures, write_run(tmp_path, LABELS, ratios=rows)).axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2\nn = 3 to 5"]


def test_a_bar_that_a_log_axis_cannot_hold_ends_in_an_arrow_at_a_quarter_of_the_mean(tmp_path):
    figure = ratios(tmp_path, {"sgd": (1.0,), "adam": (0.5,)}, stds={"adam": 0.4})  # 0.4 > 3/4 of 0.5
    (ax,) = figure.axes
    assert bars(ax)[1] == [(0.125, pytest.approx(0.9))]
    assert arrows(ax) == [(pytest.approx(0.075), 0.125)]
    assert [line.get_marker() for line in ax.lines if line.get_linestyle() == "None"] == [CARETDOWN]
    assert labels_of(figure)[-1] == CUT_NOTE
    just_fits = ratios(tmp_path, {"sgd": (1.0,), "adam": (0.5,)}, stds={"adam": 0.37})
    assert bars(just_fits.axes[0])[1] == [(pytest.approx(0.13), pytest.approx(0.87))]
    assert CUT_NOTE not in labels_of(just_fits) and arrows(just_fits.axes[0]) == []


def test_one_point_has_no_bar_and_an_empty_mean_no_marker(tmp_path):
    (ax,) = ratios(tmp_path, {"sgd": (1.0, 1.0), "adam": (0.5, None)}, stds={"adam": None, "sgd": None}, count=1).axes
    assert bars(ax) == [[(1, 1), (1, 1)], [(0.5, 0.5)]]
    assert ax.get_xticklabels()[0].get_text() == "2\nn = 1"


def test_a_negative_mean_stands_below_zero_on_an_axis_linear_around_it(tmp_path):
    figure = ratios(tmp_path, {"sgd": (1.0, 1.0), "adam": (0.5, -0.025)}, stds={"adam": 0.1})
    (ax,) = figure.axes
    assert curves(ax, epochs=2)[1].get_ydata()[1] == -0.025 and ax.get_yscale() == "symlog"
    assert ax.yaxis.get_transform().linthresh == 0.01  # the power of ten below the smallest mean
    assert bars(ax)[1] == [pytest.approx((0.4, 0.6)), (-0.125, -0.00625)]  # cut at a quarter of the mean, too
    assert arrows(ax) == [(pytest.approx(1.075), -0.00625)] and labels_of(figure)[-1] == CUT_NOTE
    assert [line.get_marker() for line in ax.lines if line.get_linestyle() == "None"] == [CARETUP]
    (zero,) = [line for line in ax.lines if set(line.get_ydata()) == {0}]
    assert zero.get_linestyle() == ":"


def test_a_mean_of_exactly_zero_stands_at_zero(tmp_path):
    (ax,) = ratios(tmp_path, {"sgd": (1.0, 1.0), "adam": (0.5, 0.0)}).axes
    assert list(curves(ax, epochs=2)[1].get_ydata()) == [0.5, 0.0] and ax.get_yscale() == "symlog"
    assert ax.yaxis.get_transform().linthresh == 0.1


def test_epochs_in_which_sgds_own_sharpness_is_negative_are_hatched_and_said(tmp_path):
    # SGD's ratio is 1 or -1: at 5 points a mean of 0.2 is 3 of 1 and 2 of -1
    figure = ratios(tmp_path, {"sgd": (1.0, 0.2, -1.0), "adam": (0.5, 0.4, 0.3)})
    (ax,) = figure.axes
    bands = [patch for patch in ax.patches if patch.get_hatch()]
    assert [(band.get_x(), band.get_x() + band.get_width()) for band in bands] == [
        pytest.approx((0.55, 1.45)), pytest.approx((1.55, 2.45))]  # fmt: skip
    texts = [text.get_text() for text in ax.get_xticklabels()]
    assert texts == ["2\nn = 5", "5\nn = 5\nnegative at 2", "10\nn = 5\nnegative at 5"]
    assert labels_of(figure)[-1] == "sgd's sharpness is negative at some points"
    assert figure.legends[0].legend_handles[-1].get_hatch() and not isinstance(bands[0], Polygon)
    assert not [patch for patch in ratios(tmp_path, {"sgd": (1.0,), "adam": (-0.5,)}).axes[0].patches]


def test_another_reference_takes_sgds_place(tmp_path):
    means = {"adam": (1.0, -1.0), "lion": (2.0, 3.0)}
    figure = ratios(tmp_path, means, labels=["adam", "lion"], settings={"reference": "adam"}, count=1)
    (ax,) = figure.axes
    assert ax.get_title() == "toy: directional sharpness relative to adam"
    assert ax.get_ylabel().startswith("directional sharpness / |that of adam|")
    assert labels_of(figure)[-1].startswith("adam's sharpness is negative")
    run = read_run(tmp_path)
    assert negative_references(run, ratio_means(run)) == {5: 1}


def test_without_a_reference_there_are_no_ratios_to_draw(tmp_path):
    rows = ratio_rows({"adam": (None, None)})
    run = read_run(write_run(tmp_path, ["adam"], ratios=rows))
    assert list(ratio_figures(run)) == [] and run.reference is None


# ---- raw sharpness -------------------------------------------------------------------------------------------


def test_raw_sharpness_is_the_mean_over_the_points_of_an_epoch_with_its_sample_std(tmp_path):
    values = {("adam", 1): (3.0, 5.0), ("adam", 3): (0.5, None), ("lion", 1): (2.0, 2.0, 5.0), ("sgd", 1): (None,)}
    rows = [dict(algorithm=label, epoch=epoch, batch=i, sharpness=value)
            for (label, epoch), of_one in values.items() for i, value in enumerate(of_one)]  # fmt: skip
    figure = one_figure(sharpness_figures, write_run(tmp_path, ["adam", "lion", "sgd"], sharpness=rows))
    (ax,) = figure.axes
    adam, lion = ax.lines[0], ax.lines[1]
    assert points(adam) == [(pytest.approx(-0.075), 4.0), (pytest.approx(0.925), 0.5)]
    assert points(lion) == [(pytest.approx(0.075), 3.0)]
    # sample std of 3, 5: sqrt(2); of 2, 2, 5: sqrt((1 + 1 + 4) / 2) = sqrt(3)
    assert bars(ax)[0] == [pytest.approx((4 - 2**0.5, 4 + 2**0.5)), (0.5, 0.5)]
    assert bars(ax)[1] == [pytest.approx((3 - 3**0.5, 3 + 3**0.5))]
    assert labels_of(figure) == ["adam", "lion"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1\nn = 2 to 3", "3\nn = 1"]
    assert ax.get_ylabel().startswith("directional sharpness, $v^T H v \\,/\\, \\|v\\|^2$\nmean and std")
    assert ax.get_title() == "toy: directional sharpness"
    assert not [line for line in ax.lines if set(line.get_ydata()) == {1}]  # 1 is the place of no reference here


def test_raw_sharpness_needs_no_reference_and_may_be_negative(tmp_path):
    rows = [dict(algorithm="adam", epoch=1, sharpness=-0.3), dict(algorithm="adam", epoch=2, sharpness=0.002)]
    (ax,) = one_figure(sharpness_figures, write_run(tmp_path, ["adam"], sharpness=rows)).axes
    assert points(ax.lines[0]) == [(0, -0.3), (1, 0.002)] and ax.get_yscale() == "symlog"
    assert ax.yaxis.get_transform().linthresh == 0.001


def test_no_measured_sharpness_is_no_figure(tmp_path):
    run = read_run(write_run(tmp_path, ["sgd"], sharpness=[dict(algorithm="sgd", sharpness=None)]))
    assert list(sharpness_figures(run)) == []
