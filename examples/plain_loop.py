"""A small GPT-2 on text of its own, trained by AdamW or Muon: how sharp is the loss along each optimizer's next step?

python examples/plain_loop.py
python examples/plain_loop.py --muon --steps 200
"""

import argparse

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from landscape_probe import Algorithm, LandscapeProbe, example_losses
from torch_optimizer import MuonAdamW

TEXT = "the loss bends less along the steps of one optimizer than along those of another. " * 200


def batches(steps: int, size: int = 8, length: int = 32):
    """Windows of the text, as bytes."""
    tokens = torch.tensor(list(TEXT.encode()))
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(tokens) - length, (size,), generator=generator).tolist()
        ids = torch.stack([tokens[i : i + length] for i in starts])
        yield {"input_ids": ids, "labels": ids}


def main(arguments: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=101)
    parser.add_argument("--every", type=int, default=50, help="updates between two measurements")
    parser.add_argument(
        "--muon", action="store_true", help="train with Muon for the hidden matrices, AdamW for the rest"
    )
    settings = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=128, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if settings.muon:
        optimizer = MuonAdamW(model.named_parameters(), lr=1e-3)
    rows = ["sgd", "sign_sgd", "adam", Algorithm("muon_adamw", lr=1e-3)]
    probe, measurements = LandscapeProbe(model, example_losses, optimizer=optimizer, algorithms=rows), []
    test_batch = next(batches(1, size=16))
    for step, batch in enumerate(batches(settings.steps)):
        loss = model(**batch).loss
        loss.backward()
        probe.observe()
        if step % settings.every == 0:
            print(f"step {step}, loss {loss.item():.3f}")
            for row in probe.measure(test_batch):
                measurements.append({"step": step, **row})
                print(
                    "  {algorithm:10}  ratio {ratio:9.3g}  slope {slope:9.3g}  edge {edge_realized:9.3g}".format(**row)
                )
        optimizer.step()
        optimizer.zero_grad()
    return measurements


if __name__ == "__main__":
    main()
