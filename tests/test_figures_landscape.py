"""The figures: drawn from tables alone, the same each time, and saying what the tables say."""

import logging
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from figures import drawing
from figures.__main__ import main
from figures.drawing import draw_all
from figures.landscape import histogram_figures, ratio_figures, scan_figures, zoom_limits
from figures.run_tables import read_run
from figures.style import RC, styles_of
from runs.config import write_config
from runs.folder import create_run_folder
from runs.tables import Table, read_table

POINT = ["epoch", "batch", "iteration", "algorithm"]
# label, name, options, sharpness relative to SGD's, best distance along the unit direction (None: uphill), log10 step
ALGORITHMS = [
    ("sgd", "sgd", {}, 1.0, 0.03, -5),
    ("sgd, coordinate_clip=0.1", "sgd", {"coordinate_clip": 0.1}, 0.4, 0.05, -5.5),
    ("normalized_sgd", "normalized_sgd", {}, 0.2, 0.1, -1),
    ("normalized_sgd, coordinate_clip=0.1", "normalized_sgd", {"coordinate_clip": 0.1}, 0.07, 0.2, -1.2),
    ("sign_sgd", "sign_sgd", {}, -0.02, None, 0),
    ("adam", "adam", {}, 0.04, 0.6, -0.5),
    ("adam, coordinate_clip=0.5", "adam", {"coordinate_clip": 0.5}, 0.01, 1.5, -0.9),
    ("adam, clip_update=0.5", "adam", {"clip_update": 0.5}, 0.02, 1.0, -0.7),
    ("adafactor", "adafactor", {}, 1e-5, 60.0, -2),
    ("adafactor, coordinate_clip=0.5", "adafactor", {"coordinate_clip": 0.5}, 6e-6, 90.0, -2.4),
    ("lion", "lion", {}, 0.015, 1.2, 0),
    ("lion, clip_update=0.5", "lion", {"clip_update": 0.5}, 0.008, 1.8, -3)]


def believable_run(folder, epochs=(2, 5, 10), seed=0):
    """A run folder with every table, as a measured run of the 12 rows would leave it."""
    draw = random.Random(seed)
    create_run_folder(folder)
    write_config(folder, {"seed": seed, "task": "machine_translation", "train_optimizer": "adam"},
                 [{"label": label, "name": name, "options": options} for label, name, options, *_ in ALGORITHMS])
    training = Table(folder / "training.csv", ["epoch", "iteration", "loss"])
    for i in range(10 * max(epochs)):
        training.append(epoch=1 + i // 10, iteration=1 + i, loss=2 + 4 * math.exp(-i / 30) + draw.gauss(0, 0.08))
    sharpness = Table(folder / "sharpness.csv", POINT + ["loss", "slope", "sharpness"])
    scan = Table(folder / "scan.csv", POINT + ["distance", "loss"])
    histogram = Table(folder / "histogram.csv", POINT + ["bin_low", "bin_high", "count"])
    ratios = Table(folder / "ratios.csv", ["epoch", "algorithm", "mean_ratio", "std", "count"])
    for epoch in epochs:
        point = {"epoch": epoch, "batch": 6, "iteration": 10 * epoch - 4}
        for label, name, _, ratio, best, size in ALGORITHMS:
            row, start = {**point, "algorithm": label}, 2 + 4 * math.exp(-epoch / 3)
            bend = 40.0 * ratio * draw.uniform(0.7, 1.4)
            slope = 0.3 if best is None else -bend * best
            sharpness.append(row, loss=start, slope=slope, sharpness=bend)
            for i in range(21):
                s = i * (0.02 if best is None else best / 8)
                loss = start + slope * s + bend * s**2 / 2 + (0 if best is None else 0.12 * bend * s**3 / best)
                scan.append(row, distance=s, loss=loss)
                if loss > start:
                    break
            mean = ratio * draw.uniform(0.5, 2) if label != "sgd" else 1.0
            ratios.append(epoch=epoch, algorithm=label, mean_ratio=mean, count=5,
                          std=0.0 if label == "sgd" else abs(mean) * draw.uniform(0.2, 1.3))
            edges = [0.0] + [10 ** (-15 + 16 * k / 30) for k in range(31)]
            for low, high in zip(edges, edges[1:], strict=False):
                middle = math.log10(low * high) / 2 if low else -15
                sign_like = name in ("lion", "sign_sgd") and size == 0
                share = abs(middle) < 0.27 if sign_like else math.exp(-(middle - size) ** 2 / 3) + 0.15 * (low == 0)
                histogram.append(row, bin_low=low, bin_high=high, count=int(60000 * share))
    for table in (training, sharpness, scan, histogram, ratios):
        table.save()
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = believable_run(tmp_path_factory.mktemp("runs") / "run", epochs=(2,))
    return folder, draw_all(folder)


def one_figure(figures, folder):
    """The only figure of this kind in the run, laid out."""
    with matplotlib.rc_context(RC):
        ((_, figure),) = figures(read_run(folder))
        figure.canvas.draw()
    return figure


def rewrite(folder, name, change):
    """Replace a table by what `change` makes of each row."""
    rows = read_table(folder / f"{name}.csv")
    table = Table(folder / f"{name}.csv", list(rows[0]))
    for row in rows:
        table.append(change(row))
    table.save()


# ---- files ---------------------------------------------------------------------------------------------------

def test_every_table_becomes_figures_in_png_and_pdf(drawn):
    folder, paths = drawn
    stems = ["training_loss", "sharpness_ratios", "scan_epoch2_batch6", "histogram_epoch2_batch6"]
    assert sorted(path.name for path in paths) == sorted(stem + end for stem in stems for end in (".png", ".pdf"))
    assert sorted((folder / "figures").iterdir()) == sorted(paths)
    for path in paths:
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")


def test_config_and_tables_alone_redraw_the_same_bytes_elsewhere(drawn, tmp_path):
    folder, paths = drawn
    for file in [folder / "config.json", *folder.glob("*.csv")]:
        shutil.copy(file, tmp_path)
    for path in draw_all(tmp_path):
        assert path.read_bytes() == (folder / "figures" / path.name).read_bytes(), path.name


def test_every_measured_point_has_figures_of_its_own(tmp_path):
    run = read_run(believable_run(tmp_path, epochs=(2, 5)))
    assert [stem for stem, _ in scan_figures(run)] == ["scan_epoch2_batch6", "scan_epoch5_batch6"]
    assert [stem for stem, _ in histogram_figures(run)] == ["histogram_epoch2_batch6", "histogram_epoch5_batch6"]


def test_drawing_leaves_matplotlib_as_the_user_set_it(tmp_path):
    believable_run(tmp_path, epochs=(2,))
    for table in ("scan", "histogram", "ratios"):
        (tmp_path / f"{table}.csv").unlink()
    program = ("import sys, matplotlib; matplotlib.rcParams['font.size'] = 17; from figures import drawing; "
               f"assert len(drawing.draw_all({str(tmp_path)!r})) == 2; "
               "assert matplotlib.rcParams['font.size'] == 17 and 'matplotlib.pyplot' not in sys.modules")
    subprocess.run([sys.executable, "-c", program], cwd=Path(drawing.__file__).parent.parent, check=True)


@pytest.mark.parametrize("table", drawing.FIGURES)
def test_an_empty_table_is_skipped_and_said_and_an_absent_one_is_skipped(tmp_path, caplog, table):
    caplog.set_level(logging.INFO)
    write_config(tmp_path, {}, [])
    Table(tmp_path / f"{table}.csv", ["epoch", "batch", "algorithm", "loss", "mean_ratio"]).save()
    assert draw_all(tmp_path) == []
    assert caplog.messages == [f"{table}.csv holds nothing to draw", f"{tmp_path} holds no table to draw"]


def test_a_place_for_figures_that_have_one_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main([str(tmp_path), "--output_dir", str(tmp_path / "elsewhere")])
    assert exit.value.code == 2 and "--output_dir is for --overlay" in capsys.readouterr().err


def test_an_unknown_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"python -m figures: {tmp_path / 'nowhere'} is not a run folder: it has no config.json"]


@pytest.mark.parametrize("lines, message", [
    ("epoch,batch,algorithm,loss\n2,6,sgd,5.0\n", "scan.csv has no column 'distance'; it has epoch, batch"),
    ("epoch,batch,algorithm,distance,loss\n2,6,mine,0,5\n", "has rows of 'mine', which config.json does not list"),
    ("epoch,batch,algorithm,distance,loss\n2,6,sgd,0,five\n", "scan.csv, line 2: loss is 'five', expected a number"),
    ("epoch,batch,algorithm,distance,loss\n2,6,sgd,,5\n", "scan.csv, line 2: distance is empty, expected a number"),
])
def test_a_table_that_does_not_fit_is_one_line(tmp_path, lines, message):
    write_config(tmp_path, {}, [{"label": "sgd", "name": "sgd", "options": {}}])
    (tmp_path / "scan.csv").write_text(lines)
    with pytest.raises(ValueError, match=message):
        draw_all(tmp_path)


def test_the_command_prints_what_it_drew_and_nothing_else(tmp_path):
    believable_run(tmp_path, epochs=(2,))
    for table in ("scan", "histogram", "ratios"):
        (tmp_path / f"{table}.csv").unlink()
    command = [sys.executable, "-m", "figures", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(tmp_path / "figures" / f"training_loss.{end}") for end in ("png", "pdf")]
    assert done.stderr == ""


# ---- styles --------------------------------------------------------------------------------------------------

def rows_of(*names_and_clips):
    return [{"label": f"{name} {clip}", "name": name, "options": {"coordinate_clip": clip}}
            for name, clip in names_and_clips]


def test_variants_of_a_name_share_its_colour_and_differ_in_line():
    styles = styles_of(rows_of(("adam", 0), ("adam", 0.1), ("adam", 0.5), ("sgd", 0)))
    adams = [styles[f"adam {clip}"] for clip in (0, 0.1, 0.5)]
    assert len({style.color for style in adams}) == 1 and styles["sgd 0"].color != adams[0].color
    assert len({str(style.line()["linestyle"]) for style in adams}) == 3


def test_a_colour_does_not_depend_on_the_list_and_the_unclipped_row_comes_first():
    one, other = styles_of(rows_of(("sgd", 0), ("lion", 0))), styles_of(rows_of(("lion", 0.1), ("lion", 0), ("sgd", 0)))
    assert one["lion 0"] == other["lion 0"] and one["sgd 0"] == other["sgd 0"]
    assert one["lion 0"].line()["linestyle"] == "-" and other["lion 0.1"].variant == 1


def test_names_we_do_not_know_get_colours_of_their_own():
    styles = styles_of(rows_of(("mine", 0), ("yours", 0), ("sgd", 0)))
    assert len({style.color for style in styles.values()}) == 3


# ---- loss scans ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reaches, limits", [
    ([1.0], [1.0]),
    ([1.0, 0.5, 0.21], [1.0]),                       # all legible in one panel
    ([0.19, 1.0], [0.19, 1.0]),
    ([40, 4000, 0.4, 4, 400], [0.4, 4, 400, 4000]),  # 40 is left out: at most four panels
])
def test_every_curve_spans_a_fifth_of_some_panel(reaches, limits):
    assert zoom_limits(reaches) == limits


def scanned(tmp_path, scan, slope=None, sharpness=None):
    """The scan figure of one algorithm with the given (distance, loss) pairs."""
    write_config(tmp_path, {}, [{"label": "sgd", "name": "sgd", "options": {}}])
    point = {"epoch": 2, "batch": 6, "iteration": 16, "algorithm": "sgd"}
    table = Table(tmp_path / "scan.csv", POINT + ["distance", "loss"])
    for distance, loss in scan:
        table.append(point, distance=distance, loss=loss)
    table.save()
    measured = Table(tmp_path / "sharpness.csv", POINT + ["slope", "sharpness"])
    measured.append(point, slope=slope, sharpness=sharpness)
    measured.save()
    return one_figure(scan_figures, tmp_path)


def labels_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_scan_its_minimum_and_its_quadratic_model_are_drawn_where_the_numbers_say(tmp_path):
    figure = scanned(tmp_path, [(0, 5.0), (1, 4.0), (2, 4.5), (3, 6.0)], slope=-2.0, sharpness=1.5)
    scan, model, minimum, start = figure.axes[0].lines
    assert list(scan.get_xdata()) == [0, 1, 2, 3] and list(scan.get_ydata()) == [5.0, 4.0, 4.5, 6.0]
    assert list(minimum.get_xdata()) == [1] and list(minimum.get_ydata()) == [4.0]
    for s, loss in zip(model.get_xdata(), model.get_ydata(), strict=True):
        assert loss == pytest.approx(5.0 - 2.0 * s + 1.5 * s * s / 2)
    assert model.get_linestyle() == "--" and set(start.get_ydata()) == {5.0}
    assert labels_of(figure) == ["sgd", "minimum of a scan", "its quadratic model"]


def test_a_model_that_explodes_does_not_stretch_the_loss_axis(tmp_path):
    figure = scanned(tmp_path, [(0, 5.0), (1, 4.0), (2, 1e6)], slope=-1.0, sharpness=1e8)
    low, high = figure.axes[0].get_ylim()
    assert 3.8 < low < 4.0 and 5.0 < high < 5.5


def test_an_uphill_direction_is_named_and_has_no_minimum(tmp_path):
    figure = scanned(tmp_path, [(0, 5.0), (1, 5.5)])
    assert labels_of(figure)[0] == "sgd (uphill)"
    assert [list(line.get_ydata()) for line in figure.axes[0].lines][0] == [5.0, 5.5]
    assert not any(line.get_marker() == "o" for line in figure.axes[0].lines)


def test_a_scan_that_still_falls_at_its_end_has_no_minimum_marked(tmp_path):
    figure = scanned(tmp_path, [(0, 5.0), (1, 4.5), (2, 4.0)])
    assert not any(line.get_marker() == "o" for line in figure.axes[0].lines)


def test_empty_cells_leave_out_a_point_and_a_scan_of_empty_cells_is_no_figure(tmp_path):
    figure = scanned(tmp_path, [(0, 5.0), (1, None), (2, 4.0)])
    assert list(figure.axes[0].lines[0].get_xdata()) == [0, 2]
    rewrite(tmp_path, "scan", lambda row: row | {"loss": None})
    assert list(scan_figures(read_run(tmp_path))) == []


@pytest.mark.parametrize("figures", [scan_figures, histogram_figures, ratio_figures])
def test_the_legend_of_12_long_labels_covers_no_axes_and_stays_on_the_page(tmp_path, figures):
    figure = one_figure(figures, believable_run(tmp_path, epochs=(2,)))
    legend = figure.legends[0].get_window_extent()
    assert len(labels_of(figure)) >= 12
    assert not any(legend.overlaps(ax.get_tightbbox()) for ax in figure.axes)
    assert legend.x0 >= 0 and legend.y0 >= 0 and legend.x1 <= figure.bbox.width


# ---- histograms and ratios -----------------------------------------------------------------------------------

def test_a_histogram_shows_fractions_and_keeps_its_zeros_at_the_left_end(tmp_path):
    write_config(tmp_path, {}, [{"label": "sgd", "name": "sgd", "options": {}}])
    table = Table(tmp_path / "histogram.csv", POINT + ["bin_low", "bin_high", "count"])
    for low, high, count in [(0, 1e-4, 1), (1e-4, 1e-2, 3), (1e-2, 1.0, 4)]:
        table.append(epoch=2, batch=6, iteration=16, algorithm="sgd", bin_low=low, bin_high=high, count=count)
    table.save()
    (bars,) = one_figure(histogram_figures, tmp_path).axes[0].patches
    assert list(bars.get_data().values) == [1 / 8, 3 / 8, 4 / 8]
    assert list(bars.get_data().edges) == pytest.approx([1e-6, 1e-4, 1e-2, 1.0])


def test_a_negative_ratio_is_a_hollow_marker_at_its_size(tmp_path):
    write_config(tmp_path, {}, [{"label": "adam", "name": "adam", "options": {}}])
    table = Table(tmp_path / "ratios.csv", ["epoch", "algorithm", "mean_ratio", "std", "count"])
    for epoch, mean in [(2, 0.5), (5, -0.25), (10, None)]:
        table.append(epoch=epoch, algorithm="adam", mean_ratio=mean, std=0.1, count=5)
    table.save()
    figure = one_figure(ratio_figures, tmp_path)
    markers = {line.get_ydata()[0]: line.get_markerfacecolor() for line in figure.axes[0].lines
               if line.get_marker() == "o"}
    assert markers[0.25] == "white" and markers[0.5] != "white" and len(markers) == 2
    assert "negative mean, at its size" in labels_of(figure)
