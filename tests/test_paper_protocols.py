"""The code against docs/paper_protocols.json, what the papers report: every number, or a difference with its reason."""

import importlib
import inspect
import json
import statistics
from pathlib import Path

import pytest
import torch

import run_landscape
from algorithm_list import ALGORITHM_LISTS
from tasks import image_classification, task_defaults, text_classification
from torch_optimizer import OPTIMIZERS, Algorithm
from training.loop import batches_per_epoch
from training.schedules import make_scheduler

PROTOCOLS = json.loads((Path(__file__).parent.parent / "docs" / "paper_protocols.json").read_text(encoding="utf-8"))
SCHEDULES = ("constant", "cosine", "linear_with_warmup")  # other than the linear one, of texts
SPECS = {**text_classification.SPECS, **image_classification.SPECS}


def each(section):
    """A test for every entry of a section of the file."""
    entries = PROTOCOLS[section]
    return pytest.mark.parametrize("entry", entries, ids=[" ".join(map(str, e.values()))[:60] for e in entries])


def assert_as_written(entry, code):
    """The code has the paper's value, or the difference that the entry gives with its reason."""
    code = list(code) if isinstance(code, tuple) else code
    assert code == entry.get("here", entry["paper"])
    if "here" in entry:
        assert entry["here"] != entry["paper"], "no difference is left: take out `here` and `why`"
        assert entry["why"]


def all_entries():
    sections = [section for name, section in PROTOCOLS.items() if isinstance(section, list) and name != "hub"]
    return [entry for section in sections for entry in section]


def test_every_entry_names_its_source():
    known = tuple(PROTOCOLS["sources"])
    for entry in all_entries():
        if isinstance(entry, dict):
            source = entry.get("source") or entry["table"]
            assert source == "no source" or source.split()[0].strip(",;") in known, entry
            assert (source == "no source") <= ("why" in entry), entry


@each("task_settings")
def test_settings_of_a_task_are_the_papers(entry):
    assert_as_written(entry, getattr(task_defaults(entry["task"]), entry["setting"]))


@pytest.mark.parametrize("task", ["machine_translation", "masked_language_modeling"])
def test_an_epoch_has_ten_batches_and_a_run_two_hundred(task):
    defaults = task_defaults(task)
    assert batches_per_epoch(defaults.dataset_size, defaults.batch_size) == 10
    assert 10 * defaults.num_epochs == 200


@each("values")
def test_values_of_the_modules_are_the_papers(entry):
    module, name = entry["at"].split(":")
    assert_as_written(entry, getattr(importlib.import_module(module), name))


@each("data_splits")
def test_splits_are_the_papers(entry):
    assert_as_written(entry, getattr(SPECS[entry["task"]], entry["field"]))


@each("metrics")
def test_metrics_are_the_papers(entry):
    assert_as_written(entry, getattr(SPECS[entry["task"]], entry["field"]))


@each("schedules")
def test_schedules_are_the_papers(entry):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(entry["schedule"], optimizer, entry["epochs"], entry["updates"] // entry["epochs"])
    rates = []
    for _ in range(entry["updates"]):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx(entry["paper"])


@each("optimizer_defaults")
def test_defaults_of_the_optimizers_are_the_papers(entry):
    assert_as_written(entry, inspect.signature(OPTIMIZERS[entry["optimizer"]]).parameters[entry["option"]].default)


@each("training_optimizers")
def test_training_optimizers_are_the_papers(entry):
    settings = run_landscape.make_parser().parse_args(["--task", "machine_translation", *entry["flags"].split()])
    row, _ = run_landscape.resolve(settings)
    assert {"name": row.name, **row.options} == entry["paper"]


# ---- algorithm lists ----------------------------------------------------------------------------------------------

MOMENTUM_FAMILY = ("sgd", "normalized_sgd", "sign_sgd")


def written(row, momentum):
    """A row of the file as an Algorithm."""
    lr = row.get("here", row["lr"])
    options = {"relative_step": True} if lr == "relative" else {"lr": lr}
    if row["algorithm"] == "adafactor" and lr != "relative":
        options["relative_step"] = False
    if row["algorithm"] in MOMENTUM_FAMILY:
        options |= momentum
    options |= {name: row[name] for name in ("coordinate_clip", "clip_update") if name in row}
    return row["algorithm"], options


@each("algorithm_lists")
def test_algorithm_lists_have_the_papers_rows(entry):
    rows = [(row.name, dict(row.options)) for row in ALGORITHM_LISTS[entry["list"]]]
    assert rows == [written(row, entry["momentum"]) for row in entry["rows"]]
    assert all(row["why"] for row in entry["rows"] if "here" in row)


def test_the_66_learning_rates_of_the_second_paper():
    table = PROTOCOLS["learning_rates_of_b"]
    columns = [("adam", {}), ("rmsprop", {}), ("sgd", {}), ("sgd", {"momentum": 0.9})]
    columns += [("sign_sgd", {}), ("sign_sgd", {"momentum": 0.9})]
    count = 0
    for name, rates in table["lists"].items():
        expected = [(o, {"lr": lr, **options}) for (o, options), lr in zip(columns, rates, strict=True)]
        assert [(row.name, dict(row.options)) for row in ALGORITHM_LISTS[name]] == expected
        count += len(rates)
    assert count == 66 and len(table["columns"]) == 6
    others = {f"{entry['list']}-{schedule}" for entry in table["other_schedules"] for schedule in SCHEDULES}
    assert set(table["lists"]) | others == {n for n in ALGORITHM_LISTS if n.startswith("gradient_heterogeneity/")}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_learning_rates_at_other_schedules_are_those_of_the_second_paper(schedule):
    rates = {}
    for entry in PROTOCOLS["learning_rates_of_b"]["other_schedules"]:
        name = entry["column"].removesuffix(" with momentum 0.9")
        rates.setdefault(f"{entry['list']}-{schedule}", {})[name] = {"lr": entry[schedule], "momentum": 0.9}
    assert len(rates) == 2
    assert rates == {name: {row.name: dict(row.options) for row in ALGORITHM_LISTS[name]} for name in rates}


def test_signum_of_the_second_paper_starts_from_zero_and_has_the_same_signs():
    params = [torch.nn.Parameter(torch.zeros(50)) for _ in range(2)]
    ours = Algorithm("sign_sgd", lr=0.1, momentum=0.9).build({"p": params[0]})
    theirs = Algorithm("sign_sgd", lr=0.1, momentum=0.9, dampening=0.9, zero_start=True).build({"p": params[1]})
    for seed in range(5):
        for p in params:
            p.grad = torch.randn(50, generator=torch.Generator().manual_seed(seed))
        ours.step(), theirs.step()
        assert torch.equal(*params)


# ---- what was measured --------------------------------------------------------------------------------------------


def test_the_sharpness_ratios_are_copied_whole():
    """The facts that hold in every column of the paper's tables 3 to 6, counted from the file."""
    columns = 0
    lower, below = 0, 0
    for table in PROTOCOLS["sharpness_ratios"]:
        ratios = {(r["algorithm"], r.get("coordinate_clip")): r["values"] for r in table["ratios"]}
        assert len(ratios) == 6 and len(table["scanned_batches"]) == len(table["epochs"]) == 4
        for k in range(4):
            at = {key: values[k] for key, values in ratios.items()} | {("sgd", None): 1.0}
            columns += 1
            lower += sum(at[name, 0.05] < at[name, None] for name in ("sgd", "normalized_sgd", "adafactor"))
            below += at["adam", None] < min(at["sgd", 0.05], at["normalized_sgd", None], at["normalized_sgd", 0.05])
            assert min(at, key=at.get) == ("adafactor", 0.05)
            translation = table["task"] == "machine_translation"
            assert (at["normalized_sgd", None] < at["sgd", 0.05]) == translation
    assert (columns, lower, below) == (16, 48, 16)


def clipping(options):
    return options.get("coordinate_clip"), options.get("clip_update")


def test_spacings_and_absolute_sharpness_are_given_for_every_row_of_their_lists():
    for name in ("machine_translation", "autoregressive"):
        spaced = [(e["algorithm"], *clipping(e)) for e in PROTOCOLS["scan_spacings_of_a"][name]]
        assert sorted(map(str, spaced)) == sorted(str((r.name, *clipping(r.options))) for r in ALGORITHM_LISTS[name])
    values = PROTOCOLS["mean_absolute_sharpness"]["values"]
    rows = [[row.name, row.options.get("coordinate_clip")] for row in ALGORITHM_LISTS["workshop"]]
    assert sorted(map(str, rows)) == sorted(str(v[:2]) for v in values)
    assert statistics.fmean(v[2] for v in values) == pytest.approx(4.876, abs=1e-3)
