"""--log sends the numbers of the tables, as they come, to any logger; the tables do not depend on it."""

import sys
from types import ModuleType

import pytest

from runs.live import LiveLog, logger_named
from runs.tables import Table, read_table
from tests.helpers.stored_runs import CONVERGENCE, HESSIAN, LANDSCAPE, landscape, refused, stop_at, tables
from tests.helpers.tiny_run import main

pytestmark = pytest.mark.usefixtures("tiny_task")


class Metrics:
    """A logger as wandb is one."""

    def __init__(self):
        self.sent, self.ended = [], 0

    def log(self, metrics):
        self.sent.append(metrics)

    def finish(self):
        self.ended += 1


class Scalars:
    """A logger as TensorBoard's SummaryWriter is one."""

    def __init__(self, folder=None):
        self.folder, self.sent, self.ended = folder, [], 0

    def add_scalar(self, name, value, step):
        self.sent.append((name, value, step))

    def close(self):
        self.ended += 1


@pytest.fixture
def module(monkeypatch):
    """A module of the user's, with a logger in it."""
    module = ModuleType("a_module_of_loggers")
    module.metrics, module.Scalars, module.made = Metrics(), Scalars, []
    module.nothing, module.makes_nothing = 3, lambda folder: 3
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def logged(module, script, flags, folder):
    assert main(script, [*map(str, flags), "--log", "a_module_of_loggers.metrics", "--output_dir", str(folder)]) == 0
    assert module.metrics.ended == 1
    return module.metrics.sent


def test_a_landscape_run_sends_every_number_of_its_rows(module, tmp_path):
    sent = logged(module, "landscape", LANDSCAPE, tmp_path)
    losses = [(m["iteration"], m["training/loss"]) for m in sent if "training/loss" in m]
    assert losses == [(row["iteration"], row["loss"]) for row in read_table(tmp_path / "training.csv")]
    rows = read_table(tmp_path / "sharpness.csv")
    edges = [
        (m["iteration"], value)
        for m in sent
        for name, value in m.items()
        if name == "sharpness/edge_quadratic/adam/test"
    ]
    expected = [r for r in rows if (r["algorithm"], r["measured_on"]) == ("adam", "test")]
    assert edges == [(r["iteration"], r["edge_quadratic"]) for r in expected if r["edge_quadratic"] is not None]
    assert edges and not any(name.startswith(("histogram", "scan")) for m in sent for name in m)


def test_a_convergence_run_sends_its_losses_while_it_trains(module, tmp_path):
    sent = logged(module, "convergence", CONVERGENCE, tmp_path)
    rows = [r for r in read_table(tmp_path / "losses.csv") if (r["algorithm"], r["seed"]) == ("nadam", 1)]
    losses = [m["losses/loss/nadam/seed 1"] for m in sent if "losses/loss/nadam/seed 1" in m]
    assert losses == [row["loss"] for row in rows] and len(losses) > 5


def test_a_hessian_run_sends_its_blocks(module, tmp_path):
    sent = logged(module, "hessian", HESSIAN, tmp_path)
    rows = read_table(tmp_path / "blocks.csv")
    assert any(name.startswith("blocks/eigenvalue/0.weight/") for m in sent for name in m)
    assert sum(any(name.startswith("blocks/eigenvalue/") for name in m) for m in sent) == len(rows)


def test_the_tables_of_a_run_with_a_log_are_those_without_and_so_are_those_of_a_resumed_one(
    module, tmp_path, monkeypatch
):
    assert landscape(*LANDSCAPE, "--output_dir", tmp_path / "plain") == 0
    log = ["--log", "a_module_of_loggers.metrics"]
    with monkeypatch.context() as patch:
        stop_at(patch, 12)
        assert landscape(*LANDSCAPE, *log, "--output_dir", tmp_path / "logged") != 0
    before = len(module.metrics.sent)
    assert landscape("--resume", tmp_path / "logged", *log) == 0
    assert tables(tmp_path / "logged") == tables(tmp_path / "plain")
    iterations = [m["iteration"] for m in module.metrics.sent if "training/loss" in m]
    assert iterations == sorted(iterations) and 0 < before < len(module.metrics.sent)


def test_a_function_of_the_folder_makes_the_logger(module, tmp_path):
    live = logger_named("a_module_of_loggers.Scalars")(tmp_path, {})
    live.row("training", {"epoch": 1, "iteration": 7, "loss": 2.5})
    live.row("sharpness", {"iteration": 8, "algorithm": "adam", "measured_on": "test", "slope": -1.0, "ratio": None})
    live.row("scan", {"distance": 1.0})
    live.close()
    expected = [("training/loss", 2.5, 7), ("sharpness/slope/adam/test", -1.0, 8)]
    assert (live.target.sent, live.target.ended, live.target.folder) == (expected, 1, tmp_path)


@pytest.mark.parametrize("name, answer", [
    ("tensorboard", "needs a package that is not installed: pip install tensorboard"),
    ("wandb", "needs a package that is not installed: pip install wandb"),
    ("trackio", "needs a package that is not installed: pip install trackio"),
    ("tensorbord", "known: tensorboard, wandb, trackio, or a dotted path"),
    ("a_module_of_loggers.metricks", "has no attribute 'metricks'"),
    ("no_such_module.thing", "No module named 'no_such_module'"),
    ("a_module_of_loggers.nothing", "has neither log nor add_scalar"),
])  # fmt: skip
def test_a_logger_that_is_not_there_is_answered_in_one_line(name, answer, module, tmp_path, monkeypatch, capfd):
    for package in ("tensorboard", "torch.utils.tensorboard", "wandb", "trackio"):
        monkeypatch.setitem(sys.modules, package, None)
    refused([*LANDSCAPE, "--log", name, "--output_dir", tmp_path / "run"], answer, tmp_path, capfd)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_wandb_and_its_likes_are_begun_with_the_settings(name, tmp_path, monkeypatch):
    library, begun = Metrics(), []
    library.init = lambda **options: begun.append(options)
    monkeypatch.setitem(sys.modules, name, library)
    live = logger_named(name)(tmp_path / "landscape-toy", {"lr": 0.1})
    live.row("training", {"iteration": 3, "loss": 1.0})
    live.close()
    assert begun == [{"project": "optimizer-sharpness", "name": "landscape-toy", "config": {"lr": 0.1}}]
    assert library.sent == [{"training/loss": 1.0, "iteration": 3}] and library.ended == 1


def test_tensorboard_writes_into_the_run_folder(tmp_path, monkeypatch):
    package = ModuleType("torch.utils.tensorboard")
    package.SummaryWriter = Scalars
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", package)
    assert logger_named("tensorboard")(tmp_path, {}).target.folder == tmp_path / "tensorboard"


def test_a_logger_that_fails_is_given_up_with_one_line(tmp_path, caplog):
    class Broken:
        calls = 0

        def log(self, metrics):
            self.calls += 1
            raise ConnectionError("no network\nat all")

    target = Broken()
    table = Table(tmp_path / "training.csv", ["iteration", "loss"], LiveLog(target).row)
    for iteration in (1, 2):
        table.append(iteration=iteration, loss=0.5)
    assert (target.calls, len(table.rows)) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "--log: no network at all; the run continues without it"
    ]


def test_a_log_that_a_config_names_is_not_imported(tmp_path, monkeypatch, module):
    with monkeypatch.context() as patch:
        stop_at(patch, 12)
        assert landscape(*LANDSCAPE, "--log", "a_module_of_loggers.metrics", "--output_dir", tmp_path) != 0
    monkeypatch.delitem(sys.modules, "a_module_of_loggers")
    assert landscape("--resume", tmp_path) == 0
