"""The row `training` beside the steps that a run really takes, and beside batch sharpness worked by hand."""

import pytest
import torch
from torch import nn

import run_landscape
from algorithm_list import ALGORITHM_LISTS
from curvature.direction import Direction
from landscape.measurements import MeasurementPlan
from landscape.saved_points import MeasuredPoint
from landscape.training_row import parts_of, training_batch
from runs.checkpoints import load_tensors
from runs.tables import on_batch, read_table
from tasks import TASKS, Entry
from tasks.base import Task
from tasks.protocols import TOY
from tests.helpers.tiny_run import Tiny
from torch_optimizer import OPTIMIZERS, Algorithm
from torch_optimizer.next_step import next_step
from training.loop import Point, Training, TrainingPlan, examples_of_batch
from training.schedules import make_scheduler

OPTIONS = {
    "sgd": dict(lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1, coordinate_clip=0.2),
    "adam": dict(lr=0.01, weight_decay=0.1, clip_update=0.2),
    "adafactor": dict(relative_step=True, warmup_init=True),
    "lion": dict(lr=0.01, weight_decay=0.1),
}


def training(name, dtype=torch.float64, max_grad_norm=0.05, **options):
    """A run of three epochs of five updates, with dropout, cut gradients and a falling rate."""
    task = Tiny(20, seed=0)
    task.model.to(dtype)
    task.examples = [{**example, "x": example["x"].to(dtype)} for example in task.examples]
    params = dict(task.model.named_parameters())
    row = Algorithm(name, **(options or OPTIONS.get(name, dict(lr=0.01))))
    optimizer = row.build(params)
    scheduler = make_scheduler("linear", optimizer, num_epochs=3, steps_per_epoch=5)
    plan = TrainingPlan(3, 4, 2, max_grad_norm=max_grad_norm)
    return Training(task, optimizer, plan, scheduler=scheduler), params


def steps(run, params):
    """Per update: lr and v told before it, x before and after."""
    for _ in run:
        before = {n: p.detach().clone() for n, p in params.items()}
        direction, lr = next_step(run.optimizer, params)
        run.step()
        yield lr, direction, before, {n: p.detach().clone() for n, p in params.items()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_direction_times_its_rate_is_the_step_that_the_run_takes(name):
    rates = []
    for lr, v, before, after in steps(*training(name)):
        rates.append(lr)
        for n, x in before.items():
            torch.testing.assert_close(lr * v[n], after[n] - x, rtol=1e-12, atol=1e-15, msg=f"{name} {n}")
    assert rates[-1] < rates[0] or name == "adafactor"  # the schedule's rates; Adafactor sets its own
    assert len(rates) == 15 and any(v[n].any() for n in v)


@pytest.mark.parametrize("name", ["sgd", "normalized_sgd", "sign_sgd", "adam", "lion"])
def test_a_float32_step_is_told_to_a_last_digit(name):
    for lr, v, before, after in steps(*training(name, torch.float32)):
        for n, x in before.items():
            torch.testing.assert_close(torch.add(x, v[n], alpha=lr), after[n], rtol=2e-7, atol=1e-9)


def test_the_training_batch_is_the_one_that_the_gradient_came_from():
    run, params = training("sgd", max_grad_norm=None)
    run.task.model.eval()
    run.task.model.train = lambda mode=True: None  # the same loss in both, for this comparison
    for point in run:
        gradients = {n: p.grad.clone() for n, p in params.items()}
        batches = training_batch(run.task, run.plan, point, torch.device("cpu"), torch.float64)
        losses = torch.cat([run.task.losses(run.task.model, batch) for batch in batches])
        gradient = torch.autograd.grad(losses.mean(), list(params.values()))
        assert losses.mean().item() == pytest.approx(point.loss, rel=1e-12) and len(losses) == 4
        for g, n in zip(gradient, params, strict=True):
            torch.testing.assert_close(g, gradients[n])
        few = training_batch(run.task, run.plan, point, torch.device("cpu"), torch.float64, most=3)
        rows = {tuple(row.tolist()) for batch in batches for row in batch["x"]}
        assert sum(len(batch["x"]) for batch in few) == 3
        assert all(tuple(row.tolist()) in rows for batch in few for row in batch["x"])
        run.step()


# ---- what is measured on which batch ------------------------------------------------------------------------------


@pytest.mark.parametrize("measure_on, expected", [
    (None, [("test", ["sgd", "training"], True, True), ("training", ["training"], False, False)]),
    ("test", [("test", ["sgd", "training"], True, True)]),
    ("training", [("training", ["sgd", "training"], True, True)]),
    ("both", [("test", ["sgd", "training"], True, True), ("training", ["sgd", "training"], False, True)]),
])  # fmt: skip
def test_each_batch_has_its_rows_and_the_first_one_the_scan_and_the_lost(measure_on, expected):
    point = Point(1, 1, 1, 0.0, 0.1, 4)
    measured = MeasuredPoint(point, dict.fromkeys(["sgd", "training"], Direction({})), scan=True, lost=["lion"])
    parts = parts_of(measured, MeasurementPlan(torch.float32, True, True, False, {}), measure_on)
    found = [(batch, list(part.directions), part.scan, how.details) for batch, part, how in parts]
    assert found == expected
    assert [part.lost for _, part, _ in parts] == [["lion"], []][: len(parts)]


class LeastSquares(Task):
    """Half the squared error of a'x, from x = 0; the measured numbers follow from matrices."""

    def __init__(self, rows, targets):
        model = nn.Linear(len(rows[0]), 1, bias=False)
        nn.init.zeros_(model.weight)
        super().__init__("squares", model, None, [{"a": a, "b": b} for a, b in zip(rows, targets, strict=True)])

    def length(self, index):
        return 1

    def collate(self, examples):
        return {name: torch.tensor([example[name] for example in examples], dtype=torch.float32) for name in "ab"}

    def losses(self, forward, batch):
        return 0.5 * (forward(batch["a"]).squeeze(1) - batch["b"]) ** 2


def measured(folder, monkeypatch, task, *flags):
    """sharpness.csv of a run of plain SGD on the task, measured at its first update in float64."""
    monkeypatch.setitem(TASKS, "squares", Entry(lambda request: task, TOY, TOY))
    monkeypatch.setitem(ALGORITHM_LISTS, "squares", [Algorithm("sgd", lr=0.5)])
    monkeypatch.setattr(run_landscape, "draw_all", lambda folder: [])
    words = f"--task squares --algorithm_list squares --train_optimizer sgd --no-momentum --lr 0.1 --dtype float64 \
        --num_epochs 1 --sample_iterations 1 --skip_search --output_dir {folder}".split()
    assert run_landscape.main([*words, *flags]) == 0
    return read_table(folder / "sharpness.csv")


def test_batch_sharpness_worked_by_hand(tmp_path, monkeypatch):
    # residuals -1, -3: g = ((-1, 0) + (-3, -6)) / 2 = (-2, -3), H = (1/2) [[1 + 1, 2], [2, 4]], v = (2, 3): v'Hv = 34
    task = LeastSquares([[1.0, 0.0], [1.0, 2.0]], [1.0, 3.0])
    sizes = ["--batch_size", "2", "--test_batch_size", "2"]
    rows = measured(tmp_path / "run", monkeypatch, task, *sizes, "--measure_on", "both")
    assert [(row["algorithm"], row["measured_on"]) for row in rows] == [
        ("sgd", "test"), ("training", "test"), ("sgd", "training"), ("training", "training")]  # fmt: skip
    for row in rows[1::2]:
        assert row["sharpness"] == pytest.approx(34 / 13, rel=1e-6)
        assert row["slope"] == pytest.approx(-(13**0.5), rel=1e-6) and row["loss"] == pytest.approx(2.5)
        assert row["learning_rate"] == 0.1 and row["edge_quadratic"] == pytest.approx(1.7 / 13, rel=1e-6)
        assert row["edge_realized"] == pytest.approx(1.7 / 13, rel=1e-6)
    assert rows[0]["edge_quadratic"] == pytest.approx(8.5 / 13, rel=1e-6)  # the list's row has its own rate


def test_a_step_is_measured_with_the_hessian_of_its_own_batch(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(9, 3, generator=generator), torch.randn(9, generator=generator)
    sizes = ["--batch_size", "4", "--test_batch_size", "3"]

    def numbers(chosen, of):
        """v'Hv / |v|^2 and f, of v = -g on the batch `of`, where x = 0."""
        g = -(a[of] * b[of, None]).mean(0)
        h = a[chosen].T @ a[chosen] / len(chosen)
        return pytest.approx([(g @ h @ g / (g @ g)).item(), (b[chosen] ** 2).mean().item() / 2], rel=1e-5)

    whole = examples_of_batch(TrainingPlan(1, 4, 4), 9, epoch=1, batch=1)
    for flags, expected in (([], whole[:2]), (["--measure_on", "both"], whole)):
        name = "".join(flags).strip("-") or "default"
        rows = measured(tmp_path / name, monkeypatch, LeastSquares(a.tolist(), b.tolist()), *sizes, *flags)
        (own,) = [row for row in on_batch(rows, "training") if row["algorithm"] == "training"]
        assert [own["sharpness"], own["loss"]] == numbers(expected, whole)
        assert (own["gradient_norm"] is None) == (own["ratio"] is None) == (not flags)
    assert own["cosine"] == pytest.approx(-1)  # the whole batch, without dropout: steepest descent
    assert own["ratio"] == pytest.approx(1)  # of sgd on the same batch


def test_the_row_of_a_run_is_the_step_to_its_next_point(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "tiny", Entry(lambda request: Tiny(20, 0), TOY, TOY))
    monkeypatch.setitem(ALGORITHM_LISTS, "tiny", [Algorithm("sgd", lr=0.5)])
    monkeypatch.setattr(run_landscape, "draw_all", lambda folder: [])
    words = f"--task tiny --algorithm_list tiny --batch_size 4 --num_epochs 1 --sample_iterations 2 3 --skip_search \
        --test_batch_size 4 --save_points --output_dir {tmp_path / 'run'}".split()
    assert run_landscape.main(words) == 0
    first, second = (load_tensors(path) for path in sorted(tmp_path.glob("run/points/*.pt")))
    for name, v in first["directions"]["training"].items():
        move = second["model"][name].double() - first["model"][name].double()
        torch.testing.assert_close(first["learning_rates"]["training"] * v.double(), move, rtol=1e-3, atol=1e-7)


def test_a_row_of_the_list_is_not_called_training(monkeypatch, capsys):
    class Training(torch.optim.SGD):
        pass

    monkeypatch.setitem(ALGORITHM_LISTS, "mine", [Algorithm(Training, lr=0.1)])
    with pytest.raises(SystemExit):
        run_landscape.main(["--algorithm_list", "mine"])
    assert "'training' is the row of the optimizer that trains; rename the class of that row" in capsys.readouterr().err
