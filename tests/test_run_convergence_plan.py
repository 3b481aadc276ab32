"""What run_convergence.py makes of its flags, which runs it asks for, where their numbers land. Nothing is trained."""

from types import SimpleNamespace

import pytest
import torch

import run_convergence
from algorithm_list import ALGORITHM_LISTS
from convergence.flags import make_parser
from convergence.learning_rates import HALF_DECADES
from convergence.one_run import Losses
from run_convergence import plan_of, resolve
from runs.config import write_config
from runs.live import LiveLog
from runs.stopping import StopRequest
from runs.tables import read_table
from torch_optimizer import Algorithm

ROWS = [Algorithm("sgd", lr=1.0), Algorithm("adam", lr=0.5), Algorithm("adafactor", relative_step=True)]


@pytest.fixture(autouse=True)
def rows(monkeypatch):
    monkeypatch.setitem(ALGORITHM_LISTS, "three", ROWS)


def resolved(*flags):
    settings = make_parser().parse_args(["--algorithm_list", "three", *flags])
    return settings, resolve(settings)


# ---- from flags to a plan -----------------------------------------------------------------------------------------


def test_every_flag_of_a_training_run_has_its_place_in_the_plan():
    flags = "--batch_size 7 --micro_batch_size 3 --max_grad_norm 2 --lr_scheduler linear_with_warmup --warmup_ratio 0.3"
    plan = plan_of(resolved(*flags.split(), "--compile", "--save_model", "--num_epoch_to_save", "2")[0])
    assert (plan.training.batch_size, plan.training.micro_batch_size, plan.training.max_grad_norm) == (7, 3, 2.0)
    assert (plan.lr_scheduler, plan.warmup_ratio) == ("linear_with_warmup", 0.3)
    assert (plan.compile, plan.save_model, plan.num_epoch_to_save) == (True, True, 2)


def test_what_is_left_out_is_off():
    settings, algorithms = resolved()
    plan = plan_of(settings)
    assert (plan.training.max_grad_norm, plan.training.autocast) == (None, None)
    assert (plan.lr_scheduler, plan.warmup_ratio, plan.compile) == ("constant", None, False)
    assert (plan.save_model, plan.num_epoch_to_save, list(algorithms)) == (False, None, ["sgd", "adam", "adafactor"])
    settings.dtype = "bfloat16"
    assert plan_of(settings).training.autocast is torch.bfloat16


def test_runs_have_the_seed_0_unless_told_otherwise():
    assert make_parser().parse_args([]).seeds == [0]


def test_a_schedule_warms_up_for_a_tenth_unless_told_otherwise():
    assert plan_of(resolved("--lr_scheduler", "epoch_warmup")[0]).warmup_ratio == 0.1
    with pytest.raises(ValueError, match="--warmup_ratio is for schedules with a warm-up, not for linear"):
        resolved("--lr_scheduler", "linear", "--warmup_ratio", "0.1")


def test_only_chooses_rows_in_the_order_that_it_names_them():
    assert list(resolved("--only", "adam", "sgd")[1]) == ["adam", "sgd"]
    with pytest.raises(
        ValueError, match="--only 'lion' is not a label of the list; its labels are sgd; adam; adafactor"
    ):
        resolved("--only", "adam", "lion")


def test_a_search_has_a_grid_and_a_third_of_the_epochs_unless_told_otherwise():
    settings, _ = resolved("--tune_lr", "--num_epochs", "7")
    assert (settings.lr_grid, settings.tune_epochs) == (HALF_DECADES, 3)
    settings, _ = resolved("--tune_lr", "--num_epochs", "7", "--lr_grid", "2", "--tune_epochs", "5")
    assert (settings.lr_grid, settings.tune_epochs) == ([2.0], 5)


# ---- from a plan to runs and tables -------------------------------------------------------------------------------


def losses(*values, diverged=False, scores=()):
    points = [(1 + i // 2, 1 + i, 4, value, 0.25, 0.5 * (i + 1)) for i, value in enumerate(values)]
    return Losses(points, 2, diverged, list(scores))


@pytest.fixture
def trained(monkeypatch, tmp_path):
    """trained(*flags) -> (every run asked for as (model's seed, row, seed, epochs, folder), folder of the tables)."""
    asked, loaded = [], []

    class FakeStart:
        def __init__(self, task, plan, device, ranks):
            self.model_seed = task.model_seed

        def train(self, row, seed, num_epochs, left=None, folder=None, follow=None, journal=None):
            asked.append((self.model_seed, row.name, row.lr, seed, num_epochs, folder and folder.name))
            if row.name == "sgd" and seed == 7:
                return losses(9.0, diverged=True)
            score = [(1, "evaluation", "accuracy", 0.25), (1, "test", "accuracy", 0.75)]
            return losses(8.0, 6.0, 2.0, 4.0 + 2 * seed * row.lr if row.lr else 3.0, scores=score)

    def load_task(name, *, seed, model_seed, **_):
        loaded.append((seed, model_seed))
        return SimpleNamespace(model_seed=model_seed, examples=[0] * 8)

    monkeypatch.setattr("convergence.jobs.Start", FakeStart)
    monkeypatch.setattr(run_convergence, "load_task", load_task)
    numbers = {"sgd": 1, "adam": 4, "adafactor": 5}
    monkeypatch.setattr("convergence.jobs.row_numbers", lambda folder: numbers)

    def trained(*flags):
        settings, algorithms = resolved("--num_epochs", "2", "--batch_size", "4", *flags)
        task = run_convergence.load(settings, settings.seeds[0])
        write_config(tmp_path, {}, [])
        trainings = run_convergence.run(settings, algorithms, task, tmp_path, StopRequest(), LiveLog())
        run_convergence.write_tables(trainings, tmp_path)
        return asked, loaded, tmp_path

    return trained


def test_every_row_is_trained_from_every_seed_with_the_data_of_the_first(trained):
    asked, loaded, _ = trained("--seeds", "3", "7", "--only", "sgd", "adam")
    assert loaded == [(3, 3), (3, 7)]
    assert asked == [
        (3, "sgd", 1.0, 3, 2, "seed3-1-sgd"), (3, "adam", 0.5, 3, 2, "seed3-4-adam"),
        (7, "sgd", 1.0, 7, 2, "seed7-1-sgd"), (7, "adam", 0.5, 7, 2, "seed7-4-adam"),
    ]  # fmt: skip


def test_rates_are_searched_on_the_first_seed_and_trained_with(trained):
    asked, _, folder = trained("--seeds", "3", "5", "--only", "adam", "--tune_lr", "--lr_grid", "1", "4", "0.5",
                               "--tune_epochs", "1")  # fmt: skip
    trials = [run for run in asked if run[-1] is None]
    assert {(seed, model, epochs) for model, _, _, seed, epochs, _ in trials} == {(3, 3, 1)}
    table = read_table(folder / "tuned_learning_rates.csv")
    assert {0.5, 2.0, 0.25} < {row["lr"] for row in table} == {run[2] for run in trials}
    assert all(row["final_loss"] == (2 + 4 + 6 * row["lr"]) / 2 for row in table)
    best = min(row["lr"] for row in table)  # the loss grows with the rate
    assert [run[2:5] for run in asked if run[-1]] == [(best, 3, 2), (best, 5, 2)]
    assert [row["lr"] for row in table if row["chosen"]] == [best]


def test_every_number_of_a_run_lands_in_its_column(trained):
    *_, folder = trained("--seeds", "3", "7", "--only", "sgd", "adam")
    rows = read_table(folder / "losses.csv")
    assert [(r["algorithm"], r["seed"]) for r in rows] == [("sgd", 3)] * 4 + [("adam", 3)] * 4 + [("sgd", 7)] + [
        ("adam", 7)
    ] * 4
    assert rows[2] == {"algorithm": "sgd", "seed": 3, "epoch": 2, "iteration": 3, "examples": 4, "loss": 2.0,
                       "lr": 0.25, "seconds": 1.5}  # fmt: skip
    assert read_table(folder / "scores.csv")[1] == {
        "algorithm": "sgd", "seed": 3, "epoch": 1, "split": "test", "metric": "accuracy", "value": 0.75,
    }  # fmt: skip
    assert read_table(folder / "best_epochs.csv")[0] == {
        "algorithm": "sgd", "seed": 3, "epoch": 1, "evaluation_accuracy": 0.25, "test_accuracy": 0.75,
    }  # fmt: skip
    sgd, adam = read_table(folder / "summary.csv")
    # the means over an epoch: 7, 4, and sgd's end at (2 + 10) / 2, adam's at (2 + 7) / 2 and (2 + 11) / 2
    assert sgd == {"algorithm": "sgd", "lr": 1.0, "final_loss_mean": 6.0, "final_loss_std": None, "best_loss": 4.0,
                   "steps_to_sgd_loss": 3, "diverged": 1}  # fmt: skip
    assert adam == {"algorithm": "adam", "lr": 0.5, "final_loss_mean": 5.5, "final_loss_std": pytest.approx(2**0.5),
                    "best_loss": 4.0, "steps_to_sgd_loss": 3, "diverged": 0}  # fmt: skip


def test_the_printed_scores_are_means_over_seeds_after_the_last_epoch(tmp_path):
    table = run_convergence.Table(tmp_path / "scores.csv", run_convergence.SCORES)
    for seed, epoch, value in ((0, 1, 0.5), (0, 2, 0.25), (1, 1, 0.5), (1, 2, 0.75)):
        for split in ("evaluation", "test"):
            cells = dict(algorithm="sgd", seed=seed, epoch=epoch, metric="accuracy")
            table.append(**cells, split=split, value=value / (1 + (split == "test")))
    table.save()
    header, _, line = run_convergence.final_scores(tmp_path, ["sgd"]).splitlines()
    assert header.split("  ")[1:3] == ["evaluation accuracy", "test accuracy"]
    assert line.split() == ["sgd", "0.5", "0.25", "0.3125"]  # of the best epochs, 1 and 2: (.25 + .375) / 2
