"""Small changes of meaning to the code, one at a time, and whether the tests notice: `python -m tests.mutants`.

A file here per area holds MUTANTS: (file, its tests) -> [(old text, new text, what a user would see wrong)]. The old
text stands exactly once in the file. The tests are those that have a reason to notice, without "test_" and ".py".
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AREAS = ("landscape", "figures", "scripts", "settings", "storing", "tasks", "hessian")


@dataclass(frozen=True)
class Mutant:
    """One change: `old` becomes `new` in `file`."""

    area: str
    file: str
    tests: tuple[str, ...]  # as pytest takes them
    old: str
    new: str
    claim: str  # what a user would see wrong

    def __str__(self) -> str:
        return f"{self.area}: {self.file}: {self.claim}"


def mutants() -> Iterator[Mutant]:
    """All of them, area by area."""
    for area in AREAS:
        for (file, names), changes in importlib.import_module(f"tests.mutants.{area}").MUTANTS.items():
            tests = tuple(map(_as_path, names.split("; ")))
            for old, new, claim in changes:
                yield Mutant(area, file, tests, old, new, claim)


def _as_path(name: str) -> str:
    """tests/test_runs.py of "runs", tests/test_runs.py::test_one of "runs::test_one"."""
    file, colons, test = name.partition("::")
    return f"tests/test_{file}.py{colons}{test}"
