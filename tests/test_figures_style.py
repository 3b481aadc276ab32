"""How an optimizer looks: the same in every figure of every run, and told apart without color."""

import matplotlib
import pytest
from matplotlib.patches import Patch

from figures.style import LOOKS, RC, key, label_outside, new_figure, readable_decades, styles_of
from tests.helpers.run_folders import TWELVE, config_row, look_of

# As published: Okabe & Ito, "Color Universal Design" (2008); Tol, "Colour schemes" (2021), the muted scheme.
OKABE_ITO = {"#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000"}
TOL_MUTED = {"#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#999933", "#AA4499"}


def styles(*labels):
    return styles_of([config_row(label) for label in labels])


def test_the_optimizers_of_the_papers_have_color_blind_safe_colors():
    papers = ("sgd", "adam", "adafactor", "normalized_sgd", "sign_sgd", "lion")
    assert {LOOKS[name][0] for name in papers} < OKABE_ITO - {"#F0E442"}  # its yellow is too pale for a line
    assert {LOOKS[name][0] for name in ("adamw", "rmsprop", "adagrad", "nadam", "radam")} < TOL_MUTED
    assert len({color for color, _ in LOOKS.values()}) == len(LOOKS)


def test_every_optimizer_has_a_marker_of_its_own_known_or_not():
    ours = styles(*LOOKS, "mine", "yours", "theirs", "another")
    assert len({str(style.marker) for style in ours.values()}) == len(LOOKS) + 4
    assert len({style.color for style in ours.values()}) == len(LOOKS) + 4


def test_rows_of_one_optimizer_share_color_and_marker_and_differ_in_line():
    adams = list(styles("adam", "adam, coordinate_clip=0.1", "adam, coordinate_clip=0.5", "sgd").values())[:3]
    assert {(style.color, style.marker) for style in adams} == {("#0072B2", "s")}
    assert [style.line()["linestyle"] for style in adams[:2]] == ["-", "-."]
    assert len({str(style.line()["linestyle"]) for style in adams}) == 3


def test_the_unclipped_row_is_filled_and_a_clipped_one_hollow_wherever_they_stand():
    here = styles("adam, clip_update=0.5", "adam", "lion, coordinate_clip=0.1")
    faces = {label: style.points()["markerfacecolor"] for label, style in here.items()}
    assert faces == {"adam": "#0072B2", "adam, clip_update=0.5": "white", "lion, coordinate_clip=0.1": "white"}
    assert {label: style.bars()["fill"] for label, style in here.items()} == {
        label: face != "white" for label, face in faces.items()
    }
    assert all(style.points()["markeredgecolor"] == style.color for style in here.values())
    assert all(style.bars()["edgecolor"] == style.color for style in here.values())
    assert here["adam"].bars()["facecolor"].startswith("#0072B2")
    assert here["lion, coordinate_clip=0.1"].line()["linestyle"] == "-."


def test_an_optimizers_second_unclipped_row_is_hollow_too():
    two = styles_of([config_row("adam"), config_row("adam, lr=0.1")])
    assert [style.bars()["fill"] for style in two.values()] == [True, False]
    assert not any(style.clipped for style in two.values())


def test_a_clipping_rate_of_zero_is_no_clipping():
    assert [style.clipped for style in styles("sgd, coordinate_clip=0", "adam, clip_update=0.1").values()] == [
        False,
        True,
    ]
    assert [style.is_plain_sgd for style in styles("sgd", "sgd, coordinate_clip=0.1", "adam").values()] == [
        True,
        False,
        False,
    ]


def test_a_look_does_not_depend_on_the_list():
    one, other = styles("sgd", "lion"), styles("lion, coordinate_clip=0.1", "lion", "sgd")
    assert one["lion"] == other["lion"] and one["sgd"] == other["sgd"]
    assert list(other) == ["lion", "lion, coordinate_clip=0.1", "sgd"]  # one optimizer's rows side by side


def test_twelve_rows_are_told_apart_in_black_and_white():
    marks = {(str(style.marker), style.points()["markerfacecolor"] == "white", str(style.line()["linestyle"]))
             for style in styles(*TWELVE).values()}  # fmt: skip
    assert len(marks) == 12


def test_a_key_of_a_legend_looks_as_it_was_told():
    line = key("adam", **styles("adam")["adam"].line(), **styles("adam")["adam"].points())
    assert line.get_label() == "adam" and look_of(line) == ("#0072B2", "s", "filled")
    assert len(line.get_xdata()) == 0  # it is no part of the data


# ---- axes ----------------------------------------------------------------------------------------------------


def figure_of(rows, columns, labels, width=8.0, height=2.0):
    with matplotlib.rc_context(RC):
        figure, axes = new_figure(rows, columns, [Patch(label=label) for label in labels], width, height)
        figure.canvas.draw()
    return figure, axes


def test_a_figure_grows_with_its_rows_and_its_legend():
    small, _ = figure_of(1, 1, ["a"])
    tall, axes = figure_of(3, 2, ["a"])
    full, _ = figure_of(1, 1, ["a"] * 9)  # three lines of the legend
    assert small.get_size_inches().tolist() == pytest.approx([8.0, 2.77])
    assert tall.get_size_inches().tolist() == pytest.approx([8.0, 6.77]) and len(axes) == 6
    assert full.get_size_inches()[1] == pytest.approx(2.77 + 2 * 0.17)


@pytest.mark.parametrize("length, columns", [(4, 4), (30, 3), (80, 1), (300, 1)])
def test_a_legend_has_as_many_columns_as_its_longest_label_lets_fit(length, columns):
    figure, _ = figure_of(1, 1, ["x" * length] * 8)
    assert figure.legends[0]._ncols == columns


def test_axes_are_named_once_per_row_and_column():
    _, axes = figure_of(2, 2, ["a"])
    label_outside(axes[:3], 2, "distance", "loss")
    assert [ax.get_xlabel() for ax in axes] == ["", "distance", "distance", ""]
    assert [ax.get_ylabel() for ax in axes] == ["loss", "", "loss", ""]


@pytest.mark.parametrize("high, ticks", [(0.5, ["0.1", "0.2", "0.5"]), (50.0, ["$\\mathdefault{10^{-1}}$"])])
def test_a_log_axis_of_few_decades_has_more_than_one_number_on_it(high, ticks):
    figure, (ax,) = figure_of(1, 1, ["a"])
    ax.set(yscale="log", ylim=(0.09, high))
    readable_decades(ax.yaxis)
    assert [text.get_text() for text in ax.get_yticklabels() if 0.09 <= text.get_position()[1] <= high][
        : len(ticks)
    ] == ticks
    figure.canvas.draw()
    assert not any(text.get_text() for text in ax.get_yticklabels(minor=True))
