"""What run_landscape.py makes of its flags before any work: the row that trains, the batches, the examples."""

from types import SimpleNamespace

import pytest
import torch

import run_landscape
from algorithm_list import ALGORITHM_LISTS
from landscape.flags import make_parser
from landscape.plan import sampled_batches
from landscape.saved_points import rows_of_run
from landscape.stored import Stored
from run_landscape import choose_reference, fixed_test_batch, resolve
from runs.config import described, write_config
from runs.tables import TEST, TRAINING, on_batch, read_table
from tests.helpers import tiny_run
from tests.helpers.stored_runs import landscape
from tests.helpers.tiny_run import Tiny
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled
from training.loop import SAMPLE, TEST_BATCH, random_stream


def settings_of(*flags):
    return make_parser().parse_args(list(flags))


def resolved(*flags):
    settings = settings_of(*flags)
    return settings, *resolve(settings)


# ---- the row that trains ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "name", "options"), [
    ([], "adam", {"lr": 1e-3}),  # the toy task's own rates
    (["--train_optimizer", "sgd"], "sgd", {"lr": 0.1, "momentum": 0.9, "dampening": 0.9}),
    (["--train_optimizer", "sgd", "--no-momentum", "--lr", "2"], "sgd", {"lr": 2.0}),
    (["--train_optimizer", "sign_sgd", "--lr", "2"], "sign_sgd", {"lr": 2.0, "momentum": 0.9, "dampening": 0.9}),
    (["--train_optimizer", "adafactor"], "adafactor", {}),
    (["--train_optimizer", "adafactor", "--lr", "2"], "adafactor", {"lr": 2.0, "relative_step": False}),
    (["--task", "machine_translation", "--train_optimizer", "sgd"], "sgd",
     {"lr": 1e-3, "momentum": 0.9, "dampening": 0.9}),
])  # fmt: skip
def test_the_training_row_has_the_tasks_rate_and_the_papers_momentum(flags, name, options):
    _, row, _ = resolved(*flags)
    assert (row.name, dict(row.options)) == (name, options)


@pytest.mark.parametrize(("flags", "epochs"), [
    ([], [1, 3, 5]),
    (["--num_epochs", "4"], [1, 3]),
    (["--num_epochs", "7"], [1, 3, 5]),
    (["--num_epochs", "3", "--test_epochs", "3", "2"], [3, 2]),
    (["--task", "machine_translation", "--num_epochs", "1"], [1]),
])  # fmt: skip
def test_the_epochs_measured_in_are_the_tasks_as_far_as_the_run_goes(flags, epochs):
    settings, *_ = resolved(*flags)
    assert list(settings.test_epochs) == epochs


def test_an_epoch_after_the_last_is_refused():
    with pytest.raises(ValueError, match="--test_epochs 4 is after the last epoch, --num_epochs 3"):
        resolved("--num_epochs", "3", "--test_epochs", "3", "4")


# ---- where it is measured -----------------------------------------------------------------------------------------


def test_the_measured_batches_are_drawn_from_seed_and_epoch_and_the_first_drawn_is_scanned():
    drawn = {}
    for seed in ("0", "1"):
        settings, *_ = resolved("--seed", seed, "--num_sample_sharpness", "3")
        drawn[seed] = sampled_batches(settings, 10)
        for epoch, (batches, scanned) in drawn[seed].items():
            first = (random_stream(int(seed), SAMPLE, epoch).permutation(10)[:3] + 1).tolist()
            assert (batches, scanned) == (sorted(first), first[0])
    assert list(drawn["0"]) == [1, 3, 5] and drawn["0"] != drawn["1"] and len(set(map(str, drawn["0"].values()))) == 3
    all_of_ten, _ = sampled_batches(resolved("--num_sample_sharpness", "10")[0], 10)[1]
    assert all_of_ten == list(range(1, 11))


def test_named_batches_are_measured_in_order_and_the_first_named_is_scanned():
    settings, *_ = resolved("--sample_iterations", "7", "2", "7", "--test_epochs", "3")
    assert sampled_batches(settings, 7) == {3: ([2, 7], 7)}
    with pytest.raises(ValueError, match="--sample_iterations 7 is past the last batch: an epoch has 6"):
        sampled_batches(settings, 6)


@pytest.mark.parametrize(("flags", "seed"), [([], 0), (["--seed", "5"], 5), (["--seed", "5", "--test_seed", "4"], 4)])
def test_the_test_batch_is_drawn_from_all_examples_in_micro_batches(flags, seed):
    settings, *_ = resolved("--test_batch_size", "5", "--micro_batch_size", "2", *flags)
    task = Tiny(20, 0)
    plan = SimpleNamespace(settings=settings, measuring=SimpleNamespace(dtype=torch.float64))
    batches = fixed_test_batch(task, plan)
    chosen = random_stream(seed, TEST_BATCH).permutation(20)[:5].tolist()
    assert [len(batch["x"]) for batch in batches] == [2, 2, 1] and batches[0]["x"].dtype == torch.float64
    assert torch.equal(
        torch.cat([b["x"] for b in batches]), torch.stack([task.examples[i]["x"] for i in chosen]).double()
    )


# ---- the reference, and what a checkpoint restores ----------------------------------------------------------------


def test_the_reference_is_the_first_unclipped_sgd_row_unless_another_is_named():
    rows = labeled([Algorithm("adam", lr=1.0), Algorithm("sgd", lr=1.0, coordinate_clip=0.1), Algorithm("sgd", lr=1.0)])
    assert choose_reference(None, rows) == "sgd" and choose_reference("adam", rows) == "adam"
    assert choose_reference(None, {"adam": rows["adam"]}) is None
    with pytest.raises(ValueError, match="--reference 'lion' is not a row of the list; its labels are adam, sgd"):
        choose_reference("lion", rows)


class Part:
    labels = ("sgd", "adam")

    def __init__(self, state):
        self.state, self.param_groups, self.dropped = state, [{"lr": 1.0, "momentum": 0.9}], []

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state

    def drop(self, label):
        self.dropped.append(label)


def restored(train_row, rows, state):
    """The parts of a run with these rows, restored from the state of another."""
    stored = Stored(*(Part(f"new {name}") for name in ("model", "optimizer", "updates", "tables")), train_row, rows)
    stored.load_state_dict(state)
    return stored


def test_a_checkpoint_restores_what_is_still_the_same():
    sgd, rows = Algorithm("sgd", lr=1.0), labeled([Algorithm("sgd", lr=1.0), Algorithm("adam", lr=0.5)])
    updates = Part({"sgd": "state of sgd", "adam": "state of adam"})
    state = Stored(Part("model"), Part("optimizer"), updates, Part("tables"), sgd, rows).state_dict()

    same = restored(sgd, rows, dict(state))
    assert [part.state for part in same.parts.values()] == ["model", "optimizer", "tables"]
    assert same.updates["pseudo_updates"].state == updates.state
    assert same.optimizer.param_groups == [{"lr": 1.0, "momentum": 0.9}] and not same.updates["pseudo_updates"].dropped

    changed = rows | {"adam": Algorithm("adam", lr=0.25)}
    fresh = restored(Algorithm("sgd", lr=3.0), changed, dict(state))
    assert fresh.updates["pseudo_updates"].state == {"sgd": "state of sgd"}, "a changed row starts with a fresh state"
    assert fresh.optimizer.state == "optimizer" and fresh.optimizer.param_groups == [{"lr": 3.0, "momentum": 0.9}]

    other = restored(Algorithm("adam", lr=3.0), rows, dict(state))
    assert other.optimizer.state == "new optimizer", "another optimizer cannot take its state"

    lost = dict(state) | {"pseudo_updates": {"sgd": "state of sgd"}}
    assert restored(sgd, rows, lost).updates["pseudo_updates"].dropped == ["adam"]


def test_the_rows_of_an_earlier_run_are_those_it_had(tmp_path):
    rows = labeled([Algorithm("sgd", lr=1.0, step_size=0.5), Algorithm("adam", lr=0.5, betas=(0.8, 0.9))])
    write_config(tmp_path, {}, described(rows))
    found = rows_of_run(str(tmp_path))
    assert list(found) == ["sgd", "adam"] and found["sgd"].step_size == 0.5 and found["adam"].lr == 0.5
    assert [list(row.options.get("betas", ())) for row in found.values()] == [[], [0.8, 0.9]]


def test_the_plan_of_what_is_measured_follows_the_flags(monkeypatch):
    monkeypatch.setitem(ALGORITHM_LISTS, "two", [Algorithm("sgd", lr=1.0, step_size=0.5), Algorithm("adam", lr=1.0)])
    plans = []
    monkeypatch.setattr(run_landscape, "load_task", lambda *_, **__: Tiny(20, 0))
    monkeypatch.setattr("landscape.plan.Plan", lambda *fields: plans.append(fields[5]) or fields)
    for flags in ([], ["--step_size", "2"], ["--skip_search"], ["--skip_sharpness"]):
        settings = settings_of("--algorithm_list", "two", *flags)
        run_landscape.prepare(make_parser(), flags, settings, None)
    spacings = [{label: plan.spacing[label] for label in ("sgd", "adam")} for plan in plans[:2]]
    assert spacings == [{"sgd": 0.5, "adam": None}, {"sgd": 2.0, "adam": 2.0}]
    assert [(plan.sharpness, plan.scans) for plan in plans[1:]] == [(True, True), (True, False), (False, True)]


def test_measurements_are_in_float32_unless_asked_otherwise():
    assert make_parser().parse_args([]).dtype == "float32"


def test_a_batch_of_more_examples_than_there_are_is_the_full_batch(tmp_path, tiny_task):
    """One update per epoch, on every example; the training batch that is measured has all of them, too."""
    flags = ["--num_epochs", "3", "--test_epochs", "2", "--measure_on", "both", "--batch_size", "1000"]
    assert landscape(*tiny_run.FLAGS.split(), *flags, "--test_batch_size", "20", "--output_dir", tmp_path / "run") == 0
    assert [row["iteration"] for row in read_table(tmp_path / "run" / "training.csv")] == [1, 2, 3]
    rows = read_table(tmp_path / "run" / "sharpness.csv")
    assert {row["batch"] for row in rows} == {1}
    test, training = ({r["algorithm"]: r["sharpness"] for r in on_batch(rows, batch)} for batch in (TEST, TRAINING))
    assert len(test) == 7 and training == pytest.approx(test, rel=1e-4), "both batches are all of the data"
