"""What the measurement asks of a GPU besides arithmetic, counted at real depth: kernels and reads do not grow."""

import pytest
import torch

from benchmarks.launches import Counting, count
from curvature import vhv_by_recording


def test_kernels_views_and_reads_are_told_apart():
    x = torch.ones(3, 4)
    with Counting() as counting:
        x.T.sum()  # a view and a kernel
        torch.empty(3)
        (x + 1).max().item()
        x[0].tolist()
    assert counting.counts == {"kernels": 3, "views": 3, "reads": 2}


@pytest.mark.parametrize("model, kernels, reads", [("distilroberta", 153, 2), ("ResNet-18", 71, 1)])
def test_twelve_directions_share_their_launches_and_wait_for_nothing(model, kernels, reads):
    row = count(model, [1, 12])
    assert row["kernels_per_direction_12"] <= kernels < row["kernels_per_direction_1"] / 10
    assert row["reads_1"] == row["reads_12"] == 0
    assert row["recording_reads"] <= reads


@pytest.mark.slow
@pytest.mark.parametrize("model, kernels", [("t5-small", 303), ("gpt-neo-125M", 285)])
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
