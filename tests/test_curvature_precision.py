"""Slope and curvature in float32 against double backward in float64, where the two-product trick could lose digits."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from curvature import products
from curvature.borrowing import KeepPrecision
from curvature.objective import functional_loss
from curvature.tape import vhv_by_recording
from landscape_utils import directional_sharpness, vhv_by_double_backward
from tests.helpers.tiny_models import random_direction, token_losses

SIZE = dict(vocab_size=31, bos_token_id=1, eos_token_id=1, pad_token_id=0)


def next_token(forward, batch):
    """[B] mean cross-entropy of each example's next tokens."""
    logits = forward(**batch).logits[:, :-1].transpose(1, 2)
    return F.cross_entropy(logits, batch["input_ids"][:, 1:], reduction="none").mean(1)


def gpt2():
    config = transformers.GPT2Config(**SIZE, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    ids = torch.randint(2, 31, (3, 9))
    return transformers.GPT2LMHeadModel(config), next_token, dict(input_ids=ids), "transformer.h.0.mlp.c_proj.weight"


def t5_v1_1():
    config = transformers.T5Config(
        vocab_size=31, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
        tie_word_embeddings=False, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    ids, labels = torch.randint(2, 31, (3, 9)), torch.randint(2, 31, (3, 6))
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
    tiny = "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    return transformers.T5ForConditionalGeneration(config), token_losses, batch, tiny


@pytest.fixture(params=[gpt2, t5_v1_1], ids=lambda build: build.__name__)
def model(request):
    """(model in float32, per-example losses, batch, the name of a matrix)"""
    torch.manual_seed(0)
    model, *rest = request.param()
    return model.eval(), *rest


def sign_step(loss_fn, params, batch):
    leaves = {n: p.clone().requires_grad_() for n, p in params.items()}
    gradients = torch.autograd.grad(loss_fn(leaves, batch).mean(), list(leaves.values()))
    return {n: -g.sign() for n, g in zip(leaves, gradients, strict=True)}


def in_float64(model, losses, params, directions, batch):
    """Slope and curvature by double backward in float64, [2, K]."""
    double = lambda tensors: {n: t.double() for n, t in tensors.items()}  # noqa: E731
    model.double()
    with KeepPrecision():
        loss_fn, directions = functional_loss(model, losses), [double(v) for v in directions]
        _, *exact, _ = vhv_by_double_backward(loss_fn, double(params), directions, batch)
    model.float()
    return torch.stack(exact)


@pytest.mark.parametrize("factor", [1.0, 1e-8, 1e-10, 0.0])
def test_one_matrix_of_tiny_weights_costs_no_digit_of_the_others(model, factor):
    model, losses, batch, matrix = model
    params = {n: p.detach().clone() for n, p in model.named_parameters()}
    params[matrix] *= factor
    loss_fn = functional_loss(model, losses)
    directions = [sign_step(loss_fn, params, batch), random_direction(params, 0)]
    directions.append({n: 1e-5 * v for n, v in directions[0].items()})
    _, *found, _ = vhv_by_recording(loss_fn, params, directions, batch)
    exact = in_float64(model, losses, params, directions, batch)
    torch.testing.assert_close(torch.stack(found), exact, rtol=1e-4, atol=0)


def test_a_direction_that_moves_no_matrix_is_measured_alike_at_any_length(model):
    model, losses, batch, _ = model
    params = {n: p.detach() for n, p in model.named_parameters()}
    vectors = {n: v * (v.dim() < 2) for n, v in random_direction(params, 1).items()}
    exact = in_float64(model, losses, params, [vectors], batch)
    length = sum(v.double().square().sum() for v in vectors.values()).sqrt().item()
    directions = [{n: v * (10.0**power / length) for n, v in vectors.items()} for power in range(-8, 9)]
    for found in directional_sharpness(functional_loss(model, losses), params, directions, [batch]):
        assert found.slope * len(batch["input_ids"]) == pytest.approx(exact[0, 0].item() / length, rel=1e-4)
        assert found.sharpness * len(batch["input_ids"]) == pytest.approx(exact[1, 0].item() / length**2, rel=1e-4)


@pytest.mark.parametrize("is_read", [True, False])  # the norm of the bias, by Python: not on another device
def test_a_bias_that_drowns_the_product_costs_no_digit(is_read, monkeypatch):
    monkeypatch.setattr(products, "is_free_to_read", lambda x: is_read)
    params = {"w": torch.rand(6, 4) * 1e-3, "b": 1e4 + torch.rand(4), "x": torch.rand(3, 6)}
    direction = {n: torch.randn(p.shape) for n, p in params.items()}

    def loss_fn(p, batch):
        return (F.linear(p["x"], p["w"].mT, p["b"]) - 1e4).tanh().sum(1)

    double = lambda tensors: {n: t.double() for n, t in tensors.items()}  # noqa: E731
    _, *exact, _ = vhv_by_recording(loss_fn, double(params), [double(direction)], {})
    _, *found, _ = vhv_by_recording(loss_fn, params, [direction], {})
    _, *slow, _ = vhv_by_double_backward(loss_fn, params, [direction], {})
    for ours, theirs, true in zip(found, slow, exact, strict=True):  # the loss itself loses digits in b - 1e4
        assert abs(ours / true - 1) < 2 * abs(theirs / true - 1) + 1e-5


@pytest.mark.parametrize("operation", ["matrix", "image"])
def test_the_step_size_as_a_tensor_gives_the_same_numbers(operation, monkeypatch):
    params = {"w": torch.rand(4, 4, 3, 3) - 0.5, "x": torch.rand(2, 4, 6, 6), "b": torch.rand(4)}

    def loss_fn(p, batch):
        if operation == "image":
            return F.conv2d(F.conv2d(p["x"], p["w"], p["b"]).tanh(), p["w"]).sum((1, 2, 3))
        return F.linear(p["x"].flatten(0, 2).tanh(), p["w"][:, 0, 0, :1].expand(4, 6), p["b"]).tanh().sum(1)

    directions = [random_direction(params, 0), {n: 0 * p for n, p in params.items()}]
    expected = vhv_by_recording(loss_fn, params, directions, {})
    monkeypatch.setattr(products, "is_free_to_read", lambda x: False)  # as on another device
    for ours, as_floats in zip(vhv_by_recording(loss_fn, params, directions, {}), expected, strict=True):
        torch.testing.assert_close(ours, as_floats, rtol=1e-5, atol=1e-6)
