"""A loss scan beside the bare inference-mode forward passes of the same examples.

    python -m benchmarks.scan                  # t5-small's size, 32 examples of 64 + 64 tokens; minutes
    python -m benchmarks.scan --size small     # 2 M parameters, 32 examples of 32 tokens
    python -m benchmarks.scan --device cuda --examples 256

Moving 60 M parameters costs as much as the passes of an example or two. So the paper's 1,024 examples come nearer to 1
than these 32. Prints one table and writes it to results/<machine>/scan_<size>.csv (with another number of examples in
the name); times are medians of rounds in which the two take turns."""

import argparse
from collections.abc import Sequence

import torch

from benchmarks._machine import add_flags, start
from benchmarks.sharpness import SIZES, Problem
from landscape_utils import scan_loss


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="t5-small")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--points", type=int, default=5, help="of the scan, beyond its start")
    add_flags(parser, rounds=3)
    args = parser.parse_args(arguments)
    machine = start(args)
    problem = Problem(args.size, num_directions=1, examples=args.examples, device=machine.device)
    direction = problem.directions[0]

    @torch.inference_mode()
    def bare():
        for _ in range(args.points):
            problem.losses(lambda batch: problem.logits(problem.model, batch), problem.batch)

    def scan():  # a start that no point exceeds, so that all of them are evaluated
        points = scan_loss(
            problem.loss_fn,
            problem.params,
            direction,
            [problem.batch],
            start_loss=1e9,
            spacing=1e-4,
            num_points=args.points,
        )
        assert len(points) == args.points + 1

    passes, scanned = machine.medians({"bare": bare, "scan": scan}, args.rounds).values()
    rows = [
        dict(what="bare forward passes", seconds=passes, over_bare=1.0),
        dict(what="scan_loss", seconds=scanned, over_bare=scanned / passes),
    ]
    name = f"scan_{args.size}{'' if args.examples == 32 else f'_{args.examples}_examples'}"
    machine.report(name, rows, f"{args.examples} examples, {args.points} points, {args.rounds} rounds")


if __name__ == "__main__":
    main()
