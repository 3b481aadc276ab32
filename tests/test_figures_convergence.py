"""The figures of a convergence run: what is a mean, what is a band, and what became of a seed that diverged."""

import math
import random

import matplotlib
import pytest

from figures.convergence import CHOSEN, curves_by_seed, learning_rate_figures, loss_figures, running_mean, score_figures
from figures.drawing import draw_all
from figures.run_tables import read_run
from figures.style import RC
from runs.config import write_config
from runs.folder import create_run_folder
from runs.tables import Table

# label, name, options, learning rate (None: relative step), loss lost per update, seeds that diverge and when
ALGORITHMS = [
    ("sgd", "sgd", {}, 1e-3, 0.002, {}),
    ("sgd, coordinate_clip=0.1", "sgd", {"coordinate_clip": 0.1}, 5e-3, 0.006, {}),
    ("normalized_sgd", "normalized_sgd", {}, 5e-4, 0.004, {}),
    ("normalized_sgd, coordinate_clip=0.1", "normalized_sgd", {"coordinate_clip": 0.1}, 6e-4, 0.007, {}),
    ("sign_sgd", "sign_sgd", {}, 2e-3, 0.008, {0: 21, 1: 25, 2: 34}),
    ("adam", "adam", {}, 2e-3, 0.02, {}),
    ("adam, coordinate_clip=0.5", "adam", {"coordinate_clip": 0.5}, 3e-3, 0.024, {}),
    ("adam, clip_update=0.5", "adam", {"clip_update": 0.5}, 3e-3, 0.018, {}),
    ("adafactor", "adafactor", {}, None, 0.015, {}),
    ("adafactor, coordinate_clip=0.5", "adafactor", {"coordinate_clip": 0.5}, 3e-2, 0.012, {1: 90}),
    ("lion", "lion", {}, 2e-3, 0.016, {}),
    ("lion, clip_update=0.5", "lion", {"clip_update": 0.5}, 2e-3, 0.021, {})]
LOSSES = ["algorithm", "seed", "epoch", "iteration", "examples", "loss", "lr", "seconds"]
SUMMARY = ["algorithm", "lr", "final_loss_mean", "final_loss_std", "best_loss", "steps_to_sgd_loss", "diverged"]
TRIALS = ["algorithm", "lr", "final_loss", "diverged", "chosen"]
SCORES = ["algorithm", "seed", "epoch", "split", "metric", "value"]


def believable_run(folder, epochs=20, seeds=(0, 1, 2), algorithms=ALGORITHMS):
    """A run folder with every table, as a tuned classification run of 10 updates an epoch would leave it."""
    create_run_folder(folder)
    write_config(folder, {"task": "glue/rte"},
                 [{"label": label, "name": name, "options": options} for label, name, options, *_ in algorithms])
    losses, summary, trials, scores = (Table(folder / f"{name}.csv", columns) for name, columns in (
        ("losses", LOSSES), ("summary", SUMMARY), ("tuned_learning_rates", TRIALS), ("scores", SCORES)))
    for label, _, _, lr, speed, ends in algorithms:
        last = []
        for seed in seeds:
            draw, noise = random.Random(f"{label} {seed}"), random.Random(seed)  # batches are hard for all alike
            speed_here, iterations = speed * draw.uniform(0.85, 1.15), ends.get(seed, 10 * epochs)
            for i in range(iterations):
                smooth = 0.3 + 5.2 * (1 + i) ** -0.1 * math.exp(-speed_here * i)
                loss = smooth + noise.gauss(0, 0.06) + (math.exp(i - iterations + 6) if seed in ends else 0)
                losses.append(algorithm=label, seed=seed, epoch=1 + i // 10, iteration=1 + i, examples=4, loss=loss,
                              lr=lr, seconds=0.1 * i)
                if i % 10 == 9:
                    for split, gap in (("evaluation", 0.0), ("test", 0.04)):
                        scores.append(algorithm=label, seed=seed, epoch=1 + i // 10, split=split, metric="accuracy",
                                      value=0.5 + 0.06 * (5.6 - smooth) - gap + draw.gauss(0, 0.01))
            if seed not in ends:
                last.append(loss)
        mean = sum(last) / len(last) if last else None
        summary.append(algorithm=label, lr=lr, final_loss_mean=mean, final_loss_std=0.1, best_loss=mean,
                       steps_to_sgd_loss=None, diverged=sum(seed in ends for seed in seeds))
        for k in range(-3, 4) if lr else ():
            final = None if k > 2 else 0.3 + 3 * math.exp(-60 * speed) * (1.3 + k * k * (0.5 if k < 0 else 1.4))
            trials.append(algorithm=label, lr=lr * 10 ** (k / 2), final_loss=final, diverged=int(final is None),
                          chosen=int(k == 0))
    for table in (losses, summary, trials, scores):
        table.save()
    return folder


def figures_of(figures, folder):
    """File name -> figure of this kind, laid out."""
    with matplotlib.rc_context(RC):
        drawn = dict(figures(read_run(folder)))
        for figure in drawn.values():
            figure.canvas.draw()
    return drawn


def labels_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def points(line):
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def trained(folder, losses, diverged=(), final_loss=None, names=("sgd",), clip=0):
    """A run of 2 updates an epoch. losses: {(label, seed): [loss of iteration 1, ...]}; diverged: {label: seeds}."""
    write_config(folder, {}, [{"label": name, "name": name, "options": {"coordinate_clip": clip}} for name in names])
    table, summary = Table(folder / "losses.csv", LOSSES), Table(folder / "summary.csv", SUMMARY)
    for (label, seed), values in losses.items():
        for i, loss in enumerate(values):
            table.append(algorithm=label, seed=seed, epoch=1 + i // 2, iteration=1 + i, examples=4, loss=loss, lr=1.0,
                         seconds=0.1)
    for name in names:
        summary.append(dict.fromkeys(SUMMARY) | {"algorithm": name, "final_loss_mean": final_loss,
                                                 "diverged": dict(diverged).get(name, 0)})
    table.save()
    summary.save()
    return folder


def crosses(figure):
    return [points(line)[0] for line in figure.axes[0].lines if line.get_marker() == "x"]


# ---- files and legends ---------------------------------------------------------------------------------------

def test_every_table_becomes_figures_in_png_and_pdf(tmp_path):
    paths = draw_all(believable_run(tmp_path, epochs=2, seeds=(0, 1), algorithms=ALGORITHMS[:3]))
    stems = ["loss_by_epoch", "loss_by_iteration", "learning_rates", "scores"]
    assert [path.name for path in paths] == [stem + end for stem in stems for end in (".png", ".pdf")]


def test_the_legend_of_12_long_labels_covers_no_axes_and_stays_on_the_page(tmp_path):
    believable_run(tmp_path, epochs=4)
    for kind in (loss_figures, learning_rate_figures, score_figures):
        for figure in figures_of(kind, tmp_path).values():
            legend = figure.legends[0].get_window_extent()
            assert len(labels_of(figure)) >= 12
            assert not any(legend.overlaps(ax.get_tightbbox()) for ax in figure.axes)
            assert legend.x0 >= 0 and legend.y0 >= 0 and legend.x1 <= figure.bbox.width


# ---- means and bands -----------------------------------------------------------------------------------------

def test_a_curve_is_the_mean_over_seeds_of_the_means_over_an_epochs_batches():
    losses = [("sgd", seed, 1 + i // 2, loss) for seed, values in enumerate([[8, 6, 4, 2], [6, 4, 4, 4]])
              for i, loss in enumerate(values)]
    rows = [dict(zip(("algorithm", "seed", "epoch", "loss"), row, strict=True)) for row in losses]
    assert curves_by_seed(rows, "epoch", "loss") == {"sgd": {0: {1: 7.0, 2: 3.0}, 1: {1: 5.0, 2: 4.0}}}
    sized = [row | {"examples": 3 if i % 2 == 0 else 1} for i, row in enumerate(rows)]
    assert curves_by_seed(sized, "epoch", "loss") == {"sgd": {0: {1: 7.5, 2: 3.5}, 1: {1: 5.5, 2: 4.0}}}


def test_the_band_runs_from_the_lowest_seed_to_the_highest(tmp_path):
    trained(tmp_path, {("sgd", 0): [8, 6, 4, 2], ("sgd", 1): [6, 4, 4, 4]})
    (ax,) = figures_of(loss_figures, tmp_path)["loss_by_epoch"].axes
    assert points(ax.lines[0]) == [(1, 6.0), (2, 3.5)]
    assert {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices} == {(1, 5), (1, 7), (2, 3), (2, 4)}
    assert ax.get_ylabel() == "training loss\nmean over 2 seeds, band: lowest to highest"


def test_one_seed_has_no_band_and_claims_no_mean(tmp_path):
    trained(tmp_path, {("sgd", 0): [8, 6, 4, 2]})
    (ax,) = figures_of(loss_figures, tmp_path)["loss_by_iteration"].axes
    assert points(ax.lines[0]) == [(1, 8), (2, 6), (3, 4), (4, 2)]
    assert not ax.collections and ax.get_ylabel() == "training loss" and "running" not in ax.get_xlabel()


def test_a_long_run_is_smoothed_and_says_so(tmp_path):
    trained(tmp_path, {("sgd", 0): [5.0, 2.0] * 100})
    (ax,) = figures_of(loss_figures, tmp_path)["loss_by_iteration"].axes
    assert ax.get_xlabel() == "iteration (one update each; running mean over 3)"
    assert points(ax.lines[0])[:3] == [(1, 3.5), (2, 4.0), (3, 3.0)]  # (5+2)/2 at the edge, (5+2+5)/3, (2+5+2)/3


def test_a_running_mean_shrinks_at_the_ends_and_keeps_a_straight_line_inside():
    line = {at: 2.0 * at for at in range(1, 8)}
    smooth = running_mean(line, 5)
    assert [smooth[at] for at in (3, 4, 5)] == [6.0, 8.0, 10.0] and smooth[1] == 4.0 and smooth[7] == 12.0
    assert running_mean(line, 1) == line


@pytest.mark.parametrize("losses, scale", [([5.0, 4.0, 3.0, 2.0], "linear"), ([5.0, 2.0, 1.0, 0.5], "log"),
                                           ([5.0, 2.0, 1.0, 0.0], "linear"), ([3.0, 3.0, 3.0, 3.0], "linear")])
def test_the_loss_axis_is_logarithmic_where_losses_differ_much_and_are_positive(tmp_path, losses, scale):
    (ax,) = figures_of(loss_figures, trained(tmp_path, {("sgd", 0): losses}))["loss_by_iteration"].axes
    assert ax.get_yscale() == scale and ax.get_ylim()[0] < min(losses) <= max(losses) < ax.get_ylim()[1]


# ---- divergence ----------------------------------------------------------------------------------------------

def test_a_diverged_seed_is_left_out_of_the_mean_and_ends_in_a_cross_on_the_upper_edge(tmp_path):
    trained(tmp_path, {("sgd", 0): [6, 5, 4, 4], ("sgd", 1): [6, 7, 1e30], ("sgd", 2): [6, 5, 4, 2]}, {"sgd": 1})
    figure = figures_of(loss_figures, tmp_path)["loss_by_iteration"]
    mean, alone, cross = figure.axes[0].lines
    assert points(mean) == [(1, 6), (2, 5), (3, 4), (4, 3)]
    assert points(alone) == [(1, 6), (2, 7), (3, 1e30)] and alone.get_linewidth() < mean.get_linewidth()
    assert crosses(figure) == points(cross) == [(3, figure.axes[0].get_ylim()[1])]
    assert figure.axes[0].get_ylim()[1] < 7 and labels_of(figure) == ["sgd (1/3 diverged)", "a diverged seed's end"]


def test_a_cross_inside_the_axes_is_where_the_seed_ended(tmp_path):
    trained(tmp_path, {("sgd", 0): [6, 5, 4, 3], ("sgd", 1): [6, 5.5]}, {"sgd": 1})
    assert crosses(figures_of(loss_figures, tmp_path)["loss_by_iteration"]) == [(2, 5.5)]


def test_the_same_seed_is_the_diverged_one_in_every_figure(tmp_path):
    # Seed 0 ends in the last epoch, below seed 1: by epochs alone seed 1 would be taken for it.
    trained(tmp_path, {("sgd", 0): [6, 5, 2], ("sgd", 1): [6, 5, 4, 4]}, {"sgd": 1})
    drawn = figures_of(loss_figures, tmp_path)
    assert crosses(drawn["loss_by_iteration"]) == [(3, 2)] and crosses(drawn["loss_by_epoch"]) == [(2, 2)]
    assert all(figure.axes[0].get_ylim()[0] < 2 for figure in drawn.values())


def test_algorithms_that_diverged_altogether_are_drawn_and_named(tmp_path):
    names = ("sgd", "adam", "lion")  # lion: not even the first loss was finite
    trained(tmp_path, {("sgd", 0): [6, 1e8], ("sgd", 1): [6, 7, 1e9], ("adam", 0): [6, 7], ("adam", 1): [6]},
            {name: 2 for name in names}, names=names)
    for figure in figures_of(loss_figures, tmp_path).values():
        assert len(crosses(figure)) == 4
        assert labels_of(figure)[:3] == [f"{name} (diverged)" for name in names]


def test_a_run_without_a_summary_yet_is_drawn_as_far_as_all_its_seeds_came(tmp_path):
    trained(tmp_path, {("sgd", 0): [6, 5, 4, 3], ("sgd", 1): [4, 3]})
    (tmp_path / "summary.csv").unlink()
    figure = figures_of(loss_figures, tmp_path)["loss_by_iteration"]
    assert points(figure.axes[0].lines[0]) == [(1, 5), (2, 4)]
    assert labels_of(figure) == ["sgd"]


# ---- where plain SGD ended -----------------------------------------------------------------------------------

def test_a_thin_line_marks_the_loss_at_which_plain_sgd_ended(tmp_path):
    trained(tmp_path, {("sgd", 0): [6, 5], ("adam", 0): [6, 2]}, final_loss=4.5, names=("adam", "sgd"))
    for figure in figures_of(loss_figures, tmp_path).values():
        line = figure.axes[0].lines[-1]
        assert set(line.get_ydata()) == {4.5} and line.get_linewidth() < 1
        assert labels_of(figure) == ["adam", "sgd", "where sgd ended"]


@pytest.mark.parametrize("clip, final_loss", [(0.1, 4.5), (0, None)])
def test_clipped_sgd_and_sgd_that_diverged_set_no_such_line(tmp_path, clip, final_loss):
    trained(tmp_path, {("sgd", 0): [6, 5]}, final_loss=final_loss, clip=clip)
    assert labels_of(figures_of(loss_figures, tmp_path)["loss_by_epoch"]) == ["sgd"]


# ---- learning rates ------------------------------------------------------------------------------------------

def tuned(folder, trials):
    """The figures of [(algorithm, lr, final loss, diverged, chosen)]."""
    write_config(folder, {}, [{"label": name, "name": name, "options": {}} for name in ("adam", "adafactor")])
    table = Table(folder / "tuned_learning_rates.csv", TRIALS)
    for trial in trials:
        table.append(dict(zip(TRIALS, trial, strict=True)))
    table.save()
    return figures_of(learning_rate_figures, folder)


def test_every_trial_is_a_point_in_order_of_its_rate_and_the_chosen_one_has_a_ring(tmp_path):
    figure = tuned(tmp_path, [("adam", 1e-2, 3.0, 0, 0), ("adam", 1e-4, 4.0, 0, 0), ("adam", 1e-3, 2.0, 0, 1),
                              ("adam", 1e-1, None, 1, 0), ("adafactor", None, 2.5, 0, 1)])["learning_rates"]
    (ax,) = figure.axes
    top = ax.get_ylim()[1]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert points(ax.lines[0]) == [(1e-4, 4.0), (1e-3, 2.0), (1e-2, 3.0), (1e-1, top)]
    assert [points(line) for line in ax.lines if line.get_markersize() == CHOSEN["markersize"]] == [[(1e-3, 2.0)]]
    assert crosses(figure) == [(1e-1, top)]
    assert labels_of(figure) == ["adam", "chosen", "diverged"]  # adafactor's relative step was not tuned


@pytest.mark.parametrize("trials", [[], [("adafactor", None, 2.5, 0, 1)], [("adam", 1.0, None, 1, 0)]])
def test_without_a_finished_trial_of_some_rate_there_is_no_such_figure(tmp_path, trials):
    assert tuned(tmp_path, trials) == {}


# ---- scores --------------------------------------------------------------------------------------------------

def test_scores_have_a_panel_per_split_and_a_row_per_metric(tmp_path):
    trained(tmp_path, {("sgd", 0): [6, 5, 4, 3], ("sgd", 1): [6, 5, 9]}, {"sgd": 1})
    table = Table(tmp_path / "scores.csv", SCORES)
    for metric, rise in (("accuracy", 0.1), ("f1", 0.2)):
        for split, base in (("evaluation", 0.5), ("test", 0.4)):
            for seed, epoch in ((0, 1), (0, 2), (1, 1)):
                table.append(algorithm="sgd", seed=seed, epoch=epoch, split=split, metric=metric,
                             value=base + rise * epoch)
    table.save()
    figure = figures_of(score_figures, tmp_path)["scores"]
    assert [ax.get_title() for ax in figure.axes] == ["evaluation", "test", "", ""]
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy", "", "f1", ""]
    assert points(figure.axes[3].lines[0]) == [(1, 0.4 + 0.2), (2, 0.4 + 0.4)]  # the seed that finished
    assert crosses(figure) == [(1, 0.5 + 0.1)]
    assert labels_of(figure) == ["sgd (1/2 diverged)", "a diverged seed's end"]
