"""What the probe costs in a training loop: its observations, and its measurements, beside a training step.

    python -m benchmarks.probe
    python -m benchmarks.probe --bits 200          # also: do 200 steps end in the same bits with and without it?

    python -m benchmarks.probe --device cuda

The model is a GPT-2 of four layers and width 256, trained by AdamW on 8 examples of 64 tokens. The test batch has
8 more. Prints one table and writes it to results/<machine>/probe.csv, or probe_<layers>x<width>.csv; times are medians
of rounds in which all take turns. If the bits differ, the exit status is 1."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks._machine import CPU, add_flags, start
from landscape_probe import Algorithm, LandscapeProbe, example_losses

ROWS = {
    "sgd": ["sgd"],
    "adam": ["adam"],
    "the default rows": None,
    "sgd, adam, muon_adamw": ["sgd", "adam", Algorithm("muon_adamw", lr=1e-3)],
}


def model_of(width: int, layers: int, dropout: float = 0.1, device: torch.device = CPU):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = dict(
        vocab_size=1024, n_positions=64, n_embd=width, n_layer=layers, n_head=4, bos_token_id=0, eos_token_id=0
    )
    dropouts = dict(resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout)
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropouts)).to(device)


def batch_of(seed: int, device: torch.device = CPU) -> dict:
    ids = torch.randint(1, 1024, (8, 64), generator=torch.Generator().manual_seed(seed)).to(device)
    return {"input_ids": ids, "labels": ids}


def same_bits(steps: int, every: int = 50, device: torch.device = CPU) -> bool:
    """Whether this many steps of a small model end in the same parameters with a probe and without."""
    ends = []
    for probed in (False, True):
        model = model_of(width=32, layers=2, device=device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        probe = LandscapeProbe(model, example_losses, optimizer=optimizer) if probed else None
        torch.manual_seed(1)
        for step in range(steps):
            model(**batch_of(step, device)).loss.backward()
            if probe:
                probe.observe()
                if step % every == 0:
                    probe.measure(batch_of(-1 - every, device))
            optimizer.step()
            optimizer.zero_grad()
        ends.append([p.detach() for p in model.parameters()])
    return all(map(torch.equal, *ends))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--bits", type=int, default=0, metavar="STEPS")
    add_flags(parser)
    args = parser.parse_args(arguments)
    machine, same = start(args), True
    if args.bits:
        same = same_bits(args.bits, device=machine.device)
        print(f"{args.bits} steps end in the same bits with and without the probe: {same}")
    model = model_of(args.width, args.layers, device=machine.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
    training, test = batch_of(0, machine.device), batch_of(1, machine.device)

    def passes():
        model(**training).loss.backward()

    def step():
        optimizer.step()
        optimizer.zero_grad()
        passes()

    def observe(probe):
        probe.observe()
        probe.advance()

    def measure(probe):
        probe.observe()
        probe.measure(test)

    passes()
    tasks = {"a training step": step}
    for name, rows in ROWS.items():
        probe = LandscapeProbe(model, example_losses, optimizer=optimizer, algorithms=rows)
        tasks |= {f"observe, {name}": partial(observe, probe), f"measure, {name}": partial(measure, probe)}
    times = machine.medians(tasks, args.rounds)
    unit = times["a training step"]
    table = [dict(what=name, seconds=seconds, training_steps=seconds / unit) for name, seconds in times.items()]
    size = "" if (args.layers, args.width) == (4, 256) else f"_{args.layers}x{args.width}"
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    machine.report(f"probe{size}", table, f"{parameters:.1f} M parameters; {args.rounds} rounds")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
