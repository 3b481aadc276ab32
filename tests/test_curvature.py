"""The fast route to curvature, against double backward for every architecture and against its own slow rule."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from curvature import NotTraceable, rules, vhv_by_recording
from curvature.any_operation import push_any_operation
from curvature.borrowing import KeepPrecision
from curvature.objective import functional_loss
from curvature.operation import Operation, nested
from curvature.rules import RULES
from landscape_utils import vhv_by_double_backward
from tests.helpers.tiny_models import random_direction, tiny_t5, token_losses

aten = torch.ops.aten


def assert_same_derivatives(loss_fn, params, batch, rtol=1e-10):
    directions = [random_direction(params, seed) for seed in range(3)]
    got = vhv_by_recording(loss_fn, params, directions, batch)[:3]
    for ours, expected in zip(got, vhv_by_double_backward(loss_fn, params, directions, batch)[:3], strict=True):
        torch.testing.assert_close(ours.double(), expected.double(), rtol=rtol, atol=0)
    return got


# ---- every architecture of the task table -------------------------------------------------------------------------

TEXT = dict(vocab_size=23, bos_token_id=1, eos_token_id=1, pad_token_id=0)
BERT = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, max_position_embeddings=16)


def labeled(forward, batch):
    """[B] cross-entropy of a classifier."""
    inputs = {k: t for k, t in batch.items() if k != "label"}
    return F.cross_entropy(forward(**inputs).logits, batch["label"], reduction="none")


def next_token(forward, batch):
    """[B] mean cross-entropy of each example's next tokens, padding left out."""
    logits, mask = forward(**batch).logits[:, :-1], batch["attention_mask"][:, 1:]
    losses = F.cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
    return (losses * mask).sum(1) / mask.sum(1)


def masked_lm(forward, batch):
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
    return token_losses(lambda **_: forward(**inputs), batch)


def text_batch(**more):
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[1, 5:] = mask[2, 3:] = 0
    return dict(input_ids=torch.randint(2, 23, (3, 7)) * mask, attention_mask=mask, **more)


def architecture(name, attention):
    """(model, per-example losses, batch with padding); a thousand parameters or so, random."""
    t, a, label = transformers, dict(attn_implementation=attention), dict(label=torch.tensor([0, 1, 1]))
    if name == "roberta":
        batch = text_batch()
        batch["labels"] = batch["input_ids"].masked_fill(batch["input_ids"] % 3 > 0, -100)
        batch["labels"][:, 0] = 2
        return t.RobertaForMaskedLM(t.RobertaConfig(**TEXT, **BERT, **a)), masked_lm, batch
    if name == "distilbert":
        config = t.DistilBertConfig(
            **TEXT, dim=8, hidden_dim=12, n_layers=1, n_heads=2, max_position_embeddings=16, **a
        )
        return t.DistilBertForSequenceClassification(config), labeled, text_batch(**label)
    if name == "gpt2":
        config = t.GPT2Config(**TEXT, n_embd=8, n_layer=1, n_head=2, n_positions=16, **a)
        return t.GPT2LMHeadModel(config), next_token, text_batch()
    if name == "gpt_neo":
        size = dict(hidden_size=8, num_layers=2, num_heads=2, max_position_embeddings=16, window_size=3)
        config = t.GPTNeoConfig(**TEXT, **size, attention_types=[[["global", "local"], 1]])
        return t.GPTNeoForCausalLM(config), next_token, text_batch()
    if name == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(**TEXT, **BERT, num_key_value_heads=1, **a)), next_token, text_batch()
    images = dict(pixel_values=torch.randn(3, 3, 16, 16), **label)
    if name == "vit":
        size = {k: v for k, v in BERT.items() if k != "max_position_embeddings"}
        return t.ViTForImageClassification(t.ViTConfig(image_size=16, patch_size=8, **size, **a)), labeled, images
    config = t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return t.ResNetForImageClassification(config), labeled, images


def in_float64(model, losses, batch):
    """(loss_fn, params, batch) in evaluation mode, away from the initial ones and zeros."""
    model.double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2)
    params = {n: p.detach() for n, p in model.named_parameters()}
    return (
        functional_loss(model, losses),
        params,
        {k: v.double() if v.is_floating_point() else v for k, v in batch.items()},
    )


ARCHITECTURES = [(name, "sdpa") for name in ("roberta", "distilbert", "gpt2", "gpt_neo", "llama", "vit", "resnet")]


@pytest.mark.parametrize("name, attention", [*ARCHITECTURES, ("roberta", "eager"), ("gpt2", "eager"), ("vit", "eager")])
def test_equals_vhv_by_double_backward_for_every_architecture_without_the_slow_rule(name, attention, monkeypatch):
    torch.manual_seed(0)
    loss_fn, params, batch = in_float64(*architecture(name, attention))
    monkeypatch.setattr(rules, "ANY_OPERATION", None)  # an operation without a rule of its own would fail
    with KeepPrecision():
        assert_same_derivatives(loss_fn, params, batch)


def test_equals_vhv_by_double_backward_on_t5():
    model, losses, batch = tiny_t5()
    params = {n: p.detach() for n, p in model.named_parameters()}
    with KeepPrecision():
        assert_same_derivatives(functional_loss(model, losses), params, batch)


def test_t5_in_float32_agrees_to_its_rounding():
    model, losses, batch = tiny_t5(torch.float32)
    params = {n: p.detach() for n, p in model.named_parameters()}
    assert_same_derivatives(functional_loss(model, losses), params, batch, rtol=1e-4)


def test_the_length_of_a_direction_costs_no_precision():
    model, losses, batch = tiny_t5()
    params = {n: p.detach() for n, p in model.named_parameters()}
    direction = random_direction(params, 0)
    with KeepPrecision():
        exact = vhv_by_recording(functional_loss(model, losses), params, [direction], batch).curvatures
    model.float()
    params = {n: p.float() for n, p in params.items()}
    for length in (1e-5, 1, 1e4):
        scaled = {n: (v * length).float() for n, v in direction.items()}
        got = vhv_by_recording(functional_loss(model, losses), params, [scaled], batch).curvatures
        torch.testing.assert_close(got / length**2, exact, rtol=1e-4, atol=0)


def test_a_cubic_has_the_curvature_worked_by_hand():
    loss, slope, curvature, _ = vhv_by_recording(  # f = sum x^3 along v: f' = 3 x^2 v, f'' = 6 x v^2
        lambda p, b: p["x"] ** 3, {"x": torch.tensor([1.0, 2.0])}, [{"x": torch.tensor([1.0, -1.0])}], {}
    )
    assert (loss.tolist(), slope.tolist(), curvature.tolist()) == ([1, 8], [3 - 12], [6 + 12])


# ---- every rule against the slow one ------------------------------------------------------------------------------


def tensor(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64) + 0.5


X, IMAGE, CHANNEL, MASK = tensor(3, 4), tensor(2, 3, 6, 6), tensor(3), torch.tensor([True, False, True, True])
STRIDES = ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)
CASES = {  # (operation, arguments, keywords); every subset of the float tensors is tracked in turn
    "add": (aten.add.Tensor, (X, tensor(4)), dict(alpha=3)),
    "add scalar": (aten.add.Scalar, (X, 2), {}),
    "sub": (aten.sub.Tensor, (X, tensor(3, 1)), {}),
    "where": (aten.where.self, (MASK, X, tensor(1, 4)), {}),
    "cat": (aten.cat.default, ([X, tensor(2, 4)],), {}),
    "masked_fill": (aten.masked_fill.Scalar, (X, MASK, -3.0), {}),
    "relu": (aten.relu.default, (X - 1,), {}),
    "mul": (aten.mul.Tensor, (X, tensor(3, 1)), {}),
    "mm narrow": (aten.mm.default, (X, tensor(4, 5)), {}),
    "mm wide": (aten.mm.default, (X, tensor(4, 2)), {}),
    "bmm": (aten.bmm.default, (tensor(2, 3, 4), tensor(2, 4, 5)), {}),
    "addmm": (aten.addmm.default, (tensor(5), X, tensor(4, 5)), {}),
    "convolution": (aten.convolution.default, (IMAGE, tensor(4, 3, 3, 3), tensor(4), *STRIDES), {}),
    "div": (aten.div.Tensor, (X, tensor(4)), {}),
    "div scalar": (aten.div.Tensor, (X, 3.0), {}),
    "max_pool": (aten.max_pool2d_with_indices.default, (IMAGE, [3, 3], [2, 2], [1, 1]), {}),
    "pow 2": (aten.pow.Tensor_Scalar, (X, 2), {}),
    "pow -1.5": (aten.pow.Tensor_Scalar, (X, -1.5), {}),
    "gelu tanh": (aten.gelu.default, (X - 1,), dict(approximate="tanh")),
    "softmax": (aten._softmax.default, (X, -1, False), {}),
    "log_softmax": (aten._log_softmax.default, (X, 0, False), {}),
    "layer_norm": (aten.native_layer_norm.default, (X, [4], tensor(4), tensor(4, seed=1), 1e-5), {}),
    "bare layer_norm": (aten.native_layer_norm.default, (X, [3, 4], None, None, 1e-5), {}),
    "batch_norm": (
        aten.native_batch_norm.default,
        (IMAGE, CHANNEL, CHANNEL + 1, CHANNEL + 2, CHANNEL + 3, False, 0.1, 1e-5),
        {},
    ),
    **{
        name: (getattr(aten, name).default, (X - 0.7 * (name in ("tanh", "gelu", "silu")),), {})
        for name in ("tanh", "sigmoid", "exp", "rsqrt", "sqrt", "log", "gelu", "silu")
    },
}


def run_rule(push, func, args, kwargs, chosen, rule, with_output=True):
    """(dy, bend) of one operation with the `chosen` of its tensors tracked and the adjoint 0.1, 0.2, ..."""
    places = iter(range(100))
    tangents = nested(lambda t: tensor(*t.shape, seed=7) if next(places) in chosen else None, args)
    result = func(*args, **kwargs)
    results = [result] if isinstance(result, torch.Tensor) else list(result)
    adjoint = torch.arange(1.0, results[0].numel() + 1, dtype=torch.float64).view(results[0].shape) / 10
    rule = rules.ANY_OPERATION if push is push_any_operation else rule
    kept = results if rule.keep_output or rule.optional_output and with_output else []
    op = Operation(func, tangents, list(args), kwargs, results, rule, kept)
    op.prepare([adjoint, *[None] * (len(results) - 1)])
    dy, bend = push(op, tangents)
    return dy if isinstance(dy, torch.Tensor) else dy[0], torch.zeros(()) if bend is None else rule.factor * bend


@pytest.mark.parametrize("name", CASES)
def test_rule_equals_double_backward_of_the_operation(name):
    func, args, kwargs = CASES[name]
    rule = RULES[func]
    flat = [t for a in args for t in (a if isinstance(a, list) else [a])]
    floats = [i for i, t in enumerate(flat) if isinstance(t, torch.Tensor) and t.is_floating_point()]
    floats = floats[:3]  # running statistics are never tracked
    subsets = [[i for bit, i in enumerate(floats) if n >> bit & 1] for n in range(1, 2 ** len(floats))]
    for chosen in subsets:
        slow = run_rule(push_any_operation, func, args, kwargs, chosen, rule)
        for with_output in {True, not rule.optional_output}:
            ours = run_rule(rule.push, func, args, kwargs, chosen, rule, with_output)
            for got, expected in zip(ours, slow, strict=True):
                torch.testing.assert_close(got, expected.to(got), rtol=1e-12, atol=1e-12)


def test_operations_without_a_rule_take_the_slow_one():
    params = {"x": tensor(4), "m": tensor(3, 3) + 2 * torch.eye(3, dtype=torch.float64)}
    assert_same_derivatives(lambda p, b: p["x"].logsumexp(0) + p["m"].det().log() * p["x"].std().reshape(1), params, {})


# ---- what cannot be followed is refused, never taken for a constant -----------------------------------------------


def test_in_place_writes_are_followed_or_refused():
    params = {"w": tensor(4, 4)}

    def followed(p, b):
        y = X @ p["w"]
        y += 1  # as attention scores take their mask
        y.mul_(2.0)
        return (y @ p["w"]).relu_().pow(2).sum(1)

    assert_same_derivatives(followed, params, {})

    def overwriting_what_a_rule_reads(p, b):
        return (X @ p["w"]).tanh().mul_(2.0).sum(1)

    def through_a_view(p, b):
        y = X @ p["w"]
        y[:, 0].mul_(2.0)
        return y.sum(1)

    def into_a_constant(p, b):
        y = torch.zeros(3, 4, dtype=torch.float64)
        y[:, 1:] = (X @ p["w"])[:, 1:] ** 2
        return y.sum(1)

    for loss_fn in (overwriting_what_a_rule_reads, through_a_view, into_a_constant):
        with pytest.raises(NotTraceable, match="overwritten in place|writes into"):
            vhv_by_recording(loss_fn, params, [params], {})


def test_a_product_that_the_model_writes_over_is_not_read_again():
    params = {"w": tensor(4, 4)}

    def of_matrices(p, b):
        y = X.mm(p["w"]).tanh().mm(p["w"])
        y += 1
        return y.tanh().sum(1)

    def under_another_name(p, b):  # a linear layer's product of three-dimensional input: a view that is not one
        y = F.linear((X @ p["w"]).tanh()[None], p["w"])
        y.mul_(2.0)
        return y.tanh().sum((0, 2))

    for loss_fn in (of_matrices, under_another_name):
        assert_same_derivatives(loss_fn, params, {})


def test_stale_view_is_refused():
    def loss_fn(p, b):
        y = X @ p["w"]
        view = y[:, :2]
        y += 1
        return view.sum(1) + y.sum(1)

    with pytest.raises(NotTraceable, match="overwritten through another view"):
        vhv_by_recording(loss_fn, {"w": tensor(4, 4)}, [{"w": tensor(4, 4)}], {})


def test_random_numbers_and_checkpointing_are_refused_with_the_reason():
    from torch.utils.checkpoint import checkpoint

    params = {"x": tensor(4)}
    refused = {
        "draws random numbers": lambda p, b: torch.native_dropout(p["x"], 0.0, True)[0],
        "no recorded operation made": lambda p, b: checkpoint(torch.sin, p["x"], use_reentrant=True) * 2,
    }
    for reason, loss_fn in refused.items():
        with pytest.raises(NotTraceable, match=reason):
            vhv_by_recording(loss_fn, params, [params], {})


def test_detached_and_no_grad_parts_are_constants():
    def loss_fn(p, b):
        with torch.no_grad():
            scale = p["x"].exp()
        return p["x"] ** 2 * scale * p["x"].detach()

    assert_same_derivatives(loss_fn, {"x": tensor(4)}, {})


def test_the_padding_row_of_an_embedding_stands_still_as_for_autograd():
    indices = torch.tensor([[1, 0, 2], [0, 0, 1]])  # 0 pads

    def loss_fn(p, b):
        return (F.embedding(indices, p["w"], padding_idx=0) ** 3).sum((1, 2))

    assert_same_derivatives(loss_fn, {"w": tensor(3, 4)}, {})


def test_neither_parameters_nor_directions_are_touched():
    params, direction = {"w": tensor(4, 4)}, {"w": tensor(4, 4, seed=3)}
    before = [t["w"].clone() for t in (params, direction)]
    vhv_by_recording(lambda p, b: (X @ p["w"]).exp().sum(1), params, [direction], {})
    assert all(torch.equal(a, t["w"]) for a, t in zip(before, (params, direction), strict=True))
    assert not params["w"].requires_grad
