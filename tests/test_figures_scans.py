"""Loss scans: the curves, their minima and their quadratic models stand where the numbers say."""

import pytest

from figures.run_tables import read_run
from figures.scans import scan_figures, zoom_limits
from tests.helpers.run_folders import (
    assert_legend_is_clear,
    believable_landscape,
    figures_of,
    labels_of,
    legend_looks,
    look_of,
    one_figure,
    points,
    write_run,
    write_table,
)


def scan_rows(label, losses, spacing=1.0, **point):
    return [dict(point, algorithm=label, distance=i * spacing, loss=loss) for i, loss in enumerate(losses)]


def scanned(folder, losses, slope=None, sharpness=None):
    """The scan figure of sgd with these losses at distances 0, 1, 2, ..."""
    measured = [dict(algorithm="sgd", slope=slope, sharpness=sharpness)]
    return one_figure(scan_figures, write_run(folder, ["sgd"], scan=scan_rows("sgd", losses), sharpness=measured))


def minima(figure):
    return [points(line) for ax in figure.axes for line in ax.lines if line.get_markersize() == 8]


@pytest.mark.parametrize("reaches, limits", [
    ([1.0], [1.0]),
    ([1.0, 0.5, 0.21], [1.0]),                       # all legible in one panel
    ([0.19, 1.0], [0.19, 1.0]),
    ([40, 4000, 0.4, 4, 400], [0.4, 4, 400, 4000]),  # 40 is left out: at most four panels
])  # fmt: skip
def test_every_curve_spans_a_fifth_of_some_panel(reaches, limits):
    assert zoom_limits(reaches) == limits


def test_the_scan_its_minimum_and_its_quadratic_model_are_drawn_where_the_numbers_say(tmp_path):
    figure = scanned(tmp_path, [5.0, 4.0, 4.5, 6.0], slope=-2.0, sharpness=1.5)
    (ax,) = figure.axes
    scan, model, minimum, start = ax.lines
    assert points(scan) == [(0, 5.0), (1, 4.0), (2, 4.5), (3, 6.0)]
    assert points(minimum) == [(1, 4.0)] and minimum.get_markersize() > scan.get_markersize()
    # 5 - 2 s + 0.75 s^2 by hand: its end and its middle
    by_place = {round(s, 6): loss for s, loss in points(model)}
    assert by_place[0.0] == 5.0 and by_place[3.0] == pytest.approx(5.75) and by_place[1.5] == pytest.approx(3.6875)
    assert (model.get_linestyle(), model.get_color()) == ("--", "#D55E00") and model.get_linewidth() < 1
    assert set(start.get_ydata()) == {5.0} and len(set(start.get_xdata())) == 2
    assert labels_of(figure) == ["sgd", "large marker: minimum of a scan", "its quadratic model"]
    assert figure.legends[0].legend_handles[2].get_linestyle() == "--"
    assert figure.get_suptitle() == "toy: loss along every step from epoch 2, batch 6"
    assert (ax.get_xlabel(), ax.get_ylabel()) == (
        "distance along the direction, $\\|x - x_t\\|$",
        "loss on the test batch",
    )
    assert ax.get_xlim() == pytest.approx((0, 3.12))


def test_rows_look_as_everywhere_and_the_legend_says_which_is_which(tmp_path):
    rows = (
        scan_rows("adam", [5, 4, 6]) + scan_rows("adam, coordinate_clip=0.1", [5, 3, 6]) + scan_rows("sgd", [5, 4.5, 6])
    )
    figure = one_figure(scan_figures, write_run(tmp_path, ["sgd", "adam", "adam, coordinate_clip=0.1"], scan=rows))
    looks = {"sgd": ("#D55E00", "o", "filled"), "adam": ("#0072B2", "s", "filled"),
             "adam, coordinate_clip=0.1": ("#0072B2", "s", "hollow")}  # fmt: skip
    legend = legend_looks(figure)
    assert {label: legend[label] for label in looks} == looks and len(legend) == 4
    drawn = {tuple(line.get_ydata()): look_of(line) for line in figure.axes[0].lines if len(line.get_xdata()) == 3}
    assert drawn == {(5, 4.5, 6): looks["sgd"], (5, 4, 6): looks["adam"], (5, 3, 6): looks["adam, coordinate_clip=0.1"]}
    lows = {
        line.get_ydata()[0]: line.get_markerfacecolor() for line in figure.axes[0].lines if len(line.get_xdata()) == 1
    }
    assert lows == {4.5: "#D55E00", 4: "#0072B2", 3: "white"}
    lines = {tuple(line.get_ydata()): line.get_linestyle() for line in figure.axes[0].lines}
    assert lines[5, 4, 6] == "-" and lines[5, 3, 6] == "-."


def test_panels_zoom_out_and_are_titled(tmp_path):
    rows = scan_rows("sgd", [5, 4, 6], spacing=0.5) + scan_rows("adam", [5, 4, 4.5, 6], spacing=10)
    figure = one_figure(scan_figures, write_run(tmp_path, ["sgd", "adam"], scan=rows))
    near, far = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["distances up to 1", "all distances"]
    assert (near.get_xlim()[1], far.get_xlim()[1]) == pytest.approx((1.04, 31.2))
    # sgd reaches 1 of 31: too short for a curve in the wide panel, where its minimum alone is marked
    assert [points(line) for line in far.lines[:3]] == [
        [(0.5, 4)], [(0, 5), (10, 4), (20, 4.5), (30, 6)], [(10, 4)]]  # fmt: skip
    # adam has one point within 1.04: a straight stub, left to the wide panel
    assert [points(line) for line in near.lines[:-1]] == [[(0, 5), (0.5, 4), (1.0, 6)], [(0.5, 4)]]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss on the test batch", ""]


def test_a_curve_of_a_thirtieth_of_a_panel_is_drawn_there(tmp_path):
    rows = scan_rows("sgd", [5, 4, 6], spacing=3) + scan_rows("adam", [5, 4, 6], spacing=15)
    (ax,) = one_figure(scan_figures, write_run(tmp_path, ["sgd", "adam"], scan=rows)).axes
    assert [line.get_xdata()[-1] for line in ax.lines if len(line.get_xdata()) == 3] == [6, 30]


def test_a_quadratic_model_is_drawn_where_its_scan_has_room(tmp_path):
    labels, spacings = ("sgd", "adam", "lion"), (1.0, 3.0, 30.0)  # reaches 2, 6 and 60
    rows = [row for label, s in zip(labels, spacings, strict=True) for row in scan_rows(label, [5, 4, 6], spacing=s)]
    measured = [dict(algorithm=label, slope=-1.0, sharpness=1.0) for label in labels]
    near, far = one_figure(scan_figures, write_run(tmp_path, labels, scan=rows, sharpness=measured)).axes
    ends = [[line.get_xdata()[-1] for line in ax.lines if line.get_linestyle() == "--"] for ax in (near, far)]
    assert ends[0] == pytest.approx([2.0, 6.0]) and ends[1] == pytest.approx([60.0])


def test_every_scan_has_a_figure_and_the_derivatives_of_its_own_point(tmp_path):
    rows = scan_rows("sgd", [5, 4, 6], epoch=1, batch=3) + scan_rows("sgd", [9, 8, 9.5], epoch=2, batch=7)
    measured = [dict(epoch=1, batch=3, algorithm="sgd", slope=-1.0, sharpness=2.0),
                dict(epoch=2, batch=7, algorithm="sgd", slope=-3.0, sharpness=5.0)]  # fmt: skip
    drawn = figures_of(scan_figures, write_run(tmp_path, ["sgd"], scan=rows, sharpness=measured))
    assert list(drawn) == ["scan_epoch1_batch3", "scan_epoch2_batch7"]
    ends = [figure.axes[0].lines[1].get_ydata()[-1] for figure in drawn.values()]
    assert ends == pytest.approx([5 - 2 + 4, 9 - 6 + 10])  # at distance 2
    assert drawn["scan_epoch2_batch7"].get_suptitle() == "toy: loss along every step from epoch 2, batch 7"


def test_a_model_that_explodes_does_not_stretch_the_loss_axis(tmp_path):
    low, high = scanned(tmp_path, [5.0, 4.0, 1e6], slope=-1.0, sharpness=1e8).axes[0].get_ylim()
    # from the deepest point, 4, to a third of the fall above the start; and a margin of 5 %
    assert (low, high) == pytest.approx((4 - 0.05 * 4 / 3, 5 + 1 / 3 + 0.05 * 4 / 3))


def test_an_uphill_direction_is_named_and_has_no_minimum(tmp_path):
    figure = scanned(tmp_path, [5.0, 5.5])
    assert labels_of(figure) == ["sgd (uphill)"]
    assert points(figure.axes[0].lines[0]) == [(0, 5.0), (1, 5.5)] and minima(figure) == []
    assert figure.axes[0].get_ylim() == pytest.approx((5 - 0.025, 5.5 + 0.025))


def test_a_scan_that_still_falls_at_its_end_has_no_minimum_marked(tmp_path):
    figure = scanned(tmp_path, [5.0, 4.5, 4.0])
    assert minima(figure) == [] and labels_of(figure) == ["sgd"]


def test_empty_cells_leave_out_a_point_and_a_scan_of_empty_cells_is_no_figure(tmp_path):
    figure = scanned(tmp_path, [5.0, None, 4.0], slope=-1.0)  # a slope without a sharpness is no model
    assert points(figure.axes[0].lines[0]) == [(0, 5.0), (2, 4.0)] and labels_of(figure) == ["sgd"]
    write_table(tmp_path, "scan", scan_rows("sgd", [5.0, None, None]))
    assert list(scan_figures(read_run(tmp_path))) == []


def test_the_legend_of_12_long_labels_covers_no_axes_and_stays_on_the_page(tmp_path):
    assert_legend_is_clear(one_figure(scan_figures, believable_landscape(tmp_path, epochs=(2,))), entries=14)


def test_the_training_step_shows_on_both_sides_of_the_row_that_it_lies_on(tmp_path):
    losses = [5.0, 4.0, 4.5]
    scans = [*scan_rows("adam", losses), *scan_rows("training", losses)]
    figure = one_figure(scan_figures, write_run(tmp_path, ["adam"], {"train_optimizer": "adam"}, scan=scans))
    adam, lowest, training, own_lowest = figure.axes[0].lines[:4]
    assert points(adam) == points(training) and points(lowest) == points(own_lowest)
    assert training.get_linewidth() > adam.get_linewidth() and training.get_zorder() < adam.get_zorder()
    assert own_lowest.get_markersize() > lowest.get_markersize() and own_lowest.get_zorder() < lowest.get_zorder()
    assert labels_of(figure)[:2] == ["adam", "training"]
