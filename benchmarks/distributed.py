"""What several processes of one run of `run_landscape.py` send each other, by counting, and what that costs.

    python -m benchmarks.distributed            # bytes by kind, on 2, 4 and 8 processes of gloo: seconds
    python -m benchmarks.distributed --time     # 2 processes over 1 at equal work for each: CPU and wall time
    python -m benchmarks.distributed --memory   # of each rank, with and without --shard
    python -m benchmarks.distributed --paper    # the same for a large model, by the formula of --dry_run

P is the bytes of the parameters. Of n micro-batches the ranks send in float32, all together:

    an update       n P: the sum so far goes to the rank of the next one, and from the last one to all
    a point         (n - 1) P for the gradient's norm, which stays on one rank; and rows of numbers. With --shard, P for
                    each direction
    an evaluation   of a loss scan: one row, 16 bytes per micro-batch, and a head; nothing of the size of the parameters

One GPU has no rows of its own: several processes need several.
"""

import argparse
import multiprocessing
import os
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch._dynamo  # noqa: F401  every optimizer of torch imports it: here once for all processes
import torch.distributed as dist
from torch import nn

from algorithm_list import ALGORITHM_LISTS
from benchmarks._machine import Machine
from curvature.borrowing import measuring
from curvature.objective import Objective
from curvature.ranks import ALONE, Connected, Ranks
from landscape.estimate import held_in_memory
from landscape.sharded import ShardedUpdates, at_hand
from landscape_core.gradients import gradient_norm
from landscape_core.measurement import measure_steps
from landscape_utils import PseudoUpdates, mean_loss
from torch_optimizer import Algorithm
from torch_optimizer.rows import labeled

WIDTH, DEPTH, EXAMPLES = 256, 4, 8  # of the network, and of a micro-batch
WIDE, TIMED_EXAMPLES = 1024, 64  # where time and memory are measured
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives freed tensors back to the system: the peak is what lives
WORLDS, PER_RANK, ROUNDS, TRIES = (2, 4, 8), 2, 3, 1
ROWS = labeled([Algorithm("sgd", momentum=0.9), Algorithm("adam"), Algorithm("adafactor"), Algorithm("lion")])


def network(width: int = WIDTH) -> nn.Module:
    torch.manual_seed(0)
    layers = [layer for _ in range(DEPTH) for layer in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def losses(model: Any, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def micro_batches(count: int, width: int = WIDTH, examples: int = EXAMPLES) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, examples, width, generator=generator)
    y = torch.randint(10, (count, examples), generator=generator)
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


def timed(ranks: Ranks, per_rank: int) -> dict[str, tuple[float, float]]:
    """Seconds (of CPU, of the wall clock) of each part with `per_rank` micro-batches for each process, the least of
    several."""
    model, batches = network(WIDE), micro_batches(per_rank * ranks.world, WIDE, TIMED_EXAMPLES)
    least = {}
    for name, part in {
        "update": lambda: update(model, batches, ranks),
        "point": lambda: point(model, batches, ranks, shard=False),
        "evaluation": lambda: evaluation(model, batches, ranks),
    }.items():
        part()
        times = []
        for _ in range(ROUNDS):
            ranks.largest(0)
            began = time.process_time(), time.perf_counter()
            part()
            times.append((time.process_time() - began[0], time.perf_counter() - began[1]))
        least[name] = min(cpu for cpu, _ in times), min(wall for _, wall in times)
    return least


def held(ranks: Ranks, shard: bool) -> float:
    """What a process needs at its peak, in copies of the parameters: the 12 rows of the paper's translation, Adam."""
    torch.set_flush_denormal(True)
    before = peak()
    model, batches = network(WIDE), micro_batches(ranks.world, WIDE)
    optimizer = torch.optim.Adam(model.parameters())
    update(model, batches, ranks)
    optimizer.step()
    point(model, batches, ranks, shard, paper_rows())
    return (peak() - before) / sum(p.nbytes for p in model.parameters())


def paper_rows() -> dict[str, Algorithm]:
    return labeled(ALGORITHM_LISTS["machine_translation"])


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


# ---- tables ---------------------------------------------------------------------------------------------------------


def bytes_table() -> list[dict[str, Any]]:
    size, rows = 4 * sum(p.numel() for p in network().parameters()), []
    for world in WORLDS:
        for count in (world, 4 * world):
            by_rank = on_processes(world, lambda ranks, count=count: counted(ranks, count))
            for part in by_rank[0]:
                total = sum((sent[part] for sent in by_rank), Counter())
                copies = {kind: total[kind] / size / world for kind in ("gradients", "directions")}
                small = {kind: total[kind] / world for kind in ("rows", "words")}
                rows.append(dict(ranks=world, micro_batches=count, part=part) | copies | small)
    return rows


def time_table() -> list[dict[str, Any]]:
    """The least of several tries of each, in turns."""
    tries: dict[int, list[dict[str, tuple[float, float]]]] = {1: [], 2: []}
    for _ in range(TRIES):
        for world, found in tries.items():
            found += on_processes(world, lambda ranks: timed(ranks, PER_RANK))
    rows = []
    for part in tries[1][0]:
        cpu, wall = ({w: min(one[part][clock] for one in found) for w, found in tries.items()} for clock in (0, 1))
        rows.append(
            dict(part=part, cpu_1=cpu[1], cpu_2=cpu[2], cpu_ratio=cpu[2] / cpu[1])
            | dict(wall_1=wall[1], wall_2=wall[2], wall_ratio=wall[2] / wall[1])
        )
    return rows


def memory_table() -> list[dict[str, Any]]:
    rows = []
    for world, shard in ((1, False), (2, False), (2, True), (4, True), (8, True)):
        copies = on_processes(world, lambda ranks, shard=shard: held(ranks, shard))
        rows.append(dict(ranks=world, shard=shard, most=max(copies), least=min(copies)))
    return rows


def paper_table() -> list[dict[str, Any]]:
    """GB at a measured point, by the formula of `run_landscape.py --dry_run`, and what it leaves out: a loss scan's two
    copies. Without the recording."""
    rows = []
    for billions in (0.125, 1.0, 4.0):
        with torch.device("meta"):
            side = round((billions * 1e9) ** 0.5)
            model = nn.Linear(side, side, bias=False)
        for world, shard in ((1, False), (8, True)):
            device = torch.device("cuda")
            settings = SimpleNamespace(device=device, optimizer_device=None, from_points=None, shard=shard)
            plan = SimpleNamespace(
                settings=settings,
                measuring=SimpleNamespace(dtype=torch.float32),
                ranks=SimpleNamespace(world=world),
                train_row=Algorithm("adam", lr=1e-3),
                pseudo_rows=paper_rows(),
            )
            parts = {
                part.what: (part.nbytes or 0) / 1e9 for part in held_in_memory(SimpleNamespace(model=model), plan, None)
            }
            parts["loss scan"] = 2 * 4 * side**2 / 1e9
            rows += [
                dict(parameters=f"{billions} B", ranks=world, shard=shard, what=what, GB=amount)
                for what, amount in (parts | {"sum": sum(parts.values())}).items()
            ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", action="store_true", help="time 2 processes and 1")
    parser.add_argument("--memory", action="store_true", help="measure the memory of each rank")
    parser.add_argument("--paper", action="store_true", help="calculate the memory for large models")
    settings = parser.parse_args()
    torch.set_num_threads(1)
    if settings.memory and any(os.environ.get(key) != value for key, value in GIVE_BACK.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **GIVE_BACK})
    size, report = sum(p.numel() for p in network(WIDE).parameters()), Machine().report
    if settings.time:
        note = f"{size:,} parameters, {PER_RANK} micro-batches of {TIMED_EXAMPLES} for each process; seconds"
        report("distributed_time", time_table(), note)
    elif settings.memory:
        note = f"{size:,} parameters, 12 rows and Adam; copies of the parameters at the peak of a process"
        report("distributed_memory", memory_table(), note)
    elif settings.paper:
        report("distributed_paper", paper_table(), "12 rows and Adam, float32; GB, without the recording")
    else:
        note = "what a rank sends, the mean over ranks: copies of the parameters, and bytes. 4 rows. A broadcast once"
        report("distributed_bytes", bytes_table(), note)


if __name__ == "__main__":
    main()
