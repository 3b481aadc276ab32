"""What is drawn of several runs in one figure: of one script over each other, of two side by side."""

import re

import pytest

from figures.heterogeneity import overlay_blocks
from figures.overlay import overlay_losses, overlay_sharpness
from figures.speed import speed_figures
from tests.helpers.run_folders import (
    assert_legend_is_clear,
    believable_convergence,
    believable_landscape,
    labels_of,
    legend_looks,
    look_of,
    points,
    write_run,
    write_table,
)
from tests.helpers.small_runs import convergence_run, hessian_run, landscape_run, overlaid

FIRST, SECOND = ("#0072B2", "o", "filled"), ("#D55E00", "s", "hollow")

# ---- landscape runs ------------------------------------------------------------------------------------------


def test_sharpness_of_two_runs_stands_in_one_panel_per_algorithm(tmp_path):
    one = landscape_run(tmp_path / "a", {"sgd": [2.0, 4.0], "adam": [1.0, 0.5]}, {"train_optimizer": "adam"})
    other = landscape_run(tmp_path / "b", {"sgd": [8.0], "adam": [2.0]}, {"train_optimizer": "sgd"})
    drawn = overlaid(overlay_sharpness, one, other, names=["Adam run", "SGD run"])
    assert list(drawn) == ["sharpness_overlay", "sharpness_ratios_overlay"]
    raw, relative = drawn.values()
    for figure in drawn.values():
        assert legend_looks(figure) == {"Adam run": FIRST, "SGD run": SECOND}
        assert [ax.get_title() for ax in figure.axes] == ["sgd", "adam"]
        assert [look_of(line) for line in figure.axes[0].lines[:2]] == [FIRST, SECOND]
        assert figure.get_suptitle() == "toy: runs that differ in train_optimizer"
        assert [text.get_text() for text in figure.axes[1].get_xticklabels()][0].startswith("1\nn = ")
        assert [ax.get_xlabel() for ax in figure.axes] == ["epoch (n: points measured in it)"] * 2
    values = [[list(line.get_ydata()) for line in ax.lines[:2]] for ax in raw.axes]
    assert values == [[[2.0, 4.0], [8.0]], [[1.0, 0.5], [2.0]]]
    ratios = [[list(line.get_ydata()) for line in ax.lines[:2]] for ax in relative.axes]
    assert ratios == [[[1.0, 1.0], [1.0]], [[0.5, 0.125], [0.25]]]
    # two runs share 0.3 of the distance between two epochs
    assert [line.get_xdata()[0] for line in raw.axes[0].lines[:2]] == pytest.approx([-0.075, 0.075])
    assert raw.get_supylabel() == "directional sharpness, $v^T H v \\,/\\, \\|v\\|^2$, mean and std"
    assert relative.get_supylabel() == "directional sharpness / |that of sgd|, mean and std"
    assert [1, 1] in [list(line.get_ydata()) for line in relative.axes[1].lines]
    assert [1, 1] not in [list(line.get_ydata()) for line in raw.axes[1].lines]


def test_without_ratios_in_every_run_the_raw_sharpness_alone_is_overlaid(tmp_path):
    one = landscape_run(tmp_path / "a", {"adam": [2.0]}, references=False)
    other = landscape_run(tmp_path / "b", {"adam": [3.0]})
    assert list(overlaid(overlay_sharpness, one, other)) == ["sharpness_overlay"]


def test_an_overlay_says_where_ratios_are_to_a_negative_reference(tmp_path):
    one = landscape_run(tmp_path / "a", {"sgd": [2.0], "adam": [1.0]})
    ratios = [
        dict(algorithm="sgd", epoch=1, mean_ratio=-0.2, count=5),
        dict(algorithm="adam", epoch=1, mean_ratio=0.5, count=5),
    ]
    other = landscape_run(tmp_path / "b", {"sgd": [-2.0], "adam": [1.0]}, references=False)
    write_table(other, "ratios", ratios)  # a mean of -0.2 over 5 points: 2 of 1 and 3 of -1
    raw, relative = overlaid(overlay_sharpness, one, other).values()
    assert labels_of(relative) == ["a", "b (sgd is negative at 3 points)"] and labels_of(raw) == ["a", "b"]
    write_table(other, "ratios", [dict(algorithm="sgd", epoch=1, mean_ratio=0.6, count=5), ratios[1]])
    trained = convergence_run(tmp_path / "c", {("sgd", 0): [6, 5], ("adam", 0): [6, 4]})
    xlabel = overlaid(speed_figures, trained, other)["speed_and_sharpness"].axes[1].get_xlabel()
    assert xlabel.startswith("directional sharpness / |that of sgd| (sgd is negative at 1 point)\n")


def test_the_panels_of_an_overlay_have_the_same_epochs(tmp_path):
    runs = [landscape_run(tmp_path / name, {"sgd": [2.0, 4.0], "adam": [1.0]}) for name in ("a", "b")]
    for figure in overlaid(overlay_sharpness, *runs).values():
        assert [ax.get_xlim() for ax in figure.axes] == [(-0.5, 1.5)] * 2
    texts = [text.get_text() for text in figure.axes[1].get_xticklabels()]
    assert texts == ["1\nn = 3", "2\nn = 0"]


def test_a_bar_that_is_cut_in_an_overlay_is_explained(tmp_path):
    runs = []
    for name in ("a", "b"):
        rows = [dict(algorithm="adam", epoch=1, batch=i, sharpness=value) for i, value in enumerate((0.1, 3.0))]
        runs.append(write_run(tmp_path / name, ["adam"], sharpness=rows))
    figure = overlaid(overlay_sharpness, *runs)["sharpness_overlay"]
    assert labels_of(figure) == ["a", "b", "bar cut short: its end is near 0 or beyond"]
    assert figure.axes[0].get_xticklabels()[0].get_text() == "1\nn = 2"


# ---- convergence runs ----------------------------------------------------------------------------------------


def test_losses_of_two_runs_stand_in_one_panel_per_algorithm_on_one_scale(tmp_path):
    one = convergence_run(tmp_path / "a", {("sgd", 0): [6, 5, 5], ("sgd", 1): [6, 4, 3], ("adam", 0): [6, 2, 3]})
    other = convergence_run(tmp_path / "b", {("sgd", 0): [6, 5.5], ("adam", 0): [6, 4.5]}, {"batch_size": 2})
    (figure,) = overlaid(overlay_losses, one, other, names=["small", "large"]).values()
    sgd, adam = figure.axes
    assert [points(line) for line in sgd.lines] == [[(1, 6), (2, 4.5), (3, 4)], [(1, 6), (2, 5.5)]]
    assert [points(line) for line in adam.lines] == [[(1, 6), (2, 2), (3, 3)], [(1, 6), (2, 4.5)]]
    assert len(sgd.collections) == 1 and sgd.get_ylim() == adam.get_ylim() == pytest.approx((1.84, 6.16))
    assert legend_looks(figure) == {"small": FIRST, "large": SECOND}
    assert [look_of(line) for line in adam.lines] == [FIRST, SECOND]
    assert [ax.get_title() for ax in figure.axes] == ["sgd", "adam"]
    assert [ax.get_ylabel() for ax in figure.axes] == ["training loss", ""]
    assert [ax.get_xlabel() for ax in figure.axes] == ["iteration (one update each)"] * 2
    assert figure.get_suptitle() == "toy: runs that differ in batch_size\nmean over 2 seeds, band: lowest to highest"


def test_a_diverged_seed_of_an_overlaid_run_ends_in_a_cross_that_is_explained(tmp_path):
    one = convergence_run(tmp_path / "a", {("sgd", 0): [6, 5], ("sgd", 1): [6]}, diverged={"sgd": 1})
    (figure,) = overlaid(overlay_losses, one, convergence_run(tmp_path / "b", {("sgd", 0): [6, 4]})).values()
    assert labels_of(figure) == ["a", "b", "where a diverged seed ended"]
    assert [points(line) for line in figure.axes[0].lines if line.get_marker() == "x"] == [[(1, 6)]]


def test_only_what_all_runs_smooth_alike_is_called_a_running_mean(tmp_path):
    long = convergence_run(tmp_path / "a", {("sgd", 0): [5.0, 2.0] * 100})
    as_long = convergence_run(tmp_path / "b", {("sgd", 0): [5.0, 2.0] * 100})
    short = convergence_run(tmp_path / "c", {("sgd", 0): [5.0, 2.0]})
    labels = [overlaid(overlay_losses, long, run)["loss_overlay"].axes[0].get_xlabel() for run in (as_long, short)]
    assert labels == ["iteration (one update each; running mean over 3)", "iteration (one update each; running means)"]


def test_four_algorithms_stand_in_three_columns_and_an_empty_place_is_no_panel(tmp_path):
    losses = {(label, 0): [6, 5] for label in ("sgd", "adam", "lion", "adafactor")}
    runs = convergence_run(tmp_path / "a", losses), convergence_run(tmp_path / "b", losses)
    (figure,) = overlaid(overlay_losses, *runs).values()
    assert [ax.axison for ax in figure.axes] == [True] * 4 + [False] * 2
    assert [ax.get_title() for ax in figure.axes[:4]] == ["sgd", "adam", "lion", "adafactor"]


# ---- runs of run_hessian.py ----------------------------------------------------------------------------------


def test_tensors_and_lorenz_curves_of_two_runs_share_their_panels(tmp_path):
    one = hessian_run(tmp_path / "pre", (1, 1), (1, 1), (3, 2), (3, 4))
    other = hessian_run(tmp_path / "post", (2, 3), (1, -1), (5, 0))
    (figure,) = overlaid(overlay_blocks, one, other).values()
    scatter, gradients, curvatures = figure.axes
    marked = [line for line in scatter.lines if line.get_marker() != "_"]
    assert [(*points(line)[0], line.get_color(), line.get_marker()) for line in marked] == [
        (1, 1, "#0072B2", "o"), (1, 1, "#0072B2", "o"), (3, 2, "#0072B2", "o"), (3, 4, "#0072B2", "o"),
        (2, 3, "#D55E00", "s"), (1, 1, "#D55E00", "s")]  # fmt: skip
    assert all(line.get_alpha() < 1 for line in scatter.lines)
    curves = [{line.get_color(): points(line) for line in ax.lines} for ax in (gradients, curvatures)]
    # 1 1 3 3: the lower half holds a quarter. 1 2 5: of 8. Eigenvalues 1 1 2 4: of 8. 0 0 3.
    assert curves[0]["#0072B2"] == [(0, 0), (0.25, 0.125), (0.5, 0.25), (0.75, 0.625), (1, 1)]
    assert curves[0]["#D55E00"] == [pytest.approx(p) for p in ((0, 0), (1 / 3, 0.125), (2 / 3, 0.375), (1, 1))]
    assert curves[1]["#0072B2"] == [(0, 0), (0.25, 0.125), (0.5, 0.25), (0.75, 0.5), (1, 1)]
    assert curves[1]["#D55E00"] == [pytest.approx(p) for p in ((0, 0), (1 / 3, 0), (2 / 3, 0), (1, 1))]
    texts = labels_of(figure)
    # ranks 1.5 1.5 3.5 3.5 and 1.5 1.5 3 4: Pearson's of them is 4 / sqrt(4 * 4.5)
    assert texts[0].startswith("pre: Gini of gradients 0.25, of eigenvalues 0.31; 4 tensors, rank correlation 0.94")
    # 1 2 5: 1 - (1/8 + 4/8 + 11/8) / 3; 0 0 3: 2/3. Eigenvalues -1 0 3 rank 1 2 3 where gradients rank 1 3 2.
    assert texts[1].startswith("post: Gini of gradients 0.33, of eigenvalues 0.67; 3 tensors, rank correlation 0.50")
    assert texts[2:] == ["bar: negative, at its size"]
    assert [handle.get_color() for handle in figure.legends[0].legend_handles[:2]] == ["#0072B2", "#D55E00"]
    assert scatter.get_title() == "every point is a tensor\n1 of zero curvature or gradient not shown"
    assert (scatter.get_xlabel(), scatter.get_ylabel()) == (
        "gradient norm of the tensor", "largest eigenvalue of its block")  # fmt: skip
    assert [ax.get_title() for ax in (gradients, curvatures)] == [
        "gradient norms", "largest eigenvalues (negative as 0)"]  # fmt: skip
    assert gradients.get_ylabel() == "share of the total that they hold"


# ---- sharpness beside speed ----------------------------------------------------------------------------------


def test_the_last_loss_stands_against_the_mean_sharpness_ratio_on_one_loss_axis(tmp_path):
    seen = landscape_run(
        tmp_path / "a", {"sgd": [1, 1], "adam": [0.5, 0.3], "lion": [0.25, 0.15]}, {"train_optimizer": "adam"}
    )
    write_table(seen, "ratios", [dict(epoch=epoch, algorithm=label, mean_ratio=mean, std=0.0, count=count)
                for label, means in {"sgd": (1, 1), "adam": (0.5, 0.2), "lion": (0.25, 0.1)}.items()
                for epoch, mean, count in zip((1, 2), means, (1, 2), strict=True)])  # fmt: skip
    trained = convergence_run(
        tmp_path / "b", {("sgd", 0): [6, 6, 5, 5], ("adam", 0): [6, 4, 3, 2], ("lion", 0): [6, 5, 4, 3]}
    )
    (figure,) = overlaid(speed_figures, trained, seen).values()
    left, right = figure.axes
    assert [points(line) for line in left.lines] == [[(1, 6), (2, 5)], [(1, 5), (2, 2.5)], [(1, 5.5), (2, 3.5)]]
    # mean over the points, 1 of epoch 1 and 2 of epoch 2: (0.5 + 2 * 0.2) / 3
    assert [points(line)[0] for line in right.lines] == [
        (1, 5), (pytest.approx(0.3), 2.5), (pytest.approx(0.15), 3.5)]  # fmt: skip
    assert [look_of(line) for line in right.lines] == [look_of(line) for line in left.lines] == [
        ("#D55E00", "o", "filled"), ("#0072B2", "s", "filled"), ("#56B4E9", "P", "filled")]  # fmt: skip
    spans = [[(low.tolist(), high.tolist()) for low, high in bar.get_segments()] for bar in right.collections]
    assert spans == [[([1, 5], [1, 5])], [([0.2, 2.5], [0.5, 2.5])], [([0.1, 3.5], [0.25, 3.5])]]
    assert left.get_ylim() == right.get_ylim() and right.get_xscale() == "log"
    assert labels_of(figure) == ["sgd", "adam", "lion"]
    # sharpness ranks 3 2 1, losses 3 1 2
    title = right.get_title().split("\n")
    assert title[0] == "How sharply the loss bends along its steps"
    interval = re.fullmatch(r"rank correlation 0.50 \(95 %: (.+) to (.+)\) over 3 rows", title[1])
    assert float(interval[1]) <= 0.5 <= float(interval[2])
    assert left.get_title() == "How fast each optimizer trains"
    assert right.get_xlabel().split("\n") == [
        "directional sharpness / |that of sgd|", "mean along a run of adam, bar: lowest to highest epoch"]  # fmt: skip
    assert (left.get_xlabel(), left.get_ylabel()) == ("epoch (mean over its examples)", "training loss")
    assert right.get_ylabel() == "training loss of the last epoch"
    assert figure.get_suptitle() == ("toy: does an optimizer train faster if the loss bends less along its steps?")
    assert all(place == int(place) for place in left.get_xticks())


def test_the_texts_of_the_figure_of_speed_stay_on_the_page(tmp_path):
    trained = believable_convergence(tmp_path / "a", epochs=2, seeds=(0, 1))
    seen = believable_landscape(tmp_path / "b", epochs=(2,))
    for run in (trained, seen):
        config = run / "config.json"
        config.write_text(config.read_text().replace("machine_translation", "glue/rte"))
    (figure,) = overlaid(speed_figures, trained, seen).values()
    assert_legend_is_clear(figure, entries=12)
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert min(box.x0 for box in boxes) >= 0 and max(box.x1 for box in boxes) <= figure.bbox.width


def test_an_optimizer_that_diverged_has_no_point_and_without_ratios_sharpness_is_raw(tmp_path):
    seen = landscape_run(tmp_path / "a", {"adam": [2.0, 4.0], "lion": [1.0, -2.0]}, references=False)
    losses = {("adam", 0): [6, 5], ("lion", 0): [6, 5], ("lion", 1): [6]}
    trained = convergence_run(tmp_path / "b", losses, diverged={"lion": 1})
    (figure,) = overlaid(speed_figures, seen, trained).values()
    right = figure.axes[1]
    assert [points(line)[0] for line in right.lines] == [(3.0, 5.5), (-0.5, 5.5)] and right.get_xscale() == "symlog"
    assert right.get_xlabel().split("\n") == [
        "directional sharpness", "mean over the points, bar: lowest to highest epoch"]  # fmt: skip
    assert right.get_title().endswith("\n2 rows")
    assert labels_of(figure) == ["adam", "lion (1/2 diverged)", "where a diverged seed ended"]
    lost = convergence_run(tmp_path / "c", {("adam", 0): [6, 5], ("lion", 0): [6]}, diverged={"lion": 1})
    (figure,) = overlaid(speed_figures, seen, lost).values()
    assert len(figure.axes[1].lines) == 1 and figure.axes[1].get_title().endswith("\n1 row")


# ---- the row of the optimizer that trains --------------------------------------------------------------------


def test_the_training_steps_of_two_runs_have_a_panel_and_numbers_on_other_batches_stay_out(tmp_path):
    sharpness = {"sgd": [2.0, 4.0], "training": [1.0, 3.0]}
    runs = [landscape_run(tmp_path / by, sharpness, {"train_optimizer": by}) for by in ("adam", "sgd")]
    for run in runs:
        rows = [dict(algorithm="training", epoch=e, sharpness=100.0, measured_on="training") for e in (1, 2)]
        both = [dict(algorithm=n, epoch=e, sharpness=s) for n, of in sharpness.items() for e, s in enumerate(of, 1)]
        write_table(run, "sharpness", [*both, *rows])
    ax_sgd, ax_training, *_ = overlaid(overlay_sharpness, *runs)["sharpness_overlay"].axes
    assert (ax_sgd.get_title(), ax_training.get_title()) == ("sgd", "training")
    means = [list(line.get_ydata()) for line in ax_training.lines if len(line.get_xdata()) == 2][:2]
    assert means == [[1.0, 3.0], [1.0, 3.0]]


def test_the_training_step_is_no_row_that_a_convergence_run_could_have(tmp_path, caplog):
    seen = landscape_run(tmp_path / "a", {"sgd": [1, 1], "training": [0.5, 0.3]}, {"train_optimizer": "adam"})
    trained = convergence_run(tmp_path / "b", {("sgd", 0): [6, 6, 5, 5]})
    with caplog.at_level("INFO"):
        (figure,) = overlaid(speed_figures, trained, seen).values()
    assert len(figure.axes[1].collections) == 1 and "training" not in caplog.text
