"""The gradient on the test batch beside plain backward; noise where softmax cancels a bias."""

import math

import pytest
import torch

from curvature.borrowing import measuring
from curvature.objective import objective_at
from landscape_core.gradients import gradient, gradient_norm, noise_coordinates, noise_share
from landscape_core.measurement import Measurement
from landscape_utils import QuadraticModel
from tests.helpers.task_examples import toy
from training.loop import micro_batches


@pytest.fixture(scope="module")
def task():
    return toy("masked_language_modeling")


@pytest.fixture(scope="module")
def batches(task):
    return list(micro_batches(task, range(5), 2, torch.device("cpu")))


def test_gradient_is_that_of_the_mean_over_all_examples(task, batches):
    objective = objective_at(task.model, task.losses, batches, torch.float32)
    with measuring(objective.model):
        mean_gradient = gradient(objective)
        losses = torch.cat([task.losses(task.model, batch) for batch in batches])
        expected = torch.autograd.grad(losses.mean(), list(task.model.parameters()))
        length = gradient_norm(objective)
    assert len(losses) == 5
    for ours, theirs in zip(mean_gradient.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert length == pytest.approx(math.sqrt(sum(g.double().square().sum().item() for g in expected)), rel=1e-5)


def test_noise_lies_in_the_biases_of_the_keys_and_nowhere_else(task, batches):
    objective = objective_at(task.model, task.losses, batches, torch.float32)
    noisy = {name for name, mask in noise_coordinates(objective).items() if mask.any()}
    keys = {name for name, _ in task.model.named_parameters() if name.endswith("key.bias")}
    assert noisy == keys and keys


def test_a_sign_step_has_its_share_of_noise_by_the_count_of_its_coordinates(task, batches):
    objective = objective_at(task.model, task.losses, batches, torch.float32)
    params = dict(task.model.named_parameters())
    ones = {name: torch.ones_like(p) for name, p in params.items()}
    mask = noise_coordinates(objective)
    count, total = sum(m.sum().item() for m in mask.values()), sum(p.numel() for p in params.values())
    outside = {name: v * ~mask[name] for name, v in ones.items()}
    assert noise_share(ones, mask) == pytest.approx(count / total) and count
    assert noise_share(outside, mask) == 0
    assert math.isnan(noise_share({name: 0 * v for name, v in ones.items()}, mask))


def test_cosine_of_steepest_descent_is_minus_one():
    def along(slope, length):
        return Measurement("sgd", QuadraticModel(1.0, slope, 2.0), 1.0, 1.0, 0.0, length, 0.0).cosine

    assert along(-2.5, 2.5) == -1 and along(1.0, 2.0) == 0.5 and math.isnan(along(0.0, 0.0))


def test_measuring_switches_tf32_off_and_leaves_cudnn_on(task):
    cudnn = torch.backends.cudnn
    before = cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    with measuring(task.model):
        assert cudnn.enabled and not cudnn.allow_tf32
    assert (cudnn.enabled, cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32) == before


def test_the_share_of_noise_is_one_of_squares():
    direction = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[2.0]])}
    noisy = {"a": torch.tensor([False, True]), "b": torch.tensor([[False]])}
    assert noise_share(direction, noisy) == 4 / 9
