"""The artists of the study's figures are those of its tables."""

import pytest

from study import figures


def drawn_points(ax):
    """(x, y) of every marker, from left to right."""
    return sorted((float(x), float(y)) for line in ax.lines if line.get_marker() != "None"
                  for x, y in zip(*line.get_data(), strict=True))  # fmt: skip


def drawn_intervals(ax):
    """The two ends of every interval, along the axis on which it lies."""
    ends = [path for found in ax.collections for path in (p.vertices for p in found.get_paths())]
    return sorted((float(a[axis]), float(b[axis])) for a, b in ends for axis in (0, 1) if a[axis] != b[axis])


def test_the_figure_of_the_claims_has_the_last_epoch_of_each_trajectory_and_the_losses():
    interval = dict(low=0.1, high=0.9, seeds=3)
    cells = [("adam", 1, "adam", 0.7), ("adam", 5, "adam", 0.25), ("sgd", 5, "adam", 0.5), ("adam_tuned", 5, "sgd", -1)]
    ratios = [dict(data="snli", trajectory=t, epoch=e, algorithm=a, ratio=r, **interval) for t, e, a, r in cells]
    losses = [dict(data="snli", algorithm="sgd", loss=3.0, low=2.5, high=3.5),
              dict(data="snli", algorithm="adam", loss=None, low=None, high=None)]  # fmt: skip
    figure = figures.results({"ratios": ratios, "losses": losses})
    own, tuned_run, of_sgd, empty, trained, _ = figure.axes
    assert [ax.get_title() for ax in (own, tuned_run)] == ["SNLI", "SNLI, tuned"]
    assert drawn_points(own) == [(0.25, -2)] and drawn_intervals(own) == [(0.1, 0.9)], "Adam is the third row"
    assert (own.get_xscale(), tuned_run.get_xscale()) == ("log", "symlog"), "a negative ratio has no logarithm"
    assert drawn_points(of_sgd) == [(0.5, -2)] and not empty.axison
    assert drawn_points(trained) == [(3.0, 0)], "a row that diverged has no loss"
    assert drawn_points(tuned_run) == [(-1.0, 0)]


def test_the_figure_of_the_objections_has_a_gap_per_batch_size_exponent_and_start():
    gaps = [(32, "updates", 2.0), (8, "updates", 1.0), (8, "examples", 3.0)]
    of_batch = [dict(batch_size=b, equal=e, gap=g, low=g - 0.5, high=g + 0.5) for b, e, g in gaps]
    name = "loss of SGD less that of Adam"
    start = [dict(data="imdb", start=s, quantity=name, value=v, low=None, high=None)
             for s, v in (("pretrained", 0.4), ("fresh", 0.1))]  # fmt: skip
    tables = {"batch_sizes": of_batch, "class_imbalance": [], "pretraining": start}
    batches, starts = figures.objections(tables).axes
    assert [label.get_text() for label in batches.get_xticklabels()] == ["8", "32"]
    lines = {text.get_text(): line for text, line in zip(*legend_of(batches), strict=True)}
    assert set(lines) == {"equally many updates", "equally many examples"}
    assert drawn_points(batches) == [(pytest.approx(x, abs=0.1), y) for x, y in [(0, 1), (0, 3), (1, 2)]]
    assert drawn_intervals(batches) == [(0.5, 1.5), (1.5, 2.5), (2.5, 3.5)]
    assert drawn_points(starts) == [(0, 0.4), (1, 0.1)] and not starts.collections


def legend_of(ax):
    return ax.get_legend().get_texts(), ax.get_legend().get_lines()
