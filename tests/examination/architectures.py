"""Tiny models of many transformers classes, with random weights away from their initial ones."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from curvature.borrowing import measuring
from curvature.objective import functional_loss, trainable_parameters
from landscape_utils import QuadraticModel, directional_sharpness, norm, vhv_by_double_backward
from tests.examination.verdicts import Verdict, examine, random_direction

VOCABULARY, LENGTH, EXAMPLES = 31, 8, 3
SIZE = dict(
    vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, num_key_value_heads=1,
)  # fmt: skip
GPT = dict(
    vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=64, n_ctx=64, n_inner=24, bos_token_id=1,
    eos_token_id=2, pad_token_id=0, rotary_dim=4,
)  # fmt: skip
BART = dict(
    vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=64, pad_token_id=0,
    bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
)  # fmt: skip
T5 = dict(
    vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_decoder_layers=1, num_heads=2,
    pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, relative_attention_num_buckets=8,
)  # fmt: skip
VIT = dict(image_size=16, patch_size=8, num_channels=3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
           intermediate_size=24)  # fmt: skip
STAGES = dict(image_size=32, num_channels=3, depths=[1, 1], hidden_sizes=[8, 16], embedding_size=8)
PYRAMID = dict(
    image_size=32, num_channels=3, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 16],
    patch_sizes=[4, 2], strides=[4, 2], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
)  # fmt: skip
WAVE = dict(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, conv_dim=[8, 8],
    conv_stride=[4, 4], conv_kernel=[8, 8], num_feat_extract_layers=2, num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=2, vocab_size=VOCABULARY, mask_time_prob=0.0, squeeze_factor=1, layerdrop=0.0,
)  # fmt: skip
EXPERTS = dict(num_experts=4, num_local_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
               shared_expert_intermediate_size=12)  # fmt: skip
STATE = dict(state_size=4, conv_kernel=3, expand=2, time_step_rank=2)

TEXT, MASKED, CLASSES, PAIRS, IMAGES, SPEECH, SPECTRUM, SERIES = (
    "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM",
    "AutoModelForImageClassification", "waves", "spectrum", "series",
)  # fmt: skip

# model type -> (how it is used, its configuration)
ARCHITECTURES: dict[str, tuple[str, dict]] = {
    # decoders
    **{name: (TEXT, GPT) for name in ("gpt2", "gptj", "openai-gpt", "ctrl", "gpt_bigcode")},
    **{
        name: (TEXT, SIZE)
        for name in (
            "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "gpt_neox", "stablelm", "starcoder2",
            "cohere", "cohere2", "olmo", "olmo2", "granite", "nemotron", "smollm3", "glm", "glm4", "exaone4",
            "ernie4_5", "persimmon", "biogpt", "gpt_neox_japanese", "apertus", "arcee", "seed_oss",
            "bitnet", "modernbert-decoder", "bert-generation",
        )
    },
    "gemma2": (TEXT, SIZE | dict(head_dim=8, query_pre_attn_scalar=8)),
    "gemma3_text": (TEXT, SIZE | dict(head_dim=8, query_pre_attn_scalar=8)),
    "codegen": (TEXT, GPT | dict(n_head=4)),
    "helium": (TEXT, SIZE | dict(head_dim=8)),
    "gpt_neo": (TEXT, dict(vocab_size=VOCABULARY, hidden_size=16, num_layers=2, num_heads=2, window_size=3,
                           max_position_embeddings=64, attention_types=[[["global", "local"], 1]])),
    "opt": (TEXT, SIZE | dict(ffn_dim=24, word_embed_proj_dim=16)),
    "bloom": (TEXT, dict(vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2)),
    "falcon": (TEXT, SIZE),
    "mpt": (TEXT, dict(vocab_size=VOCABULARY, d_model=16, n_heads=2, n_layers=2, expansion_ratio=2, max_seq_len=64)),
    # mixtures of experts
    **{name: (TEXT, SIZE | EXPERTS)
       for name in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "phimoe", "jetmoe", "flex_olmo")},
    "deepseek_v2": (TEXT, SIZE | EXPERTS | dict(q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4,
                                                v_head_dim=8, n_routed_experts=4, n_group=1, topk_group=1,
                                                first_k_dense_replace=1, num_key_value_heads=2)),
    "deepseek_v3": (TEXT, SIZE | EXPERTS | dict(q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4,
                                                v_head_dim=8, n_routed_experts=4, n_group=1, topk_group=1,
                                                first_k_dense_replace=1, num_key_value_heads=2)),
    "switch_transformers": (PAIRS, T5 | dict(num_experts=2, expert_capacity=8, num_sparse_encoder_layers=1,
                                             num_sparse_decoder_layers=1)),
    "nllb-moe": (PAIRS, BART | dict(num_experts=2, expert_capacity=8)),
    # state space and recurrent
    "mamba": (TEXT, SIZE | STATE),
    "falcon_mamba": (TEXT, SIZE | STATE),
    "mamba2": (TEXT, SIZE | STATE | dict(head_dim=8, num_heads=4, n_groups=1, chunk_size=4)),
    "rwkv": (TEXT, SIZE | dict(attention_hidden_size=16)),
    "recurrent_gemma": (TEXT, SIZE | dict(lru_width=16, attention_window_size=4, head_dim=8)),
    "jamba": (TEXT, SIZE | EXPERTS | dict(mamba_d_state=4, mamba_d_conv=3, mamba_dt_rank=2, attn_layer_period=2,
                                          attn_layer_offset=1, use_mamba_kernels=False)),
    "bamba": (TEXT, SIZE | dict(mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4, mamba_chunk_size=4,
                                attn_layer_indices=[1])),
    "xlstm": (TEXT, SIZE | dict(num_heads=2, chunk_size=4)),
    "lfm2": (TEXT, SIZE | dict(block_dim=16, conv_dim=16, layer_types=["conv", "full_attention"])),
    # encoders
    **{
        name: (MASKED, SIZE)
        for name in (
            "bert", "roberta", "electra", "deberta", "deberta-v2", "mpnet", "rembert", "roformer", "megatron-bert",
            "xlm-roberta", "roberta-prelayernorm", "ibert", "nystromformer", "mra", "layoutlm", "esm",
            "data2vec-text", "camembert", "ernie", "modernbert", "convbert", "eurobert",
        )
    },
    "luke": (MASKED, SIZE | dict(entity_vocab_size=5, entity_emb_size=8)),
    "albert": (MASKED, SIZE | dict(embedding_size=8)),
    "distilbert": (CLASSES, dict(vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=2, n_heads=2,
                                 max_position_embeddings=64)),
    "squeezebert": (CLASSES, SIZE | dict(embedding_size=16)),
    "fnet": (MASKED, SIZE | dict(use_tpu_fourier_optimizations=False)),
    "funnel": (MASKED, dict(vocab_size=VOCABULARY, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=24)),
    "xlnet": (CLASSES, dict(vocab_size=VOCABULARY, d_model=16, n_layer=2, n_head=2, d_inner=24, pad_token_id=0)),
    "xlm": (MASKED, dict(vocab_size=VOCABULARY, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64)),
    "flaubert": (MASKED, dict(vocab_size=VOCABULARY, emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=64)),
    "longformer": (MASKED, SIZE | dict(attention_window=4)),
    "big_bird": (MASKED, SIZE | dict(attention_type="original_full")),
    # encoder and decoder
    **{name: (PAIRS, BART) for name in ("bart", "mbart", "pegasus", "marian", "blenderbot", "blenderbot-small",
                                        "m2m_100", "plbart", "mvp", "pegasus_x")},
    **{name: (PAIRS, T5) for name in ("t5", "mt5", "umt5")},
    "longt5": (PAIRS, T5 | dict(local_radius=2, global_block_size=2)),
    "led": (PAIRS, BART | dict(attention_window=4, max_encoder_position_embeddings=64,
                               max_decoder_position_embeddings=64)),
    "bigbird_pegasus": (PAIRS, BART | dict(attention_type="original_full")),
    # vision
    **{name: (IMAGES, VIT) for name in ("vit", "beit", "vit_msn", "dinov2", "ijepa", "dinov2_with_registers",
                                        "data2vec-vision")},
    **{name: (IMAGES, STAGES) for name in ("resnet", "regnet")},
    "clip": (IMAGES, dict(vision_config=VIT | dict(projection_dim=8), projection_dim=8)),
    "siglip": (IMAGES, dict(vision_config=VIT)),
    "swin": (IMAGES, dict(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)),
    "swinv2": (IMAGES, dict(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)),
    "segformer": (IMAGES, PYRAMID),
    "pvt": (IMAGES, PYRAMID | dict(patch_sizes=[4, 2], sequence_reduction_ratios=[2, 1])),
    "pvt_v2": (IMAGES, PYRAMID),
    "mobilenet_v1": (IMAGES, dict(image_size=32, depth_multiplier=0.25, min_depth=4)),
    "mobilenet_v2": (IMAGES, dict(image_size=32, depth_multiplier=0.25, min_depth=4)),
    "mobilevit": (IMAGES, dict(image_size=32, hidden_sizes=[8, 8, 8], neck_hidden_sizes=[4, 4, 8, 8, 8, 8, 8],
                               num_attention_heads=2)),
    "bit": (IMAGES, STAGES | dict(num_groups=4, embedding_size=8)),
    **{name: (IMAGES, dict(image_size=32, num_stages=2, depths=[1, 1], hidden_sizes=[8, 16], patch_size=4))
       for name in ("convnext", "convnextv2")},
    "poolformer": (IMAGES, PYRAMID | dict(patch_sizes=[7, 3], padding=[2, 1])),
    "deit": ("base", VIT),
    "levit": ("base", dict(image_size=64, hidden_sizes=[16, 16, 16], num_attention_heads=[1, 1, 1],
                           depths=[1, 1, 1], key_dim=[8, 8, 8], attention_ratio=[1, 1, 1], mlp_ratio=[1, 1, 1])),
    "focalnet": (IMAGES, dict(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], hidden_sizes=[8, 16],
                              focal_levels=[1, 1], focal_windows=[3, 3])),
    "hiera": (IMAGES, dict(image_size=[16, 16], patch_size=[3, 3], patch_stride=[2, 2], patch_padding=[1, 1],
                           embed_dim=8, depths=[1, 1], num_heads=[1, 2], masked_unit_size=[4, 4], query_stride=[2, 2],
                           num_query_pool=1)),
    # speech and series
    **{name: (SPEECH, WAVE) for name in ("wav2vec2", "hubert", "wavlm", "sew", "unispeech", "unispeech-sat",
                                         "data2vec-audio", "wav2vec2-conformer")},
    "whisper": (SPECTRUM, BART | dict(num_mel_bins=4, max_source_positions=8, max_target_positions=16)),
    "speech_to_text": (SPECTRUM, BART | dict(input_feat_per_channel=4, input_channels=1, num_conv_layers=1,
                                             conv_kernel_sizes=[3], conv_channels=8, max_source_positions=64,
                                             max_target_positions=16)),
    "audio-spectrogram-transformer": ("AutoModelForAudioClassification", VIT | dict(
        patch_size=4, frequency_stride=4, time_stride=4, max_length=16, num_mel_bins=8)),
    "patchtst": (SERIES, dict(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=16,
                              num_attention_heads=2, num_hidden_layers=1, ffn_dim=24, prediction_length=4,
                              loss="mse", distribution_output="student_t")),
    "patchtsmixer": (SERIES, dict(num_input_channels=2, context_length=16, patch_length=4, patch_stride=4, d_model=8,
                                  num_layers=1, prediction_length=4)),
}  # fmt: skip


def inputs_of(use: str, config) -> dict[str, Tensor]:
    ids = torch.randint(3, VOCABULARY, (EXAMPLES, LENGTH))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    text = dict(input_ids=ids, attention_mask=mask)  # padding's own embedding has no gradient, by torch's rule
    if use in (TEXT, MASKED, CLASSES):
        return text
    if use == PAIRS:
        return {**text, "decoder_input_ids": torch.randint(3, VOCABULARY, (EXAMPLES, 5))}
    if use in (IMAGES, "base"):
        size = getattr(getattr(config, "vision_config", config), "image_size", 32)
        size = size[0] if isinstance(size, (list, tuple)) else size
        return dict(pixel_values=torch.randn(EXAMPLES, 3, size, size))
    if use == SPEECH:
        return dict(input_values=torch.randn(EXAMPLES, 200))
    if use == SPECTRUM:
        frames = torch.randn(EXAMPLES, 4, 16) if config.model_type == "whisper" else torch.randn(EXAMPLES, 16, 4)
        return dict(input_features=frames, decoder_input_ids=torch.randint(3, VOCABULARY, (EXAMPLES, 5)))
    if use == SERIES:
        return dict(past_values=torch.randn(EXAMPLES, 16, 2))
    return dict(input_values=torch.randn(EXAMPLES, 16, 8))


def new_model(name: str) -> tuple[nn.Module, transformers.PretrainedConfig]:
    """With the architecture's own initial weights, in evaluation mode."""
    use, options = ARCHITECTURES[name]
    config = transformers.AutoConfig.for_model(name, **options)
    config.use_cache = False
    auto = getattr(transformers, use, transformers.AutoModel)
    experts = dict(experts_implementation="eager") if "num_experts" in options else {}
    return auto.from_config(config, attn_implementation="eager", **experts).eval(), config


def build(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model in float64 and evaluation mode, and its inputs."""
    torch.manual_seed(len(name))
    model, config = new_model(name)
    model.double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        for buffer_name, buffer in model.named_buffers():
            if "running_var" in buffer_name:
                buffer.uniform_(0.5, 2)
    return model, {key: as_dtype(t, torch.float64) for key, t in inputs_of(ARCHITECTURES[name][0], config).items()}


def losses(forward: Callable, batch: dict[str, Tensor]) -> Tensor:
    """[B] cross-entropy of the model's own first output with fixed classes."""
    output = forward(**batch)
    scores = output if isinstance(output, Tensor) else next(t for t in output.to_tuple() if floating(t))
    scores = scores.flatten(1, -2) if scores.dim() > 2 else scores.unsqueeze(1)
    classes = torch.arange(scores.shape[1]).remainder(scores.shape[-1]).expand(len(scores), -1)
    return F.cross_entropy(scores.transpose(1, 2), classes, reduction="none").mean(1)


def as_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def floating(value) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def examine_architecture(name: str) -> Verdict:
    """In float64, and in float32 beside it: there the fast route may lose hardly more digits than double backward."""
    model, batch = build(name)
    with measuring(model):
        loss_fn, params = functional_loss(model, losses), trainable_parameters(model)
        verdict = examine(name, loss_fn, params, batch)
        exact = curvatures(model, batch, directional_sharpness)
    if verdict.kind in ("wrong", "crash"):
        return verdict
    model.float()
    batch = {key: as_dtype(t, torch.float32) for key, t in batch.items()}
    with measuring(model):
        routes = directional_sharpness, by_definition
        fast, slow = (abs(curvatures(model, batch, route) / exact - 1) for route in routes)
    if not fast <= 10 * slow + 1e-3:
        return Verdict(name, "wrong", f"in float32 {fast:.1e} off, double backward {slow:.1e}")
    return replace(verdict, single=fast)


def curvatures(model: nn.Module, batch: dict[str, Tensor], route: Callable) -> float:
    """v'Hv of the mean loss along a random direction."""
    params = trainable_parameters(model)
    direction = random_direction(params)
    return route(functional_loss(model, losses), params, [direction], [batch])[0].sharpness


def by_definition(loss_fn, params, directions, batches) -> list[QuadraticModel]:
    """As `directional_sharpness`, by double backward."""
    parts = [vhv_by_double_backward(loss_fn, params, directions, batch) for batch in batches]
    examples = sum(len(part.losses) for part in parts)
    return [
        QuadraticModel(math.nan, math.nan, sum(part.curvatures[k] for part in parts).item() / examples / norm(v) ** 2)
        for k, v in enumerate(directions)
    ]
