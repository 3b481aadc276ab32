"""What a run trains on: `load_task(name)` gives data, model and the loss of each example.

A new task is one more file in this folder and one line in TASKS."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.loading.hub import existing_folder, is_local
from tasks.loading.rows import existing_file, is_file
from tasks.protocols import OWN, PAPERS, ROLES, TOY, TOY_MASKS, TOY_PICTURES, TOY_PROGRAMS, TOY_TEXTS, Defaults, Request

if TYPE_CHECKING:
    from tasks.base import Task

__all__ = ["TASKS", "Defaults", "Task", "check_local", "load_task", "task_defaults"]

_UNITS = {
    "max_length": "a number of tokens",
    "windows_per_file": "a number of windows",
    "zipf": "an exponent",
}
MOST_TOY_EXAMPLES = 1_000_000  # they are made in memory


class Entry(NamedTuple):
    """How a task is loaded, the protocol it follows unless told otherwise, and the one for toy data and toy model."""

    load: Callable[[Request], Task]
    defaults: Defaults
    toy: Defaults = TOY


def by(module: str) -> Callable[[Request], Task]:
    """The function `load` of that module, which is imported, and torch with it, when a task is loaded."""
    return lambda request: import_module(f"tasks.{module}").load(request)


TASKS = {
    "toy": Entry(by("machine_translation"), TOY),
    "machine_translation": Entry(by("machine_translation"), PAPERS["machine_translation"]),
    "masked_language_modeling": Entry(by("masked_language_modeling"), PAPERS["masked_language_modeling"], TOY_MASKS),
    "autoregressive": Entry(by("autoregressive"), PAPERS["autoregressive"], TOY_PROGRAMS),
    **{
        name: Entry(by("text_classification"), PAPERS[name], TOY_TEXTS)
        for name in PAPERS
        if name == "binary_classification" or name.startswith(("glue/", "super_glue/"))
    },
    **{
        name: Entry(by("image_classification"), PAPERS[name], TOY_PICTURES)
        for name in ("image_classification", "flowers102", "aircraft")
    },
    "translation": Entry(by("machine_translation"), OWN["translation"]),
    "causal_language_modeling": Entry(by("autoregressive"), OWN["causal_language_modeling"], TOY_PROGRAMS),
    "text_classification": Entry(by("text_classification"), OWN["text_classification"], TOY_TEXTS),
    "text_pair_classification": Entry(by("text_classification"), OWN["text_pair_classification"], TOY_TEXTS),
}


def __getattr__(name: str) -> Any:
    if name == "Task":
        return import_module("tasks.base").Task
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_task(
    name: str,
    dataset: str | None = None,
    model: str | None = None,
    dataset_size: int | None = None,
    seed: int = 0,
    hf_key: str | None = None,
    max_length: int | None = None,
    model_seed: int | None = None,
    windows_per_file: int | None = None,
    zipf: float | None = None,
    columns: Sequence[str] | None = None,
    config: str | None = None,
    split: str | None = None,
    eval_dataset: str | None = None,
) -> Task:
    """Load a task of the registry.

    Args:
        name: a key of TASKS.
        dataset, model: a hub id, a local path (a file in the hub data set's schema; a saved model's folder)
            or "toy".
        dataset_size: this many examples are used, the first ones.
        seed: of generated data, masks and splits.
        hf_key: Hugging Face access token; None uses HF_TOKEN or the stored login.
        max_length: tokens, of the input and of the target each; longer texts are cut, and still end in the
            end-of-sequence token. Not for pictures.
        windows_per_file: examples that one file gives at most, 0: all; of the autoregressive task only.
        zipf: exponent of the frequencies of words (translation) or labels (classification) in generated data.
        columns: "role=COLUMN" each, with the roles input, input2 and target: what the data call the task's fields.
        config, split: of a hub data set, or the split of a folder that `datasets` saved.
        eval_dataset: a local file or hub id of held-out examples, for tasks with scores.
        model_seed: of freshly initialized weights; None: `seed`.
    None takes the task's default (`task_defaults`).

    Raises: ValueError, in one line, for an unknown name, an unreadable file or folder, a row that does not fit the
        schema, or a hub that does not answer.
    """
    from tasks.loading.pretrained import check_runs_examples

    defaults = task_defaults(name, dataset, model)
    generated = (dataset or defaults.dataset) == "toy"
    dataset_size = defaults.dataset_size if dataset_size is None else dataset_size
    max_length = _option(name, "max_length", max_length, defaults, low=2)
    windows_per_file = _option(name, "windows_per_file", windows_per_file, defaults, low=0)
    zipf = _option(name if generated else f"{name} with data that are not generated", "zipf", zipf, defaults, low=0)
    if dataset_size is not None and dataset_size < 1:
        raise ValueError(f"dataset_size is a number of examples, at least 1, got {dataset_size}")
    if generated and (dataset_size or 0) > MOST_TOY_EXAMPLES:
        raise ValueError(f"dataset_size of generated data is at most {MOST_TOY_EXAMPLES:,}, got {dataset_size}")
    model_seed = seed if model_seed is None else model_seed
    dataset, model = dataset or defaults.dataset, model or defaults.model
    dataset = _with_config(dataset, config)
    _refuse_for_generated(dataset, columns=columns, split=split, eval_dataset=eval_dataset)
    check_local(dataset, model, eval_dataset)
    request = Request(
        name, dataset, model, dataset_size, max_length, seed, model_seed, hf_key, windows_per_file, zipf,
        columns_of(columns or ()), split, eval_dataset,
    )  # fmt: skip
    task = TASKS[name].load(request)
    if model != "toy":
        check_runs_examples(task, model)
    return task


def check_local(dataset: str | None, model: str | None, eval_dataset: str | None = None) -> None:
    """ValueError, in one line, for a local data file or model folder that is not there, before anything slow begins."""
    for source in (dataset, eval_dataset):
        if source not in (None, "toy") and is_file(source):
            existing_file(source)
    if model not in (None, "toy") and is_local(model):
        existing_folder(model)


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """role -> column, of "role=COLUMN" each. ValueError, in one line, for another form or an unknown role."""
    columns = {}
    for pair in pairs:
        role, sign, column = pair.partition("=")
        if role not in ROLES or not sign or not column:
            raise ValueError(f"--columns takes {'=COLUMN, '.join(ROLES)}=COLUMN, got {pair!r:.60}")
        if role in columns:
            raise ValueError(f"--columns names {role} twice, as {columns[role]!r} and {column!r}")
        columns[role] = column
    return columns


def _with_config(dataset: str, config: str | None) -> str:
    """A hub id with its configuration, `owner/name:configuration`."""
    if config is None:
        return dataset
    if dataset == "toy" or is_file(dataset) or ":" in dataset:
        what = "that names one" if ":" in dataset else "that is not on the hub"
        raise ValueError(f"--config has no effect on the data set {dataset}, {what}; leave it out")
    return f"{dataset}:{config}"


def _refuse_for_generated(dataset: str, **asked: Any) -> None:
    for flag, value in asked.items():
        if dataset == "toy" and value:
            raise ValueError(f"--{flag} has no effect on generated data (--dataset toy); leave it out")


def _option(task: str, option: str, value: Any, defaults: Defaults, low: int) -> Any:
    """`value`, or the task's default of that name. ValueError if it is below `low`, or the task has no such thing."""
    default = getattr(defaults, option)
    if value is None:
        return default
    if default is None:
        raise ValueError(f"--{option} has no effect on the task {task}; leave it out")
    if value < low:
        raise ValueError(f"{option} is {_UNITS[option]}, {low} or more, got {value}")
    return value


def task_defaults(name: str, dataset: str | None = None, model: str | None = None) -> Defaults:
    """The protocol of a task: sizes, epochs, learning rates; a small one where data and model are both "toy".

    ValueError for an unknown name."""
    if name not in TASKS:
        close = difflib.get_close_matches(name, TASKS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown task {name!r}; known: {', '.join(TASKS)}{hint}")
    entry = TASKS[name]
    dataset, model = dataset or entry.defaults.dataset, model or entry.defaults.model
    if (dataset, model) == ("toy", "toy"):
        return entry.toy
    if dataset == "toy":  # there are few generated files, so each gives all that it has
        return replace(entry.defaults, windows_per_file=entry.toy.windows_per_file, zipf=entry.toy.zipf)
    return entry.defaults
