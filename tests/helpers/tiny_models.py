"""Models small enough for a full Hessian, and problems whose derivatives are known."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def tiny_t5(dtype=torch.float64, seed=0, spread=0.3):
    """(model in eval mode, per-example losses, batch of 5 padded examples); 1.5 thousand parameters."""
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=23, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, relative_attention_num_buckets=4,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        )  # fmt: skip
        model = T5ForConditionalGeneration(config).eval()
        with torch.no_grad():  # away from the initial ones and near-zeros, so that no derivative is trivially small
            for p in model.parameters():
                p.add_(spread * torch.randn_like(p))
        model.to(dtype)
        input_ids = torch.randint(2, 23, (5, 7))
        labels = torch.randint(2, 23, (5, 6))
    attention_mask = torch.ones(5, 7, dtype=torch.long)
    for i, (n, m) in enumerate([(7, 6), (5, 3), (3, 6), (7, 1), (2, 2)]):
        attention_mask[i, n:] = 0
        input_ids[i, n:] = 0
        labels[i, m:] = -100
    return model, token_losses, dict(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


def token_losses(forward, batch):
    """[B] mean cross-entropy of each example's own target tokens."""
    logits = forward(**batch).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
    scored = batch["labels"] != -100
    return losses.sum(1) / scored.sum(1)


def rows_of(batch, *groups):
    """The same examples in the micro-batches that `groups` of indices describe."""
    return [{k: t[list(group)] for k, t in batch.items()} for group in groups]


def random_direction(params, seed):
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for n, p in params.items()}


def math_attention():
    return sdpa_kernel(SDPBackend.MATH)
