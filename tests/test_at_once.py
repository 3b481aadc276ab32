"""How many examples are measured at once: as before on a CPU, by tokens and memory on a GPU, with the same numbers."""

from types import SimpleNamespace

import pytest
import torch

from curvature.borrowing import measuring
from curvature.objective import objective_at
from landscape import at_once
from landscape.at_once import examples_at_once
from landscape_utils import directional_sharpness
from tasks import load_task
from tests.helpers.tiny_models import random_direction
from tests.helpers.tiny_run import Tiny
from training.loop import micro_batches

CPU = torch.device("cpu")
SETTINGS = SimpleNamespace(micro_batch_size=4, device=CPU)


@pytest.fixture
def a_gpu_with(monkeypatch):
    return lambda count: monkeypatch.setattr(at_once, "planned_bytes", lambda device: count)


@pytest.fixture(scope="module")
def toy():
    return load_task("toy", dataset_size=24)


def batches_of(task, size, dtype=torch.float32):
    return list(micro_batches(task, range(len(task.examples)), size, CPU, dtype))


def test_a_cpu_keeps_the_micro_batch_size_of_the_run(toy):
    assert examples_at_once(toy, SETTINGS, torch.float32) == 4


def test_twice_the_memory_takes_twice_the_examples_and_float64_half_as_many(toy, a_gpu_with):
    longest = max(map(toy.length, range(24)))
    one = at_once._recorded_bytes(toy, max(range(24), key=toy.length), CPU) * at_once.MEANWHILE
    sizes = []
    for count, dtype in (
        (3 * one, torch.float32),
        (6 * one, torch.float32),
        (6 * one, torch.float64),
        (1, torch.float32),
    ):
        a_gpu_with(count)
        sizes.append(examples_at_once(toy, SETTINGS, dtype)(longest))
    assert sizes == [6, 12, 6, 2]  # two halves of which each is recorded
    a_gpu_with(2**50)
    assert examples_at_once(toy, SETTINGS, torch.float32)(longest) == 2 * (at_once.RECORDED_TOKENS // longest)


def test_short_examples_go_together_in_larger_groups_and_each_goes_once(toy, a_gpu_with):
    longest = max(map(toy.length, range(24)))
    at_most = lambda length: 3 * longest // length  # noqa: E731
    groups = [len(batch["labels"]) for batch in batches_of(toy, at_most)]
    lengths = sorted(map(toy.length, range(24)))
    assert sum(groups) == 24 and groups[0] > groups[-1]
    for count in groups:
        group, lengths = lengths[:count], lengths[count:]
        assert count <= at_most(group[-1])
        assert not lengths or count + 1 > at_most(lengths[0])  # the next one has no room


def test_the_same_choice_every_time_whatever_is_free_and_the_model_stays_as_it_was(toy, a_gpu_with):
    a_gpu_with(2**28)
    before = torch.get_rng_state(), {n: p.clone() for n, p in toy.model.named_parameters()}
    first, second = (examples_at_once(toy, SETTINGS, torch.float32) for _ in range(2))
    assert [first(n) for n in range(1, 90)] == [second(n) for n in range(1, 90)]
    assert torch.equal(before[0], torch.get_rng_state()) and toy.model.training
    assert all(torch.equal(p, before[1][n]) for n, p in toy.model.named_parameters())


def test_what_a_recording_keeps_grows_with_its_examples():
    """Of a network of two layers, by hand: only what does not belong to the model counts."""
    task = Tiny(20, 0)
    one = at_once._recorded_bytes(task, 0, CPU)
    # x, its product with w, the normalized values, tanh and the logits, their adjoints and derivatives: rows of 3, 8, 2
    assert 4 * (3 + 8 + 8 + 8 + 2) <= one <= 4 * 8 * 30


def test_numbers_do_not_depend_on_how_many_are_measured_at_once(toy, a_gpu_with):
    a_gpu_with(2**26)
    found = []
    for size in (4, examples_at_once(toy, SETTINGS, torch.float64)):
        objective = objective_at(toy.model, toy.losses, batches_of(toy, size), torch.float64)
        direction = random_direction(objective.params, 0)
        with measuring(objective.model):
            (one,) = directional_sharpness(
                objective.loss_fn, objective.params, [direction], objective.batches, per_example=objective.per_example
            )
        found.append((len(objective.batches), one.loss, one.slope, one.sharpness))
    assert found[0][0] > found[1][0]
    assert found[0][1:] == pytest.approx(found[1][1:], rel=1e-10)


def test_a_model_that_cannot_be_recorded_keeps_the_micro_batch_size_of_the_run(toy, a_gpu_with, monkeypatch):
    def refused(*_):
        raise at_once.NotTraceable("it draws random numbers")

    a_gpu_with(2**26)
    monkeypatch.setattr(at_once, "record", refused)
    assert examples_at_once(toy, SETTINGS, torch.float32) == 4
