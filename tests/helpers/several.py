"""Functions run by several processes, connected by gloo: forks of the process of the test, which import nothing."""

import multiprocessing
import os
import tempfile
import traceback

import torch
import torch.distributed as dist

from curvature.ranks import ALONE, Connected


def on_ranks(world, function, seconds=60):
    """[function(ranks) of every rank]; with world 1, of `ALONE`. What it returns goes through a pipe."""
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe(duplex=False) for _ in range(world)]
        processes = [
            context.Process(target=_work, args=(rank, world, f"{folder}/store", function, pipes[rank][1]))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        answers = [pipe.recv() if pipe.poll(seconds) else ("no answer", None) for pipe, _ in pipes]
        for process in processes:
            process.kill()
            process.join()
    errors = [error for error, _ in answers if error]
    assert not errors, errors[0]
    return [answer for _, answer in answers]


def _work(rank, world, store, function, pipe):
    torch.set_num_threads(1)  # the test's own threads are not here
    try:
        if world > 1:
            dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
        pipe.send((None, function(Connected() if world > 1 else ALONE)))
    except BaseException:
        pipe.send((traceback.format_exc(), None))
    os._exit(0)
