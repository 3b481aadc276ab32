"""The figures of block curvatures: what is drawn where, and what is left out and said."""

import random
import re

import pytest

from figures.heterogeneity import KIND_LOOKS, block_figures, points_of
from figures.run_tables import read_run
from hessian.tensor_names import KINDS
from tests.helpers.run_folders import figures_of, labels_of, legend_looks, look_of, points, write_run

# gradient norm, eigenvalue, residual, converged
PLAIN, NEGATIVE, UNCONVERGED = (1.0, 2.0, 1e-4, 1), (0.5, -0.3, 1e-4, 1), (0.2, 0.4, 0.1, 0)
VANISHING, FLAT, NOT_FINITE = (0.3, 1e-9, 1e-7, 0), (0.0, 0.0, 0.0, 1), (0.1, None, None, 0)
ATTENTION, MLP, NORM = ("#0072B2", "o"), ("#E69F00", "D"), ("#009E73", "^")


def run_with(folder, *measured, batch="mean", layers=None, sizes=None):
    """A run that measured these tensors: attention, mlp, norm and again, three per layer."""
    rows = []
    for i, (gradient_norm, eigenvalue, residual, converged) in enumerate(measured):
        cells = dict(gradient_norm=gradient_norm, eigenvalue=eigenvalue, residual=residual, converged=converged)
        cells |= dict(batch=batch, block=f"tensor{i}", kind=("attention", "mlp", "norm")[i % 3])
        cells |= dict(layer=layers[i] if layers else f"h.{i // 3}", numel=sizes[i] if sizes else 4)
        rows.append(cells)
    return write_run(folder, [], {"task": "glue/rte"}, blocks=rows)


def figures(folder):
    return figures_of(block_figures, folder)


def marks(ax):
    """(x, y, color, marker, filled or hollow) of everything drawn as a single point, bars aside."""
    single = [line for line in ax.lines if len(line.get_xdata()) == 1 and line.get_marker() != "_"]
    return [(*points(line)[0], *look_of(line)) for line in single]


def barred(ax):
    """Where a bar marks a negative value."""
    return [points(line)[0] for line in ax.lines if line.get_marker() == "_"]


# ---- gradient against curvature ------------------------------------------------------------------------------


def test_a_point_stands_at_gradient_norm_and_eigenvalue_marked_by_kind_sign_and_convergence(tmp_path):
    figure = figures(run_with(tmp_path, PLAIN, NEGATIVE, UNCONVERGED))["gradient_against_curvature"]
    (ax,) = figure.axes
    assert marks(ax) == [(1.0, 2.0, *ATTENTION, "filled"), (0.5, 0.3, *MLP, "filled"), (0.2, 0.4, *NORM, "hollow")]
    assert barred(ax) == [(0.5, 0.3)]
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert ax.get_xlabel() == "gradient norm of the tensor" and ax.get_ylabel() == "largest eigenvalue of its block"
    looks = legend_looks(figure)
    assert [looks[kind] for kind in ("attention", "norm", "mlp")] == [
        (*kind, "filled") for kind in (ATTENTION, NORM, MLP)
    ]
    assert looks["hollow: not converged"][1:] == ("o", "hollow")
    assert looks["bar: negative, at its size"][1] == "_"
    # gradients 1, .5, .2 rank 3, 2, 1; eigenvalues 2, -.3, .4 rank 3, 1, 2: 1 - 6 * 2 / 24
    title = re.fullmatch(r"glue/rte: 3 tensors, rank correlation 0.50 \(95 %: (.+) to (.+)\)", ax.get_title())
    assert float(title[1]) <= 0.5 <= float(title[2])


def test_what_does_not_occur_is_not_in_the_legend_and_two_tensors_have_no_correlation(tmp_path):
    figure = figures(run_with(tmp_path, PLAIN, PLAIN))["gradient_against_curvature"]
    assert labels_of(figure) == ["attention", "mlp"] and figure.axes[0].get_title() == "glue/rte: 2 tensors"


def test_what_a_log_axis_cannot_hold_is_counted_under_the_title(tmp_path):
    drawn = figures(run_with(tmp_path, PLAIN, VANISHING, FLAT, NOT_FINITE))
    figure = drawn["gradient_against_curvature"]
    assert len(marks(figure.axes[0])) == 1 and labels_of(figure) == ["attention"]
    titles = figure.axes[0].get_title(), drawn["along_depth"].get_suptitle()
    assert [title.split("\n")[1] for title in titles] == ["2 of zero curvature or gradient not shown"] * 2


def test_every_kind_has_a_look_of_its_own_and_an_unknown_one_that_of_other(tmp_path):
    assert set(KIND_LOOKS) == {kind for kind, _ in KINDS} | {"other"}
    assert len({color for color, _ in KIND_LOOKS.values()}) == len({mark for _, mark in KIND_LOOKS.values()}) == 7
    row = dict(batch="mean", block="x", kind="router", layer="h.0", numel=4, gradient_norm=1, eigenvalue=1,
               residual=0, converged=1)  # fmt: skip
    assert [point.kind for point in points_of(read_run(write_run(tmp_path, [], blocks=[row])))] == ["other"]


def test_an_eigenvalue_below_its_residual_counts_as_zero(tmp_path):
    measured = points_of(read_run(run_with(tmp_path, (1.0, 0.1, 0.2, 1), (1.0, 0.2, 0.1, 1), NOT_FINITE)))
    assert [(point.eigenvalue, point.drawable) for point in measured] == [(0, False), (0.2, True)]


# ---- along depth ---------------------------------------------------------------------------------------------


def test_depth_keeps_the_models_order_and_shows_a_gradient_without_curvature(tmp_path):
    figure = figures(run_with(tmp_path, PLAIN, VANISHING, UNCONVERGED, NEGATIVE))["along_depth"]
    top, bottom = figure.axes
    filled = "filled"
    assert marks(top) == [(0, 1.0, *ATTENTION, filled), (1, 0.3, *MLP, filled), (2, 0.2, *NORM, filled),
                          (3, 0.5, *ATTENTION, filled)]  # fmt: skip
    assert marks(bottom) == [(0, 2.0, *ATTENTION, filled), (2, 0.4, *NORM, "hollow"), (3, 0.3, *ATTENTION, filled)]
    assert barred(bottom) == [(3, 0.3)] and barred(top) == []
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["h.0", "h.1"]
    assert list(top.get_xticks()) == list(bottom.get_xticks()) == [0, 3] and top.get_xticklabels()[0].get_text() == ""
    assert [ax.get_ylabel() for ax in (top, bottom)] == ["gradient norm", "largest eigenvalue"]
    assert [ax.get_title() for ax in (top, bottom)] == [
        "gradient norm of the tensor",
        "largest eigenvalue of its block",
    ]
    assert bottom.get_xlabel() == "tensors in the model's order, a tick where a layer begins"
    assert [ax.get_yscale() for ax in (top, bottom)] == ["log", "log"] and top.get_xlim() == bottom.get_xlim() == (
        -1,
        4,
    )
    borders = [[line.get_xdata()[0] for line in ax.lines if line.get_color() == "#e6e6e6"] for ax in (top, bottom)]
    assert borders == [[2.5], [2.5]]  # between the third and the fourth tensor
    assert figure.get_suptitle().split("\n")[0] == "glue/rte"


def test_a_gradient_that_is_only_rounding_does_not_stretch_the_axis_along_depth(tmp_path):
    keys_bias = (1e-10, 1e-9, 1e-12, 0)  # which softmax cancels; where one batch seems to converge, above its residual
    drawn = figures(run_with(tmp_path, PLAIN, keys_bias, (1e-10, 1.0, 0.0, 1)))
    top, bottom = drawn["along_depth"].axes
    assert [x for x, *_ in marks(top)] == [x for x, *_ in marks(bottom)] == [0, 2]  # a converged one is a finding
    assert len(marks(drawn["gradient_against_curvature"].axes[0])) == 2
    small = (1e-6, 1e-5, 1e-8, 0)  # a millionth of the largest gradient is still a gradient
    assert len(marks(figures(run_with(tmp_path, PLAIN, small))["gradient_against_curvature"].axes[0])) == 2


@pytest.mark.parametrize(("gradients", "labels"), [((1.0, 1e-4), ["0.0001"]), ((0.1, 0.5), ["0.1", "0.2", "0.5"])])
def test_a_log_axis_of_few_decades_has_more_than_one_number_on_it(tmp_path, gradients, labels):
    top, _ = figures(run_with(tmp_path, *((g, 1.0, 0.0, 1) for g in gradients)))["along_depth"].axes
    shown = [tick.get_text() for tick in top.get_yticklabels()]
    plain = [text.replace("$\\mathdefault{10^{-4}}$", "0.0001") for text in shown]
    assert set(labels) <= set(plain)


@pytest.mark.parametrize(("layers", "rotation", "width"), [(3, 0, 6.0), (40, 90, 9.6), (60, 0, 12.0)])
def test_layers_are_named_lying_where_they_are_few(tmp_path, layers, rotation, width):
    figure = figures(run_with(tmp_path, *[PLAIN] * 3 * layers))["along_depth"]
    assert {tick.get_rotation() for tick in figure.axes[1].get_xticklabels()} == {rotation}
    assert figure.get_size_inches()[0] == pytest.approx(width)


@pytest.mark.parametrize(("layers", "names"), [
    (["embedding", "norm", "embedding", *["encoder.layer.0"] * 97], ["embedding", "layer.0"]),
    ([*["encoder.block.0"] * 5, *["decoder.block.0"] * 5], ["encoder.block.0", "decoder.block.0"]),
    (["norm", *["h.0"] * 60, *["norm"] * 39], ["h.0", "norm"]),
])  # fmt: skip
def test_a_numbered_layer_keeps_its_tick_where_single_tensors_crowd_it_out(tmp_path, layers, names):
    _, bottom = figures(run_with(tmp_path, *[PLAIN] * len(layers), layers=layers))["along_depth"].axes
    assert [tick.get_text() for tick in bottom.get_xticklabels()] == names


# ---- Lorenz curves -------------------------------------------------------------------------------------------


def test_lorenz_curves_are_the_shares_held_by_the_smallest_and_give_the_gini_coefficients(tmp_path):
    values = [(3.0, 1.0, 0, 1), (1.0, -5.0, 0, 1), (1.0, 0.0, 0, 1), (3.0, 1.0, 0, 1)]
    figure = figures(run_with(tmp_path, *values, sizes=[9, 1, 1, 9]))["lorenz"]
    # Of 1 1 3 3: differences 2 * 4 * 2 = 16, over 2 n^2 mean = 64. Over sqrt(size) all are 1. Of 0 0 1 1: 8 over 16.
    assert labels_of(figure) == ["gradient norm: Gini 0.25", "gradient norm / sqrt(size): Gini 0.00",
                                 "largest eigenvalue (negative as 0): Gini 0.50", "all tensors equal"]  # fmt: skip
    (ax,) = figure.axes
    drawn = [line for line in ax.lines if len(line.get_xdata()) == 5]
    assert [points(line) for line in drawn] == [
        [(0, 0), (0.25, 0.125), (0.5, 0.25), (0.75, 0.625), (1, 1)],
        [(0, 0), (0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1, 1)],
        [(0, 0), (0.25, 0), (0.5, 0), (0.75, 0.5), (1, 1)],
    ]
    handles = figure.legends[0].legend_handles
    assert [line.get_color() for line in drawn] == [handle.get_color() for handle in handles[:3]]
    assert len({line.get_linestyle() for line in drawn}) == 3  # told apart in black and white
    diagonal = [line for line in ax.lines if points(line) == [(0, 0), (1, 1)]]
    assert {line.get_color() for line in diagonal} == {handles[3].get_color()} == {"0.6"}
    assert ax.get_xlabel() == "share of the tensors, smallest first"
    assert ax.get_ylabel() == "share of the total that they hold" and ax.get_title() == "glue/rte, 4 tensors"
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)


def test_a_measure_that_is_zero_everywhere_has_no_curve(tmp_path):
    figure = figures(run_with(tmp_path, (1.0, -1.0, 0, 1), (2.0, 0.0, 0, 1)))["lorenz"]
    assert [text.split(":")[0] for text in labels_of(figure)] == [
        "gradient norm", "gradient norm / sqrt(size)", "all tensors equal"]  # fmt: skip


# ---- what there is to draw -----------------------------------------------------------------------------------


def test_without_any_gradient_or_means_nothing_is_drawn(tmp_path):
    assert figures(run_with(tmp_path / "flat", FLAT, FLAT)) == {}
    assert figures(run_with(tmp_path / "stopped", PLAIN, batch=1)) == {}


def test_missing_column_is_named(tmp_path):
    table = run_with(tmp_path, PLAIN) / "blocks.csv"
    table.write_text(table.read_text().replace("residual", "remainder"))
    with pytest.raises(ValueError, match="blocks.csv has no column 'residual'"):
        points_of(read_run(tmp_path))


def test_many_tensors_are_drawn_each_once(tmp_path):
    draw = random.Random(0)
    measured = [(draw.random(), draw.uniform(-1, 1), 0.0, 1) for _ in range(60)]
    drawn = figures(run_with(tmp_path, *measured))
    for name in ("gradient_against_curvature", "along_depth"):
        ax = drawn[name].axes[-1]
        assert sorted(y for _, y, *_ in marks(ax)) == sorted(abs(value) for _, value, *_ in measured)
        assert len(barred(ax)) == sum(value < 0 for _, value, *_ in measured)
