"""Every measure by hand; names of blocks on real models of transformers."""

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from hessian.heterogeneity import (
    complexities,
    gini,
    heterogeneity,
    heterogeneity_by_group,
    log_log_pearson,
    lorenz_curve,
    resolved,
    spearman,
)
from hessian.tensor_names import kind_of, layer_of

# ---- inequality -------------------------------------------------------------------------------------------------


def test_lorenz_curve_runs_from_the_smallest_block_up():
    blocks, held = lorenz_curve([3.0, 1.0, 0.0, 4.0])
    np.testing.assert_allclose(blocks, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(held, [0, 0, 1 / 8, 4 / 8, 1])


def test_gini_by_hand():
    # |differences| of all ordered pairs: 2 (2 + 3 + 1 + 1 + 4 + 3) = 28; 2 n^2 mean = 2 * 16 * 2 = 64
    assert gini([3.0, 1.0, 0.0, 4.0]) == pytest.approx(28 / 64)


@pytest.mark.parametrize(("values", "expected"), [([5.0, 5.0, 5.0], 0), ([0, 0, 0, 7.0], 3 / 4), ([2.0], 0)])
def test_gini_is_zero_if_all_are_equal_and_largest_if_one_holds_everything(values, expected):
    assert gini(values) == pytest.approx(expected, abs=1e-15)


def test_gini_of_nothing_is_nan():
    assert math.isnan(gini([0.0, 0.0]))


@pytest.mark.parametrize("values", [[], [1.0, -1.0], [1.0, math.nan], [math.inf]])
def test_lorenz_curve_refuses_what_has_no_share(values):
    with pytest.raises(ValueError, match="at least one value, all finite and >= 0"):
        lorenz_curve(values)


# ---- complexity -------------------------------------------------------------------------------------------------


def test_complexities_by_hand():
    measures = complexities(gradient_norms=[3.0, 1.0], eigenvalues=[10.0, 2.0], sizes=[2, 6])
    assert measures.gradient == pytest.approx((10 * 9 + 2 * 1) / 10)
    assert measures.sign == pytest.approx((10 * 2 + 2 * 6) / 8)
    assert measures.ratio == pytest.approx(9.2 / 4)


def test_negative_eigenvalues_count_signed_in_the_complexities():
    measures = complexities([1.0, 1.0], [-4.0, 2.0], [1, 1])
    assert (measures.gradient, measures.sign) == (-1.0, -1.0)
    assert math.isnan(measures.ratio)


def test_complexity_without_gradient_is_nan():
    measures = complexities([0.0, 0.0], [1.0, 3.0], [1, 1])
    assert math.isnan(measures.gradient) and math.isnan(measures.ratio)
    assert measures.sign == 2.0


def test_block_of_zero_gradient_carries_no_weight():
    assert complexities([0.0, 2.0], [100.0, 3.0], [1, 1]).gradient == 3.0


# ---- correlation ------------------------------------------------------------------------------------------------


def test_spearman_by_hand():
    # ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 sum d^2 / (n (n^2 - 1)) = 1 - 6 * 4 / 120
    correlation = spearman([0.0, 1.0, 10.0, 20.0, 30.0], [-1.0, -2.0, 5.0, 4.0, 1e9])
    assert correlation.value == pytest.approx(0.8)
    assert correlation.count == 5
    assert -1 <= correlation.low <= correlation.value <= correlation.high <= 1


def test_equal_values_share_their_mean_rank():
    # ranks 1.5 1.5 3 and 1 2 3: covariance 1.5, variances 1.5 and 2
    assert spearman([7.0, 7.0, 8.0], [1.0, 2.0, 3.0]).value == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_log_log_pearson_is_one_for_a_power_law_and_drops_what_has_no_logarithm():
    x = np.array([1.0, 2.0, 4.0, 8.0, 0.0, 3.0])
    y = np.array([5.0, 20.0, 80.0, 320.0, 1.0, -7.0])  # 5 x^2, then a zero gradient, then a negative eigenvalue
    correlation = log_log_pearson(x, y)
    assert correlation.value == pytest.approx(1.0)
    assert correlation.count == 4


def test_log_log_pearson_by_hand():
    # logs to base 2: 0 1 2 and 0 2 1: covariance 1, variances 2 and 2
    assert log_log_pearson([1.0, 2.0, 4.0], [1.0, 4.0, 2.0]).value == pytest.approx(0.5)


@pytest.mark.parametrize(("x", "y"), [([1.0, 2.0], [1.0, 2.0]), ([1.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0])])
def test_too_few_or_constant_blocks_have_no_correlation(x, y):
    for correlation in (spearman, log_log_pearson):
        undefined = correlation(x, y)
        assert math.isnan(undefined.value) and math.isnan(undefined.low) and math.isnan(undefined.high)


def test_bootstrap_repeats_with_its_seed_and_leaves_numpys_state_alone():
    generator = np.random.default_rng(0)
    x, noise = generator.standard_normal(40), generator.standard_normal(40)
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first, again, other = spearman(x, x + noise, 1), spearman(x, x + noise, 1), spearman(x, x + noise, 2)
    assert first == again != other
    assert np.array_equal(np.random.get_state()[1], before)


def test_bootstrap_interval_covers_the_true_correlation_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(40):
        x, noise = np.exp(generator.standard_normal((2, 60)))
        correlation = log_log_pearson(x, x * noise, seed)  # of logs: 1 / sqrt(2)
        covered += correlation.low <= math.sqrt(0.5) <= correlation.high
    assert 34 <= covered <= 40


def test_bootstrap_resamples_pairs_as_scipy_correlates_them():
    x, y = np.array([1.0, 2.0, 2.0, 3.0, 9.0, 4.0]), np.array([0.5, -1.0, 3.0, 3.0, 2.0, 8.0])
    draws = np.random.default_rng(3).integers(6, size=(1000, 6))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample of one value repeated
        expected = [scipy.stats.spearmanr(x[i], y[i]).statistic for i in draws]
    low, high = np.nanquantile(expected, [0.025, 0.975])
    correlation = spearman(x, y, seed=3)
    assert (correlation.low, correlation.high) == pytest.approx((low, high))


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"columns of lengths \[2, 3\]"):
        spearman([1.0, 2.0], [1.0, 2.0, 3.0])


# ---- names ------------------------------------------------------------------------------------------------------

SMALL = dict(hidden_size=4, num_attention_heads=2, intermediate_size=6, num_hidden_layers=2)
MODELS = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=9, d_model=4, d_kv=2, d_ff=6, num_layers=2, num_heads=2, tie_word_embeddings=False)),
    "roberta": lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL, vocab_size=9)),
    "roberta-prelayernorm": lambda: RobertaPreLayerNormForSequenceClassification(
        RobertaPreLayerNormConfig(**SMALL, vocab_size=9)),
    "bert": lambda: BertForMaskedLM(BertConfig(**SMALL, vocab_size=9)),
    "distilbert": lambda: DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=9, dim=4, n_layers=2, n_heads=2, hidden_dim=6)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=4, n_layer=2, n_head=2)),
    "gpt_neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(vocab_size=9, hidden_size=4, num_layers=2, num_heads=2, attention_types=[[["global"], 2]])),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, vocab_size=9)),
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL, image_size=8, patch_size=4)),
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=3, hidden_sizes=[3, 4], depths=[2, 1], layer_type="basic")),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_kind_agrees_with_the_module_that_holds_the_tensor(model):
    """The class of the module is the independent route; for linear ones its owners' classes"""
    model = MODELS[model]()
    for name, _ in model.named_parameters():
        path = name.split(".")[:-1]
        owners = [type(model.get_submodule(".".join(path[:k]))).__name__ for k in range(1, len(path) + 1)]
        own, kind = owners[-1], kind_of(name)
        in_attention = any("Attention" in owner for owner in owners)
        assert kind != "other", name
        assert (kind == "norm") == ("Norm" in own), name
        assert (kind == "attention") == (in_attention and "Norm" not in own), name
        if own == "Embedding" and not in_attention:
            assert kind == "embedding", name
        if own in ("Linear", "Conv1D") and not in_attention:
            assert kind == ("mlp" if layer_of(name) != kind else "head"), name
        if own == "Conv2d":
            assert kind == ("embedding" if "patch" in name else "convolution"), name


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ("t5", ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]),
        ("roberta", ["encoder.layer.0", "encoder.layer.1"]),
        ("bert", ["encoder.layer.0", "encoder.layer.1"]),
        ("distilbert", ["layer.0", "layer.1"]),
        ("gpt2", ["h.0", "h.1"]),
        ("gpt_neo", ["h.0", "h.1"]),
        ("llama", ["layers.0", "layers.1"]),
        ("resnet", ["encoder.stages.0.layers.0", "encoder.stages.0.layers.1", "encoder.stages.1.layers.0"]),
    ],
)
def test_layers_are_found_in_order(model, layers):
    found = dict.fromkeys(layer_of(name) for name, _ in MODELS[model]().named_parameters())
    assert [layer for layer in found if layer[-1].isdigit()] == layers
    assert {layer for layer in found if not layer[-1].isdigit()} <= {"embedding", "norm", "head", "convolution"}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("vit.encoder.layer.0.attention.attention.query.weight", "attention"),  # as older transformers call them
        ("vit.encoder.layer.0.intermediate.dense.weight", "mlp"),
        ("vit.encoder.layer.0.output.dense.bias", "mlp"),
        ("vit.embeddings.cls_token", "embedding"),
        ("lm_head.bias", "head"),
        ("cls.predictions.bias", "head"),
        ("vocab_projector.bias", "head"),
        ("alpha", "other"),
    ],
)
def test_kinds_of_single_names(name, kind):
    assert kind_of(name) == kind


# ---- tables -----------------------------------------------------------------------------------------------------


def test_row_of_measures_by_hand():
    row = heterogeneity([3.0, 1.0, 0.0], [10.0, 2.0, -1.0], [9, 1, 4])
    assert (row["blocks"], row["parameters"]) == (3, 14)
    assert row["gini_gradient"] == pytest.approx(2 * (2 + 3 + 1) / (2 * 9 * 4 / 3))
    assert row["gini_gradient_rms"] == pytest.approx(2 * (0 + 1 + 1) / (2 * 9 * 2 / 3))  # of 1, 1, 0
    assert row["gini_eigenvalue"] == pytest.approx(2 * (8 + 10 + 2) / (2 * 9 * 12 / 3))  # of 10, 2, 0
    assert row["complexity_gradient"] == pytest.approx(92 / 10)
    assert row["complexity_sign"] == pytest.approx((90 + 2 - 4) / 14)
    assert row["spearman"] == pytest.approx(1.0)
    assert row["log_log_blocks"] == 2


def test_every_column_of_the_row_is_the_measure_that_it_names():
    norms, values = [3.0, 1.0, 0.5, 2.0, 0.0, 6.0], [10.0, 2.0, 3.0, -1.0, 1.0, 4.0]
    row = heterogeneity(norms, values, [9, 1, 4, 2, 3, 5], seed=7)
    weighted = complexities(norms, values, [9, 1, 4, 2, 3, 5])
    assert (row["complexity_gradient"], row["complexity_sign"]) == (weighted.gradient, weighted.sign)
    assert row["complexity_ratio"] == weighted.gradient / weighted.sign
    rank, power = spearman(norms, values, 7), log_log_pearson(norms, values, 7)
    assert (row["spearman"], row["spearman_low"], row["spearman_high"]) == (rank.value, rank.low, rank.high)
    assert (row["log_log_pearson"], row["log_log_low"], row["log_log_high"]) == (power.value, power.low, power.high)
    assert row["log_log_blocks"] == power.count == 4
    assert rank.low < rank.value < rank.high and rank.low != spearman(norms, values, 0).low
    grouped = heterogeneity_by_group([f"x{k}" for k in range(6)], norms, values, [9, 1, 4, 2, 3, 5], seed=7)
    assert {name: grouped[0][name] for name in row} == row


@pytest.mark.parametrize(
    ("eigenvalue", "residual", "expected"),
    [(1e-9, 1e-7, 0.0), (-1e-9, 1e-7, 0.0), (0.0, 0.0, 0.0), (1.0, 1.5, 0.0), (1.0, 0.9, 1.0), (-1e-9, 1e-12, -1e-9)],
)
def test_an_eigenvalue_within_its_residual_counts_as_zero(eigenvalue, residual, expected):
    assert resolved(eigenvalue, residual) == expected


def test_blocks_that_are_not_finite_are_left_out():
    with_nan = heterogeneity([3.0, 5.0, 1.0, 0.5], [10.0, math.nan, 2.0, 1.0], [9, 7, 1, 1])
    assert with_nan == heterogeneity([3.0, 1.0, 0.5], [10.0, 2.0, 1.0], [9, 1, 1])


def test_groups_are_all_then_kinds_then_layers_each_with_its_own_measures():
    names = ["wte.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_fc.weight", "h.1.attn.c_attn.weight"]
    rows = heterogeneity_by_group(names, [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [5, 6, 7, 8])
    assert [(row["grouping"], row["group"], row["blocks"]) for row in rows] == [
        ("all", "all", 4),
        ("kind", "embedding", 1), ("kind", "attention", 2), ("kind", "mlp", 1),
        ("layer", "embedding", 1), ("layer", "h.0", 2), ("layer", "h.1", 1),
    ]  # fmt: skip
    attention = rows[2]
    assert attention["parameters"] == 14
    assert attention["gini_gradient"] == pytest.approx(2 * 2 / (2 * 4 * 3))
    assert attention["complexity_gradient"] == pytest.approx((2 * 4 + 4 * 16) / 20)


def test_measures_take_tensors_and_lists_alike():
    values = [3.0, 1.0, 2.0]
    assert gini(torch.tensor(values)) == gini(values)
