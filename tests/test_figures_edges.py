"""Edge numbers, learning rates and the training step: what stands where, read back from what was drawn."""

import math

import pytest
from matplotlib.colors import to_hex

from figures.edges import edge_figures
from tests.helpers.run_folders import (
    assert_legend_is_clear,
    figures_of,
    labels_of,
    legend_looks,
    look_of,
    points,
    write_run,
)

LABELS = ["sgd", "sgd, coordinate_clip=0.1", "adam"]
ADAM = {"train_optimizer": "adam"}


def row(label, iteration, edge, on="test", realized=None, lr=0.1, **more):
    """A row whose numbers go together: lr / critical_lr is the edge number."""
    critical = lr / edge if edge and edge > 0 else None
    numbers = dict(edge_quadratic=edge, edge_realized=edge if realized is None else realized, sharpness=2.0)
    rates = dict(learning_rate=lr, critical_lr=critical)
    return dict(algorithm=label, iteration=iteration, measured_on=on) | numbers | rates | more


ROWS = [
    row("sgd", 10, 0.25, realized=0.5), row("sgd", 30, 4.0),
    row("sgd, coordinate_clip=0.1", 10, 0.5, lr=0.2),
    row("adam", 10, 1.5, lr=0.01), row("adam", 30, 0.75, lr=0.01),
    row("training", 10, 0.125, lr=0.001, sharpness=3.0), row("training", 30, 0.25, lr=0.001, sharpness=5.0),
    row("training", 10, 0.0625, "training", lr=0.001, sharpness=7.0),
]  # fmt: skip
EIGENVALUES = [
    dict(iteration=10, matrix="H", eigenvalue=20.0, learning_rate=0.001, stability_threshold=None),
    dict(iteration=10, matrix="P^-1 H", eigenvalue=3000.0, learning_rate=0.001, stability_threshold=38000.0),
]


def drawn(folder, rows=ROWS, settings=ADAM, labels=LABELS, **tables):
    return figures_of(edge_figures, write_run(folder, labels, settings, sharpness=rows, **tables))


def curves(ax):
    """The lines with a point per measurement, without those that span the axes."""
    return [line for line in ax.lines if list(line.get_xdata()) != [0, 1]]


# ---- edge numbers --------------------------------------------------------------------------------------------


def test_every_row_has_a_panel_with_both_edge_numbers_and_lines_at_one_and_a_half(tmp_path):
    figure = drawn(tmp_path)["edge_numbers"]
    assert [ax.get_title() for ax in figure.axes] == [*LABELS, "training (adam)", "", ""]
    sgd, clipped, adam, own = figure.axes[:4]
    quadratic, realized = curves(sgd)
    assert points(quadratic) == [(10, 0.25), (30, 4.0)] and points(realized) == [(10, 0.5), (30, 4.0)]
    assert [points(line) for line in curves(own)] == [
        [(10, 0.125), (30, 0.25)], [(10, 0.0625)], [(10, 0.125), (30, 0.25)]]  # fmt: skip
    for ax in (sgd, clipped, adam, own):
        across = {line.get_ydata()[0]: line.get_linestyle() for line in ax.lines if line not in curves(ax)}
        assert across == {1: "-", 0.5: "--"}
        assert ax.get_yscale() == "log" and ax.get_ylim() == sgd.get_ylim()
        (band,) = ax.patches
        assert band.get_y() == 1 and band.get_y() + band.get_height() == pytest.approx(ax.get_ylim()[1])
    assert [look_of(curves(ax)[0]) for ax in (sgd, clipped)] == [("#D55E00", "o", "filled"), ("#D55E00", "o", "hollow")]
    assert curves(own)[0].get_color() == "#000000"
    assert figure.get_supylabel() == "edge number of the row's own step $s = \\eta v$"
    assert adam.get_xlabel() == "iteration (one update each)" == own.get_xlabel()
    assert "quadratic model, training batch" in labels_of(figure)
    assert_legend_is_clear(figure, 6)


def test_a_negative_edge_number_is_on_the_axis_and_a_missing_one_is_left_out(tmp_path):
    rows = [row("sgd", 10, -0.5), row("sgd", 30, None, edge_realized=None), row("adam", 10, None, edge_realized=None)]
    figure = drawn(tmp_path, rows, labels=["sgd", "adam"])["edge_numbers"]
    (ax,) = figure.axes
    assert ax.get_title() == "sgd" and ax.get_yscale() == "symlog" and ax.get_ylim()[0] < -0.5
    assert [points(line) for line in curves(ax)] == [[(10, -0.5)]] * 2
    assert "quadratic model, training batch" not in labels_of(figure)


# ---- learning rates ------------------------------------------------------------------------------------------


def test_learning_rates_stand_against_the_critical_ones_with_the_diagonal_between(tmp_path):
    figure = drawn(tmp_path)["critical_learning_rates"]
    (ax,) = figure.axes
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_aspect() == 1
    *rows, critical, best = ax.lines
    assert points(rows[0]) == [(pytest.approx(0.4), 0.1), (pytest.approx(0.025), 0.1)]  # sgd: lr / edge
    assert points(rows[1]) == [(pytest.approx(math.sqrt(0.4 * 0.025)), pytest.approx(0.1))]
    assert [line.get_marker() for line in rows[::2]] == ["o", "o", "s", (6, 1, 0)]
    assert all(x == y for x, y in points(critical)) and all(y == x / 2 for x, y in points(best))
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert points(critical)[0] == (left, bottom) and left == bottom and points(critical)[1][0] == max(right, top)
    far, short = ax.texts
    assert (far.get_text(), short.get_text()) == ("stepped too far", "stepped too short")
    (beyond,) = ax.collections  # the half above the diagonal
    path = beyond.get_paths()[0]
    assert path.contains_point((left * 1.1, top * 0.9)) and not path.contains_point((right * 0.9, bottom * 1.1))
    assert {label: look[0] for label, look in list(legend_looks(figure).items())[:4]} == {
        "sgd": "#D55E00", "sgd, coordinate_clip=0.1": "#D55E00", "adam": "#0072B2", "training": "#000000"}  # fmt: skip
    assert (
        ax.get_xlabel().startswith("critical learning rate") and ax.get_ylabel() == "learning rate $\\eta$ of the row"
    )
    assert_legend_is_clear(figure, 6)


def test_two_clipped_rows_of_one_optimizer_are_told_apart(tmp_path):
    labels = ["adam", "adam, coordinate_clip=0.1", "adam, clip_update=0.1"]
    figure = drawn(tmp_path, [row(label, 10, 0.5) for label in labels], labels=labels)["critical_learning_rates"]
    looks = [(mark.get_markerfacecolor(), mark.get_fillstyle()) for mark in figure.legends[0].legend_handles[:3]]
    assert len(set(looks)) == 3


def test_rows_without_a_critical_rate_are_left_out(tmp_path):
    rows = [row("sgd", 10, 0.5), row("adam", 10, -0.5)]
    figure = drawn(tmp_path / "a", rows)["critical_learning_rates"]
    assert labels_of(figure)[0] == "sgd" and "adam" not in labels_of(figure)
    assert "critical_learning_rates" not in drawn(tmp_path / "b", rows[1:])


# ---- the training step ---------------------------------------------------------------------------------------


def test_the_training_step_stands_beside_eigenvalues_and_thresholds_in_their_units(tmp_path):
    figure = drawn(tmp_path, eigenvalues=EIGENVALUES)["training_step"]
    left, right = ([points(line) for line in ax.lines] for ax in figure.axes)
    assert left == [[(10, 3.0), (30, 5.0)], [(10, 7.0)], [(10, 20.0)]]
    along, on_own_batch, largest, two_over_lr, threshold = right
    assert along == [(10, pytest.approx(250)), (30, pytest.approx(500))]  # 2 / critical_lr = 2 * edge / lr
    assert on_own_batch == [(10, pytest.approx(125))]
    assert largest == [(10, 3000)] and threshold == [(10, 38000)]
    assert two_over_lr == [(10, pytest.approx(2000)), (30, pytest.approx(2000))]
    assert [ax.get_yscale() for ax in figure.axes] == ["log", "log"]
    assert [ax.get_ylabel().split(",")[0] for ax in figure.axes] == [
        "curvature per squared length", "curvature per decrease"]  # fmt: skip
    colors = {to_hex(line.get_color()) for line in figure.axes[1].lines}
    assert len(colors) == 5
    assert_legend_is_clear(figure, 5)


def test_for_sgd_the_thresholds_are_in_both_units_and_there_is_one_eigenvalue(tmp_path):
    of_sgd = [EIGENVALUES[0] | dict(stability_threshold=2000.0)]
    figure = drawn(tmp_path, settings={"train_optimizer": "sgd"}, eigenvalues=of_sgd)["training_step"]
    for ax in figure.axes:
        values = [points(line)[0][1] for line in ax.lines]
        assert values[2:] == [20.0, pytest.approx(2000), 2000]
    assert "largest eigenvalue of $H$" in labels_of(figure)


def test_without_eigenvalues_or_downhill_steps_the_rest_is_drawn(tmp_path):
    uphill = [row("training", 10, None, sharpness=-3.0, edge_realized=None)]
    figure = drawn(tmp_path, uphill)["training_step"]
    left, right = figure.axes
    assert [points(line) for line in left.lines] == [[(10, -3.0)]] and left.get_yscale() == "symlog"
    assert [points(line) for line in right.lines] == [[(10, 20.0)]]  # 2 / lr alone
    assert not any("eigenvalue" in label for label in labels_of(figure))


# ---- old runs ------------------------------------------------------------------------------------------------


def test_a_run_that_knew_edges_but_only_one_batch_is_drawn(tmp_path):
    write_run(tmp_path, ["sgd"], ADAM, sharpness=[])
    (tmp_path / "sharpness.csv").write_text(
        "iteration,algorithm,sharpness,learning_rate,edge_quadratic,edge_realized,critical_lr\n"
        "3,sgd,2.0,0.1,0.5,0.6,0.2\n"
    )
    figures = figures_of(edge_figures, tmp_path)
    assert [points(line) for line in curves(figures["edge_numbers"].axes[0])] == [[(3, 0.5)], [(3, 0.6)]]
    assert figures.keys() == {"edge_numbers", "critical_learning_rates"}


def test_a_run_of_an_earlier_version_has_none_of_these_figures(tmp_path):
    write_run(tmp_path, ["sgd"], ADAM, sharpness=[])
    (tmp_path / "sharpness.csv").write_text(
        "epoch,batch,iteration,algorithm,loss,slope,sharpness\n1,1,1,sgd,5.0,-1.0,2.0\n"
    )
    assert figures_of(edge_figures, tmp_path) == {}
