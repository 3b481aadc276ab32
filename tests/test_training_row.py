"""The row `training` beside the steps that a run really takes, and beside batch sharpness worked by hand."""

import pytest
import torch

from landscape.training_row import training_batch
from tests.helpers.tiny_run import Tiny
from torch_optimizer import OPTIMIZERS, Algorithm
from torch_optimizer.next_step import next_step
from training.loop import Training, TrainingPlan
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
        found = {n: p.grad.clone() for n, p in params.items()}
        batches = training_batch(run.task, run.plan, point, torch.device("cpu"), torch.float64)
        losses = torch.cat([run.task.losses(run.task.model, batch) for batch in batches])
        gradient = torch.autograd.grad(losses.mean(), list(params.values()))
        assert losses.mean().item() == pytest.approx(point.loss, rel=1e-12) and len(losses) == 4
        for g, n in zip(gradient, params, strict=True):
            torch.testing.assert_close(g, found[n])
        few = training_batch(run.task, run.plan, point, torch.device("cpu"), torch.float64, most=3)
        rows = {tuple(row.tolist()) for batch in batches for row in batch["x"]}
        assert sum(len(batch["x"]) for batch in few) == 3
        assert all(tuple(row.tolist()) in rows for batch in few for row in batch["x"])
        run.step()
