"""Drawing a run folder: which files come out of which tables, the same each time, and what a user is told."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from figures import drawing
from figures.__main__ import main
from figures.drawing import draw_all
from figures.run_tables import read_run
from runs.tables import Table
from tests.helpers.run_folders import believable_convergence, believable_landscape, write_run, write_table

ROOT = Path(drawing.__file__).parent.parent
BLOCKS = [
    dict(batch="mean", block=f"h.{i}.attn", kind="attention", layer=f"h.{i}", numel=4, gradient_norm=1.0 + i,
         eigenvalue=2.0 - i, residual=1e-4, converged=1)
    for i in range(4)
]  # fmt: skip
TRAINING = [dict(epoch=1 + i // 2, iteration=1 + i, loss=5.0 - i) for i in range(4)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder with the tables of all three scripts, which no run has; and its figures."""
    folder = believable_landscape(tmp_path_factory.mktemp("runs") / "run", epochs=(2,), rows=2)
    other = believable_convergence(tmp_path_factory.mktemp("runs") / "other", epochs=2, seeds=(0, 1), rows=2)
    for table in other.glob("*.csv"):
        shutil.copy(table, folder)
    write_table(folder, "blocks", BLOCKS)
    return folder, draw_all(folder)


def test_every_table_becomes_figures_in_png_and_pdf(drawn):
    folder, paths = drawn
    stems = ["training_loss", "scan_epoch2_batch6", "histogram_epoch2_batch6", "directional_sharpness"]
    stems += ["sharpness_ratios", "loss_by_epoch", "loss_by_iteration", "learning_rates", "scores"]
    stems += ["gradient_against_curvature", "along_depth", "lorenz"]
    assert [path.name for path in paths] == [stem + end for stem in stems for end in (".png", ".pdf")]
    assert sorted((folder / "figures").iterdir()) == sorted(paths)
    for path in paths:
        assert path.read_bytes().startswith(b"%PDF" if path.suffix == ".pdf" else b"\x89PNG")


@pytest.fixture(scope="module")
def redrawn(drawn, tmp_path_factory):
    """The folder's copy without figures, drawn again where torch cannot be imported; and what the command said."""
    folder, _ = drawn
    copy = tmp_path_factory.mktemp("elsewhere") / "run"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("figures"))
    program = (
        "import runpy, sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('torch', 'transformers', 'datasets'):\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import matplotlib\n"
        "matplotlib.rcParams['font.size'] = 17\n"
        "try:\n"
        "    runpy.run_module('figures', run_name='__main__')\n"
        "finally:\n"
        "    assert matplotlib.rcParams['font.size'] == 17 and 'matplotlib.pyplot' not in sys.modules\n"
    )
    return copy, subprocess.run([sys.executable, "-c", program, copy], capture_output=True, text=True, cwd=ROOT)


def test_redrawing_imports_no_torch_and_leaves_matplotlib_as_the_user_set_it(drawn, redrawn):
    folder, done = redrawn
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines() == [str(folder / "figures" / path.name) for path in drawn[1]]


def test_config_and_tables_alone_redraw_the_same_bytes_elsewhere(drawn, redrawn):
    for path in drawn[1]:
        assert path.read_bytes() == (redrawn[0] / "figures" / path.name).read_bytes(), path.name


# ---- what is not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", drawing.FIGURES)
def test_an_empty_table_is_skipped_and_said_and_an_absent_one_is_skipped(tmp_path, caplog, table):
    caplog.set_level(logging.INFO)
    write_run(tmp_path, [])
    Table(tmp_path / f"{table}.csv", ["epoch", "batch", "algorithm", "loss", "mean_ratio"]).save()
    assert draw_all(tmp_path) == []
    assert caplog.messages == [f"{table}.csv holds nothing to draw", f"{tmp_path} holds no table to draw"]


@pytest.mark.parametrize("lines, message", [
    ("epoch,batch,algorithm,loss\n2,6,sgd,5.0\n", "scan.csv has no column 'distance'; it has epoch, batch"),
    ("epoch,batch,algorithm,distance,loss\n2,6,mine,0,5\n", "has rows of 'mine', which config.json does not list"),
    ("epoch,batch,algorithm,distance,loss\n2,6,sgd,0,five\n", "scan.csv, line 2: loss is 'five', expected a number"),
    ("epoch,batch,algorithm,distance,loss\n2,6,sgd,0,5\n2,6,sgd,,5\n",
     "scan.csv, line 3: distance is empty, expected a number"),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_one_line(tmp_path, lines, message):
    write_run(tmp_path, ["sgd"])
    (tmp_path / "scan.csv").write_text(lines)
    with pytest.raises(ValueError, match=message):
        draw_all(tmp_path)


# ---- a run folder --------------------------------------------------------------------------------------------


def test_the_rows_that_a_changed_list_lost_keep_a_style(tmp_path):
    write_run(tmp_path, ["sgd"])
    config = (tmp_path / "config.json").read_text()
    gone = '"gone": [{"label": "adam", "name": "adam", "options": {}}],'
    (tmp_path / "config.json").write_text(config.replace("{", "{" + gone, 1))
    assert list(read_run(tmp_path).styles) == ["sgd", "adam"]


@pytest.mark.parametrize("settings, title", [
    ({"task": "toy"}, "toy"),
    ({"task": "toy", "train_optimizer": "adam"}, "toy, trained by adam"),
    ({"task": "glue/rte", "train_optimizer": "sgd"}, "glue/rte, trained by sgd"),
])  # fmt: skip
def test_a_run_is_titled_by_its_task_and_by_what_trained_it(tmp_path, settings, title):
    assert read_run(write_run(tmp_path, [], settings)).title == title


@pytest.mark.parametrize("labels, settings, reference", [
    (["adam", "sgd", "sgd, coordinate_clip=0.1"], {}, "sgd"),
    (["sgd, coordinate_clip=0.1", "adam"], {}, None),
    (["sgd, coordinate_clip=0.1", "adam"], {"reference": None}, None),
    (["sgd, momentum=0.9", "sgd, momentum=0.5"], {"reference": None}, "sgd, momentum=0.9"),
    (["sgd", "adam"], {"reference": "adam"}, "adam"),
])  # fmt: skip
def test_the_reference_is_the_runs_own_choice_or_its_first_plain_sgd(tmp_path, labels, settings, reference):
    assert read_run(write_run(tmp_path, labels, settings)).reference == reference


def test_points_are_grouped_by_place_and_algorithm_in_the_order_of_the_styles(tmp_path):
    rows = [dict(epoch=epoch, batch=batch, algorithm=label, distance=s, loss=5.0)
            for epoch, batch in ((5, 2), (2, 6)) for label in ("adam", "sgd") for s in (0.0, 1.0)]  # fmt: skip
    found = read_run(write_run(tmp_path, ["sgd", "adam"], scan=rows)).points("scan", "distance loss")
    order = ["sgd", "adam"]  # a run of one seed: its places name none
    assert [(place, list(by)) for place, by in found.items()] == [((5, 2, None), order), ((2, 6, None), order)]
    assert [row["distance"] for row in found[2, 6, None]["adam"]] == [0.0, 1.0]


# ---- the command ---------------------------------------------------------------------------------------------


def test_the_command_prints_what_it_drew_and_nothing_else(tmp_path, capsys):
    write_run(tmp_path, ["sgd"], training=TRAINING)
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [str(tmp_path / "figures" / f"training_loss.{end}") for end in ("png", "pdf")]
    assert output.err == ""


def test_an_unknown_folder_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"python -m figures: {tmp_path / 'nowhere'} is not a run folder: it has no config.json"
    ]


@pytest.mark.parametrize("flags, message", [
    (["--output_dir", "elsewhere"], "--output_dir is for --overlay"),
    (["--names", "a"], "--names is for --overlay"),
])  # fmt: skip
def test_a_flag_of_overlays_is_refused_for_one_run(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as exit:
        main([str(tmp_path), *flags])
    assert exit.value.code == 2 and message in capsys.readouterr().err
