"""Time and memory of v'Hv along K directions on a T5: our route and every other, side by side.

    pip install --no-deps curvlinops-for-pytorch einops einconv linear-operator   # one peer; left out where missing
    python -m benchmarks.sharpness                  # d_model 128, 4+4 layers, 32 examples of 32 tokens; minutes
    python -m benchmarks.sharpness --size t5-small  # 60 M parameters, 8 examples of 64 tokens; half an hour on 2 cores
    python -m benchmarks.sharpness --size t5-small --examples 64 --device cuda

Prints one table and writes it to results/<machine>/sharpness_<size>.csv. Times are per direction, everything included.
Their unit is one inference-mode forward pass of the same examples, timed before and after each method; the methods take
turns and the table shows medians over rounds. Memory is the peak beyond parameters and directions, in units of one
forward and backward pass: of a fresh process (Linux only), or of the tensors on a GPU. On a shared machine use
--threads 1, where CPU time is measured instead of wall time. Another number of examples is in the table's name."""

import argparse
import importlib.util
import math
import os
import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from benchmarks._machine import CPU, Machine, add_flags, in_a_process, start
from benchmarks._peers import PEERS, leaves_of, math_attention
from landscape_utils import directional_sharpness, norm

RETURN_BLOCKS = {  # freed blocks leave the process at once, so that its resident size is what is in use
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_MMAP_MAX_": "1000000",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
}
SIZES = {  # configuration (None: T5's default, which is t5-small), examples, tokens per example
    "small": (dict(vocab_size=4000, d_model=128, d_kv=32, d_ff=512, num_layers=4, num_heads=4), 32, 32),
    "t5-small": ({}, 8, 64),
    "tiny": (dict(vocab_size=60, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2), 2, 8),
}
REFERENCE = "forward and backward"


class Problem:
    """A T5 with random weights, unpadded random examples and `num_directions` random directions."""

    def __init__(self, size: str, num_directions: int, examples: int | None = None, device: torch.device = CPU):
        from transformers import T5Config, T5ForConditionalGeneration

        torch.manual_seed(0)
        config, default_examples, tokens = SIZES[size]
        examples = examples or default_examples
        config = T5Config(**config, decoder_start_token_id=0, pad_token_id=0)
        self.model = T5ForConditionalGeneration(config).eval().to(device)
        self.params = {n: p.detach() for n, p in self.model.named_parameters()}
        ids = torch.randint(2, config.vocab_size, (2, examples, tokens)).to(device)
        self.batch = dict(input_ids=ids[0], attention_mask=torch.ones_like(ids[0]), labels=ids[1])
        self.directions = [{n: torch.randn_like(p) for n, p in self.params.items()} for _ in range(num_directions)]
        self.norms = [norm(v) for v in self.directions]

    @staticmethod
    def logits(model, batch):
        shifted = F.pad(batch["labels"][:, :-1], (1, 0))
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask")}
        return model(**inputs, decoder_input_ids=shifted, use_cache=False).logits

    def losses(self, forward, batch):
        """[B] mean cross-entropy of each example's tokens; `forward(batch)` gives the logits."""
        each = F.cross_entropy(forward(batch).flatten(0, 1), batch["labels"].flatten(), reduction="none")
        return each.view_as(batch["labels"]).mean(1)

    def loss_fn(self, params, batch):
        named = {f"model.{n}": p for n, p in params.items()}
        return self.losses(lambda b: torch.func.functional_call(ForwardOf(self), named, (b,)), batch)


class ForwardOf(torch.nn.Module):
    def __init__(self, problem: Problem):
        super().__init__()
        self.model, self.forward = problem.model, lambda batch: problem.logits(self.model, batch)


def ours(problem, directions):
    names = list(problem.batch)
    quadratics = directional_sharpness(problem.loss_fn, problem.params, directions, [problem.batch], per_example=names)
    return [d.sharpness * length**2 for d, length in zip(quadratics, problem.norms, strict=True)]


def forward_backward(problem, _directions):
    leaves = leaves_of(problem)
    torch.autograd.grad(problem.loss_fn(leaves, problem.batch).mean(), list(leaves.values()))


@torch.inference_mode()
def forward(problem, _directions=None):
    problem.loss_fn(problem.params, problem.batch)


METHODS = {"ours": (ours, None), **PEERS}


def measure_round(machine: Machine, problem: Problem, names: list[str]) -> list[dict]:
    rows, exact = [], None
    for name in names:
        method, count = METHODS[name]
        directions = problem.directions[:count]
        before = min(machine.timed(forward, problem)[0] for _ in range(3))
        spent, curvatures = machine.timed(method, problem, directions)
        after = min(machine.timed(forward, problem)[0] for _ in range(3))
        exact = exact or curvatures  # ours comes first
        difference = max(abs(c / e - 1) for c, e in zip(curvatures, exact, strict=False))
        passes = spent / len(directions) / ((before + after) / 2)
        rows.append(dict(method=name, seconds=spent / len(directions), forward_passes=passes, difference=difference))
    return rows


def peak_memory(machine: Machine, problem: Problem, args: argparse.Namespace, method: str) -> float:
    """Peak MB of one call beyond what was held before: on a CPU of a fresh process, unless all is tiny."""
    count = {REFERENCE: 1, "ours": args.directions}.get(method, 2)
    if not machine.is_cpu or args.size == "tiny":
        function, _ = {REFERENCE: (forward_backward, 1), **METHODS}[method]
        return machine.peak_mb(function, problem, problem.directions[:count])
    sizes = dict(size=args.size, directions=count, threads=args.threads, examples=args.examples, peak_of=method)
    command = [word for name, value in sizes.items() if value is not None for word in (f"--{name}", str(value))]
    environment = {**os.environ, **RETURN_BLOCKS}
    done = in_a_process(["benchmarks.sharpness", *command], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def print_peak(machine: Machine, problem: Problem, name: str) -> None:
    method, _ = {REFERENCE: (forward_backward, 1), **METHODS}[name]
    forward(problem)
    print(machine.peak_mb(method, problem, problem.directions))


def methods_of(args: argparse.Namespace) -> list[str]:
    names = [n for n in METHODS if n not in args.skip]
    if args.size == "t5-small":
        names = [n for n in names if "512" not in n and "curvlinops" not in n]  # hours, and more than 24 GB
    if importlib.util.find_spec("curvlinops") is None:
        names = [n for n in names if "curvlinops" not in n]
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--directions", type=int, default=12, help="K")
    parser.add_argument("--examples", type=int, help="default: those of the size")
    parser.add_argument("--skip", nargs="*", default=[], choices=PEERS, metavar="METHOD", help="methods to leave out")
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)
    add_flags(parser, rounds=3, threads=2)
    args = parser.parse_args(arguments)
    with math_attention():
        if args.peak_of:
            torch.set_num_threads(args.threads)
            print_peak(Machine(), Problem(args.size, args.directions, args.examples), args.peak_of)
            return
        machine = start(args)
        problem, names = Problem(args.size, args.directions, args.examples, machine.device), methods_of(args)
        forward(problem)
        peaks = {name: peak_memory(machine, problem, args, name) for name in (REFERENCE, *names)}
        rounds = [measure_round(machine, problem, names) for _ in range(args.rounds)]

    table = []
    for i, name in enumerate(names):
        median = {
            k: statistics.median(rows[i][k] for rows in rounds) for k in ("seconds", "forward_passes", "difference")
        }
        ratio = statistics.median(rows[i]["seconds"] / rows[0]["seconds"] for rows in rounds)
        table.append(dict(method=name, **median, over_ours=ratio, memory=peaks[name] / (peaks[REFERENCE] or math.nan)))
    _, examples, tokens = SIZES[args.size]
    of_examples = "" if args.examples in (None, examples) else f"_{args.examples}_examples"
    note = f"K = {args.directions}, {args.examples or examples} examples of {tokens} tokens, {args.rounds} rounds"
    machine.report(f"sharpness_{args.size}{of_examples}", table, f"{note}; seconds per direction")


if __name__ == "__main__":
    main()
