"""Block eigenvalues against dense Hessians and matrices with known spectra; the models are tiny and in float64."""

import functools
import logging
import math

import pytest
import torch
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from curvature import lanczos
from curvature.borrowing import measuring, twice_differentiable
from curvature.gelu import _Gelu
from curvature.lanczos import extreme_eigenvalues
from curvature.objective import functional_loss, trainable_parameters
from hessian.blocks import block_curvatures

SMALL = dict(hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=6)
VOCABULARY, PIXELS = 7, 8


def tiny_model(architecture):
    if architecture == "t5":
        return T5ForConditionalGeneration(
            T5Config(vocab_size=VOCABULARY, d_model=4, d_kv=2, d_ff=6, num_layers=1, num_heads=2,
                     decoder_start_token_id=0))  # fmt: skip
    if architecture == "roberta":
        return RobertaForSequenceClassification(
            RobertaConfig(**SMALL, vocab_size=VOCABULARY, max_position_embeddings=8, num_labels=3)
        )
    if architecture == "vit":
        return ViTForImageClassification(ViTConfig(**SMALL, image_size=PIXELS, patch_size=4, num_labels=3))
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=3, hidden_sizes=[3, 4], depths=[1, 1], layer_type="basic", num_labels=3)
    )


def random_batch(architecture, size, generator):
    if architecture in ("vit", "resnet"):
        inputs = dict(pixel_values=torch.randn(size, 3, PIXELS, PIXELS, generator=generator, dtype=torch.float64))
    else:
        inputs = dict(input_ids=torch.randint(2, VOCABULARY, (size, 5), generator=generator))
    labels = (size, 4) if architecture == "t5" else (size,)
    return dict(inputs, labels=torch.randint(0, 3, labels, generator=generator))


def cross_entropies(forward, batch):
    labels = batch["labels"]
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    if labels.dim() == 1:
        return torch.nn.functional.cross_entropy(forward(**inputs).logits, labels, reduction="none")
    logits = forward(**inputs, decoder_input_ids=labels).logits  # [B, T, V]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(dim=1)


def dense_block(loss_fn, params, batches, name):
    """The diagonal block of the mean loss, row by row; [n, n]."""
    x = params[name].detach().requires_grad_()
    losses = torch.cat([loss_fn({**params, name: x}, batch) for batch in batches])
    (g,) = torch.autograd.grad(losses.mean(), x, create_graph=True, allow_unused=True)
    if g is None:
        return torch.zeros(x.numel(), x.numel(), dtype=x.dtype)
    rows = [torch.autograd.grad(entry, x, retain_graph=True)[0].flatten() for entry in g.flatten()]
    return torch.stack(rows)


def eigenvalues_of(matrix, **options):
    options = dict(tolerance=1e-8, max_iterations=200, generator=torch.Generator().manual_seed(0)) | options
    return extreme_eigenvalues(lambda u: matrix @ u, len(matrix), like=matrix, **options)


def matrix_with(spectrum, seed=0):
    values = torch.as_tensor(spectrum, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))
    return q @ torch.diag(values) @ q.T


def quadratic(blocks):
    """A loss whose Hessian blocks are the given matrices, three examples alike."""

    def loss_fn(params, batch):
        value = sum(0.5 * params[name] @ matrix @ params[name] for name, matrix in blocks.items())
        return value.expand(len(batch["rows"]))

    return loss_fn


# ---- models -----------------------------------------------------------------------------------------------------


@functools.cache
def measured(architecture):
    """(blocks as measured, their dense Hessians) of every tensor of a tiny model, on two micro-batches."""
    torch.manual_seed(0)
    model = tiny_model(architecture).double()
    with torch.no_grad():
        for p in model.parameters():  # the initial biases are zero and the initial weights so small that nothing bends
            p += 0.4 * torch.randn_like(p)
    generator = torch.Generator().manual_seed(1)
    batches = [random_batch(architecture, size, generator) for size in (3, 1)]
    loss_fn, params = functional_loss(model, cross_entropies), trainable_parameters(model)
    with measuring(model), twice_differentiable():
        blocks = list(block_curvatures(loss_fn, params, batches, tolerance=1e-7, max_iterations=200))
        dense = {name: dense_block(loss_fn, params, batches, name) for name in params}
    return blocks, dense


@pytest.mark.parametrize("architecture", ["t5", "roberta", "vit", "resnet"])
def test_every_block_of_a_model_has_the_eigenvalues_of_its_dense_hessian(architecture):
    blocks, dense = measured(architecture)
    spectra = {name: torch.linalg.eigvalsh(matrix) for name, matrix in dense.items()}
    rounding = 1e-13 * max(spectrum.abs().max().item() for spectrum in spectra.values())
    assert [block.name for block in blocks] == list(dense)
    for block in blocks:
        spectrum = spectra[block.name]
        strongest = spectrum[spectrum.abs().argmax()].item()
        assert block.eigenvalue == pytest.approx(spectrum[-1].item(), rel=1e-6, abs=rounding), block.name
        assert abs(block.magnitude_eigenvalue) == pytest.approx(abs(strongest), rel=1e-6, abs=rounding), block.name


def test_the_models_have_blocks_whose_most_negative_eigenvalue_is_the_largest_in_magnitude():
    blocks = [block for architecture in ("t5", "roberta", "vit") for block in measured(architecture)[0]]
    trapped = [b for b in blocks if b.converged and b.eigenvalue > 1e-6 and b.magnitude_eigenvalue < -b.eigenvalue]
    assert trapped


def test_keys_bias_vanishes_and_is_not_called_converged():
    blocks, _ = measured("roberta")
    (bias,) = [block for block in blocks if block.name.endswith("key.bias")]
    largest = max(block.eigenvalue for block in blocks)
    assert abs(bias.magnitude_eigenvalue) <= 1e-13 * largest
    assert not bias.converged


# ---- known spectra ----------------------------------------------------------------------------------------------


def test_power_iterations_trap_does_not_catch_lanczos():
    result = eigenvalues_of(matrix_with([-3.0] + torch.linspace(-1, 2.5, 60).tolist() + [2.9]))
    assert result.eigenvalue == pytest.approx(2.9, rel=1e-9)
    assert result.magnitude_eigenvalue == pytest.approx(-3.0, rel=1e-9)
    assert result.converged and result.magnitude_converged


@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-6, 1e-3])
def test_nearly_double_top_eigenvalue_is_found(gap):
    result = eigenvalues_of(matrix_with([2.0, 2.0 - gap] + torch.linspace(-1, 1, 60).tolist()))
    assert result.eigenvalue == pytest.approx(2.0, rel=1e-6)
    assert result.converged


def test_search_goes_on_beyond_an_invariant_subspace(monkeypatch):
    spectrum = torch.tensor([1.0, 4.0, 3.0, 5.0, 2.0], dtype=torch.float64)
    draws = [torch.eye(5, dtype=torch.float64)[0]]  # the start is an eigenvector, of the smallest eigenvalue
    draw = lanczos._random_unit
    monkeypatch.setattr(lanczos, "_random_unit", lambda *args: draws.pop() if draws else draw(*args))
    assert eigenvalues_of(torch.diag(spectrum)).eigenvalue == pytest.approx(5.0)


@pytest.mark.parametrize(
    "spectrum",
    [[0.0] * 6, [3.0, 3.0, 1.0, 1.0], [-2.0] * 9, [7.0], [-7.0], [1.0] + [0.0] * 30, [-50.0] + [0.0] * 49],
)
def test_degenerate_spectra_are_exact(spectrum):
    result = eigenvalues_of(matrix_with(spectrum))
    assert result.eigenvalue == pytest.approx(max(spectrum), rel=1e-12, abs=1e-12)
    assert result.magnitude_eigenvalue == pytest.approx(max(spectrum, key=abs), rel=1e-12, abs=1e-12)
    assert result.converged and result.magnitude_converged
    assert result.products <= min(len(spectrum), 5)


def test_small_block_is_exact_after_as_many_products_as_it_has_elements():
    result = eigenvalues_of(matrix_with([1.0, 1.1, 1.2, 1.3]), tolerance=1e-15)
    assert (result.products, result.residual <= 1e-14) == (4, True)
    assert result.eigenvalue == pytest.approx(1.3, rel=1e-13)


@pytest.mark.parametrize("iterations", [1, 2, 3, 5, 8, 13, 30])
def test_some_eigenvalue_lies_within_the_residual(iterations):
    spectrum = torch.cat([torch.linspace(-4, 4, 80), torch.tensor([4.2, -4.4])]).double()
    for seed in range(5):
        result = eigenvalues_of(
            matrix_with(spectrum, seed), max_iterations=iterations, generator=torch.Generator().manual_seed(seed)
        )
        for value, residual in ((result.eigenvalue, result.residual),
                                (result.magnitude_eigenvalue, result.magnitude_residual)):  # fmt: skip
            assert (spectrum - value).abs().min() <= residual + 1e-12
        assert result.products <= iterations


def test_residual_counts_what_rounding_breaks_of_the_symmetry():
    """H = diag(2, 1) + K with K = 0.01 (0 1; -1 0): y = (1, 0), theta = 2, ||H y - 2 y|| = ||K y|| = 0.01."""
    result = eigenvalues_of(torch.tensor([[2.0, 0.01], [-0.01, 1.0]], dtype=torch.float64))
    assert result.eigenvalue == pytest.approx(2.0)
    assert result.residual == pytest.approx(0.01)
    assert not result.converged


def test_search_ends_where_rounding_lets_nothing_converge():
    skew = torch.randn(200, 200, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    result = eigenvalues_of(matrix_with(torch.linspace(0, 1, 200)) + 1e-3 * (skew - skew.T), tolerance=1e-6)
    assert not result.converged
    assert result.products < 100


@pytest.mark.parametrize("size", [3, 48, 1000])
def test_products_that_are_noise_tell_no_eigenvalue_from_zero(size):
    for seed in range(20):
        noise = torch.Generator().manual_seed(seed + 100)
        result = extreme_eigenvalues(
            lambda u: 1e-9 * torch.randn(u.shape, generator=noise), size,  # noqa: B023
            generator=torch.Generator().manual_seed(seed), like=torch.zeros(0),
        )  # fmt: skip
        assert abs(result.eigenvalue) <= result.residual
        assert abs(result.magnitude_eigenvalue) <= result.magnitude_residual
        assert not result.converged


def test_strongest_end_is_not_named_before_the_other_could_no_longer_exceed_it():
    spectrum = [3.0] + torch.linspace(-3.05, 0, 200).tolist()  # the top stands alone and converges first
    result = eigenvalues_of(matrix_with(spectrum), tolerance=1e-3)
    assert result.magnitude_eigenvalue == pytest.approx(-3.05, rel=1e-3)


def test_unconverged_value_is_marked():
    result = eigenvalues_of(matrix_with(torch.linspace(0, 1, 300)), max_iterations=5)
    assert not result.converged
    assert result.residual > 1e-8 * result.eigenvalue


HUGE = 100_000


def spectrum_with(first, second, rest):
    return torch.cat([torch.tensor([first, second]), torch.linspace(*rest, HUGE - 2)])


@pytest.mark.parametrize("rest", [(0.0, 0.0), (0.0, 0.1), (0.0, 1.0)])
@pytest.mark.parametrize(("hidden", "shown"), [(1.5, 1.2), (-1.5, 1.2), (1.212, 1.2)])
def test_a_gradient_along_a_lesser_eigenvector_decides_nothing(hidden, shown, rest):
    spectrum = spectrum_with(hidden, shown, rest)
    x = torch.zeros(HUGE)
    x[1] = 1  # there the gradient is along the eigenvector of `shown`
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        loss_fn = lambda p, b: (spectrum * p["x"] ** 2).sum().view(1) / 2  # noqa: E731
        (block,) = block_curvatures(loss_fn, {"x": x}, [{}], generator=generator)
        assert block.eigenvalue == pytest.approx(max(hidden, shown), rel=1e-3)
        assert block.magnitude_eigenvalue == pytest.approx(hidden, rel=1e-3)
        assert block.converged and block.magnitude_converged


def test_a_value_that_another_may_exceed_is_not_converged_however_small_its_residual(monkeypatch):
    spectrum = spectrum_with(1.5, 1.2, (0.0, 0.0))
    draw = lanczos._random_unit

    def along_the_second(basis, generator):
        start = draw(basis, generator)
        start[1] += 3
        return start / start.norm()

    monkeypatch.setattr(lanczos, "_random_unit", along_the_second)
    result = extreme_eigenvalues(
        lambda u: spectrum * u, HUGE, max_iterations=2, generator=torch.Generator().manual_seed(0), like=spectrum
    )
    assert result.eigenvalue == pytest.approx(1.2, rel=1e-3)
    assert result.residual < 1e-3 * result.eigenvalue
    assert not result.converged and not result.magnitude_converged


def test_what_may_hide_follows_from_the_lanczos_polynomial():
    """Ritz values 3 and 1, betas 1 and 1/2: p(x) = 2 (x - 3) (x - 1), which is 1 / 0.1 at 2 + sqrt(6) = 4.449."""
    projected = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    ritz = lanczos._RitzValues(projected, beta=0.5, eps=1e-16, chain_start=0, overlap=0.1)
    assert [ritz.nothing_beyond(x) for x in (4.44, 4.46)] == [False, True]
    assert [ritz.nothing_beyond(x) for x in (-0.44, -0.46)] == [False, True]


# ---- losses -----------------------------------------------------------------------------------------------------

ROWS = [dict(rows=torch.zeros(2)), dict(rows=torch.zeros(1))]


@pytest.mark.parametrize("how", ["exact", "mapped", "tanh"])
def test_stored_derivatives_of_gelu_are_right_also_under_vmap_and_leave_its_approximation_alone(how, monkeypatch):
    gelu = torch.nn.functional.gelu
    form = {"exact": gelu, "mapped": torch.vmap(gelu), "tanh": lambda x: gelu(x, approximate="tanh")}[how]
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    dense = torch.func.hessian(lambda x: form(x).mean())(x)
    taken, apply = [], _Gelu.apply
    monkeypatch.setattr(_Gelu, "apply", lambda x: taken.append(apply(x)) or taken[0])
    (block,) = block_curvatures(lambda p, batch: form(p["x"]), {"x": x}, [{}], tolerance=1e-9)
    assert block.eigenvalue == pytest.approx(torch.linalg.eigvalsh(dense)[-1].item(), rel=1e-10)
    if how != "tanh":
        bends = (2 - x**2) * torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        assert block.eigenvalue == pytest.approx(bends.max().item() / 7, rel=1e-10)
    assert len(taken) == (how != "tanh")


def test_unused_and_linear_parameters_have_no_curvature():
    def loss_fn(params, batch):
        return (params["bent"] ** 2).sum() + 3 * params["linear"] + 0 * batch["rows"]

    params = dict(bent=torch.ones(2), linear=torch.ones(1), unused=torch.ones(4))
    bent, linear, unused = block_curvatures(loss_fn, params, ROWS)
    assert bent.eigenvalue == pytest.approx(2.0, rel=1e-6)
    assert (linear.eigenvalue, linear.gradient_norm, linear.converged) == (0.0, 3.0, True)
    assert (unused.eigenvalue, unused.gradient_norm, unused.converged) == (0.0, 0.0, True)


SHIFTED = torch.randn(32, 2, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("elements", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_block_that_only_rounding_bends_is_not_told_from_zero(elements, dtype):
    """A number added to all logits of a softmax changes nothing. Its block is diagonal: as symmetric as a true one."""

    def loss_fn(params, batch):
        logits = SHIFTED[:, :elements].to(dtype) * params["scale"] + params["shift"].view(1, elements, 1)
        return torch.logsumexp(logits, dim=2).sum(1) - logits[:, :, 0].sum(1)

    params = dict(shift=torch.zeros(elements, dtype=dtype), scale=torch.ones(1, dtype=dtype))
    for seed in range(5):
        SHIFTED.copy_(torch.randn(SHIFTED.shape, generator=torch.Generator().manual_seed(seed)))
        shift, scale = block_curvatures(loss_fn, params, [{}])
        assert shift.eigenvalue == 0 or not shift.converged
        assert abs(shift.eigenvalue) <= shift.residual
        assert abs(shift.magnitude_eigenvalue) <= shift.magnitude_residual
        assert abs(shift.eigenvalue) <= 1e-6
        assert scale.converged and scale.residual == 0 and scale.eigenvalue > 0.1


def test_a_small_curvature_that_is_true_converges():
    """H = 1e-6, far below the rounding of the loss, 1: the product is measured again at other points, and stands."""
    params = dict(x=torch.ones(1))
    (block,) = block_curvatures(lambda p, batch: 1 + 0.5e-6 * p["x"] ** 2, params, [{}])
    assert block.eigenvalue == pytest.approx(1e-6, rel=1e-5)
    assert block.converged and block.magnitude_converged


def test_gradient_norm_is_plain_and_examples_count_alike_in_micro_batches_of_any_size():
    def loss_fn(params, batch):
        return 0.5 * batch["rows"] * (params["x"] ** 2).sum()  # H = mean(rows) = 2

    batches = [dict(rows=torch.tensor([1.0, 2.0])), dict(rows=torch.tensor([3.0]))]
    (block,) = block_curvatures(loss_fn, dict(x=torch.tensor([3.0, 4.0])), batches)
    assert block.eigenvalue == pytest.approx(2.0, rel=1e-6)
    assert block.gradient_norm == pytest.approx(10.0)  # 2 * ||(3, 4)||
    assert block.numel == 2


def test_graphs_built_afresh_give_the_same_values():
    blocks = dict(x=matrix_with([1.0, 2.0, -5.0]), y=matrix_with(torch.linspace(0, 3, 20)))
    params = {name: torch.ones(len(matrix), dtype=torch.float64) for name, matrix in blocks.items()}
    kept = list(block_curvatures(quadratic(blocks), params, ROWS))
    afresh = list(block_curvatures(quadratic(blocks), params, ROWS, keep_graphs=False))
    assert kept == afresh


def test_parameters_gradients_and_global_random_state_are_left_alone():
    params = dict(x=torch.nn.Parameter(torch.ones(3)), frozen=torch.ones(3))
    params["x"].grad = torch.full((3,), 7.0)
    state = torch.get_rng_state()
    list(block_curvatures(quadratic(dict(x=torch.eye(3), frozen=torch.eye(3))), params, ROWS))
    assert not params["frozen"].requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(params["x"].grad, torch.full((3,), 7.0))
    assert torch.equal(params["x"].data, torch.ones(3))


def test_same_seed_gives_the_same_digits_and_another_seed_other_ones():
    blocks = dict(x=matrix_with(torch.linspace(-1, 3, 200)))
    params = dict(x=torch.zeros(200, dtype=torch.float64))
    first, again, other = (
        next(block_curvatures(quadratic(blocks), params, ROWS, generator=torch.Generator().manual_seed(seed)))
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first.eigenvalue != other.eigenvalue
    assert first.eigenvalue == pytest.approx(other.eigenvalue, rel=1e-3)


def test_measures_only_the_named_tensors_in_the_order_asked():
    blocks = dict(a=torch.eye(2), b=2 * torch.eye(2), c=3 * torch.eye(2))
    params = {name: torch.ones(2) for name in blocks}
    measured_names = [block.name for block in block_curvatures(quadratic(blocks), params, ROWS, ["c", "a"])]
    assert measured_names == ["c", "a"]


def test_a_block_that_is_not_finite_is_nan_and_the_others_go_on(caplog):
    def loss_fn(params, batch):
        return (params["sharp"].abs() ** 1.5).sum() + (params["fine"] ** 2).sum() + 0 * batch["rows"]

    params = dict(sharp=torch.zeros(2), fine=torch.ones(2))
    with caplog.at_level(logging.WARNING):
        sharp, fine = block_curvatures(loss_fn, params, ROWS)
    assert math.isnan(sharp.eigenvalue) and not sharp.converged
    assert fine.eigenvalue == pytest.approx(2.0)
    assert "sharp" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(names=["y"]), "no parameter is called 'y'; there are x"),
        (dict(batches=[]), "batches is empty"),
        (dict(tolerance=0.0), r"tolerance is a relative residual in \(0, 1\), got 0.0"),
        (dict(tolerance=math.nan), "tolerance is a relative residual"),
        (dict(max_iterations=0), "max_iterations must be at least 1, got 0"),
        (dict(loss_fn=lambda params, batch: params["x"].sum()), r"one loss for each example, shape \[B\]; got \[\]"),
        (dict(loss_fn=lambda params, batch: params["x"].log()), "the loss is not finite"),
        (dict(loss_fn=lambda params, batch: params["x"].abs().sqrt()), "the gradient of x is not finite"),
    ],
)
def test_what_cannot_be_measured_is_named_before_any_work(change, message):
    arguments = dict(loss_fn=quadratic(dict(x=torch.eye(2))), params=dict(x=torch.zeros(2)), batches=ROWS) | change
    with pytest.raises((ValueError, FloatingPointError), match=message):
        block_curvatures(**arguments)
