"""run_landscape.py --seeds: one trajectory per seed in one folder, and what is told of them together."""

import math
from types import SimpleNamespace

import pytest

import run_landscape
from figures.drawing import FIGURES
from figures.run_tables import read_run
from figures.sharpness import ratio_means
from landscape.answer import answer
from landscape.seed_means import over_seeds, pooled
from landscape.tables import PointTables
from runs.intervals import factor_interval
from runs.live import LiveLog
from runs.tables import read_table
from tests.helpers import tiny_run
from tests.helpers.run_folders import figures_of
from tests.helpers.stored_runs import LANDSCAPE, landscape, refused, stop_at, tables
from training.loop import Point

SEEDS = [*LANDSCAPE, "--num_epochs", "2", "--test_epochs", "1", "2", "--seeds", "3", "1"]  # 10 updates per seed
pytestmark = pytest.mark.usefixtures("tiny_task")


@pytest.fixture(scope="module")
def two(tiny_task, tmp_path_factory):
    """A run of seeds 3 and 1 that nothing interrupts, with its points and models."""
    folder = tmp_path_factory.mktemp("seeds") / "run"
    assert landscape(*SEEDS, "--save_points", "--save_model", "--output_dir", folder) == 0
    return folder


# ---- one run per seed ---------------------------------------------------------------------------------------------


def test_each_seed_is_the_run_of_that_seed_alone_on_the_data_of_the_first(two, tmp_path, monkeypatch):
    tiny = tiny_run.Tiny
    monkeypatch.setattr(tiny_run, "Tiny", lambda size, seed, *rest: tiny(size, 3, *rest))
    for seed in (3, 1):
        alone = tmp_path / str(seed)
        assert landscape(*SEEDS[:-3], "--seed", seed, "--output_dir", alone) == 0
        for path in alone.glob("*.csv"):
            both, own = read_table(two / path.name), read_table(path)
            assert [row for row in both if row["seed"] == seed] == own != [], path.name
    assert [row["seed"] for row in read_table(two / "training.csv")] == [3] * 10 + [1] * 10
    assert {path.parent.name for path in two.glob("model/*/model.pt")} == {"seed3", "seed1"}


def test_one_seed_may_be_given_as_a_list(tmp_path):
    few = [*SEEDS[:-3], "--skip_search"]
    for name, flags in (("seed", ["--seed", "1"]), ("seeds", ["--seeds", "1"])):
        assert landscape(*few, *flags, "--save_model", "--output_dir", tmp_path / name) == 0
    assert tables(tmp_path / "seed") == tables(tmp_path / "seeds")
    assert (tmp_path / "seeds" / "model" / "model.pt").exists()


@pytest.mark.parametrize("flags, answer", [
    (["--seeds", "1", "0", "1"], "--seeds names a seed twice: 1 0 1"),
    (["--seeds", "1", "0", "--seed", "1"], "--seed has no effect with --seeds"),
])  # fmt: skip
def test_seeds_that_contradict_each_other_are_refused(flags, answer, tmp_path, capfd):
    refused([*SEEDS[:-3], *flags, "--output_dir", tmp_path / "run"], answer, tmp_path, capfd)


# ---- stopping and resuming ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """Ends the process between two checkpoints."""


@pytest.mark.parametrize("iteration, numbers", [(15, [14, 15]), (10, [9, 10])])
def test_a_run_stopped_in_any_seed_continues_to_the_same_bytes(iteration, numbers, two, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, iteration)
        assert landscape(*SEEDS, "--save_model", "--output_dir", folder) != 0
    stored = sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob("checkpoints/*.pt"))
    assert stored[-1] == numbers[-1]
    assert landscape("--resume", folder) == 0
    assert tables(folder) == tables(two)
    for path in two.glob("model/*/model.pt"):
        assert (folder / path.relative_to(two)).exists(), "also of a seed that ended before its model was kept"


def test_a_run_killed_in_its_second_seed_repeats_what_was_not_stored(two, tmp_path, monkeypatch):
    folder, advance, count = tmp_path / "run", run_landscape.PseudoUpdates.advance, iter(range(1, 100))

    def advance_and_end(self, collect=True):
        if next(count) == 14:  # after the checkpoint of update 12, two of the second seed
            raise Killed
        return advance(self, collect)

    with monkeypatch.context() as patch:
        patch.setattr(run_landscape.PseudoUpdates, "advance", advance_and_end)
        with pytest.raises(Killed):
            landscape(*SEEDS, "--output_dir", folder)
    assert landscape("--resume", folder) == 0
    assert next(count) == 15, "the first run alone was counted"
    assert tables(folder) == tables(two)


def test_a_seed_can_be_added_to_a_run_that_was_stopped(two, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        assert landscape(*SEEDS[:-1], "--output_dir", folder) != 0
    assert landscape("--resume", folder, "--seeds", "3", "1", "--allow_changes") == 0
    assert tables(folder) == tables(two)


def test_saved_points_of_several_seeds_give_the_same_bytes_again(two, tmp_path):
    again = tmp_path / "again"
    assert len(list(two.glob("points/point-*-seed3.pt"))) == 4
    assert landscape("--from_points", two, "--top_eigenvalues", "--output_dir", again) == 0
    before = tables(two)
    assert before.pop("training.csv") and tables(again) == before


# ---- means over the seeds -----------------------------------------------------------------------------------------


def test_the_interval_of_a_geometric_mean_by_hand():
    factor = 10 ** (12.7062047 * 0.5)  # logarithms 1 and 2: their std / sqrt(2) is 1/2, and t of one degree 12.7
    assert factor_interval([10.0, 100.0]) == pytest.approx((10**1.5 / factor, 10**1.5 * factor), rel=1e-6)
    assert factor_interval([2.0]) is None
    with pytest.raises(ValueError, match="only positive numbers have logarithms"):
        factor_interval([1.0, 0.0])


def test_ratios_are_averaged_by_factors_and_what_can_be_negative_is_not():
    assert over_seeds("ratio", [1.0, 100.0])[::3] == pytest.approx((10.0, "log"))
    assert over_seeds("ratio", [-1.0, 3.0])[::3] == (1.0, "linear")
    assert over_seeds("edge_quadratic", [1.0, 100.0])[::3] == (50.5, "linear")


def test_the_table_of_seed_means_follows_from_the_ratios_of_the_seeds(two):
    seed_means = read_table(two / "seed_means.csv")
    ratios = read_table(two / "ratios.csv")
    assert {row["seeds"] for row in seed_means} == {2}
    for row in seed_means:
        place = [row[name] for name in ("epoch", "algorithm", "measured_on")]
        own = [r for r in ratios if [r[name] for name in ("epoch", "algorithm", "measured_on")] == place]
        one, other = (r[f"mean_{row['quantity']}"] for r in own)
        if row["scale"] == "log":
            middle, half = math.sqrt(one * other), abs(math.log(one / other)) / 2
            assert math.log(row["high"] / middle) == pytest.approx(12.7062047 * half, rel=1e-6)
        else:
            middle, half = (one + other) / 2, abs(one - other) / 2
            assert row["low"] == pytest.approx(middle - 12.7062047 * half, rel=1e-6)
        assert row["mean"] == pytest.approx(middle)
    slopes = [row for row in seed_means if row["quantity"] == "slope"]
    assert {row["scale"] for row in slopes} == {"linear"} and len(slopes) == len(pooled(ratios))


def test_the_answer_tells_mean_and_interval_of_the_seeds(two):
    means = {(r["epoch"], r["algorithm"]): r for r in read_table(two / "seed_means.csv") if r["quantity"] == "ratio"}
    said = answer(two, ["sgd", "adam"], "sgd", "adam")
    assert "mean over 2 seeds with its 95 % interval" in said and "means over 2 seeds, std over them" in said
    row = means[2, "adam"]
    assert f"{row['mean']:.3g} ({row['low']:.2g} to {row['high']:.2g})" in said


# ---- figures ------------------------------------------------------------------------------------------------------


def test_figures_of_several_seeds_show_each_scan_and_the_means_with_their_intervals(two):
    drawn = {
        stem: figure for kinds in FIGURES.values() for kind in kinds for stem, figure in figures_of(kind, two).items()
    }
    scans = {(r["seed"], r["epoch"], r["batch"]) for r in read_table(two / "scan.csv")}
    stems = {f"seed{seed}_epoch{epoch}_batch{batch}" for seed, epoch, batch in scans}
    assert len(stems) == 4
    assert {f"{kind}_{stem}" for kind in ("scan", "histogram") for stem in stems} <= drawn.keys()
    assert "mean over the seeds, bar: 95 % interval" in drawn["sharpness_ratios"].axes[0].get_ylabel()
    told = {(r["algorithm"], r["epoch"]): r for r in read_table(two / "seed_means.csv") if r["quantity"] == "ratio"}
    for label, means in ratio_means(read_run(two)).items():
        for mean in means:
            row = told[label, mean.epoch]
            assert (mean.mean, *mean.ends) == pytest.approx((row["mean"], row["low"], row["high"]))


def test_the_training_loss_of_several_seeds_is_their_mean_in_a_band(two):
    rows = read_table(two / "training.csv")
    (figure,) = figures_of(FIGURES["training"][0], two).values()
    (ax,) = figure.axes
    batches, epochs = (dict(zip(*line.get_data(), strict=True)) for line in ax.lines)
    of_seed = {seed: {r["iteration"]: r["loss"] for r in rows if r["seed"] == seed} for seed in (3, 1)}
    assert batches == pytest.approx({i: (of_seed[3][i] + of_seed[1][i]) / 2 for i in range(1, 11)})
    assert list(epochs) == [3, 8]
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(max(row["loss"] for row in rows))


def test_the_edges_of_several_seeds_are_their_means_in_a_band(two):
    edges = figures_of(FIGURES["sharpness"][1], two)["edge_numbers"]
    panel = next(ax for ax in edges.axes if ax.get_title() == "adam")
    rows = [r for r in read_table(two / "sharpness.csv") if (r["algorithm"], r["measured_on"]) == ("adam", "test")]

    def mean_of(seed, epoch, column):
        values = [r[column] for r in rows if (r["seed"], r["epoch"]) == (seed, epoch) and r[column] is not None]
        return sum(values) / len(values) if values else None

    for place, epoch in enumerate((1, 2)):
        present = [v for v in (mean_of(seed, epoch, "edge_quadratic") for seed in (3, 1)) if v is not None]
        assert panel.lines[0].get_ydata()[place] == pytest.approx(sum(present) / len(present))
    assert panel.lines[0].get_xdata()[0] == pytest.approx(sum(mean_of(s, 1, "iteration") for s in (3, 1)) / 2)


def test_live_numbers_of_several_seeds_carry_the_seed_in_their_names(tmp_path):
    for seeds, names in (([3], {"training/loss"}), ([3, 1], {"training/loss/seed 3", "training/loss/seed 1"})):
        sent = {}
        live = LiveLog(SimpleNamespace(log=sent.update))
        run = PointTables(tmp_path, None, listener=live.row, seeds=seeds)
        for run.seed in seeds:
            run.add_training(Point(epoch=1, batch=1, iteration=1, loss=2.0, learning_rate=0.1, examples=4))
        assert sent.keys() == names | {"iteration"}
