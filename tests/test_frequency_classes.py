"""Frequency classes of the targets, beside counts that were made by hand; what they contribute sums to the whole."""

import math

import pytest
import torch

from curvature.borrowing import measuring
from curvature.direction import Direction
from curvature.objective import objective_at
from landscape.classes import frequency_classes, measure_classes
from landscape_core.measurement import quadratic_models
from tasks.base import Task
from tests.helpers.task_examples import toy
from tests.helpers.tiny_models import random_direction
from training.loop import micro_batches


class Counted(Task):
    """Targets alone: 0 occurs 6 times, 1 three times, 2 twice, 3 once."""

    def __init__(self):
        super().__init__("counted", None, None, [[0, 0, 1], [0, 0, 0, 2], [0, 1], [1, 2, 3]])

    def targets(self, index):
        return self.examples[index]


def sets(classes):
    return [each.targets.nonzero().flatten().tolist() for each in classes]


@pytest.mark.parametrize("count, expected", [
    (1, [[0, 1, 2, 3]]),
    (2, [[0], [1, 2, 3]]),  # of 12: 0 lies around 3, 1 around 7.5, 2 around 10, 3 around 11.5; the edge is 6
    (3, [[0], [1], [2, 3]]),  # edges at 4 and 8
    (4, [[0], [1], [2, 3]]),  # at 3, 6 and 9: the first class is left out
    (12, [[0], [1], [2], [3]]),
])  # fmt: skip
def test_classes_hold_about_as_many_targets_each(count, expected):
    classes = frequency_classes(Counted(), [0], count)
    assert sets(classes) == expected
    assert [each.number for each in classes] == list(range(1, len(expected) + 1))
    assert [each.types for each in classes] == list(map(len, expected))


def test_the_middle_of_a_target_decides():
    task = Counted()
    task.examples = [[0] * 5 + [1] * 4 + [2] * 3]  # 1 lies from 5 to 9, around 7; the edge is at 6
    assert sets(frequency_classes(task, [0], 2)) == [[0], [1, 2]]


def test_tokens_and_shares_are_those_of_the_test_batch():
    first, second, third = frequency_classes(Counted(), [0, 3], 3)
    assert (first.tokens, second.tokens, third.tokens) == (2, 2, 2)
    assert first.share == pytest.approx((2 / 3 + 0) / 2)
    assert second.share == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert third.share == pytest.approx((0 + 2 / 3) / 2)


def test_a_task_without_targets_is_named():
    with pytest.raises(ValueError, match="the task bare does not tell the targets"):
        frequency_classes(Task("bare", None, None, [{}]), [0], 2)


TASKS = ["machine_translation", "masked_language_modeling", "autoregressive", "super_glue/cb", "image_classification"]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_tells_its_targets_and_their_losses(name):
    task = toy(name)
    batch = next(micro_batches(task, [0, 1, 2], 3, torch.device("cpu")))
    order = sorted([0, 1, 2], key=task.length)
    labels = batch["labels"].view(3, -1)
    assert [task.targets(i) for i in order] == [[y for y in row if y != -100] for row in labels.tolist()]
    used = sorted({y for i in order for y in task.targets(i)})
    masks = torch.eye(max(used) + 1, dtype=torch.bool)
    with measuring(task.model), torch.no_grad():
        whole = task.losses(task.model, batch)
        parts = {y: task.losses(task.model, batch, only=masks[y]) for y in used}
    torch.testing.assert_close(sum(parts.values()), whole)
    absent = [[y not in task.targets(i) for i in order] for y in used]
    assert all((part[torch.tensor(no)] == 0).all() for part, no in zip(parts.values(), absent, strict=True))
    assert all((part > 0).any() for part in parts.values())


def test_contributions_sum_to_loss_slope_and_sharpness():
    task = toy("machine_translation")
    classes = frequency_classes(task, range(5), 3)
    batches = list(micro_batches(task, range(5), 3, torch.device("cpu"), torch.float64))
    objective = objective_at(task.model, task.losses, batches, torch.float64)
    directions = {name: Direction(random_direction(objective.params, seed)) for name, seed in (("a", 1), ("b", 2))}
    with measuring(objective.model):
        whole = quadratic_models(directions, objective)
    measurements = measure_classes(directions, objective, classes)
    assert [(m.label, m.of.number) for m in measurements] == [(label, k) for label in "ab" for k in (1, 2, 3)]
    assert sum(each.share for each in classes) == pytest.approx(1)
    for label, model in whole.items():
        own = [m for m in measurements if m.label == label]
        for number in ("loss", "slope", "sharpness"):
            assert math.fsum(getattr(m, number) for m in own) == pytest.approx(getattr(model, number), rel=1e-9)
        assert math.fsum(m.token_loss * m.of.share for m in own) == pytest.approx(model.loss)


def test_the_loss_of_a_token_is_its_mean_where_the_examples_are_equally_long():
    task = toy("image_classification")
    first, *_ = classes = frequency_classes(task, range(6), 3)
    batches = list(micro_batches(task, range(6), 6, torch.device("cpu")))
    objective = objective_at(task.model, task.losses, batches, torch.float32)
    v = Direction(random_direction(objective.params, 0))
    with measuring(task.model), torch.no_grad():
        losses = task.losses(task.model, batches[0])
    measurement = measure_classes({"v": v}, objective, classes)[0]
    own = losses[first.targets[batches[0]["labels"]]]
    assert len(own) == first.tokens > 0
    assert measurement.token_loss == pytest.approx(own.mean().item(), rel=1e-5)
