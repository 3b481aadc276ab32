"""run_landscape.py from the command line to the files: what it writes, that it repeats, and how it answers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

import algorithm_list
import run_landscape
from landscape.answer import ratio_table
from runs.tables import on_batch, read_table
from tests.helpers.tiny_run import silent
from torch_optimizer import Algorithm

ROOT = Path(run_landscape.__file__).parent
SMALL = "--dataset_size 40 --batch_size 16 --test_batch_size 12 --num_epochs 2 --test_epochs 2"  # and toy's 2 points
FIVE = [
    Algorithm("sgd", lr=1.0),
    Algorithm("sgd", lr=1.0, coordinate_clip=0.1),
    Algorithm("adam", lr=1e-3),
    Algorithm("adafactor", relative_step=True),
    Algorithm("lion", lr=1e-3),
]
TABLES = ["training", "sharpness", "ratios", "scan", "histogram"]


def landscape(folder, *flags, drawn=False):
    """A run of five rows unless the flags name a list."""
    if "--algorithm_list" not in flags:
        flags += ("--algorithm_list", "five")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(algorithm_list.ALGORITHM_LISTS, "five", FIVE)
        if not drawn:
            patch.setattr(run_landscape, "draw_all", lambda folder: [])
            patch.setattr(run_landscape, "prepare", silent(run_landscape.prepare))
        assert run_landscape.main([*SMALL.split(), "--output_dir", str(folder), *flags]) == 0
    return folder


def tables(folder):
    return {name: read_table(folder / f"{name}.csv") for name in TABLES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return landscape(tmp_path_factory.mktemp("runs") / "first", "--save_model")


# ---- what a run leaves --------------------------------------------------------------------------------------------


@pytest.fixture
def three_rows(monkeypatch):
    """Flags of a list of three rows, measured at one point."""
    rows = [Algorithm("sgd", lr=1.0), Algorithm("adam", lr=1e-3), Algorithm("lion", lr=1e-3)]
    monkeypatch.setitem(algorithm_list.ALGORITHM_LISTS, "three", rows)
    return "--algorithm_list", "three", "--sample_iterations", "1"


def test_landscape_run_leaves_every_file(tmp_path, three_rows):
    folder = landscape(tmp_path / "run", *three_rows, "--save_model", drawn=True)
    figures = {path.name for path in (folder / "figures").iterdir()}
    expected = {"config.json", "log.txt", "figures", "report.html", "model", *(f"{name}.csv" for name in TABLES)}
    assert expected == {path.name for path in folder.iterdir()}
    for name in ("training_loss", "directional_sharpness", "sharpness_ratios", "scan_epoch2", "histogram_epoch2"):
        for kind in ("png", "pdf"):
            assert any(figure.startswith(name) and figure.endswith(kind) for figure in figures), (name, kind)


def test_tables_have_the_promised_columns(folder):
    header = {name: (folder / f"{name}.csv").read_text().splitlines()[0] for name in TABLES}
    assert header == {
        "training": "seed,epoch,iteration,loss",
        "sharpness": "seed,epoch,batch,iteration,algorithm,measured_on,loss,slope,sharpness,ratio,step_norm,step_max,"
        "best_distance,predicted_decrease,sharpness_error,gradient_norm,cosine,noise_share,sharpness_inf,"
        "sharpness_spectral,learning_rate,edge_quadratic,edge_realized,edge_quotient,critical_lr,best_lr",
        "ratios": "seed,epoch,algorithm,measured_on,mean_ratio,std,count,mean_slope,mean_predicted_decrease,"
        "mean_edge_quadratic,mean_edge_realized,mean_sharpness",
        "scan": "seed,epoch,batch,iteration,algorithm,measured_on,distance,loss,evaluated",
        "histogram": "seed,epoch,batch,iteration,algorithm,bin_low,bin_high,count",
    }


def test_config_repeats_the_run(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["num_epochs"] == 2 and config["settings"]["batch_size"] == 16
    assert [row["label"] for row in config["algorithms"]][:2] == ["sgd", "sgd, coordinate_clip=0.1"]
    assert {"torch", "transformers", "datasets"} <= config["versions"].keys()
    assert {"command", "git", "seed"} <= config.keys()


def test_every_iteration_is_in_the_training_table(folder):
    assert [row["iteration"] for row in read_table(folder / "training.csv")] == [1, 2, 3, 4, 5, 6]


def test_ratio_is_to_plain_sgd_at_the_same_point_and_its_table_the_mean(folder):
    rows = {name: on_batch(table, "test") for name, table in tables(folder).items()}
    points = sorted({row["batch"] for row in rows["sharpness"]})
    assert len(points) == 2
    sharpness = {(row["batch"], row["algorithm"]): row["sharpness"] for row in rows["sharpness"]}
    for row in rows["sharpness"]:
        assert row["ratio"] == pytest.approx(row["sharpness"] / abs(sharpness[row["batch"], "sgd"]))
        if row["best_distance"]:  # neither empty nor 0: the model has a minimum ahead
            assert row["best_distance"] == pytest.approx(-row["slope"] / row["sharpness"])
    for row in rows["ratios"]:
        ratios = [r["ratio"] for r in rows["sharpness"] if r["algorithm"] == row["algorithm"]]
        assert (row["mean_ratio"], row["count"]) == (pytest.approx(sum(ratios) / 2), 2)
        assert row["std"] == pytest.approx(abs(ratios[0] - ratios[1]) / 2**0.5)
        sharpness = [r["sharpness"] for r in rows["sharpness"] if r["algorithm"] == row["algorithm"]]
        assert row["mean_sharpness"] == pytest.approx(sum(sharpness) / 2)


def test_scans_start_at_the_current_loss_and_follow_the_slope(folder):
    rows = {name: on_batch(table, "test") for name, table in tables(folder).items()}
    measured = {(row["batch"], row["algorithm"]): row for row in rows["sharpness"]}
    algorithms = {row["algorithm"] for row in rows["scan"]}
    assert algorithms == {row["algorithm"] for row in rows["sharpness"]}
    for algorithm in algorithms:
        scan = [row for row in rows["scan"] if row["algorithm"] == algorithm]
        point = measured[scan[0]["batch"], algorithm]
        assert scan[0]["distance"] == 0 and scan[0]["loss"] == pytest.approx(point["loss"], rel=1e-6)
        d, loss = scan[1]["distance"], scan[1]["loss"]
        model = point["loss"] + point["slope"] * d + point["sharpness"] * d**2 / 2
        assert loss == pytest.approx(model, abs=0.2 * abs(point["slope"] * d))


def test_histogram_counts_every_coordinate_of_every_algorithm(folder):
    counts = {}
    for row in read_table(folder / "histogram.csv"):
        counts[row["algorithm"]] = counts.get(row["algorithm"], 0) + row["count"]
    trained = load_file(folder / "model" / "model.safetensors")
    assert len(counts) == 6 and set(counts.values()) == {sum(tensor.numel() for tensor in trained.values())}


# ---- that it repeats ----------------------------------------------------------------------------------------------


@pytest.fixture
def measure_nothing(monkeypatch):
    def nowhere(settings, num_batches):
        return {}

    return lambda: monkeypatch.setattr("landscape.plan.sampled_batches", nowhere)


def test_same_seed_gives_the_same_bytes_and_another_seed_another_run(folder, tmp_path, measure_nothing):
    again = landscape(tmp_path / "again")
    measure_nothing()
    other = landscape(tmp_path / "other", "--seed", "1")
    for name in TABLES:
        assert (again / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes(), name
    assert (other / "training.csv").read_bytes() != (folder / "training.csv").read_bytes()


def test_a_measured_run_trains_like_an_unmeasured_one(folder, tmp_path, measure_nothing):
    measure_nothing()
    plain = landscape(tmp_path / "plain", "--save_model")
    assert read_table(plain / "sharpness.csv") == []
    assert (plain / "training.csv").read_bytes() == (folder / "training.csv").read_bytes()
    weights = "model/model.safetensors"
    assert (plain / weights).read_bytes() == (folder / weights).read_bytes()


@pytest.fixture(scope="module")
def exact(folder, tmp_path_factory):
    """The first point of that run, measured in float64."""
    point = str(read_table(folder / "sharpness.csv")[0]["batch"])
    flags = "--dtype", "float64", "--skip_search", "--sample_iterations", point
    return landscape(tmp_path_factory.mktemp("runs") / "exact", *flags)


def test_float64_measures_the_same_run_to_a_thousandth(folder, exact):
    assert (exact / "training.csv").read_bytes() == (folder / "training.csv").read_bytes()
    single = {(r["batch"], r["algorithm"], r["measured_on"]): r for r in read_table(folder / "sharpness.csv")}
    rows = read_table(exact / "sharpness.csv")
    assert len(rows) == 7  # training on both batches
    for row in rows:
        other = single[row["batch"], row["algorithm"], row["measured_on"]]
        for column in ("loss", "slope", "sharpness", "ratio"):
            assert row[column] == other[column] or row[column] == pytest.approx(other[column], rel=1e-3), column


def test_rounding_error_bounds_the_distance_to_float64_and_is_small(folder, exact):
    rows = on_batch(read_table(folder / "sharpness.csv"), "test")
    true = {r["algorithm"]: r for r in on_batch(read_table(exact / "sharpness.csv"), "test")}
    assert all(row["sharpness_error"] is None for row in true.values())
    for row in rows:
        assert 0 < row["sharpness_error"] < 1e-3 * abs(row["sharpness"])
        if row["batch"] == rows[0]["batch"]:
            assert abs(row["sharpness"] - true[row["algorithm"]]["sharpness"]) < row["sharpness_error"]


def test_a_ratio_that_rounding_blurs_is_marked(tmp_path):
    lines = ["epoch,algorithm,sharpness,ratio,sharpness_error",
             "1,sgd,1.0,1.0,1e-7", "1,lion,1e-8,1e-8,1e-7", "2,sgd,1.0,1.0,1e-7", "2,lion,,,"]  # fmt: skip
    (tmp_path / "sharpness.csv").write_text("\n".join(lines) + "\n")
    table = ratio_table(tmp_path, ["sgd", "lion"], "sgd")
    assert "~1e-08" in table and table.count("~") == 2 and "--dtype float64" in table.splitlines()[-1]


# ---- how it answers -----------------------------------------------------------------------------------------------


def test_an_earlier_run_is_not_overwritten_unless_told_to(folder, capsys):
    before = (folder / "config.json").read_bytes()
    with pytest.raises(SystemExit):
        run_landscape.main([*SMALL.split(), "--output_dir", str(folder)])
    assert "is not empty; replace that run with --overwrite" in capsys.readouterr().err
    assert (folder / "config.json").read_bytes() == before


def test_bad_row_is_answered_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(algorithm_list.ALGORITHM_LISTS, "mine", [Algorithm("sgd", lr=1.0), Algorithm("adam", lr=-1.0)])
    monkeypatch.setattr(run_landscape, "load_task", None)  # must not be reached
    with pytest.raises(SystemExit):
        run_landscape.main(["--algorithm_list", "mine", "--output_dir", str(tmp_path / "run")])
    assert "algorithm list 'mine', row 2: adam cannot be used: lr must be" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_direction_of_zero_is_an_empty_cell_and_one_warning(tmp_path, monkeypatch, caplog):
    rows = [Algorithm("sgd", lr=1.0), Algorithm("sgd", lr=1.0, coordinate_clip=0.5, threshold_scale=0.0)]
    monkeypatch.setitem(algorithm_list.ALGORITHM_LISTS, "zero", rows)
    monkeypatch.setattr("runs.lifecycle.start_logging", lambda verbose: None)
    with caplog.at_level("WARNING"):
        landscape(tmp_path / "run", "--algorithm_list", "zero")
    cells = [row for row in read_table(tmp_path / "run" / "sharpness.csv") if "clip" in row["algorithm"]]
    assert len(cells) == 2
    assert all(row["sharpness"] is None and row["slope"] is None and row["ratio"] is None for row in cells)
    assert sum("zero or not finite" in record.message for record in caplog.records) == 1
    assert {row["algorithm"] for row in read_table(tmp_path / "run" / "scan.csv")} == {"sgd", "training"}


def test_loss_that_is_not_finite_stops_the_run_with_everything_measured_on_disk(tmp_path, capfd, three_rows):
    flags = ["--train_optimizer", "sgd", "--no-momentum", "--lr", "1e30"]
    flags += ["--test_epochs", "1", *three_rows]
    folder = tmp_path / "run"
    assert run_landscape.main([*SMALL.split(), *flags, "--output_dir", str(folder)]) == 1
    assert "stopped: the training loss is" in capfd.readouterr().err
    assert len(read_table(folder / "sharpness.csv")) == 5  # three rows on the test batch, training on both
    assert len(read_table(folder / "ratios.csv")) == 5
    assert 1 <= len(read_table(folder / "training.csv")) < 6


def test_check_sharpness_prints_both_comparisons(tmp_path, capsys):
    flags = "--check_sharpness", "--algorithm_list", "workshop", "--skip_search", "--num_sample_sharpness", "1"
    landscape(tmp_path / "run", *flags)
    text = capsys.readouterr().out
    assert "from its full Hessian" in text and "central differences" in text
    errors = [float(line.split()[-1]) for line in text.split("relative error")[1].splitlines()[2:9]]
    assert len(errors) == 7 and max(errors) < 1e-10


def test_help_is_for_strangers():
    text = subprocess.run(
        [sys.executable, "run_landscape.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for flag in ("--task", "--dataset", "--model", "--train_optimizer", "--test_epochs", "--check_sharpness"):
        assert flag in text
    assert "toy task" in text


def test_both_scripts_train_in_the_one_loop():
    for script in ("run_landscape.py", "convergence/one_run.py"):
        source = (ROOT / script).read_text()
        assert "training.step()" in source and ".backward(" not in source
