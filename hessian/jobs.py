"""The jobs of run_hessian.py: a few tensors of one batch each, so that several processes find enough of them."""

import math
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from curvature.borrowing import measuring, twice_differentiable
from curvature.gradient_graph import GradientGraph
from curvature.memory import retried
from curvature.objective import Batch, objective_at
from hessian.blocks import block_curvature, gradient_graph
from hessian.tables import block_row
from runs.checkpoints import fitting
from runs.flag_types import DTYPES
from runs.jobs import BEFORE, MINE, Job, Jobs
from runs.live import LiveLog
from runs.messages import TimeLeft, progress
from runs.processes import rank
from runs.saver import Saver
from runs.stopping import StopRequest
from training.loop import micro_batches

if TYPE_CHECKING:
    from tasks.base import Task

T = TypeVar("T")
ENOUGH = 64  # jobs; a batch is not split further


class StartVectors:
    """Generators of the start vectors of all tensors of all batches, which follow each other in one stream of numbers.

    A tensor has the same numbers whoever measures it, and whatever has been measured before.

    sizes: name -> elements of the vector of each tensor.
    """

    def __init__(self, seed: int, sizes: Mapping[str, int], dtype: torch.dtype):
        self.seed, self.sizes, self.dtype = seed, list(sizes.values()), dtype
        self.names, self.position = list(sizes), 0
        self.generator = torch.Generator().manual_seed(seed)

    def of(self, batch: int, name: str) -> torch.Generator:
        """At the place of that tensor of that batch; batches count from 1."""
        wanted = (batch - 1) * len(self.names) + self.names.index(name)
        if wanted < self.position:
            self.generator.manual_seed(self.seed)
            self.position = 0
        for position in range(self.position, wanted):
            torch.randn(self.sizes[position % len(self.sizes)], generator=self.generator, dtype=self.dtype)
        self.position = wanted
        return self.generator.clone_state()


class Graphs:
    """The gradient graph of one batch at a time.

        with Graphs(task, names, batches, settings) as graphs: graphs.of(2)

    batches: the examples of each batch; batches count from 1.
    """

    graph: GradientGraph | None

    def __init__(self, task: "Task", names: list[str], batches: Sequence[Sequence[int]], settings: Namespace):
        self.task, self.names, self.batches, self.settings = task, names, batches, settings
        self.batch, self.graph, self.contexts = 0, None, ExitStack()
        self.size, self.keeps_graphs = settings.micro_batch_size, not settings.rebuild_graphs

    def within_memory(self, batch: int, measure: Callable[[GradientGraph], T]) -> T:
        """measure(graph) of a batch. Where memory runs out, graphs are built for every product and no longer kept; then
        micro-batches are halved. Both stay so. The results are the same up to rounding."""

        def less() -> str | None:
            self.close()
            if self.keeps_graphs:
                self.keeps_graphs = False
                return "gradient graphs that are built again for every product, as by --rebuild_graphs"
            if self.size == 1:
                return None
            self.size = (self.size + 1) // 2
            return f"micro-batches of {self.size} examples, and gradient graphs built again for every product"

        return retried(lambda: measure(self.of(batch)), less)

    def of(self, batch: int) -> GradientGraph:
        if self.graph is None or self.batch != batch:
            self.close()
            self.graph, self.batch = self._made(self.batches[batch - 1]), batch
        return self.graph

    def _made(self, indices: Sequence[int]) -> GradientGraph:
        settings, dtype = self.settings, DTYPES[self.settings.dtype]
        inputs: list[Batch] = list(micro_batches(self.task, indices, self.size, settings.device, dtype))
        objective = objective_at(self.task.model, self.task.losses, inputs, dtype)
        self.contexts.enter_context(measuring(objective.model))
        self.contexts.enter_context(twice_differentiable())
        return gradient_graph(objective.loss_fn, objective.params, inputs, self.names, self.keeps_graphs)

    def close(self) -> None:
        self.graph = None
        self.contexts.close()

    def __enter__(self) -> "Graphs":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Measurements:
    """Every tensor on every batch, as jobs that several processes may share.

    Args:
        settings: `seed`, `dtype`, `tolerance`, `max_iterations`, `micro_batch_size`, `rebuild_graphs`, `device`,
            `checkpoint_every`.
        names: the tensors.
        batches: the examples of each batch.
        live: gets the rows of each tensor that this process measures.
    """

    def __init__(
        self,
        task: "Task",
        names: list[str],
        batches: Sequence[Sequence[int]],
        settings: Namespace,
        folder: Path,
        stop: StopRequest,
        live: LiveLog,
    ):
        self.task, self.names, self.settings, self.folder = task, names, settings, folder
        self.stop, self.live, self.count = stop, live, len(batches)
        sizes = {name: p.numel() for name, p in task.model.named_parameters() if name in names}
        dtype = torch.promote_types(DTYPES[settings.dtype], torch.float32)
        self.starts = StartVectors(settings.seed, {name: sizes[name] for name in names}, dtype)
        self.graphs = Graphs(task, names, batches, settings)
        parts = parts_of(names, len(batches))
        self.of_batch = {batch: [self._job(batch, number, part) for number, part in enumerate(parts, start=1)]
                         for batch in range(1, len(batches) + 1)}  # fmt: skip
        self.batch_of = {job.name: batch for batch, jobs in self.of_batch.items() for job in jobs}
        self.jobs = Jobs(folder, [job for jobs in self.of_batch.values() for job in jobs], stop, go_on=False)

    def _job(self, batch: int, number: int, part: list[str]) -> Job:
        title = f"batch {batch}, {part[0]}" + (f" to {part[-1]}" if len(part) > 1 else "")
        return Job(
            f"batch{batch}-part{number}", title, partial(job_key, batch, part), partial(self._measure, batch, part)
        )

    def rows(self, batch: int) -> list[dict[str, Any]]:
        """Those of blocks.csv that are known of that batch, in the order of the tensors."""
        results = self.jobs.results
        return [row for job in self.of_batch[batch] for row in results.get(job.name, [])]

    def is_complete(self, batch: int) -> bool:
        return all(job.name in self.jobs.results for job in self.of_batch[batch])

    def work(self, save: Callable[[], None], tell: Callable[[int], None]) -> None:
        """Measure what other processes leave to this one, until all is measured.

        Args:
            save: called after each job of this process.
            tell: called with the number of each batch that is complete by then, in one process of several.

        Raises: as `Jobs.work`; FloatingPointError.
        """
        told = set()

        def ended(job: Job, who: int) -> None:
            batch = self.batch_of[job.name]
            if who == MINE:
                save()
            else:
                (self.left.skip if who == BEFORE else self.left.update)(len(self.jobs.results[job.name]))
            if not self.is_complete(batch) or batch in told:
                return
            told.add(batch)
            if who != BEFORE and rank() == 0:
                tell(batch)
                self.left.note(f"batch {batch} of {self.count}: {len(self.names)} tensors measured")

        self.task.model.to(self.settings.device)
        with progress(total=self.count * len(self.names), desc="blocks") as bar, self.graphs:
            self.left = TimeLeft(bar.total, bar=bar)
            self.jobs.work(ended)

    def _measure(self, batch: int, part: list[str], job: str) -> list[dict[str, Any]]:
        """The rows of these tensors. Stored every `checkpoint_every` tensors, and when a signal asks for it."""
        settings, saver = self.settings, Saver(self.folder, self.settings.checkpoint_every, self.stop, job=job)

        def state_dict() -> dict[str, Any]:
            return {"key": job_key(batch, part), "rows": list(rows)}

        number, state = saver.checkpoints.load() or (0, {"key": None, "rows": []})
        with fitting(f"checkpoint {number}"):
            rows = list(state["rows"]) if state["key"] == job_key(batch, part) else []
        self.left.skip(len(rows))
        for name in part[len(rows) :]:
            block = self.graphs.within_memory(
                batch,
                lambda graph, name=name: block_curvature(
                    graph, name, settings.tolerance, settings.max_iterations, self.starts.of(batch, name)
                ),
            )
            rows.append(block_row(block, batch))
            self.live.row("blocks", rows[-1])
            self.left.update()
            done = (batch - 1) * len(self.names) + self.names.index(name) + 1
            place = f"{name}, tensor {done} of {self.count * len(self.names)}"
            saver.after(len(rows), state_dict, place=place, number=number + len(rows))
        return rows


def parts_of(names: list[str], batches: int) -> list[list[str]]:
    """The tensors of a batch in as many jobs as make `ENOUGH` over all batches; the parts differ by one tensor."""
    count = min(len(names), max(1, math.ceil(ENOUGH / batches)))
    ends = [len(names) * i // count for i in range(count + 1)]
    return [names[start:stop] for start, stop in zip(ends, ends[1:], strict=False)]


def job_key(batch: int, part: list[str]) -> str:
    """Everything that makes a job differ from the others."""
    return f"batch {batch}: {', '.join(part)}"
