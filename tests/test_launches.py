"""What the measurement asks of a GPU besides arithmetic, counted at real depth: kernels and reads do not grow."""

import math

import pytest
import torch
from torch import nn

from algorithm_list import ALGORITHM_LISTS
from benchmarks.launches import Counting, as_on_a_gpu, count
from curvature import vhv_by_recording
from curvature.objective import objective_at
from landscape.measurements import MeasurementPlan, measure_point
from landscape.saved_points import MeasuredPoint
from landscape.training_row import with_training_row
from landscape_core import edges
from landscape_utils import PseudoUpdates, update_histogram
from tests.helpers.tiny_run import Tiny
from torch_optimizer import Algorithm
from torch_optimizer.rows import choose_list
from training.loop import Training, TrainingPlan, micro_batches


def test_kernels_views_and_reads_are_told_apart():
    x = torch.ones(3, 4)
    with Counting() as counting:
        x.T.sum()  # a view and a kernel
        torch.empty(3)
        (x + 1).max().item()
        x[0].tolist()
    assert counting.counts == {"kernels": 3, "views": 3, "reads": 2}


@pytest.mark.parametrize("model, kernels, reads", [("distilroberta", 137, 2), ("ResNet-18", 62, 1)])
def test_twelve_directions_share_their_launches_and_wait_for_nothing(model, kernels, reads):
    row = count(model, [1, 12])
    assert row["kernels_per_direction_12"] <= kernels < row["kernels_per_direction_1"] / 10
    assert row["reads_1"] == row["reads_12"] == 0
    assert row["recording_reads"] <= reads


@pytest.mark.slow
@pytest.mark.parametrize("model, kernels", [("t5-small", 263), ("gpt-neo-125M", 255)])
def test_so_do_those_of_deeper_models(model, kernels):
    row = count(model, [1, 12])
    assert row["kernels_per_direction_12"] <= kernels < row["kernels_per_direction_1"] / 10


def test_more_layers_cost_more_kernels_and_no_more_reads():
    """A recording of linear layers with biases, where numbers of a product stay on the device."""
    found = []
    for layers in (2, 6):
        params = {
            f"{kind}{i}": torch.rand(*shape) for i in range(layers) for kind, shape in (("w", (4, 4)), ("b", (4,)))
        }

        def loss_fn(p, batch, layers=layers):
            x = torch.ones(3, 4)
            for i in range(layers):
                x = torch.addmm(p[f"b{i}"], x.tanh(), p[f"w{i}"])
            return x.square().sum(1)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("curvature.products.is_free_to_read", lambda x: False)
            with Counting() as counting:
                vhv_by_recording(loss_fn, params, [params] * 3, {}, together=3)
        found.append(counting.counts)
    assert found[0]["kernels"] < found[1]["kernels"] and found[0]["reads"] == found[1]["reads"] == 1


# ---- a run ----------------------------------------------------------------------------------------------------------

ROWS = {
    **choose_list(ALGORITHM_LISTS, "machine_translation"),
    "rmsprop": Algorithm("rmsprop", lr=1e-3),  # of torch: it steps on a copy
    "adam, update clipped": Algorithm("adam", lr=1e-3, clip_update=0.1),
}


def task_of(layers):
    """A task like the tiny one, whose network has so many layers."""
    task = Tiny(20, seed=0)
    hidden = [layer for _ in range(layers) for layer in (nn.Linear(8, 8), nn.Tanh())]
    task.model = nn.Sequential(nn.Linear(3, 8), *hidden, nn.Linear(8, 2))
    return task


def reads_of(layers, monkeypatch):
    """(of a training iteration, of a measured point, of its histograms), with two micro-batches each."""
    monkeypatch.setattr(edges, "_spectral_norms", lambda matrices, tolerance: [1.0] * len(matrices))  # see below
    task = task_of(layers)
    params = dict(task.model.named_parameters())
    updates, optimizer = PseudoUpdates(params, ROWS), Algorithm("adam", lr=1e-3).build(params)
    training = Training(task, optimizer, TrainingPlan(1, 8, 4))
    with Counting() as iteration, as_on_a_gpu():
        point = next(iter(training))
        updates.advance(collect=False)
        training.step()
    batches = list(micro_batches(task, range(8), 4, torch.device("cpu")))
    plan = MeasurementPlan(torch.float32, True, False, False, {})
    with Counting() as measured, as_on_a_gpu():
        directions = updates.advance()
        assert updates.not_finite(directions) == []
        measured_point = MeasuredPoint(point, directions, False, learning_rates=updates.learning_rates())
        measured_point = with_training_row(measured_point, optimizer, params, stability=False)
        measure_point(measured_point, objective_at(task.model, task.losses, batches, torch.float32), plan)
    with Counting() as histograms, as_on_a_gpu():
        for v in directions.values():
            update_histogram(v)
    return [counting.counts["reads"] for counting in (iteration, measured, histograms)]


def test_neither_an_iteration_nor_a_point_waits_more_often_for_more_tensors(monkeypatch):
    shallow, deep = reads_of(1, monkeypatch), reads_of(6, monkeypatch)
    assert shallow == deep
    iteration, point, histograms = deep
    fractions = 2  # of coordinates clipped in a raw gradient: 0.1 and 0.5
    assert iteration == 1 + 2 * fractions  # the loss; the count of numbers and the threshold
    assert point < 12 * (len(ROWS) + 1)
    assert histograms == len(ROWS)


def test_a_threshold_of_zero_counts_zeros_with_one_wait(monkeypatch):
    def reads(tensors):
        params = [nn.Parameter(torch.ones(4)) for _ in range(tensors)]
        for p in params:
            p.grad = torch.tensor([1.0, 0.0, 0.0, 0.0])
        optimizer = Algorithm("sgd", lr=0.1, coordinate_clip=0.5).build(dict(enumerate(params)))
        with Counting() as counting, as_on_a_gpu(), pytest.warns(UserWarning, match="75.00% of the coordinates"):
            optimizer.step()
        return counting.counts["reads"]

    assert reads(2) == reads(9) == 3


def test_power_iterations_of_all_matrices_share_their_waits():
    matrix = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))

    def reads(tensors):
        with Counting() as counting, as_on_a_gpu():
            length = edges.spectral_length({str(i): matrix for i in range(tensors)})
        assert length == pytest.approx(torch.linalg.svdvals(matrix)[0].item(), rel=1e-4)
        return counting.counts["reads"]

    assert reads(2) == reads(9) <= 2 + 20


def test_a_histogram_is_the_same_on_the_route_of_a_gpu():
    v = {"a": torch.randn(1000) ** 9, "b": torch.tensor([0.0, 1e-20, 1e9, -1.0]), "c": torch.zeros(0)}
    expected = update_histogram(v)
    with as_on_a_gpu():
        assert update_histogram(v) == expected
    assert sum(count for *_, count in expected) == 1004


def test_a_mask_as_an_index_counts_as_a_read_and_places_do_not():
    x = torch.arange(4.0)
    with Counting() as counting:
        x[torch.tensor([0, 2])]
        x[x > 1]
        x[x > 2] = 0.0
        torch.bincount(torch.tensor([1, 1]))
    assert counting.counts["reads"] == 3


def test_whether_directions_and_states_are_finite_is_read_once():
    params = {str(i): nn.Parameter(torch.ones(3)) for i in range(5)}
    updates = PseudoUpdates(params, ROWS)
    for p in params.values():
        p.grad = torch.tensor([1.0, -2.0, 3.0])
    directions = updates.advance()
    with Counting() as counting, as_on_a_gpu():
        assert updates.not_finite(directions) == []
        directions["lion"]["4"][0] = math.inf
        assert updates.not_finite(directions) == ["lion"]
    assert counting.counts["reads"] == 2
