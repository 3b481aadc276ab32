"""compare_with_paper.py from its command line to its exit status, its tables and its figure."""

import math
import subprocess
import sys
from pathlib import Path
from statistics import stdev

import matplotlib
import pytest

import claims
import compare_with_paper
from claims.checks import read_folders
from claims.paper import beside_the_paper
from figures.against_paper import against_paper, draw_against_paper
from figures.style import RC
from runs.tables import read_table
from tests.helpers.claim_folders import convergence, edit, every_claim_holds, landscape
from tests.helpers.run_folders import labels_of, legend_looks, write_run

ROOT = Path(compare_with_paper.__file__).parent
WRITTEN = ["claims.csv", "claims.md", "measured_against_paper.pdf", "measured_against_paper.png", "paper_orderings.csv",
           "paper_ratios.csv"]  # fmt: skip


def run(*words):
    """Exit status of the script on these words."""
    try:
        return compare_with_paper.main([str(word) for word in words])
    except SystemExit as exit:
        return exit.code


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- what it prints and writes ---------------------------------------------------------------------------------


def test_counts_exceptions_ratios_and_tau_are_printed_and_nothing_is_written(tmp_path, capsys):
    folders = every_claim_holds(tmp_path)
    edit(folders["landscape"], "sharpness", dict(ratio=0.6), seed=1, epoch=5, algorithm="sgd, coordinate_clip=0.1")
    edit(folders["landscape"], "sharpness", dict(ratio=1.5), seed=1, epoch=2, algorithm="sgd, coordinate_clip=0.1")
    before = files(tmp_path)
    assert run(*folders.values()) == 0
    out = capsys.readouterr().out
    assert "Of 8 claims hold: everywhere 7, in part 1, nowhere 0; not measured: 0." in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("clipping_lowers_sharpness  ")]
    assert row[:8] == ["clipping_lowers_sharpness", "17", "of", "18", "48", "of", "48", "0.9444"]
    assert "seed 1, epoch 2: sgd, coordinate_clip=0.1 (1.5) is not below sgd (1)" in out
    assert "(pairs, small, run of sgd) beside table 3 of Pan & Li (opus_books en-fr, t5-small, run of sgd)" in out
    assert "Kendall's tau" in out and "Mean over the columns: " in out
    assert files(tmp_path) == before


def test_output_dir_gets_every_table_the_page_and_the_figure(tmp_path, capsys):
    folders = every_claim_holds(tmp_path / "runs")
    edit(folders["convergence"], "losses", dict(loss=9.0), seed=0, algorithm="sgd, coordinate_clip=0.1", iteration=3)
    assert run(*folders.values(), "--output_dir", tmp_path / "out") == 0
    assert files(tmp_path / "out") == WRITTEN
    rows = read_table(tmp_path / "out" / "claims.csv")
    checks = claims.check(folders.values())
    together = [row for row in rows if row["folder"] == "all"]
    assert [(row["name"], row["holds"], row["of"]) for row in together] == [(c.name, c.holds, c.of) for c in checks]
    assert [row["share_low"] for row in together] == [check.interval[0] for check in checks]
    edit(folders["pre_norm1"], "heterogeneity", dict(spearman_low=-0.1), batch="mean", grouping="all")
    assert run(*folders.values(), "--output_dir", tmp_path / "out", "--overwrite") == 0
    rows, checks = read_table(tmp_path / "out" / "claims.csv"), claims.check(folders.values())
    said = {row["folder"]: row["exceptions"] for row in rows if row["name"] == "gradient_and_curvature_correlate"}
    assert said[str(folders["pre_norm0"])] is None and "begins at -0.10" in said[str(folders["pre_norm1"])]
    (of_folder,) = [row for row in rows if row["folder"] == str(folders["convergence"])]
    assert (of_folder["holds"], of_folder["of"]) == (8, 9)
    (exception,) = next(check for check in checks if check.name == "clipped_trains_lower").exceptions
    assert of_folder["exceptions"] == exception
    assert len(read_table(tmp_path / "out" / "paper_ratios.csv")) == 14
    assert [row["tau"] for row in read_table(tmp_path / "out" / "paper_orderings.csv")] == [1.0, 1.0]
    page = (tmp_path / "out" / "claims.md").read_text()
    assert "| clipped_trains_lower | 8 of 9 |" in page and f"- {exception}" in page


def test_markdown_is_printed_where_it_is_asked_for(tmp_path, capsys):
    folder = landscape(tmp_path / "run")
    assert run(folder, "--markdown") == 0
    out = capsys.readouterr().out
    assert out.startswith("## ") and "| adam_below_sgd | 6 of 6 | 16 of 16 | 1 | 0.292 to 1 | 3 |" in out


def test_many_exceptions_are_counted_on_the_terminal(tmp_path, capsys):
    folder = landscape(tmp_path / "run", epochs=range(1, 5))
    edit(folder, "sharpness", dict(ratio=2.0), algorithm="adam")  # 12 columns
    assert run(folder) == 0
    out = capsys.readouterr().out
    assert out.count("adam (2) is not below") == 8 and "and 4 more" in out


def test_it_needs_neither_torch_nor_numpy_nor_matplotlib(tmp_path):
    folder = landscape(tmp_path / "run")
    code = (
        "import sys; sys.modules.update(torch=None, numpy=None, matplotlib=None)\n"
        "import compare_with_paper; sys.exit(compare_with_paper.main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "6 of 6" in done.stdout, done.stderr


# ---- what it refuses -------------------------------------------------------------------------------------------


def test_a_folder_that_is_no_run_folder_is_one_line_and_exit_status_2(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run(landscape(tmp_path / "run"), tmp_path / "empty", "--output_dir", tmp_path / "out") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.endswith(f"error: {tmp_path / 'empty'} is not a run folder: it has no config.json\n")
    assert err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "table, text, said",
    [
        ("sharpness", "epoch,algorithm,ratio\n2,sgd,1\n", "has no column 'sharpness'"),
        ("sharpness", "epoch,algorithm,ratio,sharpness\n,sgd,1,1\n", "line 2: epoch is empty, expected a number"),
        ("scan", "seed,epoch,batch,algorithm,distance,loss\n0,1,1,sgd,0,x\n", "line 2: loss is 'x', expected a number"),
        (
            "sharpness",
            "seed,epoch,algorithm,ratio,sharpness\nx,2,sgd,1,1\n",
            "line 2: seed is 'x', expected a whole number",
        ),
        ("summary", "algorithm,diverged\nsgd,x\n", "line 2: diverged is 'x', expected a number"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line_and_exit_status_2(table, text, said, tmp_path, capsys):
    folder = write_run(tmp_path / "run", ["sgd"])
    (folder / f"{table}.csv").write_text(text)
    assert run(folder) == 2
    err = capsys.readouterr().err
    assert said in err and f"{table}.csv" in err and err.count("\n") == 1


def test_earlier_tables_are_replaced_only_where_it_is_said(tmp_path, capsys):
    folder, out = landscape(tmp_path / "run"), tmp_path / "out"
    assert run(folder, "--output_dir", out) == 0
    edit(folder, "sharpness", dict(ratio=2.0), algorithm="adam")
    before = (out / "claims.csv").read_bytes()
    capsys.readouterr()
    assert run(folder, "--output_dir", out) == 2
    out_text, err = capsys.readouterr()
    assert out_text == "" and f"{out} has a claims.csv already; --overwrite replaces it" in err
    assert (out / "claims.csv").read_bytes() == before
    assert run(folder, "--output_dir", out, "--overwrite") == 0
    assert (out / "claims.csv").read_bytes() != before


def test_flags_without_a_folder_are_one_line(capsys):
    assert run() == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("empty", ["sharpness", "scan", "losses", "summary", "heterogeneity", "blocks"])
def test_a_run_that_has_measured_nothing_yet_is_no_error(empty, tmp_path, capsys):
    folder = write_run(tmp_path / "run", ["sgd", "sgd, coordinate_clip=0.1"], {"train_optimizer": "adam"})
    (folder / f"{empty}.csv").write_text("epoch,algorithm\n")
    assert run(folder, "--output_dir", tmp_path / "out") == 0
    assert "Of 8 claims hold: everywhere 0, in part 0, nowhere 0; not measured: 8." in capsys.readouterr().out
    assert files(tmp_path / "out") == ["claims.csv", "claims.md", "paper_orderings.csv", "paper_ratios.csv"]


# ---- the figure ------------------------------------------------------------------------------------------------


def ratios_of(*folders):
    return [one for run in read_folders(folders) for one in beside_the_paper(run)]


def drawn(ratios):
    with matplotlib.rc_context(RC):
        return against_paper(ratios)


def test_a_point_is_the_papers_ratio_and_the_measured_one_on_logarithmic_axes(tmp_path):
    figure = drawn(ratios_of(landscape(tmp_path / "run", epochs=(5,), seeds=(0,))))
    (ax,) = figure.axes
    points = {tuple(line.get_xydata()[0]) for line in ax.lines if len(line.get_xdata()) == 1}
    assert points == {
        (0.02766145, 0.4), (0.00250487, 0.05), (6.0198e-07, 1e-3), (4.7015e-07, 5e-4), (0.01427107, 0.2),
        (0.00610456, 0.1),
    }  # fmt: skip
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [line.get_xydata().tolist() for line in ax.lines if len(line.get_xdata()) == 2] == [
        [[4.7015e-07, 4.7015e-07], [1.0, 1.0]]  # as in the paper
    ]


def test_the_legend_tells_clipped_rows_from_their_partners_and_the_title_names_data_and_models(tmp_path):
    figure = drawn(ratios_of(landscape(tmp_path / "mine", epochs=(5,))))
    looks = legend_looks(figure)
    assert looks["adafactor"][0] == looks["adafactor, clipped"][0]
    assert (looks["adafactor"][2], looks["adafactor, clipped"][2]) == ("filled", "hollow")
    assert labels_of(figure)[-1] == "as in the paper" and "sgd" not in looks
    title = figure.axes[0].get_title()
    assert (
        "mine: pairs data, small model" in title and "table 3: opus_books en-fr, t5-small" in title and "5 (5)" in title
    )


def test_a_bar_is_the_interval_over_the_seeds(tmp_path):
    folder = landscape(tmp_path / "run", epochs=(5,))
    for seed, ratio in enumerate((0.04, 0.05, 0.06)):
        edit(folder, "sharpness", dict(ratio=ratio), seed=seed, algorithm="adam")
    figure = drawn(ratios_of(folder))
    middle, factor = 0.12e-3 ** (1 / 3), math.exp(4.302653 * stdev(map(math.log, (4, 5, 6))) / 3**0.5)
    bars = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [0.00250487] * 2]
    assert bars[0].get_ydata() == pytest.approx([middle / factor, middle * factor], rel=1e-6)


def test_a_ratio_at_or_below_zero_is_counted_in_the_title(tmp_path):
    folder = landscape(tmp_path / "run", epochs=(5,), seeds=(0,))
    edit(folder, "sharpness", dict(ratio=-0.01), algorithm="adam")
    (ax,) = drawn(ratios_of(folder)).axes
    assert ax.get_title().endswith("not shown: 1 at or below 0")
    assert sum(len(line.get_xdata()) == 1 for line in ax.lines) == 5


def test_every_run_has_a_panel_and_a_list_of_sgd_alone_no_figure(tmp_path):
    folders = [landscape(tmp_path / name) for name in ("a", "b")]
    assert len(drawn(ratios_of(*folders)).axes) == 2
    alone = [one for one in ratios_of(*folders) if one.algorithm == "sgd"]
    assert draw_against_paper(alone, tmp_path / "figure") == []


def test_training_alone_has_no_table_to_stand_beside(tmp_path):
    assert ratios_of(convergence(tmp_path / "run")) == []
