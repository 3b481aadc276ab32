"""The figures of block curvatures: what is drawn where, and what is left out and said."""

import random

import matplotlib
import pytest

from figures.__main__ import main
from figures.drawing import draw_all
from figures.heterogeneity import KIND_COLORS, block_figures, overlay_figure, points_of
from figures.run_tables import read_run
from figures.style import RC
from runs.config import write_config
from runs.folder import create_run_folder
from runs.tables import Table

COLUMNS = "batch block kind layer numel gradient_norm eigenvalue residual converged products".split()  # noqa: SIM905
# gradient norm, eigenvalue, residual, converged
PLAIN, NEGATIVE, UNCONVERGED = (1.0, 2.0, 1e-4, 1), (0.5, -0.3, 1e-4, 1), (0.2, 0.4, 0.1, 0)
VANISHING, FLAT, NOT_FINITE = (0.3, 1e-9, 1e-7, 0), (0.0, 0.0, 0.0, 1), (0.1, None, None, 0)


def run_with(folder, *measured, batch="mean", layers=None):
    create_run_folder(folder)
    write_config(folder, {"task": "glue/rte"}, [])
    blocks = Table(folder / "blocks.csv", COLUMNS)
    for i, (gradient_norm, eigenvalue, residual, converged) in enumerate(measured):
        kind = ("attention", "mlp", "norm")[i % 3]
        cells = dict(gradient_norm=gradient_norm, eigenvalue=eigenvalue, residual=residual, converged=converged)
        layer = layers[i] if layers else f"h.{i // 3}"
        blocks.append(cells, batch=batch, block=f"tensor{i}", kind=kind, layer=layer, numel=4, products=5)
    blocks.save()
    return folder


def figures(folder):
    with matplotlib.rc_context(RC):
        return dict(block_figures(read_run(folder)))


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def marks(ax):
    """(x, y, marker, is hollow) of everything drawn as a single point."""
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker(), line.get_markerfacecolor() == "white")
            for line in ax.lines if line.get_marker() in ("o", "v")]


def test_a_point_stands_at_gradient_norm_and_eigenvalue_marked_by_sign_and_convergence(tmp_path):
    figure = figures(run_with(tmp_path / "run", PLAIN, NEGATIVE, UNCONVERGED))["gradient_against_curvature"]
    assert marks(figure.axes[0]) == [(1.0, 2.0, "o", False), (0.5, 0.3, "v", False), (0.2, 0.4, "o", True)]
    assert figure.axes[0].get_xscale() == figure.axes[0].get_yscale() == "log"
    assert {"not converged", "negative, at its size"} <= set(legend(figure))


def test_what_a_log_axis_cannot_hold_is_counted_under_the_title(tmp_path):
    drawn = figures(run_with(tmp_path / "run", PLAIN, VANISHING, FLAT, NOT_FINITE))
    figure = drawn["gradient_against_curvature"]
    assert len(marks(figure.axes[0])) == 1
    assert legend(figure) == ["attention"]
    titles = figure.axes[0].get_title(), drawn["along_depth"].get_suptitle()
    assert [title.split("\n")[1] for title in titles] == ["2 of zero curvature or gradient not shown"] * 2


def test_kinds_have_their_colours_and_only_those_present_are_in_the_legend(tmp_path):
    figure = figures(run_with(tmp_path / "run", PLAIN, PLAIN))["gradient_against_curvature"]
    assert [line.get_color() for line in figure.axes[0].lines] == [KIND_COLORS["attention"], KIND_COLORS["mlp"]]
    assert legend(figure) == ["attention", "mlp"]


def test_depth_keeps_the_models_order_and_shows_a_gradient_without_curvature(tmp_path):
    figure = figures(run_with(tmp_path / "run", PLAIN, VANISHING, PLAIN, NEGATIVE))["along_depth"]
    top, bottom = figure.axes
    assert [(x, y) for x, y, *_ in marks(top)] == [(0, 1.0), (1, 0.3), (2, 1.0), (3, 0.5)]
    assert [(x, y, mark) for x, y, mark, _ in marks(bottom)] == [(0, 2.0, "o"), (2, 2.0, "o"), (3, 0.3, "v")]
    assert [label.get_text() for label in bottom.get_xticklabels()] == ["h.0", "h.1"]


def test_a_gradient_that_is_only_rounding_does_not_stretch_the_axis_along_depth(tmp_path):
    keys_bias = (1e-10, 1e-9, 1e-12, 0)  # which softmax cancels; where one batch seems to converge, above its residual
    drawn = figures(run_with(tmp_path / "run", PLAIN, keys_bias, (1e-10, 1.0, 0.0, 1)))
    top, bottom = drawn["along_depth"].axes
    assert [x for x, *_ in marks(top)] == [x for x, *_ in marks(bottom)] == [0, 2]  # a converged one is a finding
    assert len(marks(drawn["gradient_against_curvature"].axes[0])) == 2


@pytest.mark.parametrize(("gradients", "labels"), [((1.0, 1e-4), ["0.0001"]), ((0.1, 0.5), ["0.1", "0.2", "0.5"])])
def test_a_log_axis_of_few_decades_has_more_than_one_number_on_it(tmp_path, gradients, labels):
    top, _ = figures(run_with(tmp_path / "run", *((g, 1.0, 0.0, 1) for g in gradients)))["along_depth"].axes
    shown = [tick.get_text() for tick in top.get_yticklabels()]
    plain = [text.replace("$\\mathdefault{10^{-4}}$", "0.0001") for text in shown]
    assert set(labels) <= set(plain)


@pytest.mark.parametrize(("layers", "rotation"), [(3, 0), (40, 90)])
def test_layers_are_named_lying_where_they_are_few(tmp_path, layers, rotation):
    _, bottom = figures(run_with(tmp_path / "run", *[PLAIN] * 3 * layers))["along_depth"].axes
    assert {tick.get_rotation() for tick in bottom.get_xticklabels()} == {rotation}


def test_a_numbered_layer_keeps_its_tick_where_single_tensors_crowd_it_out(tmp_path):
    layers = ["embedding", "norm", "embedding", *["encoder.layer.0"] * 97]
    _, bottom = figures(run_with(tmp_path / "run", *[PLAIN] * 100, layers=layers))["along_depth"].axes
    assert [tick.get_text() for tick in bottom.get_xticklabels()] == ["embedding", "layer.0"]


def test_lorenz_figure_gives_the_gini_coefficients(tmp_path):
    values = [(3.0, 1.0, 0, 1), (1.0, -5.0, 0, 1), (1.0, 0.0, 0, 1), (3.0, 1.0, 0, 1)]
    figure = figures(run_with(tmp_path / "run", *values))["lorenz"]
    # 1 1 3 3: differences 2 * 4 * 2 = 16, over 2 n^2 mean = 64. Of 0 0 1 1: 8 over 16
    assert legend(figure) == ["gradient norm: Gini 0.25", "gradient norm / sqrt(size): Gini 0.25",
                              "largest eigenvalue (negative as 0): Gini 0.50"]  # fmt: skip


def test_without_any_gradient_or_means_nothing_is_drawn(tmp_path):
    assert figures(run_with(tmp_path / "flat", FLAT, FLAT)) == {}
    assert figures(run_with(tmp_path / "stopped", PLAIN, batch=1)) == {}


def test_overlay_has_a_colour_and_a_line_of_numbers_for_each_run(tmp_path):
    draw = random.Random(0)
    runs = [read_run(run_with(tmp_path / name, *((draw.random(), draw.random(), 0, 1) for _ in range(9))))
            for name in ("pre-norm", "post-norm")]
    figure = overlay_figure(runs)
    assert [text.split(":")[0] for text in legend(figure)] == ["pre-norm", "post-norm"]
    assert all("Gini of gradients" in text and "rank correlation" in text for text in legend(figure))
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2
    assert len(marks(figure.axes[0])) == 18


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
    runs = [read_run(run_with(tmp_path / place / "run", PLAIN)) for place in ("a", "b")]
    assert [text.split(":")[0] for text in legend(overlay_figure(runs))] == [str(run.folder) for run in runs]


def test_overlay_refuses_a_run_without_blocks(tmp_path):
    with pytest.raises(ValueError, match="empty has no blocks.csv of a finished run_hessian.py"):
        overlay_figure([read_run(run_with(tmp_path / "empty"))])


def test_overlay_from_the_command_line(tmp_path, capsys):
    one, two = run_with(tmp_path / "one", PLAIN, NEGATIVE), run_with(tmp_path / "two", PLAIN, UNCONVERGED)
    assert main(["--overlay", str(one), str(two), "--output_dir", str(tmp_path / "both")]) == 0
    drawn = [tmp_path / "both" / f"heterogeneity_overlay.{kind}" for kind in ("png", "pdf")]
    assert capsys.readouterr().out.split() == [str(path) for path in drawn]
    assert all(path.stat().st_size > 1000 for path in drawn)
    assert main(["--overlay", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_figures_are_drawn_with_the_other_tables_and_byte_identical(tmp_path):
    folder = run_with(tmp_path / "run", PLAIN, NEGATIVE, UNCONVERGED, VANISHING)
    first = {path.name: path.read_bytes() for path in draw_all(folder)}
    assert {"gradient_against_curvature.png", "along_depth.pdf", "lorenz.png"} <= set(first)
    assert first == {path.name: path.read_bytes() for path in draw_all(folder)}


def test_missing_column_is_named(tmp_path):
    folder = run_with(tmp_path / "run", PLAIN)
    table = folder / "blocks.csv"
    table.write_text(table.read_text().replace("residual", "remainder"))
    with pytest.raises(ValueError, match="blocks.csv has no column 'residual'"):
        points_of(read_run(folder))
