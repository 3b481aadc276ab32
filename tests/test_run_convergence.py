"""run_convergence.py from the command line to the files: a fair start, curves that nothing else can change, tables that
follow from each other, learning rates, and one line for wrong input."""

import json
import math
import re
from collections import defaultdict
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from torch import nn

import run_convergence
from algorithm_list import ALGORITHM_LISTS
from convergence.best_epochs import best_epochs
from convergence.learning_rates import best_rate, round_lr, tell, trial_rows, tune
from convergence.one_run import Losses, Start
from run_convergence import make_parser, plan_of, resolve
from runs.tables import Table, read_table
from tasks.base import Task
from torch_optimizer import Algorithm
from training.loop import Training

SMALL = "--dataset_size 40 --batch_size 16 --num_epochs 2"
STEPS = 6  # two epochs of 16, 16 and 8 examples
ROWS = [
    Algorithm("sgd", lr=0.1, momentum=0.9, dampening=0.9),
    Algorithm("sgd", lr=1.0, momentum=0.9, dampening=0.9, coordinate_clip=0.1),
    Algorithm("adam", lr=2e-3),
    Algorithm("adafactor", relative_step=True),
]
LABELS = ["sgd", "sgd, coordinate_clip=0.1", "adam", "adafactor"]


@pytest.fixture(scope="module")
def lists():
    """Lists of this file, and runs that draw no figures unless `drawn`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ALGORITHM_LISTS, "mine", ROWS)
        patch.setitem(ALGORITHM_LISTS, "reversed", ROWS[::-1])
        patch.setitem(ALGORITHM_LISTS, "wild", [Algorithm("sgd", lr=1e30), ROWS[2]])
        yield


def convergence(folder, *flags, drawn=False):
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(run_convergence, "draw_all", lambda folder: [])
        if "--algorithm_list" not in flags:
            flags += ("--algorithm_list", "mine")
        assert run_convergence.main([*SMALL.split(), "--output_dir", str(folder), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(lists, tmp_path_factory):
    return convergence(tmp_path_factory.mktemp("runs") / "first", "--seeds", "0", "1", drawn=True)


def curves(folder):
    """(algorithm, seed) -> its rows of losses.csv without the seconds."""
    losses = defaultdict(list)
    for row in read_table(folder / "losses.csv"):
        row.pop("seconds")
        losses[row.pop("algorithm"), row["seed"]].append(row)
    return dict(losses)


def settings_for(*flags):
    settings = make_parser().parse_args(list(flags))
    resolve(settings)
    return settings


def start_of(task, settings):
    return Start(task, plan_of(settings), settings.device)


# ---- a fair start -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(lists):
    settings = settings_for(*SMALL.split(), "--algorithm_list", "mine")
    return start_of(run_convergence.load(settings, 0), settings)


def test_every_algorithm_starts_from_the_same_parameters_with_the_same_gradients(start, monkeypatch):
    firsts = []

    class Recorded(Training):
        def __iter__(self):
            for point in super().__iter__():
                if point.iteration == 1:
                    tensors = [(p.detach().clone(), p.grad.clone()) for p in self.task.model.parameters()]
                    firsts.append((point.loss, tensors))
                yield point

    monkeypatch.setattr("convergence.one_run.Training", Recorded)
    for row in ROWS:
        start.train(row, 0, 1)
    (loss, tensors), *others = firsts
    assert len(others) == 3 and any(g.abs().sum() > 0 for _, g in tensors)
    for other_loss, other_tensors in others:
        assert other_loss == loss
        for ours, theirs in zip(tensors, other_tensors, strict=True):
            assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


def test_algorithms_that_do_not_move_see_the_same_dropout_masks_at_every_step(start):
    still = [Algorithm("sgd", lr=1e-30), Algorithm("adam", lr=1e-30), Algorithm("lion", lr=1e-30)]
    sgd, adam, lion = ([loss for *_, loss, _, _ in start.train(row, 0, 2).points] for row in still)
    assert sgd == adam == lion
    task = start.task
    task.model.load_state_dict(start.state)
    with torch.no_grad():
        task.model.eval()
        whole = task.losses(task.model, task.collate(task.examples)).mean().item()
    epochs = [fmean([*losses[:2], *losses[:2], losses[2]]) for losses in (sgd[:3], sgd[3:])]  # 16, 16, 8 examples
    assert whole not in epochs and epochs[0] != epochs[1]  # masks there are, new ones at every step
    assert epochs == pytest.approx([whole, whole], rel=0.05)


# ---- curves that nothing else can change --------------------------------------------------------------------------


def test_two_runs_with_one_seed_write_the_same_bytes_but_for_the_seconds(folder, tmp_path):
    again = convergence(tmp_path / "again", "--seeds", "0", "1")
    assert (again / "summary.csv").read_bytes() == (folder / "summary.csv").read_bytes()
    texts = [(f / "losses.csv").read_text().splitlines() for f in (folder, again)]
    first, second = ([line.rpartition(",")[0] for line in lines] for lines in texts)
    assert first == second and len(first) == 1 + 4 * 2 * STEPS


def test_order_of_the_list_changes_no_curve(folder, tmp_path):
    turned = curves(convergence(tmp_path / "turned", "--algorithm_list", "reversed"))
    assert [label for label, _ in turned] == LABELS[::-1]
    assert turned == {key: curve for key, curve in curves(folder).items() if key[1] == 0}


def test_only_gives_the_curves_of_the_full_list(folder, tmp_path):
    some = convergence(tmp_path / "some", "--only", "sgd, coordinate_clip=0.1", "adam", "--micro_batch_size", "32")
    expected = {key: curve for key, curve in curves(folder).items() if key in [(LABELS[1], 0), ("adam", 0)]}
    assert curves(some) == expected and len(expected) == 2


def test_seeds_and_algorithms_give_different_curves(folder):
    losses = [tuple(row["loss"] for row in curve) for curve in curves(folder).values()]
    assert len(set(losses)) == len(losses) == 8


# ---- what a run leaves --------------------------------------------------------------------------------------------


def test_run_leaves_its_files_with_the_promised_columns(folder):
    names = {"config.json", "log.txt", "losses.csv", "summary.csv", "figures", "report.html"}
    assert {p.name for p in folder.iterdir()} == names
    assert {"loss_by_epoch.png", "loss_by_iteration.pdf"} <= {p.name for p in (folder / "figures").iterdir()}
    header = {name: (folder / f"{name}.csv").read_text().splitlines()[0] for name in ("losses", "summary")}
    assert header == {
        "losses": "algorithm,seed,epoch,iteration,examples,loss,lr,seconds",
        "summary": "algorithm,lr,final_loss_mean,final_loss_std,best_loss,steps_to_sgd_loss,diverged",
    }
    config = json.loads((folder / "config.json").read_text())
    assert [row["label"] for row in config["algorithms"]] == LABELS
    assert config["settings"]["seeds"] == [0, 1]


def test_every_step_has_its_epoch_learning_rate_and_growing_seconds(folder):
    for (label, _), curve in curves(folder).items():
        assert [(row["epoch"], row["iteration"]) for row in curve] == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
        assert {row["lr"] for row in curve} == {dict(zip(LABELS, [0.1, 1.0, 2e-3, None], strict=True))[label]}
    seconds = [row["seconds"] for row in read_table(folder / "losses.csv")]
    for run in range(8):
        one = seconds[run * STEPS : (run + 1) * STEPS]
        assert one == sorted(one) and 0 < one[0] < one[-1]


def test_summary_follows_from_the_losses(folder):
    losses = {key: [row["loss"] for row in curve] for key, curve in curves(folder).items()}
    # mean over the examples of the last three batches (16, 16 and 8), an epoch's worth, at iterations 3 to 6
    sizes = [16, 16, 8, 16, 16, 8]
    smooth = {key: [fmean(curve[i - 3 : i], sizes[i - 3 : i]) for i in (3, 4, 5, 6)] for key, curve in losses.items()}
    for row, label in zip(read_table(folder / "summary.csv"), LABELS, strict=True):
        finals = [smooth[label, seed][-1] for seed in (0, 1)]
        assert row["algorithm"] == label and row["diverged"] == 0
        assert row["final_loss_mean"] == pytest.approx(fmean(finals), rel=1e-12)
        assert row["final_loss_std"] == pytest.approx(stdev(finals), rel=1e-9)
        assert row["best_loss"] == min(*smooth[label, 0], *smooth[label, 1])
        ends = [smooth["sgd", seed][-1] for seed in (0, 1)]
        steps = [next((3 + i for i, f in enumerate(smooth[label, s]) if f <= ends[s]), None) for s in (0, 1)]
        assert row["steps_to_sgd_loss"] == (None if None in steps else fmean(steps))


def test_a_run_of_known_losses_is_summarized_by_hand():
    losses = [8.0, 6.0, 2.0, 4.0, 5.0]
    known = Losses([(1 + i // 2, 1 + i, 4, loss, 0.1, 0.0) for i, loss in enumerate(losses)], 2, False, [])
    assert known.smooth() == [7.0, 4.0, 3.0, 4.5]
    assert known.final_loss == 4.5
    uneven = Losses([(1, 1, 3, 8.0, 0.1, 0.0), (1, 2, 1, 4.0, 0.1, 0.0)], 2, False, [])
    assert uneven.smooth() == [7.0]  # (3 * 8 + 1 * 4) / 4
    assert [known.steps_to(target) for target in (7.5, 4.0, 3.5, 2.9)] == [2, 3, 4, None]
    worse = Losses([(1, i, 4, loss, 0.1, 0.0) for i, loss in [(1, 6.0), (2, 6.5)]], 2, False, [])
    gone = Losses([(1, 1, 4, 8.0, 0.1, 0.0)], 2, True, [])
    row = run_convergence.summarize("sgd", ROWS[0], [known, worse, gone], sgd=[known, worse, gone])
    assert row == dict(
        algorithm="sgd", lr=0.1, final_loss_mean=(4.5 + 6.25) / 2, final_loss_std=pytest.approx(1.75 / 2**0.5),
        best_loss=3.0, steps_to_sgd_loss=(3 + 2) / 2, diverged=1,
    )  # fmt: skip
    other = run_convergence.summarize("adam", ROWS[1], [worse, known, known], sgd=[known, worse, gone])
    assert other["steps_to_sgd_loss"] is None, "6.25 is above 4.5, where the SGD of its seed ended"
    assert run_convergence.summarize("adam", ROWS[1], [known], sgd=[worse])["steps_to_sgd_loss"] == 3


def test_diverged_algorithm_is_marked_and_the_others_go_on(folder, lists, tmp_path, monkeypatch, caplog, capfd):
    monkeypatch.setattr("runs.lifecycle.start_logging", lambda verbose: None)  # it would end caplog's own
    caplog.set_level("INFO", "convergence.jobs")
    wild = convergence(tmp_path / "wild", "--algorithm_list", "wild", "--save_model", "--num_epoch_to_save", "1")
    losses = curves(wild)
    assert len(losses["sgd", 0]) < STEPS
    assert losses["adam", 0] == curves(folder)["adam", 0]
    sgd, adam = read_table(wild / "summary.csv")
    empty = ("final_loss_mean", "final_loss_std", "best_loss", "steps_to_sgd_loss")
    assert sgd["diverged"] == 1 and all(sgd[column] is None for column in empty)
    assert adam["diverged"] == 0 and adam["final_loss_mean"] < 10
    out, err = capfd.readouterr()
    first, second = [r.getMessage() for r in caplog.records if r.name == "convergence.jobs"]  # a line as each finishes
    assert re.fullmatch(r"sgd, seed 0: diverged after \d steps", first)
    assert second == f"adam, seed 0: loss {adam['final_loss_mean']:.4g}"
    assert "Writing" not in err  # no bar: standard error is no terminal
    assert "final_loss_mean" in out and "losses.csv" in out
    # the model that diverged is not kept, the other is: of every epoch and in the end
    assert [p.name for p in sorted((wild / "model").glob("*/model.safetensors"))] == ["model.safetensors"]
    kept = wild / "model" / "seed0-2-adam"
    assert {p.name for p in kept.iterdir() if p.is_dir()} == {"epoch1", "epoch2"}
    models = [(p / "model.safetensors").read_bytes() for p in (kept / "epoch1", kept / "epoch2", kept)]
    assert models[0] != models[1] == models[2]


def test_linear_schedule_falls_to_nothing_over_the_run(start, monkeypatch):
    monkeypatch.setattr(start, "plan", replace(start.plan, lr_scheduler="linear"))
    rates = [lr for *_, lr, _ in start.train(ROWS[0], 0, 2).points]
    assert rates == pytest.approx([0.1 * (1 - i / STEPS) for i in range(STEPS)], rel=1e-12)


def test_scores_of_a_classification_task_follow_every_epoch_and_change_no_curve(lists, tmp_path, monkeypatch):
    flags = ["--task", "binary_classification", "--dataset", "toy", "--model", "toy", "--only", "adam"]
    scored = convergence(tmp_path / "scored", *flags)
    rows = read_table(scored / "scores.csv")
    assert [(row["epoch"], row["split"], row["metric"]) for row in rows] == [
        (epoch, split, "accuracy") for epoch in (1, 2) for split in ("evaluation", "test")
    ]
    assert all(row["algorithm"] == "adam" and 0 <= row["value"] <= 1 for row in rows)
    assert read_table(scored / "best_epochs.csv") == best_epochs(rows)
    monkeypatch.setattr(Start, "end_epoch", lambda *_: [])
    assert curves(convergence(tmp_path / "plain", *flags)) == curves(scored)
    assert not (tmp_path / "plain" / "scores.csv").exists()
    assert not (tmp_path / "plain" / "best_epochs.csv").exists()


def test_the_best_epoch_is_the_first_with_the_highest_evaluation_accuracy(tmp_path):
    """So Tomihari & Sato choose the model that they report. Each seed has its own; the printed column is their mean."""
    table = Table(tmp_path / "scores.csv", run_convergence.SCORES)
    evaluation = {("adam", 1): [0.5, 0.75, 0.75], ("adam", 2): [0.9, 0.1, 0.2], ("sgd", 1): [0.1, 0.2, 0.3]}
    for (algorithm, seed), values in evaluation.items():
        for epoch, value in enumerate(values, start=1):
            for split, metric, score in (
                ("evaluation", "accuracy", value), ("evaluation", "f1", 1 - value),
                ("test", "accuracy", epoch / 8 + seed / 64), ("test", "f1", 0.0),
            ):  # fmt: skip
                table.append(algorithm=algorithm, seed=seed, epoch=epoch, split=split, metric=metric, value=score)
    table.save()
    best = [tuple(row.values()) for row in best_epochs(read_table(tmp_path / "scores.csv"))]
    assert best == [("adam", 1, 2, 0.75, 17 / 64), ("adam", 2, 1, 0.9, 10 / 64), ("sgd", 1, 3, 0.3, 25 / 64)]
    lines = run_convergence.final_scores(tmp_path, ["sgd", "adam"]).splitlines()
    assert lines[0].split("  ")[-1].strip() == "test accuracy, best epoch"
    assert [line.split()[-1] for line in lines[2:]] == ["0.3906", "0.2109"]


# ---- learning rates -----------------------------------------------------------------------------------------------


class Bowl(Task):
    """2 (w - 3)^2 from w = 0, whatever the example: after t steps of gradient descent, 18 (1 - 4 lr)^(2 t)."""

    def __init__(self):
        model = nn.Linear(1, 1, bias=False)
        model.weight.data.zero_()
        super().__init__("bowl", model, None, [{}] * 4)

    def length(self, index):
        return 1

    def collate(self, examples):
        return {"one": torch.ones(len(examples), 1)}

    def losses(self, forward, batch):
        return 2 * (forward(batch["one"])[:, 0] - 3).square()


def tuned(lr, *grid):
    """(trials as rows of tuned_learning_rates.csv, learning rate -> final loss) of plain SGD on the bowl, two steps
    per trial."""
    flags = ["--batch_size", "4", "--tune_lr", "--tune_epochs", "3", "--lr_grid", *map(str, grid)]
    settings = settings_for(*flags)
    start, row = start_of(Bowl(), settings), Algorithm("sgd", lr=lr)
    losses = tune(
        lambda rate: start.train(row.with_options(lr=rate), 0, settings.tune_epochs).final_loss, lr, settings.lr_grid
    )
    return trial_rows("toy", "sgd", losses), losses


def test_a_last_step_to_weights_that_are_not_finite_is_a_divergence():
    start = start_of(Bowl(), settings_for("--batch_size", "4"))
    run = start.train(Algorithm("sgd", lr=1e38), 0, 1)  # one update, by 12e38
    assert [point[3] for point in run.points] == [18.0] and run.diverged


def test_tuning_finds_the_optimum_of_a_quadratic():
    trials, losses = tuned(0.25, 0.25, 0.5, 1, 2)
    assert [trial["lr"] for trial in trials] == [0.0625, 0.125, 0.25, 0.5]
    assert [trial["final_loss"] for trial in trials] == pytest.approx([18 * 0.75**4, 18 * 0.5**4, 0, 18], rel=1e-5)
    assert [trial["chosen"] for trial in trials] == [0, 0, 1, 0]
    assert {(trial["task"], trial["algorithm"]) for trial in trials} == {("toy", "sgd")}
    assert best_rate(losses) == 0.25


@pytest.mark.parametrize(
    "lr, rates", [(0.03, [0.015, 0.03, 0.06, 0.12, 0.24, 0.48]), (2.0, [0.125, 0.25, 0.5, 1.0, 2.0, 4.0])]
)
def test_tuning_goes_on_past_an_end_while_the_best_is_there(lr, rates):
    trials, losses = tuned(lr, 0.5, 1, 2)
    assert [trial["lr"] for trial in trials] == rates
    assert best_rate(losses) == pytest.approx(0.245, abs=0.01)


def test_tuning_survives_divergence():
    trials, losses = tuned(0.25, 0.5, 1, 1e30)
    found = [(math.isinf(trial["final_loss"]), trial["diverged"]) for trial in trials]
    assert found == [(False, 0), (False, 0), (True, 1)]
    assert best_rate(losses) == 0.25


def test_a_row_that_diverges_everywhere_has_no_best_rate_and_none_is_chosen(caplog):
    trials, losses = tuned(1e30, 1, 10)
    assert [trial["lr"] for trial in trials] == pytest.approx([10.0**k for k in range(18, 32)])  # twelve more below
    assert all(trial["diverged"] and not trial["chosen"] for trial in trials)
    assert best_rate(losses) is None
    with caplog.at_level("WARNING"):
        tell("sgd", 1e30, losses)
    assert "sgd diverged at every learning rate from 1e+18 to 1e+31; it stays at 1e+30" in caplog.text


def test_search_ends_and_tries_nothing_twice():
    tried = []

    def always_better(rate):
        tried.append(rate)
        return -rate

    assert list(tune(always_better, 1e-3, [1, 10])) == [round_lr(10.0**k) for k in range(-3, 11)]  # 2 + MOST_EXTENSIONS
    assert len(tried) == len(set(tried)) == 14
    assert tune(always_better, 1e-3, [1, 1.0]) == {1e-3: -1e-3}  # one factor: no ratio to go on by
    assert list(tune(lambda rate: math.inf, 1.0, [1])) == [1.0]


def test_the_run_after_tuning_trains_with_what_was_chosen(folder, lists, tmp_path):
    flags = ["--only", "adam", "adafactor", "--tune_lr", "--tune_epochs", "1", "--lr_grid", "1", "0.1", "1e-9"]
    tuned = convergence(tmp_path / "tuned", *flags)
    trials = read_table(tuned / "tuned_learning_rates.csv")
    assert {trial["algorithm"] for trial in trials} == {"adam"}  # adafactor's relative steps have no rate to tune
    (best,) = [trial for trial in trials if trial["chosen"]]
    assert best["final_loss"] == min(trial["final_loss"] for trial in trials)
    assert {row["lr"] for row in curves(tuned)["adam", 0]} == {best["lr"]}
    assert read_table(tuned / "summary.csv")[0]["lr"] == best["lr"]
    assert curves(tuned)["adafactor", 0] == curves(folder)["adafactor", 0]  # trials left no trace


@pytest.mark.parametrize("epochs, third", [(1, 1), (3, 1), (4, 2), (5, 2), (20, 7)])
def test_a_trial_is_a_third_of_the_run_rounded_up(epochs, third):
    assert settings_for("--tune_lr", "--num_epochs", str(epochs)).tune_epochs == third


# ---- how it answers -----------------------------------------------------------------------------------------------


def test_an_earlier_run_is_not_overwritten_unless_told_to(folder, capsys):
    before = (folder / "losses.csv").read_bytes()
    with pytest.raises(SystemExit):
        convergence(folder)
    assert "is not empty; replace that run with --overwrite" in capsys.readouterr().err
    assert (folder / "losses.csv").read_bytes() == before
