"""Models without pretrained weights: small ones for toy runs, tiny ones whose full Hessian can be formed."""

import torch
from torch import nn

# model type -> configuration of a model of at most 3,000 parameters. What is not named here (activation, norms,
# attention pattern, tied weights) is the given model's own.
_ENCODER = dict(
    vocab_size=23, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
    max_position_embeddings=20, type_vocab_size=1,
)  # fmt: skip
TINY = {
    "t5": dict(
        vocab_size=23, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_decoder_layers=1, num_heads=2,
        relative_attention_num_buckets=4, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    ),
    "bert": _ENCODER | dict(pad_token_id=0),
    "roberta": _ENCODER | dict(pad_token_id=1, bos_token_id=0, eos_token_id=2),
    "distilbert": dict(
        vocab_size=23, dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=20, pad_token_id=0,
    ),
    "gpt2": dict(
        vocab_size=23, n_embd=8, n_layer=2, n_head=2, n_inner=12, n_positions=20, n_ctx=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=1,
    ),
    "gpt_neo": dict(
        vocab_size=23, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=12, max_position_embeddings=20,
        attention_types=[[["global", "local"], 1]], window_size=4, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    ),
    "llama": dict(
        vocab_size=23, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=4,
        intermediate_size=12, max_position_embeddings=20, pad_token_id=0, bos_token_id=1, eos_token_id=1,
    ),
    "resnet": dict(
        embedding_size=4, hidden_sizes=[4, 6], depths=[1, 1], layer_type="basic", num_labels=3,
        out_features=None, out_indices=None,
    ),
    "vit": dict(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12, image_size=8, patch_size=4,
        num_labels=3,
    ),
}  # fmt: skip


def fresh_model(model_class: type, config, seed: int) -> nn.Module:
    """`model_class(config)` with weights drawn from `seed`, in train mode; the global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class(config).train()


def tiny_model(model: nn.Module, seed: int = 0) -> nn.Module:
    """The architecture of `model` at a size of at most 3,000 parameters: float32, on the CPU, in eval mode.

    Weights and running statistics are random and away from their initial values, 1 and almost 0, so that no
    derivative is trivially small. ValueError for an architecture that TINY does not hold.
    """
    config = model.config
    if config.model_type not in TINY:
        raise ValueError(
            f"no tiny version of a {config.model_type} model is known; tasks/architectures.py has {', '.join(TINY)}"
        )
    own = {k: v for k, v in config.to_diff_dict().items() if k not in ("model_type", "transformers_version", "dtype")}
    if "num_labels" in TINY[config.model_type]:
        own = {k: v for k, v in own.items() if k not in ("id2label", "label2id")}
    tiny = fresh_model(type(model), type(config)(**own | TINY[config.model_type]), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*tiny.parameters(), *(b for b in tiny.buffers() if b.is_floating_point())):
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.add_(0.3 * noise if tensor.requires_grad else 0.3 * noise.abs())  # a variance stays positive
    return tiny
