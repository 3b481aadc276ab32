"""Training loss and histograms: what is averaged, what is counted, and what a bar is."""

import pytest
from matplotlib.colors import to_hex

from figures.landscape import histogram_figures, training_figures
from tests.helpers.run_folders import (
    assert_legend_is_clear,
    believable_landscape,
    figures_of,
    labels_of,
    one_figure,
    points,
    write_run,
)


def test_the_training_loss_is_drawn_per_batch_and_as_the_mean_of_each_epoch(tmp_path):
    rows = [dict(epoch=1 + i // 2, iteration=1 + i, loss=loss) for i, loss in enumerate([8.0, 6.0, 5.0, None, 3.0])]
    figure = one_figure(training_figures, write_run(tmp_path, [], {"train_optimizer": "adam"}, training=rows))
    (ax,) = figure.axes
    batches, means = ax.lines
    assert points(batches) == [(1, 8.0), (2, 6.0), (3, 5.0), (5, 3.0)]
    assert points(means) == [(1.5, 7.0), (3, 5.0), (5, 3.0)]  # the fourth batch has no loss
    assert labels_of(figure) == ["one batch", "mean over the epoch"]
    assert [line.get_color() for line in (batches, means)] == ["0.65", "black"]
    assert [handle.get_color() for handle in figure.legends[0].legend_handles] == ["0.65", "black"]
    assert (means.get_marker(), batches.get_marker()) == ("o", "None")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration (one update each)", "training loss")
    assert ax.get_title() == "toy, trained by adam"


# ---- histograms ----------------------------------------------------------------------------------------------


def bins(label, *counts, first=-8, **point):
    """Rows of a histogram: a bin from 0, then one per decade from 10^first on."""
    edges = [0.0, *(10.0 ** (first + i) for i in range(len(counts)))]
    return [dict(point, algorithm=label, bin_low=low, bin_high=high, count=count)
            for low, high, count in zip(edges, edges[1:], counts, strict=False)]  # fmt: skip


def bars(ax):
    """[({(low, high): fraction}, outline color, is filled)] of what holds anything."""
    found = []
    for patch in ax.patches:
        data = patch.get_data()
        spans = zip(data.edges[:-1].tolist(), data.edges[1:].tolist(), strict=True)
        held = {span: value for span, value in zip(spans, data.values.tolist(), strict=True) if value}
        found.append((held, to_hex(patch.get_edgecolor()).upper(), patch.get_fill()))
    return found


def test_bars_are_fractions_of_all_coordinates_between_the_edges_of_the_table(tmp_path):
    rows = bins("sgd", 1, 0, 3, 4, 0, 0)  # 1 is zero; 3 from 1e-7 to 1e-6, 4 up to 1e-5
    figure = one_figure(histogram_figures, write_run(tmp_path, ["sgd"], histogram=rows))
    (ax,) = figure.axes
    ((held, color, filled),) = bars(ax)
    small = {span: value for span, value in held.items() if span[1] < 1e-7}
    assert {span: value for span, value in held.items() if span not in small} == {
        (1e-7, 1e-6): 3 / 8, (1e-6, 1e-5): 4 / 8}  # fmt: skip
    ((low, high),) = small  # what is zero has no place on a log axis: a bar left of it, apart from the others
    assert small[low, high] == 1 / 8 and (low, high) == pytest.approx((1e-8, 10 ** (-7 - 2 / 3)))
    assert (color, filled) == ("#D55E00", True)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("$|v_i|$ per unit of learning rate", "fraction of coordinates")
    assert figure.get_suptitle() == "toy, epoch 2, batch 6: how large the update of each coordinate is"
    assert labels_of(figure) == ["sgd", "at 0: smaller than 1e-07, or zero"]
    assert ax.get_title() == "sgd" and ax.get_xscale() == "log" and ax.get_ylim()[0] == 0


def test_the_axis_is_cropped_to_its_data_and_has_a_tick_at_zero(tmp_path):
    rows = bins("sgd", 1, 0, 3, 4, 0, 0, 0, 0)
    (ax,) = one_figure(histogram_figures, write_run(tmp_path, ["sgd"], histogram=rows)).axes
    assert ax.get_xlim() == pytest.approx((1e-8 / 1.2, 1e-5 * 1.2))
    ticks = {text.get_text(): place for text, place in zip(ax.get_xticklabels(), ax.get_xticks(), strict=True)}
    assert ticks == pytest.approx({"0": 10 ** (-7 - 5 / 6), "$10^{-7}$": 1e-7, "$10^{-6}$": 1e-6, "$10^{-5}$": 1e-5})


def test_without_zeros_there_is_no_place_for_them(tmp_path):
    figure = one_figure(histogram_figures, write_run(tmp_path, ["sgd"], histogram=bins("sgd", 0, 3, 4)))
    (ax,) = figure.axes
    assert ax.get_xlim() == pytest.approx((1e-8 / 1.2, 1e-6 * 1.2)) and labels_of(figure) == ["sgd"]
    assert "0" not in [text.get_text() for text in ax.get_xticklabels()]


@pytest.mark.parametrize("few, low", [(1, 1e-7), (2, 1e-8)])
def test_a_thousandth_of_the_coordinates_does_not_stretch_the_axis(tmp_path, few, low):
    rows = bins("sgd", 0, few, 1000 - few, 0)  # 1 or 2 of 1000 from 1e-8 to 1e-7
    figure = one_figure(histogram_figures, write_run(tmp_path, ["sgd"], histogram=rows))
    ((held, *_),) = bars(figure.axes[0])
    assert held[1e-7, 1e-6] == (1000 - few) / 1000 and len(held) == 2 and sum(held.values()) == pytest.approx(1)
    assert (labels_of(figure)[1:] == ["at 0: smaller than 1e-07, or zero"]) == (low == 1e-7)
    assert ((1e-8, 1e-7) in held) == (low == 1e-8)


def test_the_axis_is_that_of_the_row_with_the_smallest_step(tmp_path):
    rows = bins("sgd", 0, 5, 5, 0, 0) + bins("adam", 5, 0, 0, 0, 5)
    left, right = one_figure(histogram_figures, write_run(tmp_path, ["sgd", "adam"], histogram=rows)).axes
    assert left.get_xlim() == right.get_xlim() == pytest.approx((1e-9 / 1.2, 1e-4 * 1.2))
    assert [ax.get_title() for ax in (left, right)] == ["sgd", "adam"]
    assert [round(sum(held.values()), 9) for ax in (left, right) for held, *_ in bars(ax)] == [1, 1]


def test_a_panel_per_optimizer_unclipped_filled_and_clipped_outlined(tmp_path):
    labels = ["adam", "adam, coordinate_clip=0.5", "sgd, coordinate_clip=0.1"]
    rows = bins("adam", 0, 1, 3) + bins("adam, coordinate_clip=0.5", 0, 2, 2) + bins("sgd, coordinate_clip=0.1", 0, 4)
    figure = one_figure(histogram_figures, write_run(tmp_path, labels, histogram=rows))
    adam, sgd = figure.axes
    first, second = (1e-8, 1e-7), (1e-7, 1e-6)
    assert bars(adam) == [
        ({first: 0.25, second: 0.75}, "#0072B2", True),
        ({first: 0.5, second: 0.5}, "#0072B2", False),
    ]
    assert bars(sgd) == [({first: 1.0}, "#D55E00", False)]
    legend = [(to_hex(h.get_edgecolor()).upper(), h.get_fill()) for h in figure.legends[0].legend_handles]
    assert labels_of(figure) == labels and legend == [("#0072B2", True), ("#0072B2", False), ("#D55E00", False)]
    assert to_hex(adam.patches[0].get_facecolor(), keep_alpha=True).upper() == "#0072B260"  # seen through


def test_seven_optimizers_stand_in_three_columns_named_below_the_lowest_of_each(tmp_path):
    names = "sgd adam lion adafactor sign_sgd normalized_sgd rmsprop".split()  # noqa: SIM905
    rows = [row for name in names for row in bins(name, 0, 4, 4)]
    figure = one_figure(histogram_figures, write_run(tmp_path, names, histogram=rows))
    assert [ax.get_title() for ax in figure.axes if ax.axison] == names and len(figure.axes) == 9
    assert [bool(ax.get_xlabel()) for ax in figure.axes[:7]] == [False] * 4 + [True] * 3
    assert [ax.xaxis.get_tick_params()["labelbottom"] for ax in figure.axes[:7]] == [False] * 4 + [True] * 3
    assert [bool(ax.get_ylabel()) for ax in figure.axes[:7]] == [True, False, False] * 2 + [True]


def test_a_step_of_nothing_but_zeros_is_a_bar_at_zero(tmp_path):
    figure = one_figure(histogram_figures, write_run(tmp_path, ["sgd"], histogram=bins("sgd", 7, 0, 0)))
    ((held, *_),) = bars(figure.axes[0])
    assert list(held.values()) == [1.0] and "at 0" in labels_of(figure)[1]


def test_every_point_has_a_histogram_and_a_row_without_counts_is_left_out(tmp_path):
    rows = (
        bins("sgd", 0, 4, epoch=2, batch=6) + bins("adam", 0, 0, epoch=2, batch=6) + bins("sgd", 0, 4, epoch=5, batch=1)
    )
    rows += bins("adam", 0, 0, epoch=9, batch=1)
    drawn = figures_of(histogram_figures, write_run(tmp_path, ["sgd", "adam"], histogram=rows))
    assert list(drawn) == ["histogram_epoch2_batch6", "histogram_epoch5_batch1"]
    assert labels_of(drawn["histogram_epoch2_batch6"]) == ["sgd"]


def test_the_legend_of_12_long_labels_covers_no_axes_and_stays_on_the_page(tmp_path):
    assert_legend_is_clear(one_figure(histogram_figures, believable_landscape(tmp_path, epochs=(2,))), entries=13)
