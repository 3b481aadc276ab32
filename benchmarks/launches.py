"""Kernels and waits, counted: what the measurement asks of a GPU besides arithmetic. No GPU is needed.

    python -m benchmarks.launches                  # t5-small, distilroberta, gpt-neo-125M and ResNet-18; a minute

The models have their real depth and random weights, at a tiny width, which changes no count. Every operation is counted
by torch's dispatcher, on the route that a GPU takes. A *kernel* computes something, a *view* does not. A *read* brings
a number to the host, which waits for the device. Prints one table and writes it to results/<machine>/launches.csv;
rows of other models stay there."""

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from algorithm_list import ALGORITHM_LISTS
from benchmarks._machine import add_flags, start
from curvature import histogram, products
from curvature.borrowing import measuring
from curvature.leaves import leaves_at
from curvature.objective import Batch, functional_loss, objective_at, trainable_parameters
from curvature.tape import Tape, record
from curvature.together import Together
from landscape.measurements import MeasurementPlan, measure_point
from landscape.saved_points import MeasuredPoint
from landscape.training_row import with_training_row
from landscape_core import edges
from landscape_utils import PseudoUpdates
from runs.tables import TRAINING
from tasks import load_task
from tasks.base import Task
from torch_optimizer import Algorithm, clipping
from torch_optimizer.rows import choose_list
from training.loop import Training, TrainingPlan, micro_batches

GPT_NEO = [[["global", "local"], 6]]
MODELS = {  # task, what makes its toy model as deep as the real one, and narrow
    "t5-small": (
        "machine_translation",
        dict(num_layers=6, num_decoder_layers=6, num_heads=8, d_model=16, d_kv=2, d_ff=16),
    ),
    "distilroberta": (
        "masked_language_modeling",
        dict(num_hidden_layers=6, num_attention_heads=12, hidden_size=24, intermediate_size=24),
    ),
    "gpt-neo-125M": (
        "autoregressive",
        dict(num_layers=12, num_heads=12, hidden_size=24, intermediate_size=24, attention_types=GPT_NEO),
    ),
    "ResNet-18": (
        "image_classification",
        dict(depths=[2, 2, 2, 2], hidden_sizes=[4, 4, 8, 8], embedding_size=4, layer_type="basic"),
    ),
}  # fmt: skip
ALLOCATIONS = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "detach",
    "_unsafe_view",
    "alias",
}
WAITING = {  # operations that read by themselves
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "is_nonzero",
    "linalg_eigh",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
READERS = {Tensor.tolist, Tensor.cpu, Tensor.numpy}  # Tensor.item is an operation, `_local_scalar_dense`
ON_THE_HOST = (  # what decides that numbers may be read as they come
    (products, "is_free_to_read"),
    (edges, "is_free_to_read"),
    (histogram, "is_free_to_read"),
    (clipping, "numpy_reads"),
)


class Counting(TorchDispatchMode):
    """Counts kernels, views and reads while active."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter()
        self.calls = _Calls(self.counts)

    def __enter__(self):
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.calls.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        returned = [r.alias_info for r in func._schema.returns]
        if waits(name, args, kwargs or {}):
            self.counts["reads"] += 1
        elif name in ALLOCATIONS or any(alias and not alias.is_write for alias in returned):
            self.counts["views"] += 1
        else:
            self.counts["kernels"] += 1
        return func(*args, **(kwargs or {}))


def waits(name: str, args: Sequence, kwargs: dict) -> bool:
    """Whether the host waits for a device in this operation. A mask as an index is turned into places first, which are
    counted; a copy between devices waits unless it is asked not to."""
    if name in ("index", "index_put", "index_put_"):
        return any(t is not None and t.dtype == torch.bool for t in args[1])
    if name in ("_to_copy", "copy_"):
        devices = {x.device for x in args if isinstance(x, Tensor)} | ({kwargs.get("device")} - {None})
        return len(devices) > 1 and True not in (*args[2:], kwargs.get("non_blocking"))
    return name in WAITING


class _Calls(TorchFunctionMode):
    """Counts what torch does for a CPU tensor without an operation, and for a GPU's with one."""

    def __init__(self, counts: Counter) -> None:
        self.counts = counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.counts["reads"] += func in READERS and args[0].is_cpu
        return func(*args, **(kwargs or {}))


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Take the routes of a GPU: numbers stay on the device where reading them would wait."""
    with ExitStack() as routes:
        for module, name in ON_THE_HOST:
            routes.enter_context(mock.patch.object(module, name, lambda tensor: False))
        yield


def deep_task(name: str) -> tuple[Task, Batch]:
    """The task with a model as deep as the real one, and two of its examples."""
    task_name, depth = MODELS[name]
    task = load_task(task_name, dataset="toy", model="toy", dataset_size=16)
    config = {**deepcopy(task.model.config).to_dict(), **depth}
    torch.manual_seed(0)
    task.model = type(task.model)(
        type(task.model.config)(**{k: v for k, v in config.items() if k != "attention_layers"})
    )
    return task, task.collate([task.examples[i] for i in range(2)])


def count(name: str, together: Sequence[int]) -> dict:
    """The row of one model: kernels of a recording, and per direction for so many directions pushed together."""
    task, batch = deep_task(name)
    params, loss_fn = trainable_parameters(task.model), functional_loss(task.model, task.losses)
    directions = [{n: torch.randn_like(p) for n, p in params.items()} for _ in range(max(together))]
    with measuring(task.model), as_on_a_gpu():
        with Counting() as forward, torch.inference_mode():
            loss_fn(params, batch)
        leaves = leaves_at(params)
        tape = Tape(leaves)
        with Counting() as recording, torch.enable_grad():
            tape.finish(record(tape, loss_fn, leaves, batch))
        row = dict(
            model=name,
            operations=len(tape.operations),
            forward_kernels=forward.counts["kernels"],
            recording_kernels=recording.counts["kernels"],
            recording_reads=recording.counts["reads"],
        )
        for size in together:
            with Counting() as pushing, torch.no_grad():
                Together(size).push(tape, directions[:size])
            row[f"kernels_per_direction_{size}"] = round(pushing.counts["kernels"] / size, 1)
            row[f"views_per_direction_{size}"] = round(pushing.counts["views"] / size, 1)
            row[f"reads_{size}"] = pushing.counts["reads"]
    return row


def reads_of_a_run(name: str) -> dict:
    """Reads of one training iteration with its pseudo-updates, and of one measured and scanned point, with two
    micro-batches each. A forward pass of transformers looks for padding with each mask that it makes."""
    task, batch = deep_task(name)
    params = dict(task.model.named_parameters())
    rows = choose_list(ALGORITHM_LISTS, "machine_translation")
    updates = PseudoUpdates(params, rows)
    optimizer = Algorithm("adam", lr=1e-3).build(params)
    training = Training(task, optimizer, TrainingPlan(1, 8, 4))
    with Counting() as forward, torch.no_grad():
        task.losses(task.model, batch)
    with Counting() as gradient, as_on_a_gpu():
        point = next(iter(training))
    with Counting() as thresholds, as_on_a_gpu(), mock.patch.object(clipping, "SAMPLE_SIZE", 512):
        updates.advance(collect=False)
    with Counting() as step, as_on_a_gpu():
        training.step()
    batches = list(micro_batches(task, range(8), 4, torch.device("cpu")))
    plan = MeasurementPlan(torch.float32, True, True, False, dict.fromkeys([*rows, TRAINING]))
    with Counting() as measured, as_on_a_gpu():
        directions = updates.advance()
        updates.not_finite(directions)
        measured_point = MeasuredPoint(point, directions, True, learning_rates=updates.learning_rates())
        measured_point = with_training_row(measured_point, optimizer, params, stability=False)
        objective = objective_at(task.model, task.losses, batches, torch.float32)
        measure_point(measured_point, objective, plan)
    return dict(
        tensors=len(params),
        rows=len(rows) + 1,
        reads_per_forward=forward.counts["reads"],
        reads_per_gradient=gradient.counts["reads"],
        reads_of_thresholds=thresholds.counts["reads"],
        reads_per_step=step.counts["reads"],
        reads_per_point=measured.counts["reads"],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--together", type=int, nargs="+", default=[1, 12], help="directions pushed at once")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add_flags(parser, rounds=None, device=False)
    args = parser.parse_args(arguments)
    machine = start(args)
    note = "counted on the route of a GPU; recording: forward and backward pass of one micro-batch"
    rows = [count(name, args.together) | reads_of_a_run(name) for name in args.models]
    machine.report("launches", rows, note, keys=["model"])


if __name__ == "__main__":
    main()
