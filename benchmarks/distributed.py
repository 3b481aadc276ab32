"""What several processes of one run of `run_landscape.py` send each other, by counting, and what that costs.

    python -m benchmarks.distributed                 # bytes by kind and the floor, on 2 processes of gloo
    python -m benchmarks.distributed --world 4 --memory  # and the memory of each rank
    python -m benchmarks.distributed --time          # and the time of 2 processes over 1 at equal work for each

P is the bytes of the parameters. A rank sends, in float32:

    an update       P for each of its micro-batches: the sum so far goes to the rank of the next one, and from the last
                    one to all. With two each that is 8 bytes per parameter
    a point         as an update of twice as many, half as large micro-batches, for the gradient's norm; and rows of
                    numbers. With --shard, P for each of its directions
    an evaluation   of a loss scan: one row, 16 bytes per micro-batch, and a head; nothing of the size of the parameters
"""

import argparse
import multiprocessing
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from algorithm_list import ALGORITHM_LISTS
from curvature.borrowing import measuring
from curvature.objective import Objective
from curvature.ranks import ALONE, Connected, Ranks
from landscape.sharded import ShardedUpdates, at_hand
from landscape_core.gradients import gradient_norm
from landscape_core.measurement import measure_steps
from landscape_utils import PseudoUpdates, mean_loss
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled

WIDTH, DEPTH, EXAMPLES = 256, 4, 8  # of the network, and of a micro-batch
WIDE = 1024  # where memory is measured
ROWS = labeled([Algorithm("sgd", momentum=0.9), Algorithm("adam"), Algorithm("adafactor"), Algorithm("lion")])


def network(width: int = WIDTH) -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def losses(model: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def micro_batches(count: int, width: int = WIDTH) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, EXAMPLES, width, generator=generator)
    y = torch.randint(10, (count, EXAMPLES), generator=generator)
    return [{"x": x[i], "y": y[i]} for i in range(count)]


def update(model: nn.Module, batches: list, ranks: Ranks) -> None:
    """The gradient of an update."""
    model.zero_grad(set_to_none=True)

    def backward(batch: Any) -> torch.Tensor:
        loss = losses(model, batch).mean()
        loss.backward()
        return loss.detach()

    ranks.accumulate(backward, batches, list(model.parameters()))


def point(model: nn.Module, batches: list, ranks: Ranks, shard: bool, rows: dict[str, Algorithm] = ROWS) -> None:
    """A measured point, without its scans."""
    params = dict(model.named_parameters())
    updates = ShardedUpdates(params, rows, None, ranks) if shard else PseudoUpdates(params, rows)
    directions, objective = updates.advance(), Objective(model, losses, batches, ranks=ranks)
    noisy = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in objective.params.items()}
    with measuring(model):
        start, length = mean_loss(objective.loss_fn, objective.params, batches, ranks), gradient_norm(objective)
        for group in at_hand(directions):
            measure_steps(group, dict.fromkeys(group, 0.1), objective, start, noisy, length=length)


def evaluation(model: nn.Module, batches: list, ranks: Ranks) -> None:
    """One value of a loss scan."""
    with measuring(model):
        objective = Objective(model, losses, batches, ranks=ranks)
        mean_loss(objective.loss_fn, objective.params, batches, ranks)


def counted(ranks: Connected, count: int) -> dict[str, Counter]:
    """What this rank sends, in bytes by kind, for `count` micro-batches."""
    model, batches, counts = network(), micro_batches(count), {}
    parts: dict[str, Callable[[], None]] = {
        "update": lambda: update(model, batches, ranks),
        "point": lambda: point(model, batches, ranks, shard=False),
        "point, --shard": lambda: point(model, batches, ranks, shard=True),
        "evaluation": lambda: evaluation(model, batches, ranks),
    }
    for name, part in parts.items():
        ranks.sent.clear()
        part()
        counts[name] = Counter(ranks.sent)
    return counts


def timed(ranks: Ranks, per_rank: int) -> dict[str, float]:
    """Seconds of each part, the best of several, with `per_rank` micro-batches for each process."""
    model, batches = network(), micro_batches(per_rank * ranks.world)
    best = {}
    for name, part in {
        "update": lambda: update(model, batches, ranks),
        "point": lambda: point(model, batches, ranks, shard=False),
        "evaluation": lambda: evaluation(model, batches, ranks),
    }.items():
        seconds = []
        for _ in range(7):
            ranks.largest(0)
            began = time.perf_counter()
            part()
            seconds.append(time.perf_counter() - began)
        best[name] = min(seconds)
    return best


def held(ranks: Ranks, shard: bool) -> float:
    """What a process needs at its peak, in copies of the parameters: the 12 rows of the paper's translation, Adam."""
    torch.set_flush_denormal(True)
    before = peak()
    model, batches = network(WIDE), micro_batches(ranks.world, WIDE)
    optimizer = torch.optim.Adam(model.parameters())
    update(model, batches, ranks)
    optimizer.step()
    point(model, batches, ranks, shard, labeled(ALGORITHM_LISTS["machine_translation"]))
    return (peak() - before) / sum(p.nbytes for p in model.parameters())


def peak() -> int:
    """Bytes of resident memory at most, so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


# ---- processes ------------------------------------------------------------------------------------------------------


def on_processes(world: int, work: Callable[[Any], Any]) -> list[Any]:
    """work(ranks) of every rank."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    answers = context.SimpleQueue()
    processes = [context.Process(target=_process, args=(rank, world, port, work, answers)) for rank in range(world)]
    for process in processes:
        process.start()
    by_rank = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return [by_rank[rank] for rank in range(world)]


def _process(rank: int, world: int, port: int, work: Callable[[Any], Any], answers: Any) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    answers.put((rank, work(Connected() if world > 1 else ALONE)))
    if world > 1:
        dist.barrier()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=int, default=2, help="processes")
    parser.add_argument("--micro_batches", type=int, default=4, help="of a batch; with --time, of each process")
    parser.add_argument("--memory", action="store_true", help="measure the memory of each rank, too")
    parser.add_argument("--time", action="store_true", help="time the parts, too")
    settings = parser.parse_args()
    size = sum(p.numel() for p in network().parameters())
    print(
        f"{size:,} parameters, P = {4 * size:,} bytes; {settings.micro_batches} micro-batches, {settings.world} ranks"
    )
    for rank, counts in enumerate(on_processes(settings.world, lambda ranks: counted(ranks, settings.micro_batches))):
        for name, sent in counts.items():
            kinds = ", ".join(f"{kind} {n:,} ({n / 4 / size:.2f} P)" for kind, n in sent.items() if n)
            print(f"rank {rank} | {name} | {kinds}")
    if settings.memory:
        for world, shard in ((1, False), (settings.world, False), (settings.world, True)):
            copies = on_processes(world, lambda ranks, shard=shard: held(ranks, shard))
            name, each = "--shard" if shard else "whole", ", ".join(f"{c:.1f} P" for c in copies)
            print(f"{world} ranks, {name}: {each} at the peak")
    if settings.time:
        alone = on_processes(1, lambda ranks: timed(ranks, settings.micro_batches))[0]
        several = on_processes(settings.world, lambda ranks: timed(ranks, settings.micro_batches))[0]
        for name, seconds in several.items():
            ratio = seconds / alone[name]
            print(f"{name}: {alone[name]:.4f} s alone, {seconds:.4f} s on {settings.world}: {ratio:.2f} times")


if __name__ == "__main__":
    main()
