"""Time of the exact clipping threshold and of a clipped step, at the sizes of t5-small's tensors.

    python -m benchmarks.clipping                   # 60 M coordinates, a minute or two
    python -m benchmarks.clipping --device cuda

The threshold stands beside a full sort, which gives the same number; the step beside torch.optim.SGD(foreach=True).
Gradients are log-normal in size, so that they spread over decades as real ones do. Prints one table and writes it to
results/<machine>/clipping_<device>.csv; times are medians of rounds in which the methods take turns."""

import argparse
from collections.abc import Sequence

import torch

from benchmarks._machine import add_flags, start
from torch_optimizer import SGDClip
from torch_optimizer.clipping import clip_threshold

SIZES = {"t5-small": {}, "tiny": dict(vocab_size=500, d_model=16, d_kv=4, d_ff=32, num_layers=1)}


def parameters(size: str, device: torch.device) -> list[torch.nn.Parameter]:
    """The 60 M parameters of t5-small, or a narrow one's, with random gradients."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = [p.shape for p in T5ForConditionalGeneration(T5Config(**SIZES[size])).parameters()]
    params = [torch.nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
    for p in params:
        p.grad = torch.randn_like(p) * torch.randn_like(p).mul_(2).exp_()
    return params


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="t5-small")
    add_flags(parser)
    args = parser.parse_args(arguments)
    machine = start(args)
    params = parameters(args.size, machine.device)
    grads = [p.grad for p in params]
    n = sum(p.numel() for p in params)

    def by_sorting(fraction: float) -> float:
        return torch.cat([g.flatten() for g in grads]).abs_().sort(descending=True).values[int(n * fraction)].item()

    fractions = (0.05, 0.1, 0.5)
    assert all(clip_threshold(grads, k) == by_sorting(k) for k in fractions)
    threshold = {"full sort": lambda: by_sorting(0.1)}
    threshold |= {f"threshold, k = {k}": lambda k=k: clip_threshold(grads, k) for k in fractions}
    step = {"torch.optim.SGD(foreach=True)": torch.optim.SGD(params, lr=1e-9, foreach=True)}
    step |= {f"SGDClip, k = {k}": SGDClip(params, lr=1e-9, coordinate_clip=k) for k in (0.0, *fractions)}
    step |= {"torch.optim.SGD(foreach=True), momentum": torch.optim.SGD(params, lr=1e-9, momentum=0.9, foreach=True)}
    step |= {"SGDClip, momentum, k = 0.1": SGDClip(params, lr=1e-9, momentum=0.9, coordinate_clip=0.1)}
    rows = []
    for methods in (threshold, {name: optimizer.step for name, optimizer in step.items()}):
        times = machine.medians(methods, args.rounds)
        reference = next(iter(times.values()))
        rows += [dict(method=name, seconds=t, over_first=t / reference) for name, t in times.items()]
    name = f"clipping{'' if args.size == 't5-small' else f'_{args.size}'}_{machine.device.type}"
    machine.report(name, rows, f"{n:,} coordinates, {args.rounds} rounds; over_first: the first of a kind")


if __name__ == "__main__":
    main()
