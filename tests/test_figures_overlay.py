"""Several runs in one figure: which are refused and how they are named, and what is drawn of the others."""

import logging
import re
from pathlib import Path

import matplotlib
import pytest

from figures import overlay
from figures.__main__ import main
from figures.comparing import SETTINGS, named_runs, script_of_all, title_of
from figures.heterogeneity import overlay_blocks
from figures.overlay import overlay_losses, overlay_sharpness
from figures.run_tables import read_run
from figures.speed import speed_figures
from figures.style import RC
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

FIRST, SECOND = ("#0072B2", "o", "filled"), ("#D55E00", "s", "hollow")


def landscape(folder, sharpness, settings=None, references=True):
    """A run with {label: sharpness per epoch 1, 2, ...}; the ratios are to the first label."""
    rows = [dict(algorithm=label, epoch=i, sharpness=value) for label, of_one in sharpness.items()
            for i, value in enumerate(of_one, start=1)]  # fmt: skip
    first = next(iter(sharpness.values()))
    ratios = [
        dict(epoch=i, algorithm=label, mean_ratio=value / first[i - 1], std=0.0, count=3)
        for label, of_one in sharpness.items()
        for i, value in enumerate(of_one, start=1)
        if references
    ]
    return write_run(folder, list(sharpness), settings, sharpness=rows, ratios=ratios)


def convergence(folder, losses, settings=None, diverged=()):
    """A run of 2 updates per epoch with {(label, seed): losses}; diverged: {label: seeds}."""
    rows = [dict(algorithm=label, seed=seed, epoch=1 + i // 2, iteration=1 + i, examples=4, loss=loss)
            for (label, seed), of_one in losses.items() for i, loss in enumerate(of_one)]  # fmt: skip
    labels = list(dict.fromkeys(label for label, _ in losses))
    summary = [dict(algorithm=label, diverged=dict(diverged).get(label, 0)) for label in labels]
    return write_run(folder, labels, settings, losses=rows, summary=summary)


def hessian(folder, *measured, settings=None):
    """A run with these (gradient norm, eigenvalue) of its tensors."""
    tensor = dict(batch="mean", kind="mlp", layer="h.0", numel=4, residual=0.0, converged=1)
    numbers = [dict(block=f"t{i}", gradient_norm=norm, eigenvalue=value) for i, (norm, value) in enumerate(measured)]
    return write_run(folder, [], settings, blocks=[tensor | row for row in numbers])


def overlaid(figures, *folders, names=None):
    """File name -> figure."""
    with matplotlib.rc_context(RC):
        return dict(figures(named_runs([read_run(folder) for folder in folders], names)))


# ---- what can be compared ------------------------------------------------------------------------------------


def refused(capsys, *arguments):
    assert main(["--overlay", *map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("python -m figures: ")


def test_the_same_run_twice_is_refused_by_name_however_it_is_written(tmp_path, capsys):
    run = convergence(tmp_path / "run", {("sgd", 0): [5, 4]})
    message = "twice; it compares different runs"
    assert refused(capsys, run, run) == f"--overlay got {run} {message}"
    assert refused(capsys, run, run / ".." / "run") == f"--overlay got {run / '..' / 'run'} {message}"


def test_names_must_fit_the_folders(tmp_path, capsys):
    one, two = (convergence(tmp_path / name, {("sgd", 0): [5, 4]}) for name in ("one", "two"))
    assert refused(capsys, one, two, "--names", "a") == "--names takes one name per folder: got 1 for 2 folders"
    assert refused(capsys, one, two, "--names", "a", "a") == "--names got 'a' twice; each run needs a name of its own"


def test_runs_are_named_by_their_folders_or_by_their_paths_where_those_are_alike(tmp_path):
    runs = [read_run(write_run(tmp_path / place, [])) for place in ("a/run", "b/run", "c/other")]
    assert list(named_runs(runs[1:], None)) == ["run", "other"]
    assert list(named_runs(runs, None)) == [str(run.folder) for run in runs]
    assert list(named_runs(runs, ["x", "y", "z"])) == ["x", "y", "z"]


def test_runs_of_scripts_that_measure_different_things_are_named(tmp_path, capsys):
    trained, measured = convergence(tmp_path / "a", {("sgd", 0): [5]}), hessian(tmp_path / "b", (1, 1))
    message = refused(capsys, trained, measured)
    assert message.startswith(
        f"these runs cannot be compared: {trained} is of run_convergence.py, {measured} is of run_hessian.py; give runs"
    )
    seen = landscape(tmp_path / "c", {"sgd": [1.0]})
    assert "these runs cannot be compared" in refused(
        capsys, trained, seen, convergence(tmp_path / "d", {("sgd", 0): [5]})
    )
    assert refused(capsys, write_run(tmp_path / "e", []), seen) == (
        f"{tmp_path / 'e'} has nothing to compare: none of losses.csv, sharpness.csv, blocks.csv"
    )


def test_losses_of_two_tasks_are_not_compared_but_their_hessians_are(tmp_path, capsys):
    one = convergence(tmp_path / "a", {("sgd", 0): [5]})
    other = convergence(tmp_path / "b", {("sgd", 0): [5]}, {"task": "glue/rte"})
    assert refused(capsys, one, other) == (
        f"these runs cannot be compared: {one} is of the task toy, {other} is of the task glue/rte; "
        "the losses of two tasks have no common scale"
    )
    both = [hessian(tmp_path / task, (1, 1), settings={"task": task}) for task in ("c", "d")]
    assert script_of_all(named_runs([read_run(run) for run in both], None)) == "run_hessian.py"


def test_runs_without_a_common_algorithm_and_runs_without_a_number_are_named(tmp_path, capsys):
    one, other = landscape(tmp_path / "a", {"sgd": [1.0]}), landscape(tmp_path / "b", {"adam": [1.0]})
    assert refused(capsys, one, other) == f"these runs cannot be compared: {one}, {other} have no algorithm in common"
    empty = write_run(tmp_path / "c", ["sgd"], sharpness=[])
    assert refused(capsys, one, empty) == f"{empty} has nothing to compare: its tables have no numbers yet"
    unborn = write_run(tmp_path / "d", ["sgd"], losses=[])
    assert refused(capsys, unborn, convergence(tmp_path / "e", {("sgd", 0): [5]})) == (
        f"{unborn} has nothing to compare: its tables have no numbers yet"
    )
    lost = [convergence(tmp_path / name, {("sgd", 0): [None]}, diverged={"sgd": 1}) for name in ("f", "g")]
    assert refused(capsys, *lost) == "these runs have no finite loss to draw"
    assert refused(capsys, one, hessian(tmp_path / "h")).startswith("these runs cannot be compared")
    flat = hessian(tmp_path / "i", (0.0, 0.0))
    assert "with a curvature" in refused(capsys, flat, hessian(tmp_path / "j", (1, 1)))
    assert not (tmp_path / "sharpness_overlay.png").exists()


def test_rows_that_only_one_run_has_are_left_out_and_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    one = landscape(tmp_path / "a", {"sgd": [1.0], "adam": [0.5], "lion": [0.1]})
    other = landscape(tmp_path / "b", {"adam": [1.0], "sgd": [0.5]})
    drawn = overlaid(overlay_sharpness, one, other)
    assert [ax.get_title() for ax in drawn["sharpness_overlay"].axes if ax.axison] == ["sgd", "adam"]
    assert f"{one} alone has, and the figure leaves out: lion" in caplog.messages


def test_the_title_names_the_settings_in_which_the_runs_differ(tmp_path):
    settings = {"train_optimizer": "adam", "lr": 1e-3, "seed": 0, "output_dir": "a"}
    one = read_run(write_run(tmp_path / "a", [], settings))
    same = read_run(write_run(tmp_path / "b", [], settings | {"output_dir": "b"}))
    other = read_run(write_run(tmp_path / "c", [], settings | {"train_optimizer": "sgd", "lr": 1.0, "seed": 0}))
    assert title_of({"a": one, "b": same}) == "toy"
    assert title_of({"a": one, "b": same, "c": other}) == "toy: runs that differ in train_optimizer, lr"
    for setting in ("dataset", "model", "batch_size", "seeds", "reference"):
        assert setting in SETTINGS


# ---- landscape runs ------------------------------------------------------------------------------------------


def test_sharpness_of_two_runs_stands_in_one_panel_per_algorithm(tmp_path):
    one = landscape(tmp_path / "a", {"sgd": [2.0, 4.0], "adam": [1.0, 0.5]}, {"train_optimizer": "adam"})
    other = landscape(tmp_path / "b", {"sgd": [8.0], "adam": [2.0]}, {"train_optimizer": "sgd"})
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
    one = landscape(tmp_path / "a", {"adam": [2.0]}, references=False)
    other = landscape(tmp_path / "b", {"adam": [3.0]})
    assert list(overlaid(overlay_sharpness, one, other)) == ["sharpness_overlay"]


def test_an_overlay_says_where_ratios_are_to_a_negative_reference(tmp_path):
    one = landscape(tmp_path / "a", {"sgd": [2.0], "adam": [1.0]})
    ratios = [
        dict(algorithm="sgd", epoch=1, mean_ratio=-0.2, count=5),
        dict(algorithm="adam", epoch=1, mean_ratio=0.5, count=5),
    ]
    other = landscape(tmp_path / "b", {"sgd": [-2.0], "adam": [1.0]}, references=False)
    write_table(other, "ratios", ratios)  # a mean of -0.2 over 5 points: 2 of 1 and 3 of -1
    raw, relative = overlaid(overlay_sharpness, one, other).values()
    assert labels_of(relative) == ["a", "b (sgd is negative at 3 points)"] and labels_of(raw) == ["a", "b"]
    write_table(other, "ratios", [dict(algorithm="sgd", epoch=1, mean_ratio=0.6, count=5), ratios[1]])
    trained = convergence(tmp_path / "c", {("sgd", 0): [6, 5], ("adam", 0): [6, 4]})
    xlabel = overlaid(speed_figures, trained, other)["speed_and_sharpness"].axes[1].get_xlabel()
    assert xlabel.startswith("directional sharpness / |that of sgd| (sgd is negative at 1 point)\n")


def test_a_bar_that_is_cut_in_an_overlay_is_explained(tmp_path):
    runs = []
    for name in ("a", "b"):
        rows = [dict(algorithm="adam", epoch=1, batch=i, sharpness=value) for i, value in enumerate((0.1, 3.0))]
        runs.append(write_run(tmp_path / name, ["adam"], sharpness=rows))
    figure = overlaid(overlay_sharpness, *runs)["sharpness_overlay"]
    assert labels_of(figure) == ["a", "b", "bar cut short: std near or above the mean"]
    assert figure.axes[0].get_xticklabels()[0].get_text() == "1\nn = 2"


# ---- convergence runs ----------------------------------------------------------------------------------------


def test_losses_of_two_runs_stand_in_one_panel_per_algorithm_on_one_scale(tmp_path):
    one = convergence(tmp_path / "a", {("sgd", 0): [6, 5, 5], ("sgd", 1): [6, 4, 3], ("adam", 0): [6, 2, 3]})
    other = convergence(tmp_path / "b", {("sgd", 0): [6, 5.5], ("adam", 0): [6, 4.5]}, {"batch_size": 2})
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
    one = convergence(tmp_path / "a", {("sgd", 0): [6, 5], ("sgd", 1): [6]}, diverged={"sgd": 1})
    (figure,) = overlaid(overlay_losses, one, convergence(tmp_path / "b", {("sgd", 0): [6, 4]})).values()
    assert labels_of(figure) == ["a", "b", "where a diverged seed ended"]
    assert [points(line) for line in figure.axes[0].lines if line.get_marker() == "x"] == [[(1, 6)]]


def test_only_what_all_runs_smooth_alike_is_called_a_running_mean(tmp_path):
    long = convergence(tmp_path / "a", {("sgd", 0): [5.0, 2.0] * 100})
    as_long = convergence(tmp_path / "b", {("sgd", 0): [5.0, 2.0] * 100})
    short = convergence(tmp_path / "c", {("sgd", 0): [5.0, 2.0]})
    labels = [overlaid(overlay_losses, long, run)["loss_overlay"].axes[0].get_xlabel() for run in (as_long, short)]
    assert labels == ["iteration (one update each; running mean over 3)", "iteration (one update each; running means)"]


def test_four_algorithms_stand_in_three_columns_and_an_empty_place_is_no_panel(tmp_path):
    losses = {(label, 0): [6, 5] for label in ("sgd", "adam", "lion", "adafactor")}
    runs = convergence(tmp_path / "a", losses), convergence(tmp_path / "b", losses)
    (figure,) = overlaid(overlay_losses, *runs).values()
    assert [ax.axison for ax in figure.axes] == [True] * 4 + [False] * 2
    assert [ax.get_title() for ax in figure.axes[:4]] == ["sgd", "adam", "lion", "adafactor"]


# ---- runs of run_hessian.py ----------------------------------------------------------------------------------


def test_tensors_and_lorenz_curves_of_two_runs_share_their_panels(tmp_path):
    one = hessian(tmp_path / "pre", (1, 1), (1, 1), (3, 2), (3, 4))
    other = hessian(tmp_path / "post", (2, 3), (1, -1), (5, 0))
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
    seen = landscape(
        tmp_path / "a", {"sgd": [1, 1], "adam": [0.5, 0.3], "lion": [0.25, 0.15]}, {"train_optimizer": "adam"}
    )
    write_table(seen, "ratios", [dict(epoch=epoch, algorithm=label, mean_ratio=mean, std=0.0, count=count)
                for label, means in {"sgd": (1, 1), "adam": (0.5, 0.2), "lion": (0.25, 0.1)}.items()
                for epoch, mean, count in zip((1, 2), means, (1, 2), strict=True)])  # fmt: skip
    trained = convergence(
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
    seen = landscape(tmp_path / "a", {"adam": [2.0, 4.0], "lion": [1.0, -2.0]}, references=False)
    losses = {("adam", 0): [6, 5], ("lion", 0): [6, 5], ("lion", 1): [6]}
    trained = convergence(tmp_path / "b", losses, diverged={"lion": 1})
    (figure,) = overlaid(speed_figures, seen, trained).values()
    right = figure.axes[1]
    assert [points(line)[0] for line in right.lines] == [(3.0, 5.5), (-0.5, 5.5)] and right.get_xscale() == "symlog"
    assert right.get_xlabel().split("\n") == [
        "directional sharpness", "mean over the points, bar: lowest to highest epoch"]  # fmt: skip
    assert right.get_title().endswith("\n2 rows")
    assert labels_of(figure) == ["adam", "lion (1/2 diverged)", "where a diverged seed ended"]
    lost = convergence(tmp_path / "c", {("adam", 0): [6, 5], ("lion", 0): [6]}, diverged={"lion": 1})
    (figure,) = overlaid(speed_figures, seen, lost).values()
    assert len(figure.axes[1].lines) == 1 and figure.axes[1].get_title().endswith("\n1 row")


# ---- the command ---------------------------------------------------------------------------------------------


DATA = {hessian: (1, 2), landscape: {"sgd": [1.0]}, convergence: {("sgd", 0): [6, 5]}}


@pytest.mark.parametrize("runs, stems", [
    ((hessian, hessian), ["heterogeneity_overlay"]),
    ((landscape, landscape), ["sharpness_overlay", "sharpness_ratios_overlay"]),
    ((convergence, convergence), ["loss_overlay"]),
    ((convergence, landscape), ["speed_and_sharpness"]),
    ((landscape, convergence), ["speed_and_sharpness"]),
])  # fmt: skip
def test_the_scripts_of_the_runs_decide_which_figures_are_drawn(tmp_path, monkeypatch, capsys, runs, stems):
    monkeypatch.setattr(overlay, "save_figure", lambda figure, stem: [stem])
    folders = [str(run(tmp_path / f"run{i}", DATA[run])) for i, run in enumerate(runs)]
    assert main(["--overlay", *folders, "--output_dir", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "both" / stem) for stem in stems]


def test_an_overlay_goes_into_a_new_folder_or_where_the_user_stands(tmp_path, monkeypatch, capsys):
    folders = [str(hessian(tmp_path / name, (1, 2))) for name in ("a", "b")]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for flags, place in (([], Path()), (["--output_dir", "new/place"], Path("new/place"))):
        assert main(["--overlay", *folders, "--names", "x", "y", *flags]) == 0
        drawn = [place / f"heterogeneity_overlay.{kind}" for kind in ("png", "pdf")]
        assert capsys.readouterr().out.splitlines() == [str(path) for path in drawn]
        assert sorted(path for path in (tmp_path / "here" / place).iterdir() if path.is_file()) == sorted(
            tmp_path / "here" / path for path in drawn
        )


def test_a_place_that_is_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    folders = [landscape(tmp_path / name, {"sgd": [1.0]}) for name in ("a", "b")]
    assert refused(capsys, *folders, "--output_dir", tmp_path / "file").startswith("cannot create folder")
    assert (tmp_path / "file").read_text() == "mine"
