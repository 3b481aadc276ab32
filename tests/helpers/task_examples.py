"""Tasks on toy data, and what the tests of tasks do with them."""

import json
from pathlib import Path

import numpy as np

from tasks import load_task


def toy(name, size=16, **options):
    return load_task(name, dataset="toy", model="toy", dataset_size=size, **options)


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def examples_of(task) -> list[dict]:
    return [task.examples[i] for i in range(len(task.examples))]


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
