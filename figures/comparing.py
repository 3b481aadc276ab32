"""Which runs can be compared in one figure, what they are called there, and what they have in common."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from figures.run_tables import RunTables

logger = logging.getLogger(__name__)

TABLES = {"run_convergence.py": "losses", "run_landscape.py": "sharpness", "run_hessian.py": "blocks"}
SIDE_BY_SIDE = {"run_landscape.py", "run_convergence.py"}
# Settings that make two runs different experiments: named in the title where they differ.
SETTINGS = """
dataset model dataset_size max_length batch_size train_optimizer lr momentum seed seeds lr_scheduler warmup_ratio
max_grad_norm test_batch_size test_seed dtype
""".split()  # noqa: SIM905


def named_runs(runs: Sequence[RunTables], names: Sequence[str] | None) -> dict[str, RunTables]:
    """The runs by name: `names`, or the folders' own names, or their paths where two names are alike.

    Raises: ValueError if a run is given twice, or the names do not fit.
    """
    places = [run.folder.resolve() for run in runs]
    for i, run in enumerate(runs):
        if places[i] in places[:i]:
            raise ValueError(f"--overlay got {run.folder} twice; it compares different runs")
    if names is None:
        short = [place.name for place in places]
        names = short if len(set(short)) == len(short) else [str(run.folder) for run in runs]
    if len(names) != len(runs):
        raise ValueError(f"--names takes one name per folder: got {len(names)} for {len(runs)} folders")
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"--names got {name!r} twice; each run needs a name of its own")
    return dict(zip(names, runs, strict=True))


def script_of_all(runs: Mapping[str, RunTables]) -> str | None:
    """The script that made all of the runs; None for a landscape run beside a convergence run.

    Raises: ValueError naming the runs that cannot be compared: other pairs of scripts, or losses of different tasks.
    """
    scripts = {name: script_of(run) for name, run in runs.items()}
    kinds = set(scripts.values())
    if len(kinds) > 1 and (kinds != SIDE_BY_SIDE or len(runs) > 2):
        each = ", ".join(f"{runs[name].folder} is of {script}" for name, script in scripts.items())
        choices = "give runs of one script, or one of run_landscape.py and one of run_convergence.py"
        raise ValueError(f"these runs cannot be compared: {each}; {choices}")
    tasks = {run.task: run.folder for run in runs.values()}
    if len(tasks) > 1 and kinds != {"run_hessian.py"}:
        each = ", ".join(f"{folder} is of the task {task}" for task, folder in tasks.items())
        raise ValueError(f"these runs cannot be compared: {each}; the losses of two tasks have no common scale")
    return None if len(kinds) > 1 else kinds.pop()


def script_of(run: RunTables) -> str:
    """Which script made the run, from the tables that it left."""
    for script, table in TABLES.items():
        if (run.folder / f"{table}.csv").exists():
            return script
    tables = ", ".join(f"{table}.csv" for table in TABLES.values())
    raise ValueError(f"{run.folder} has nothing to compare: none of {tables}")


def common_labels(runs: Mapping[str, RunTables], drawable: Mapping[str, Mapping]) -> list[str]:
    """The algorithms that all runs have; the others are named in a line of log.

    Args:
        drawable: name of a run -> what there is to draw of it, by algorithm.

    Raises: ValueError naming a run without anything to draw, or runs without a common algorithm.
    """
    for name, labels in drawable.items():
        if not labels:
            raise ValueError(f"{runs[name].folder} has nothing to compare: its tables have no numbers yet")
    first = next(iter(drawable.values()))
    common = [label for label in first if all(label in labels for labels in drawable.values())]
    if not common:
        folders = ", ".join(str(run.folder) for run in runs.values())
        raise ValueError(f"these runs cannot be compared: {folders} have no algorithm in common")
    for name, labels in drawable.items():
        if left_out := [label for label in labels if label not in common]:
            logger.info("%s alone has, and the figure leaves out: %s", runs[name].folder, "; ".join(left_out))
    return common


def title_of(runs: Mapping[str, RunTables]) -> str:
    """The common task, and the settings in which the runs differ."""
    first, *others = runs.values()
    differing = [name for name in SETTINGS if any(run.settings.get(name) != first.settings.get(name) for run in others)]
    return f"{first.task}: runs that differ in {', '.join(differing)}" if differing else first.task
