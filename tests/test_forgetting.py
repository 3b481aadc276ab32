"""A tensor that a model keeps from an earlier forward pass changes no number: it is forgotten, or refused."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from curvature import vhv_by_recording
from curvature.borrowing import measuring
from curvature.gradient_graph import GradientGraph
from curvature.objective import functional_loss, trainable_parameters
from landscape_utils import directional_sharpness, mean_loss, scan_loss, vhv_by_double_backward
from tests.helpers.tiny_models import random_direction

BATCH = {"x": torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)}
WHERE = ["attribute", "dict", "list of dicts", "buffer"]


class Biased(nn.Module):
    """tanh(w x) + exp(bias), whose second term is kept for the next call in evaluation mode, as LeViT keeps its own."""

    def __init__(self, where):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w, self.bias = (nn.Parameter(torch.randn(2, generator=generator, dtype=torch.float64)) for _ in range(2))
        self.where, self.passes, self.tables = where, 0, [{"fixed": torch.ones(1)}]
        self.register_buffer("buffer", None, persistent=False)
        self.forget()

    def forget(self):
        self.attribute, self.buffer, self.dict = None, None, {}
        self.tables[0].pop("bias", None)

    def train(self, mode=True):
        if mode:
            self.forget()
        return super().train(mode)

    def kept(self):
        return {
            "attribute": self.attribute,
            "buffer": self.buffer,
            "dict": self.dict.get("bias"),
            "list of dicts": self.tables[0].get("bias"),
        }.get(self.where)

    def forward(self, x):
        self.passes += 1
        biases = self.kept()
        if biases is None:
            biases = self.bias.exp()
            if self.where in ("attribute", "buffer"):
                setattr(self, self.where, biases)
            elif self.where != "nowhere":
                (self.dict if self.where == "dict" else self.tables[0])["bias"] = biases
        return (self.w * x).tanh() + biases


def losses(forward, batch):
    return forward(batch["x"]).square().sum(1)


def raw_loss(model):
    return lambda params, batch: losses(lambda x: functional_call(model, dict(params), (x,)), batch)


def measure(model, loss_fn):
    """By both routes, and from loss values, twice each."""
    params = trainable_parameters(model)
    v = random_direction(params, 0)
    measurements = []
    for _ in range(2):
        measurements += [
            route(loss_fn, params, [v], BATCH)[1:3] for route in (vhv_by_recording, vhv_by_double_backward)
        ]
    start = mean_loss(loss_fn, params, [BATCH])
    scans = [scan_loss(loss_fn, params, v, [BATCH], start_loss=start, spacing=0.1, num_points=4) for _ in range(2)]
    return torch.tensor([[slope, curvature] for slope, curvature in measurements]), torch.tensor(scans)


@pytest.mark.parametrize("where", WHERE)
def test_what_a_model_keeps_of_a_forward_pass_changes_nothing(where):
    expected = measure(Biased("nowhere"), functional_loss(Biased("nowhere"), losses))
    model = Biased(where).eval()
    losses(model, BATCH)  # the user's own evaluation, which leaves a tensor behind
    with measuring(model):
        measurements = measure(model, functional_loss(model, losses))
        assert model.kept() is None
    for ours, right in zip(measurements, expected, strict=True):
        torch.testing.assert_close(ours, right)
    assert list(model.tables[0]) == ["fixed"]


def test_a_module_keeps_what_holds_no_tensor():
    model = Biased("nowhere")
    functional_loss(model, losses)(trainable_parameters(model), BATCH)
    assert model.passes == 1


@pytest.mark.parametrize("keeps_graph", [True, False])
def test_what_a_loss_of_ones_own_keeps_is_refused(keeps_graph):
    model = Biased("dict").eval()
    params, loss_fn = trainable_parameters(model), raw_loss(model)
    v = random_direction(params, 0)
    if keeps_graph:
        (first,) = directional_sharpness(loss_fn, params, [v], [BATCH])
        (right,) = directional_sharpness(raw_loss(Biased("nowhere")), params, [v], [BATCH])
        assert first.sharpness == pytest.approx(right.sharpness)
    else:
        mean_loss(loss_fn, params, [BATCH])
    said = "bias from an earlier forward pass" if keeps_graph else r"a tensor of shape \[2\] that was made in inference"
    with pytest.raises(ValueError, match=f"the losses use {said}.*`params`") as error:
        directional_sharpness(loss_fn, {n: p.clone() for n, p in params.items()}, [v], [BATCH])
    assert "\n" not in str(error.value)


def test_a_graph_that_a_model_keeps_is_refused_by_the_gradient_graph():
    model = Biased("dict").eval()
    params, loss_fn = trainable_parameters(model), raw_loss(model)
    GradientGraph(loss_fn, params, [BATCH], ["w"], keep_graphs=True)
    GradientGraph(loss_fn, params, [BATCH], ["w"], keep_graphs=True)  # not differentiated with respect to the bias
    model.forget()
    GradientGraph(loss_fn, params, [BATCH], ["bias"], keep_graphs=True)
    with pytest.raises(ValueError, match="use bias from an earlier forward pass"):
        GradientGraph(loss_fn, params, [BATCH], ["w"], keep_graphs=True)


def test_the_modules_own_parameter_beside_the_one_passed_in_is_refused():
    model = Biased("nowhere")
    params = trainable_parameters(model)
    penalized = lambda p, b: raw_loss(model)(p, b) + model.w.square().sum()  # noqa: E731
    with pytest.raises(ValueError, match="use w from an earlier forward pass, or the module's own"):
        directional_sharpness(penalized, params, [params], [BATCH])


def test_a_part_of_the_parameters_may_be_measured_beside_the_modules_own():
    model = Biased("nowhere")
    part = {"w": model.w.detach()}
    (quadratic,) = directional_sharpness(raw_loss(model), part, [part], [BATCH])
    both = {"w": model.w.detach(), "bias": torch.zeros(2, dtype=torch.float64)}
    (expected,) = directional_sharpness(raw_loss(model), trainable_parameters(model), [both], [BATCH])
    assert quadratic.sharpness == pytest.approx(expected.sharpness)


def test_a_batch_that_was_made_in_inference_mode_is_no_reason_to_refuse():
    with torch.inference_mode():
        batch = {"shift": torch.ones(2, dtype=torch.float64)}
    params = {"w": torch.ones(2, dtype=torch.float64)}
    (quadratic,) = directional_sharpness(lambda p, b: p["w"].exp() + b["shift"], params, [params], [batch])
    assert quadratic.sharpness == pytest.approx(torch.e / 2)
