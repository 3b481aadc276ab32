"""Tasks on toy data, and what the tests of tasks do with them."""

import json
from pathlib import Path

import numpy as np
import torch

from curvature.objective import Objective, objective_at
from tasks import load_task
from tests.helpers.tiny_models import rows_of


def toy(name, size=16, **options):
    return load_task(name, dataset="toy", model="toy", dataset_size=size, **options)


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def examples_of(task) -> list[dict]:
    return [task.examples[i] for i in range(len(task.examples))]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def objective_of_t5() -> Objective:
    """A tiny T5 in float64, two micro-batches of it."""
    model, losses, batch = toy("machine_translation").tiny()
    model.double()
    return objective_at(model, losses, rows_of(batch, [0, 1, 2], [3]), torch.float64)
