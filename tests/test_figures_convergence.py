"""The figures of a convergence run: what is a mean, what is a band, and what became of a seed that diverged."""

import pytest

from figures.convergence import CHOSEN, learning_rate_figures, loss_figures, score_figures
from figures.seeds import curves_by_seed, running_mean
from tests.helpers.run_folders import (
    assert_legend_is_clear,
    believable_convergence,
    config_row,
    figures_of,
    labels_of,
    legend_looks,
    look_of,
    points,
    write_run,
    write_table,
)
from tests.helpers.small_runs import convergence_run

END = "where a diverged seed ended"


def crosses(figure):
    return [points(line)[0] for line in figure.axes[0].lines if line.get_marker() == "x"]


@pytest.mark.parametrize("kind", [loss_figures, learning_rate_figures, score_figures])
def test_the_legend_of_12_long_labels_covers_no_axes_and_stays_on_the_page(tmp_path, kind):
    for figure in figures_of(kind, believable_convergence(tmp_path, epochs=4)).values():
        assert_legend_is_clear(figure, entries=12)


# ---- means and bands -----------------------------------------------------------------------------------------


def test_a_curve_is_the_mean_over_seeds_of_the_means_over_an_epochs_batches():
    losses = [("sgd", seed, 1 + i // 2, loss) for seed, values in enumerate([[8, 6, 4, 2], [6, 4, 4, 4]])
              for i, loss in enumerate(values)]  # fmt: skip
    rows = [dict(zip(("algorithm", "seed", "epoch", "loss"), row, strict=True)) for row in losses]
    assert curves_by_seed(rows, "epoch", "loss") == {"sgd": {0: {1: 7.0, 2: 3.0}, 1: {1: 5.0, 2: 4.0}}}
    sized = [row | {"examples": 3 if i % 2 == 0 else 1} for i, row in enumerate(rows)]
    assert curves_by_seed(sized, "epoch", "loss") == {"sgd": {0: {1: 7.5, 2: 3.5}, 1: {1: 5.5, 2: 4.0}}}


def test_the_band_runs_from_the_lowest_seed_to_the_highest(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [8, 6, 4, 2], ("sgd", 1): [6, 4, 4, 4]})
    drawn = figures_of(loss_figures, tmp_path)
    assert list(drawn) == ["loss_by_epoch", "loss_by_iteration"]
    (ax,) = drawn["loss_by_epoch"].axes
    assert points(ax.lines[0]) == [(1, 6.0), (2, 3.5)]
    assert {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices} == {(1, 5), (1, 7), (2, 3), (2, 4)}
    assert ax.collections[0].get_facecolor()[0][3] < 0.3  # seen through
    assert ax.get_ylabel() == "training loss\nmean over 2 seeds, band: lowest to highest"
    assert ax.get_xlabel() == "epoch (mean over its examples)"
    assert ax.get_title() == "toy: training loss of every optimizer"


def test_one_seed_has_no_band_and_claims_no_mean(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [8, 6, 4, 2]})
    (ax,) = figures_of(loss_figures, tmp_path)["loss_by_iteration"].axes
    assert points(ax.lines[0]) == [(1, 8), (2, 6), (3, 4), (4, 2)]
    assert not ax.collections and ax.get_ylabel() == "training loss"
    assert ax.get_xlabel() == "iteration (one update each)"


def test_rows_look_as_everywhere_and_the_legend_says_which_is_which(tmp_path):
    labels = ["sgd", "adam", "adam, clip_update=0.5"]
    convergence_run(tmp_path, {(label, 0): [6, 5 - i] for i, label in enumerate(labels)}, labels=labels)
    looks = [("#D55E00", "o", "filled"), ("#0072B2", "s", "filled"), ("#0072B2", "s", "hollow")]
    for figure in figures_of(loss_figures, tmp_path).values():
        assert legend_looks(figure) == dict(zip(labels, looks, strict=True))
        assert [look_of(line) for line in figure.axes[0].lines] == looks
        assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "-", "-."]
    assert [line.get_ydata()[-1] for line in figure.axes[0].lines] == [5, 4, 3]


def test_markers_are_about_eight_per_curve_and_those_of_two_curves_apart(tmp_path):
    labels = ["sgd", "adam", "lion", "adafactor"]
    convergence_run(tmp_path, {(label, 0): [5.0] * 160 for label in labels}, labels=labels)
    lines = figures_of(loss_figures, tmp_path)["loss_by_iteration"].axes[0].lines
    assert [line.get_markevery() for line in lines] == [(0, 20), (5, 20), (10, 20), (15, 20)]


def test_a_long_run_is_smoothed_and_says_so(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [5.0, 2.0] * 100})
    drawn = figures_of(loss_figures, tmp_path)
    (ax,) = drawn["loss_by_iteration"].axes
    assert ax.get_xlabel() == "iteration (one update each; running mean over 3)"
    assert points(ax.lines[0])[:3] == [(1, 3.5), (2, 4.0), (3, 3.0)]  # (5+2)/2 at the edge, (5+2+5)/3, (2+5+2)/3
    assert points(drawn["loss_by_epoch"].axes[0].lines[0])[:2] == [(1, 3.5), (2, 3.5)]


def test_a_running_mean_shrinks_at_the_ends_and_keeps_a_straight_line_inside():
    line = {at: 2.0 * at for at in range(1, 8)}
    smooth = running_mean(line, 5)
    assert [smooth[at] for at in (3, 4, 5)] == [6.0, 8.0, 10.0] and smooth[1] == 4.0 and smooth[7] == 12.0
    assert running_mean(line, 1) == line


@pytest.mark.parametrize("losses, scale, limits", [
    ([5.0, 4.0, 3.0, 2.0], "linear", (1.88, 5.12)),
    ([5.0, 2.0, 1.0, 0.5], "log", (0.5 / 10**0.04, 5 * 10**0.04)),
    ([5.0, 2.0, 1.0, 0.0], "linear", (-0.2, 5.2)),
    ([3.0, 3.0, 3.0, 3.0], "linear", (2.97, 3.03)),
])  # fmt: skip
def test_the_loss_axis_is_logarithmic_where_losses_differ_much_and_are_positive(tmp_path, losses, scale, limits):
    (ax,) = figures_of(loss_figures, convergence_run(tmp_path, {("sgd", 0): losses}))["loss_by_iteration"].axes
    assert ax.get_yscale() == scale and ax.get_ylim() == pytest.approx(limits)


@pytest.mark.parametrize("losses, ticks", [([5.0, 0.5], ["0.5", "1", "2", "5"]), ([9e5, 3.0], ["10", "100", "1000"])])
def test_a_logarithmic_loss_axis_has_plain_numbers(tmp_path, losses, ticks):
    (ax,) = figures_of(loss_figures, convergence_run(tmp_path, {("sgd", 0): losses}))["loss_by_iteration"].axes
    low, high = ax.get_ylim()
    shown = [text.get_text() for text in ax.get_yticklabels() if low <= text.get_position()[1] <= high]
    assert shown[: len(ticks)] == ticks
    assert not any(text.get_text() for text in ax.get_yticklabels(minor=True))


def test_epochs_and_iterations_have_whole_numbers_at_their_ticks(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [5.0, 4.0, 3.0]})
    for figure in figures_of(loss_figures, tmp_path).values():
        assert all(place == int(place) for place in figure.axes[0].get_xticks())


# ---- divergence ----------------------------------------------------------------------------------------------


def test_a_diverged_seed_is_left_out_of_the_mean_and_ends_in_a_cross_on_the_upper_edge(tmp_path):
    convergence_run(
        tmp_path, {("sgd", 0): [6, 5, 4, 4], ("sgd", 1): [6, 7, 1e30], ("sgd", 2): [6, 5, 4, 2]}, diverged={"sgd": 1}
    )
    figure = figures_of(loss_figures, tmp_path)["loss_by_iteration"]
    mean, alone, cross = figure.axes[0].lines
    assert points(mean) == [(1, 6), (2, 5), (3, 4), (4, 3)]
    assert points(alone) == [(1, 6), (2, 7), (3, 1e30)] and alone.get_linewidth() < mean.get_linewidth()
    assert alone.get_color() == cross.get_color() == mean.get_color()
    assert crosses(figure) == points(cross) == [(3, figure.axes[0].get_ylim()[1])]
    assert figure.axes[0].get_ylim()[1] < 7 and labels_of(figure) == ["sgd (1/3 diverged)", END]
    assert figure.legends[0].legend_handles[1].get_marker() == "x"


def test_a_cross_inside_the_axes_is_where_the_seed_ended(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [6, 5, 4, 3], ("sgd", 1): [6, 5.5]}, diverged={"sgd": 1})
    assert crosses(figures_of(loss_figures, tmp_path)["loss_by_iteration"]) == [(2, 5.5)]


def test_the_same_seed_is_the_diverged_one_in_every_figure(tmp_path):
    # Seed 0 ends in the last epoch, below seed 1: by epochs alone seed 1 would be taken for it.
    convergence_run(tmp_path, {("sgd", 0): [6, 5, 2], ("sgd", 1): [6, 5, 4, 4]}, diverged={"sgd": 1})
    drawn = figures_of(loss_figures, tmp_path)
    assert crosses(drawn["loss_by_iteration"]) == [(3, 2)] and crosses(drawn["loss_by_epoch"]) == [(2, 2)]
    assert all(figure.axes[0].get_ylim()[0] < 2 for figure in drawn.values())


def test_of_seeds_that_end_together_the_highest_diverged(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [6, 5], ("sgd", 1): [6, 9], ("sgd", 2): [6, 4]}, diverged={"sgd": 1})
    assert [y for _, y in crosses(figures_of(loss_figures, tmp_path)["loss_by_iteration"])] != [5]
    mean = figures_of(loss_figures, tmp_path)["loss_by_iteration"].axes[0].lines[0]
    assert points(mean) == [(1, 6), (2, 4.5)]


def test_algorithms_that_diverged_altogether_are_drawn_and_named(tmp_path):
    labels = ("sgd", "adam", "lion")  # lion: not even the first loss was finite
    convergence_run(tmp_path, {("sgd", 0): [6, 1e8], ("sgd", 1): [6, 7, 1e9], ("adam", 0): [6, 7], ("adam", 1): [6]},
            diverged={label: 2 for label in labels}, labels=labels)  # fmt: skip
    for figure in figures_of(loss_figures, tmp_path).values():
        assert len(crosses(figure)) == 4
        assert labels_of(figure)[:3] == [f"{label} (diverged)" for label in labels]


def test_a_run_without_a_summary_yet_is_drawn_as_far_as_all_its_seeds_came(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [6, 5, 4, 3], ("sgd", 1): [4, 3]})
    (tmp_path / "summary.csv").unlink()
    figure = figures_of(loss_figures, tmp_path)["loss_by_iteration"]
    assert points(figure.axes[0].lines[0]) == [(1, 5), (2, 4)]
    assert labels_of(figure) == ["sgd"]


# ---- where plain SGD ended -----------------------------------------------------------------------------------


def test_a_thin_line_marks_the_loss_at_which_plain_sgd_ended(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [6, 5], ("adam", 0): [6, 2]}, final_loss=4.5, labels=("adam", "sgd"))
    for figure in figures_of(loss_figures, tmp_path).values():
        line = figure.axes[0].lines[-1]
        assert set(line.get_ydata()) == {4.5} and line.get_linewidth() < 1 and list(line.get_xdata()) == [0, 1]
        assert labels_of(figure) == ["adam", "sgd", "where sgd ended"]
        assert figure.legends[0].legend_handles[-1].get_color() == line.get_color() == "0.35"


def test_the_axis_holds_where_sgd_ended(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [6, 5]}, final_loss=2.5)
    assert figures_of(loss_figures, tmp_path)["loss_by_iteration"].axes[0].get_ylim()[0] < 2.5


@pytest.mark.parametrize("label, final_loss", [("sgd, coordinate_clip=0.1", 4.5), ("sgd", None)])
def test_clipped_sgd_and_sgd_that_diverged_set_no_such_line(tmp_path, label, final_loss):
    convergence_run(tmp_path, {(label, 0): [6, 5]}, final_loss=final_loss, labels=[label])
    assert labels_of(figures_of(loss_figures, tmp_path)["loss_by_epoch"]) == [label]


def test_the_first_of_two_plain_sgd_rows_sets_the_line(tmp_path):
    labels = [config_row("sgd, momentum=0.9"), config_row("sgd, momentum=0.5")]
    write_run(tmp_path, labels, losses=[dict(algorithm="sgd, momentum=0.9", seed=0, epoch=1, examples=4, loss=5.0)])
    ends = (("sgd, momentum=0.9", 4.0), ("sgd, momentum=0.5", 3.0))
    write_table(tmp_path, "summary", [dict(algorithm=label, final_loss_mean=end, diverged=0) for label, end in ends])
    assert labels_of(figures_of(loss_figures, tmp_path)["loss_by_epoch"])[-1] == "where sgd, momentum=0.9 ended"


# ---- learning rates ------------------------------------------------------------------------------------------


def tuned(folder, trials):
    """The figures of [(algorithm, lr, final loss, diverged, chosen)]."""
    columns = ("algorithm", "lr", "final_loss", "diverged", "chosen")
    rows = [dict(zip(columns, trial, strict=True)) for trial in trials]
    return figures_of(learning_rate_figures, write_run(folder, ["adam", "adafactor"], tuned_learning_rates=rows))


def test_every_trial_is_a_point_in_order_of_its_rate_and_the_chosen_one_has_a_ring(tmp_path):
    trials = [("adam", 1e-2, 3.0, 0, 0), ("adam", 1e-4, 4.0, 0, 0), ("adam", 1e-3, 2.0, 0, 1)]
    trials += [("adam", 1e-1, None, 1, 0), ("adafactor", None, 2.5, 0, 1)]
    figure = tuned(tmp_path, trials)["learning_rates"]
    (ax,) = figure.axes
    top = ax.get_ylim()[1]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert points(ax.lines[0]) == [(1e-4, 4.0), (1e-3, 2.0), (1e-2, 3.0), (1e-1, top)]
    assert [points(line) for line in ax.lines if line.get_markersize() == CHOSEN["markersize"]] == [[(1e-3, 2.0)]]
    assert crosses(figure) == [(1e-1, top)] and ax.get_ylim() == pytest.approx((2 / 2**0.04, 4 * 2**0.04))
    assert labels_of(figure) == ["adam", "chosen", "diverged"]  # adafactor's relative step was not tuned
    marks = [line for line in ax.lines if line.get_marker() == "s"]
    assert [points(line)[0] for line in marks] == [(1e-4, 4.0), (1e-3, 2.0), (1e-2, 3.0)]
    assert {look_of(line) for line in marks} == {("#0072B2", "s", "filled")} and ax.lines[0].get_color() == "#0072B2"
    assert [handle.get_marker() for handle in figure.legends[0].legend_handles] == ["s", "o", "x"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("learning rate", "final training loss of the trial")
    assert ax.get_title() == "toy: trials of the learning rate"


def test_a_trial_that_is_marked_diverged_is_lost_although_it_has_a_loss(tmp_path):
    figure = tuned(tmp_path, [("adam", 1e-2, 3.0, 0, 1), ("adam", 1e-1, 2.0, 1, 0)])["learning_rates"]
    assert crosses(figure) == [(1e-1, figure.axes[0].get_ylim()[1])]


@pytest.mark.parametrize("trials", [[], [("adafactor", None, 2.5, 0, 1)], [("adam", 1.0, None, 1, 0)]])
def test_without_a_finished_trial_of_some_rate_there_is_no_such_figure(tmp_path, trials):
    assert tuned(tmp_path, trials) == {}


# ---- scores --------------------------------------------------------------------------------------------------


def test_scores_have_a_panel_per_split_and_a_row_per_metric(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [6, 5, 4, 3], ("sgd", 1): [6, 5, 9]}, diverged={"sgd": 1})
    rows = [dict(algorithm="sgd", seed=seed, epoch=epoch, split=split, metric=metric, value=base + rise * epoch)
            for metric, rise in (("accuracy", 0.1), ("f1", 0.2)) for split, base in (("evaluation", 0.5), ("test", 0.4))
            for seed, epoch in ((0, 1), (0, 2), (1, 1))]  # fmt: skip
    write_table(tmp_path, "scores", rows)
    figure = figures_of(score_figures, tmp_path)["scores"]
    assert [ax.get_title() for ax in figure.axes] == [
        "accuracy, evaluation", "accuracy, test", "f1, evaluation", "f1, test"]  # fmt: skip
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy", "", "f1", ""]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "", "epoch", "epoch"]
    assert points(figure.axes[3].lines[0]) == [(1, 0.4 + 0.2), (2, 0.4 + 0.4)]  # the seed that finished
    assert points(figure.axes[0].lines[0]) == [(1, 0.5 + 0.1), (2, 0.5 + 0.2)]
    assert crosses(figure) == [(1, 0.5 + 0.1)]
    assert labels_of(figure) == ["sgd (1/2 diverged)", END]
    assert figure.get_suptitle() == "toy\nmean over 2 seeds, band: lowest to highest"
    assert all(place == int(place) for place in figure.axes[3].get_xticks())


def test_scores_without_a_value_are_no_figure(tmp_path):
    convergence_run(tmp_path, {("sgd", 0): [6, 5]})
    write_table(tmp_path, "scores", [dict(algorithm="sgd", seed=0, epoch=1, split="test", metric="f1", value=None)])
    assert figures_of(score_figures, tmp_path) == {}
