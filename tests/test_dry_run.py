"""--dry_run tells what a run does before it does it: its counts are those of the tables that the run then writes."""

import copy
import io
import logging
import re
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from tqdm import tqdm

import run_convergence
import run_hessian
import run_landscape
from convergence.estimate import counted as counted_runs
from landscape.estimate import Pace, counted, paced
from landscape.memory import pseudo_state_bytes
from landscape.plan import most_of_training_batch
from landscape_utils import PseudoUpdates
from runs.estimate import in_bytes
from runs.messages import TimeLeft, progress
from runs.resuming import settings_of_run
from runs.tables import read_table
from tests.helpers import tiny_run
from tests.helpers.stored_runs import COMMANDS, CONVERGENCE, HESSIAN, LANDSCAPE, files, tables
from tests.helpers.tiny_run import Tiny
from torch_optimizer import Algorithm

SCRIPTS = {"landscape": run_landscape, "convergence": run_convergence, "hessian": run_hessian}
GIVEN = {"landscape": LANDSCAPE, "convergence": CONVERGENCE, "hessian": HESSIAN}


def prepared(script, *flags):
    """The run that a command line asks for, on the tiny task."""
    parser, arguments = SCRIPTS[script].make_parser(), [*GIVEN[script], *map(str, flags)]
    settings, _ = settings_of_run(parser, arguments)
    if script == "landscape":
        return run_landscape.prepare(parser, arguments, settings, None)
    return SCRIPTS[script].prepare(settings, None)


@pytest.fixture
def tiny(tiny_task, monkeypatch):
    """The one task that every script loads here."""
    task = Tiny(20, 0)
    monkeypatch.setitem(tiny_run.TASKS, "tiny", tiny_run.Entry(lambda request: task, tiny_run.TOY, tiny_run.TOY))
    monkeypatch.setitem(tiny_run.ALGORITHM_LISTS, "tiny", tiny_run.ROWS)
    return task


def numbers(script, *flags):
    return {part.what: part.number for part in prepared(script, *flags).estimate().parts if part.number is not None}


def distinct(rows, *columns):
    return len({tuple(row[column] for column in columns) for row in rows})


def durations(*seconds):
    """A clock by which the first thing that is timed takes the first of these seconds, and so on."""
    readings = [reading for duration in seconds for reading in (0.0, duration)]
    return lambda: readings.pop(0)


# ---- counts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--measure_on", "both", "--scan", "full"], ["--skip_search"],
                                   ["--seeds", "3", "1"]], ids=["default", "both", "no scans", "seeds"])  # fmt: skip
def test_the_counts_of_a_landscape_run_are_those_of_its_tables(tiny, flags, tmp_path):
    told, folder = numbers("landscape", *flags), tmp_path / "run"
    assert tiny_run.main("landscape", [*LANDSCAPE, *flags, "--output_dir", str(folder)]) == 0
    table = {path.stem: read_table(path) for path in folder.glob("*.csv")}
    scans = told.pop("loss scans of about 8 evaluations", told.pop("loss scans of about 20 evaluations", 0))
    assert told == {
        "updates": len(table["training"]),
        "measured points": distinct(table["sharpness"], "seed", "iteration"),
        "directions measured": len(table["sharpness"]),
        "directions decomposed": distinct(table["decomposition"], "seed", "iteration", "algorithm", "measured_on"),
        "directions measured per class": len(table["classes"]),
    }
    expected = 0 if flags == ["--skip_search"] else 28 if "--seeds" in flags else 14
    assert scans == distinct(table["scan"], "seed", "iteration", "algorithm") == expected


def test_the_count_of_a_clip_sweep_is_that_of_its_tables(tiny, tmp_path):
    told, folder = numbers("landscape", "--clip_sweep"), tmp_path / "run"
    assert tiny_run.main("landscape", [*LANDSCAPE, "--clip_sweep", "--output_dir", str(folder)]) == 0
    steps, parts = (len(read_table(folder / f"{name}.csv")) for name in ("clip_sweep", "curvature_by_size"))
    assert told["directions of the clip sweep"] == steps + 2 * parts + 2  # of the step itself, at two points


def test_the_counts_of_saved_points_are_those_that_were_kept(tiny, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    assert tiny_run.main("landscape", [*LANDSCAPE, "--save_points", "--output_dir", str(first)]) == 0
    next((first / "points").glob("*.json")).unlink()  # as a run that ended early leaves it
    parser, arguments = run_landscape.make_parser(), ["--from_points", str(first), "--output_dir", str(again)]
    settings, _ = settings_of_run(parser, arguments)
    parts = run_landscape.prepare(parser, arguments, settings, None).estimate().parts
    told = {part.what: part.number for part in parts if part.number}
    assert tiny_run.main("landscape", arguments) == 0
    assert "updates" not in told and told["measured points"] == 3
    assert told["directions measured"] == len(read_table(again / "sharpness.csv"))


def test_the_counts_of_a_convergence_run_are_those_of_its_tables(tiny, tmp_path):
    told, folder = numbers("convergence"), tmp_path / "run"
    assert tiny_run.main("convergence", [*CONVERGENCE, "--output_dir", str(folder)]) == 0
    losses, trials = read_table(folder / "losses.csv"), read_table(folder / "tuned_learning_rates.csv")
    assert told["updates"] == len(losses) and told["runs"] == distinct(losses, "algorithm", "seed")
    labels = {row["algorithm"] for row in trials}
    assert told["trials of learning rates, at least"] == 2 * len(labels) < len(trials)  # the grid went on
    assert told["updates of trials"] == 2 * len(labels) * 5  # of one epoch
    assert "100 %" in (folder / "log.txt").read_text().splitlines()[-2]  # trials counted, those beyond the grid too


def test_the_counts_of_a_hessian_run_are_those_of_its_table(tiny, tmp_path):
    told, folder = numbers("hessian", "--num_batches", "2"), tmp_path / "run"
    assert tiny_run.main("hessian", [*HESSIAN, "--num_batches", "2", "--output_dir", str(folder)]) == 0
    measured = [row for row in read_table(folder / "blocks.csv") if row["batch"] != "mean"]
    assert told == {"batches": 2, "tensors": len(measured) / 2, "tensors measured, of all batches": len(measured)}


# ---- what is left alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_dry_run_writes_nothing_and_says_so(tiny, script, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert tiny_run.main(script, [*COMMANDS[script], "--dry_run"]) == 0
    said = capfd.readouterr().out
    assert said.count("Nothing was written.") == 1 and "About" in said or "At least" in said
    assert files(tmp_path) == {} and not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_estimate_leaves_parameters_buffers_gradients_modes_and_random_state(tiny, script):
    run = prepared(script)
    before, random = copy.deepcopy(tiny.model.state_dict()), torch.get_rng_state()
    tiny.model[3].eval()
    modes = [module.training for module in tiny.model.modules()]
    run.estimate()
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.model.state_dict().items())
    assert all(p.grad is None for p in tiny.model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in tiny.model.modules()] == modes


@pytest.mark.parametrize("script", ["landscape", "convergence"])
def test_a_run_says_its_estimate_once_and_is_the_same_without(tiny_task, script, tmp_path):
    flags = COMMANDS[script]
    assert tiny_run.main(script, [*flags, "--output_dir", str(tmp_path / "a")], says_estimate=True) == 0
    assert tiny_run.main(script, [*flags, "--output_dir", str(tmp_path / "b")]) == 0
    logs = [(tmp_path / name / "log.txt").read_text() for name in "ab"]
    said = [len(re.findall(r"INFO (?:About|At least) .* in all: .* updates", log)) for log in logs]
    assert said == [1, 0] and tables(tmp_path / "a") == tables(tmp_path / "b")


def test_a_resumed_run_has_no_dry_run(tiny_task, tmp_path, capfd):
    with pytest.raises(SystemExit) as exit:
        tiny_run.main("convergence", ["--resume", str(tmp_path), "--dry_run"])
    assert exit.value.code == 2 and "leave out --resume" in capfd.readouterr().err


# ---- time ---------------------------------------------------------------------------------------------------------


PACE = Pace(gradient=2.0, states=10.0, forward=1.0, recording=4.0, direction=3.0, noise=100.0, rounding=20.0)


def landscape_plan(*flags):
    return prepared("landscape", *flags).estimate.args[1]


def test_the_time_of_a_landscape_run_adds_up(tiny):
    plan = landscape_plan("--dtype", "float32")
    seconds_of = {part.what: part.seconds for part in counted(plan, 20, PACE)}
    assert seconds_of["updates"] == 4 * 20 * 2 + 4 * 5 * 10
    # 4 points: 7 directions along 8 examples with all details, then the row training along 4 examples
    of_test = 8 * (4 + 7 * 3) + 8 * (1 + 7) * 1 + 8 * 2 + 100 + 8 * 20
    of_training = 4 * (4 + 3) + 4 * (1 + 1)
    assert seconds_of["directions measured"] == 4 * (of_test + of_training)
    assert seconds_of["loss scans of about 8 evaluations"] == 2 * 7 * 8 * 8 * 1
    assert seconds_of["directions measured per class"] == 4 * 2 * 8 * (4 + 7 * 3)
    assert seconds_of["directions decomposed"] == 4 * 5 * (8 * (4 + 7 * 3) + 4 * (4 + 3))
    assert most_of_training_batch(plan.settings) == 4
    exact = replace(plan, measuring=replace(plan.measuring, dtype=torch.float64))
    of_exact = {part.what: part.seconds for part in counted(exact, 20, PACE)}
    assert of_exact["directions measured"] == seconds_of["directions measured"] - 4 * 8 * 20  # no rounding to bound


def test_the_pace_is_that_of_the_clock(tiny):
    plan = landscape_plan("--dtype", "float32")
    states = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]  # of six rows
    clock = durations(12.0, *states, 64.0, 6.0, 10.0, 20.0, 44.0, 76.0)
    pace = paced(tiny, plan, [0, 1, 2, 3], clock)
    # the gradient is of four examples, the rest of the eight of the test batch, and of (76 - 44) / 2 s per direction
    assert pace == Pace(12 / 4, 127.0, 20 / 8, (44 - 16) / 8, 16 / 8, 6.0, 10 / 2)
    with pytest.raises(IndexError):
        clock()  # nothing was timed twice


def test_the_time_of_convergence_runs_adds_up(tiny):
    run = prepared("convergence")
    task, settings, algorithms, plan = run.estimate.args
    steps = {label: 10.0 * (i + 1) for i, label in enumerate(algorithms)}
    seconds_of = {part.what: part.seconds for part in counted_runs(task, settings, algorithms, plan, 0.5, steps)}
    assert seconds_of["updates"] == 2 * 2 * (3 * 20 * 0.5 + 5 * (10 + 20 + 30))
    assert seconds_of["updates of trials"] == 2 * (2 * 20 * 0.5 + 5 * (10 + 30))  # adafactor is not tuned


def test_the_time_of_a_hessian_run_adds_up(tiny):
    parts = prepared("hessian", "--num_batches", "2").estimate(clock=durations(5.0, 0.5)).parts
    tensors = len(list(tiny.model.parameters()))
    (total,) = [part.seconds for part in parts if part.seconds is not None]
    assert total == (5 + tensors * 15 * 0.5) * 2
    flags = ["--num_batches", "1", "--rebuild_graphs", "--max_iterations", "3"]
    rebuilt = prepared("hessian", *flags).estimate(clock=durations(5.0, 0.5))
    assert rebuilt.seconds == (5 + tensors * 3 * 5.5) * 1


@pytest.mark.parametrize("script, where", [
    ("landscape", "landscape.estimate.paced"), ("convergence", "convergence.estimate.gradient_seconds"),
    ("hessian", "hessian.estimate.pace"),
])  # fmt: skip
def test_without_room_for_a_micro_batch_there_is_no_time_and_the_rest_is_told(tiny, script, where, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(where, full)
    estimate = prepared(script).estimate()
    assert estimate.seconds is None and "Time not known, since a micro-batch of" in estimate.report()
    assert "model" in estimate.report() and estimate.line().startswith("Time not known: ")


# ---- memory -------------------------------------------------------------------------------------------------------


def bytes_of(state):
    return sum(v.nbytes for own in state["state"].values() for v in own.values() if isinstance(v, torch.Tensor))


def test_the_states_of_a_list_are_predicted_to_the_byte_and_shared_ones_count_once():
    of_sgd = Algorithm("sign_sgd", lr=0.1, momentum=0.9, dampening=0.9)  # the signs of the first row's momentum
    rows = [*tiny_run.ROWS, of_sgd, Algorithm("adafactor", lr=0.1, relative_step=False, beta1=0.9)]
    algorithms = {f"row {i}": row for i, row in enumerate(rows)}
    model = nn.Sequential(nn.Linear(40, 12), nn.Conv1d(12, 5, 3), nn.Linear(1, 9))
    params = dict(model.named_parameters())
    for p in params.values():
        p.grad = torch.randn_like(p)
    updates = PseudoUpdates(params, algorithms)
    updates.advance(collect=False)
    size = sum(p.nbytes for p in params.values())
    expected = {}
    for label, state in updates.states.items():
        if all(state is not updates.states[other] for other in expected):
            expected[label] = bytes_of(state.state_dict()) + (2 * size if label == "row 4" else 0)  # nadam's copies
    plan = type("Plan", (), {"pseudo_rows": algorithms})
    assert pseudo_state_bytes(plan, params) == expected
    assert len(expected) == 7 and "row 6" not in expected


def test_sizes_are_told_in_peoples_units():
    assert [in_bytes(n) for n in (1_500, 28_240_000, 2e9, 5.4e12)] == ["1.5 kB", "28.2 MB", "2 GB", "5,400 GB"]


# ---- while it runs ------------------------------------------------------------------------------------------------


def test_the_time_left_is_of_the_whole_run_and_bars_of_its_parts_show_none(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar, part = progress(total=4, desc="training"), progress(total=4, desc="scans", leave=False)
    bar.update(1), part.update(1)
    assert "<" in str(bar) and "<" not in str(part) and "1/4" in str(part)  # elapsed<remaining
    bar.close(), part.close()
    now = [0.0]
    left = TimeLeft(total=10, clock=lambda: now[0])
    now[0] = 8.0
    left.update(2)
    left.expect(10)  # two of twenty in 8 s: 18 more take 72 s
    assert str(left) == "10 %, 72 s left"


def test_what_an_earlier_process_did_counts_as_done_and_not_as_fast():
    with tqdm(total=100, file=io.StringIO(), smoothing=0) as bar:
        left = TimeLeft(total=100, bar=bar)
        left.skip(60)
        left.update(10)
        assert (left.done, bar.n, bar.initial) == (70, 70, 60)


def test_nothing_is_logged_but_the_line(tiny, caplog):
    caplog.set_level(logging.WARNING)
    prepared("landscape").estimate()
    assert caplog.messages == []
