"""The sentences and tables of a run, whichever script made it; and of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import ModuleType

from figures.comparing import script_of
from figures.run_tables import RunTables
from reporting import convergence, hessian, landscape
from reporting.contents import Sentence, View

OF_SCRIPT: dict[str, ModuleType] = {
    "run_landscape.py": landscape,
    "run_convergence.py": convergence,
    "run_hessian.py": hessian,
}


def _of(run: RunTables) -> ModuleType | None:
    try:
        return OF_SCRIPT[script_of(run)]
    except ValueError:  # it has no table yet
        return None


def answer(run: RunTables) -> list[Sentence]:
    """What the run has found, the most important first; nothing before its tables have numbers."""
    module = _of(run)
    return list(module.answer(run)) if module else []


def views(run: RunTables) -> list[View]:
    """The tables that sum the run up."""
    module = _of(run)
    return list(module.views(run)) if module else []


def side_by_side(runs: Mapping[str, RunTables]) -> Iterator[View]:
    """One number per row and run, for each kind of run that there is more than one of."""
    for script, module in OF_SCRIPT.items():
        alike = {name: run for name, run in runs.items() if _of(run) is module}
        numbers = {name: module.headline(run) for name, run in alike.items()}
        what = list(dict.fromkeys(what for what, _ in numbers.values()))
        if len(alike) > 1:
            labels = list(dict.fromkeys(label for _, of_run in numbers.values() for label in of_run))
            first = "measure" if module is hessian else "algorithm"
            rows = [
                {first: label, **{name: of_run.get(label) for name, (_, of_run) in numbers.items()}} for label in labels
            ]
            yield View(f"side-{script[4:-3]}", "; ".join(what), f"Of {script}.", [first, *alike], rows, "")
