"""Every flag of every script reaches the place where it acts: each is given once, and its effect is looked for.

All on the tiny task; `EFFECTS` has a line per flag, and a flag without a line fails.
"""

import fcntl
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import hessian.jobs
import run_convergence
import run_hessian
import run_landscape
from landscape.sharded import ShardedUpdates
from runs.checkpoints import Checkpoints
from runs.config import read_config
from runs.tables import read_table
from tasks import Entry, Request
from tasks.protocols import TOY
from tests.helpers import tiny_run
from torch_optimizer import Algorithm

SCRIPTS = {"landscape": run_landscape, "convergence": run_convergence, "hessian": run_hessian}
ROWS = [Algorithm("sgd", lr=0.1), Algorithm("adam", lr=1e-2)]
SIZES = "--task tiny --dataset_size 8 --batch_size 4"
BASE = {
    "landscape": f"{SIZES} --algorithm_list tiny --num_epochs 2 --test_epochs 2 --num_sample_sharpness 1 "
    "--test_batch_size 4",
    "convergence": f"{SIZES} --algorithm_list tiny --num_epochs 2",
    "hessian": f"{SIZES} --num_batches 1",
}


DEFAULTS = TOY


class Run(SimpleNamespace):
    """What a run left: status, folder, what it printed, what it asked its task for, and what was spied on."""

    def table(self, name):
        path = self.folder / f"{name}.csv"
        return read_table(path) if path.exists() else None

    def column(self, name, column):
        return [row[column] for row in self.table(name)]

    @property
    def settings(self):
        return read_config(self.folder)["settings"]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """run(script, flags, name) -> Run. What `tiny_run.main` changes is put back."""
    monkeypatch.setattr(tiny_run, "ROWS", ROWS)
    tiny_run.undone_by(monkeypatch)
    asked, saved = [], []

    def load(request: Request):
        asked.append(request)
        return tiny_run.Tiny(request.dataset_size, request.model_seed)

    monkeypatch.setitem(tiny_run.TASKS, "tiny", Entry(load, DEFAULTS, DEFAULTS))
    monkeypatch.setattr(tiny_run, "Entry", lambda *_: Entry(load, DEFAULTS, DEFAULTS))
    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", lambda self, n, state: (saved.append(n), save(self, n, state))[1])

    def run(script, flags="", name="run", without=""):
        asked.clear(), saved.clear(), capfd.readouterr()
        flags = flags.replace("TMP", str(tmp_path))
        words = [*BASE[script].replace(without, "").split(), *flags.split()]
        if {"--resume", "--join", "--from_points"} & set(words):
            words = flags.split()
        if not {"--output_dir", "--resume", "--join"} & set(words):
            words += ["--output_dir", str(tmp_path / name)]
        try:
            status = tiny_run.main(script, words)
        except SystemExit as exit:
            status = exit.code
        out, err = capfd.readouterr()
        return Run(status=status, folder=tmp_path / name, out=out, err=err, asked=asked[:], saved=saved[:])

    return run


# ---- the effects --------------------------------------------------------------------------------------------------
# flag -> (flags, effect): effect(run, base) of a run with these flags, and of one without. None: a test of its own.


def request(name, value):
    """The task was asked for this."""
    return lambda run, base: getattr(run.asked[0], name) == value != getattr(base.asked[0], name)


def other(table, column, same=()):
    """The column changed, and the (table, column) pairs that lie upstream of it did not."""

    def effect(run, base):
        kept = all(run.column(t, c) == base.column(t, c) for t, c in same)
        return kept and run.column(table, column) != base.column(table, column)

    return effect


def values(table, column, expected):
    """The column holds these values, and did not before."""
    return lambda run, base: set(run.column(table, column)) == expected != set(base.column(table, column))


def rows(table, count, before):
    return lambda run, base: (len(run.table(table)), len(base.table(table))) == (count, before)


def rows_of_two(one, count, other, count_of_other):
    """Tables that a run without the flag does not write have so many rows."""
    return lambda run, base: (
        (len(run.table(one)), len(run.table(other)), base.table(one))
        == (
            count,
            count_of_other,
            None,
        )
    )


def found(pattern, count, before=0):
    """Makes this many files."""
    return lambda run, base: [len(list(each.folder.glob(pattern))) for each in (run, base)] == [count, before]


def stored(numbers, milestones):
    """The checkpoints have these numbers; without the flag, those of the milestones."""
    return lambda run, base: (run.saved, base.saved) == (list(numbers), list(milestones))


def spacing(run):
    """The distance between the points of each scan."""
    scans = [[row["distance"] for row in run.table("scan") if row["algorithm"] == label] for label in LABELS]
    return {scan[1] - scan[0] for scan in scans}


def ratio_of_adam(run):
    """Its ratio to the reference; 1 if it is its own."""
    return [abs(row["ratio"]) for row in run.table("sharpness") if row["algorithm"] == "adam"]


LABELS = ["sgd", "adam"]
TRAINING = [("training", "loss")]
OF_ALL = {
    "dataset": ("--dataset owner/data", request("dataset", "owner/data")),
    "columns": ("--dataset owner/data --columns input=a target=b", request("columns", {"input": "a", "target": "b"})),
    "config": ("--dataset owner/data --config c", request("dataset", "owner/data:c")),
    "split": ("--dataset owner/data --split s", request("split", "s")),
    "eval_dataset": ("--dataset owner/data --eval_dataset owner/other", request("eval_dataset", "owner/other")),
    "model": ("--model owner/model", request("model", "owner/model")),
    "max_length": ("--max_length 7", request("max_length", 7)),
    "hf_key": ("--dataset owner/data --hf_key secret", request("hf_key", "secret")),
    "zipf": ("--dataset toy --zipf 0.5", request("zipf", 0.5)),
    "dataset_size": ("--dataset_size 6", request("dataset_size", 6)),
    "task": ("", lambda run, base: base.asked[0].name == "tiny"),
    "output_dir": ("--output_dir TMP/new", lambda run, base: (run.folder.parent / "new" / "config.json").exists()),
    "device": ("--device cpu", lambda run, base: run.settings["device"] == "cpu"),
    "dry_run": ("--dry_run", lambda run, base: "Nothing was written" in run.out and not run.folder.exists()),
    "help": ("--help", lambda run, base: "--task" in run.out and run.status == 0),
    "verbose": ("--resume TMP/nowhere --verbose", lambda run, base: "Traceback" in run.err and run.status == 2),
    "log": ("", None),
    "windows_per_file": ("--windows_per_file 3", None), "overwrite": ("", None), "resume": ("", None),
    "allow_changes": ("", None),
}  # fmt: skip
OF_LISTS = {
    "algorithm_list": ("", lambda run, base: [r["label"] for r in read_config(base.folder)["algorithms"]] == LABELS),
    "num_epochs": ("--num_epochs 3", None),
}
EFFECTS = {
    "landscape": {
        **OF_ALL,
        **OF_LISTS,
        "num_epochs": ("--num_epochs 3", values("training", "epoch", {1, 2, 3})),
        "save_model": ("--save_model", found("model/model.pt", 1)),
        "batch_size": ("--batch_size 8", rows("training", 2, 4)),
        "micro_batch_size": ("--micro_batch_size 2", other("training", "loss")),
        "seed": ("--seed 1", other("training", "loss")),
        "seeds": ("--seeds 5 7", lambda run, base: [(r.seed, r.model_seed) for r in run.asked] == [(5, 5), (5, 7)]),
        "train_optimizer": ("--train_optimizer sgd", other("training", "loss")),
        "lr": ("--lr 0.5", other("training", "loss")),
        "momentum": ("", None),
        "test_batch_size": ("--test_batch_size 5", other("sharpness", "loss", TRAINING)),
        "test_seed": ("--test_seed 4", other("sharpness", "loss", TRAINING)),
        "test_epochs": ("--test_epochs 1", values("sharpness", "epoch", {1})),
        "num_sample_sharpness": ("--num_sample_sharpness 2", rows("sharpness", 8, 4)),
        "sample_iterations": ("", None),
        "step_size": ("--step_size 0.25", lambda run, base: spacing(run) == {0.25} != spacing(base)),
        "reference": ("--reference adam", lambda run, base: ratio_of_adam(run) == [1] != ratio_of_adam(base)),
        "scan": ("--scan full", values("scan", "evaluated", {1})),
        "measure_on": ("--measure_on training", values("sharpness", "measured_on", {"training"})),
        "decompose": ("--decompose layer", found("decomposition.csv", 1)),
        "frequency_classes": ("--frequency_classes 2", found("classes.csv", 1)),
        "top_eigenvalues": ("--top_eigenvalues", found("eigenvalues.csv", 1)),
        "skip_search": ("--skip_search", rows("scan", 0, 63)),
        "skip_sharpness": ("", None),
        "clip_sweep": ("--clip_sweep", rows_of_two("clip_sweep", 16, "curvature_by_size", 7)),
        "check_sharpness": ("", None),
        "dtype": ("--dtype float64", values("sharpness", "sharpness_error", {None})),
        "save_points": ("--save_points", found("points/point-*.pt", 1)),
        "from_points": ("", None),
        "optimizer_device": ("", None), "shard": ("", None),
        "checkpoint_every": ("--checkpoint_every 1", stored((1, 2, 3, 4), (2, 4))),
    },
    "convergence": {
        **OF_ALL,
        **OF_LISTS,
        "num_epochs": ("--num_epochs 3", values("losses", "epoch", {1, 2, 3})),
        "save_model": ("--save_model", found("model/*/model.pt", 2)),
        "batch_size": ("--batch_size 8", rows("losses", 4, 8)),
        "micro_batch_size": ("--micro_batch_size 2", other("losses", "loss")),
        "only": ("--only adam", values("losses", "algorithm", {"adam"})),
        "seeds": ("--seeds 5 7", values("losses", "seed", {5, 7})),
        "lr_scheduler": ("--lr_scheduler linear", other("losses", "lr")),
        "warmup_ratio": ("", None),
        "max_grad_norm": ("--max_grad_norm 1e-6", other("losses", "loss", [("losses", "lr")])),
        "dtype": ("--dtype bfloat16 --device cpu", lambda run, base: "is for CUDA devices" in run.err),
        "compile": ("", None),
        "tune_lr": ("--tune_lr", lambda run, base: len(run.table("tuned_learning_rates")) >= 10),
        "lr_grid": ("--tune_lr --lr_grid 2", lambda run, base: run.column("tuned_learning_rates", "lr") == [0.2, 0.02]),
        "tune_epochs": ("", None),
        "num_epoch_to_save": ("--num_epoch_to_save 1", found("model/*/epoch*/model.pt", 4)),
        "checkpoint_every": ("--checkpoint_every 1", stored([1, 2, 3, 4, 5] * 2, [1, 2, 3] * 2)),
        "parallel": ("--parallel rows", lambda run, base: "known: jobs, data" in run.err and run.status == 2),
        "join": ("", None),
    },
    "hessian": {
        **OF_ALL,
        "batch_size": ("--batch_size 5", other("blocks", "eigenvalue")),
        "num_batches": ("--num_batches 2", values("blocks", "batch", {1, 2, "mean"})),
        "seed": ("--seed 3", other("blocks", "eigenvalue")),
        "parameters": ("--parameters ^0.weight", values("blocks", "block", {"0.weight"})),
        "tolerance": ("--tolerance 0.5", other("blocks", "products")),
        "max_iterations": ("--max_iterations 1", values("blocks", "products", {1})),
        "dtype": ("--dtype float64", other("blocks", "eigenvalue")),
        "checkpoint_every": ("--checkpoint_every 1", stored([1] * 6, [])),
        "join": ("", None),
        "checkpoint": ("", None), "micro_batch_size": ("", None), "rebuild_graphs": ("", None),
        "robust_smoothness": ("", None),
    },
}  # fmt: skip
CASES = [(s, f) for s, effects in EFFECTS.items() for f, (_, effect) in effects.items() if effect is not None]
OWN_TESTS = {f for effects in EFFECTS.values() for f, (_, effect) in effects.items() if effect is None}


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_flag_is_left_out_here(script):
    assert set(EFFECTS[script]) == {action.dest for action in SCRIPTS[script].make_parser()._actions}
    tests = [name for name in globals() if name.startswith("test_")]
    assert not [flag for flag in OWN_TESTS if not any(flag in name for name in tests)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Script -> its run without further flags, and where the next ones go."""
    return {}, tmp_path_factory.mktemp("bases")


@pytest.mark.parametrize(("script", "flag"), CASES, ids=[f"{s} --{f}" for s, f in CASES])
def test_a_flag_has_its_effect(script, flag, run, bases):
    known, place = bases
    if script not in known:
        known[script] = run(script, f"--output_dir {place / script}", place / script)
    base = known[script]
    assert base.status == 0, base.err
    flags, effect = EFFECTS[script][flag]
    with_flag = run(script, flags)
    assert effect(with_flag, base), (with_flag.err, with_flag.out)


# ---- the flags with a test of their own ---------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_windows_per_file_reaches_the_task_that_has_files(script, run, monkeypatch):
    assert "has no effect on the task tiny" in run(script, "--windows_per_file 3").err
    monkeypatch.setattr("tests.test_every_flag.DEFAULTS", replace(TOY, windows_per_file=1))
    base, with_flag = run(script, "", "base"), run(script, "--windows_per_file 3")
    assert (base.asked[0].windows_per_file, with_flag.asked[0].windows_per_file) == (1, 3)


@pytest.mark.parametrize("script", SCRIPTS)
def test_overwrite_replaces_a_run(script, run):
    assert run(script).status == 0
    (run(script).folder / "notes.txt").write_text("mine")
    assert run(script).status == 2 and run(script, "--overwrite").status == 0
    assert (run(script).folder / "notes.txt").read_text() == "mine"


def unfinished(folder):
    """The folder of a complete run, made one that can be resumed."""
    config = json.loads((folder / "config.json").read_text())
    del config["finished"]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_resume_continues_a_run_and_allow_changes_lets_it_differ(script, run):
    folder = unfinished(run(script).folder)
    assert "--batch_size is 5, was 4" in run(script, f"--resume {folder} --batch_size 5").err
    assert run(script, f"--resume {folder} --batch_size 5 --allow_changes").status == 0
    config = read_config(folder)
    assert "finished" in config and config["resumed"][0]["changes"] == ["--batch_size is 5, was 4"]


@pytest.mark.parametrize("script", ["convergence", "hessian"])
def test_join_continues_a_run_as_resume_does_though_others_are_there(script, run):
    folder = unfinished(run(script).folder)
    assert "give one of them" in run(script, f"--resume {folder} --join {folder}").err
    with (folder / "run.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert f"--join {folder} takes part in its work" in run(script, f"--resume {folder}").err
        assert (
            "have other settings: --batch_size is 5, was 4"
            in run(script, f"--join {folder} --batch_size 5 --allow_changes").err
        )
        assert run(script, f"--join {folder}").status == 0 and "finished" in read_config(folder)
        assert (folder / "checkpoints").exists(), "the last one to leave removes them"
    config = json.loads((folder / "config.json").read_text())
    assert "resumed" not in config and run(script, f"--join {folder}").status == 0
    assert not (folder / "checkpoints").exists() and not (folder / "run.lock").exists()


def test_momentum_is_on_unless_it_is_switched_off(run):
    on, also, off = (run("landscape", f"--train_optimizer sgd {flag}", name).column("training", "loss")
                     for name, flag in (("a", ""), ("b", "--momentum"), ("c", "--no-momentum")))  # fmt: skip
    assert on == also != off


def test_sample_iterations_names_the_batches_and_the_first_is_scanned(run):
    outcome = run("landscape", "--sample_iterations 2 1", "a", without="--num_sample_sharpness 1")
    assert set(outcome.column("sharpness", "batch")) == {1, 2} and set(outcome.column("scan", "batch")) == {2}


def test_skip_sharpness_measures_the_scanned_batch_alone(run):
    outcome = run("landscape", "--skip_sharpness", without="--num_sample_sharpness 1")
    assert outcome.table("sharpness") == [] and len({row["batch"] for row in outcome.table("scan")}) == 1


def test_check_sharpness_checks_on_a_tiny_model_and_at_the_first_point(run, monkeypatch):
    monkeypatch.setattr(run_landscape, "check_on_tiny_model", lambda task, algorithms: f"checked {len(algorithms)}")
    monkeypatch.setattr(run_landscape, "check_at_point", lambda directions, objective: f"and {len(directions)}")
    assert run("landscape", "--check_sharpness", "with").out.startswith("checked 2\nand 3\n")
    assert not run("landscape").out.startswith("checked")


def test_from_points_measures_without_training(run):
    first = run("landscape", "--save_points", "first")
    again = run("landscape", f"--from_points {first.folder} --output_dir {first.folder.parent / 'run'}")
    assert again.table("training") is None and again.table("sharpness") == first.table("sharpness")


def test_optimizer_device_reaches_the_pseudo_updates(run, monkeypatch):
    devices, PseudoUpdates = [], run_landscape.PseudoUpdates

    def spy(params, algorithms, device):
        devices.append(device)
        return PseudoUpdates(params, algorithms, device)

    monkeypatch.setattr(run_landscape, "PseudoUpdates", spy)
    run("landscape", "", "base"), run("landscape", "--optimizer_device cpu")
    assert devices == [None, torch.device("cpu")]


def test_shard_keeps_states_by_the_process_and_changes_no_number(run, monkeypatch):
    kept = []
    monkeypatch.setattr(run_landscape, "ShardedUpdates", lambda *given: kept.append(given) or ShardedUpdates(*given))
    base, with_flag = run("landscape", "", "base"), run("landscape", "--shard")
    assert len(kept) == 1 and with_flag.status == 0, with_flag.err
    assert all(with_flag.table(name) == base.table(name) for name in ("training", "sharpness", "ratios", "scan"))


def test_warmup_ratio_is_the_share_of_updates_that_warm_up(run):
    flags = "--lr_scheduler linear_with_warmup --only sgd"
    rates = [run("convergence", f"{flags} {more}", name).column("losses", "lr")
             for name, more in (("a", ""), ("b", "--warmup_ratio 0.1"), ("c", "--warmup_ratio 1"))]  # fmt: skip
    assert rates[0] == rates[1] and rates[2] == pytest.approx([0, 0.025, 0.05, 0.075])


def test_tune_epochs_is_the_length_of_a_trial(run):
    flags = "--tune_lr --lr_grid 1 --only sgd --num_epochs 3"
    short, default, long = (
        run("convergence", f"{flags} {more}", name).column("tuned_learning_rates", "final_loss")
        for name, more in zip("abc", ("--tune_epochs 1", "", "--tune_epochs 2"), strict=True)
    )
    assert short == default != long


def test_compile_trains_the_compiled_model_to_the_same_losses(run, monkeypatch):
    compiled, compile = [], torch.compile

    def spy(model, **options):
        compiled.append(model)
        return compile(model, backend="eager", **options)  # the compiler itself takes half a minute

    monkeypatch.setattr(torch, "compile", spy)
    base, with_flag = run("convergence", "", "base"), run("convergence", "--compile")
    assert (base.status, with_flag.status, len(compiled)) == (0, 0, 1), with_flag.err
    assert with_flag.column("losses", "loss") == pytest.approx(base.column("losses", "loss"), rel=1e-5)


def test_checkpoint_names_the_model_that_is_measured(run, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "model.safetensors").touch()
    outcome = run("hessian", f"--checkpoint {tmp_path / 'saved'}")
    assert outcome.asked[0].model == str(tmp_path / "saved")


def test_robust_smoothness_is_for_classifiers(run):
    outcome = run("hessian", "--robust_smoothness 4")
    assert outcome.status == 2 and "is for a task of two classes" in outcome.err and not outcome.folder.exists()


def test_micro_batch_size_splits_the_batch_and_rebuild_graphs_keeps_nothing(run, monkeypatch):
    seen, gradient_graph = [], hessian.jobs.gradient_graph

    def spy(loss_fn, params, inputs, names, keep_graphs):
        seen.append((len(inputs), keep_graphs))
        return gradient_graph(loss_fn, params, inputs, names, keep_graphs)

    monkeypatch.setattr(hessian.jobs, "gradient_graph", spy)
    for name, flags in (("a", ""), ("b", "--micro_batch_size 1"), ("c", "--rebuild_graphs")):
        assert run("hessian", flags, name).status == 0
    assert seen == [(1, True), (4, True), (1, False)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_log_sends_the_numbers_of_every_script(script, run, monkeypatch):
    sent = []
    monkeypatch.setattr("runs.live.LiveLog.row", lambda live, table, row: sent.append((live.target, table)))
    assert run(script, "--log tests.test_every_flag.Logger").status == 0
    assert sent and {type(target) for target, _ in sent} == {Logger}


class Logger:
    """What --log names here: made from the run folder."""

    def __init__(self, folder):
        self.folder = folder

    def log(self, metrics):
        raise AssertionError("row was replaced")
