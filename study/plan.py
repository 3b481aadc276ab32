"""Which runs the study takes, as command lines of the entry scripts. Later ones may need earlier ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runs.tables import read_table
from study.encoders import Model, Starts, of_hub, of_run, toy

LISTS = "study/lists.py"
PAPER_RATE = "2e-3"  # of Adam, Pan & Li, OPT 2022, table 2
ENCODER = "encoder-pretrained"  # the run that trains the study's own encoder
TUNED_ADAM = "adam_tuned"  # a trajectory of Adam at the rate that was chosen here
FINE_TUNED = ("snli", "imdb")
TOY = ("--model", "toy")
ON_FEW = ("SGD_AND_ADAM", "FINE_TUNING", "MODERN", "SWEPT")  # lists whose trajectories are short
HALF_DECADES = (0.1, 0.316, 1.0, 3.16, 10.0)


@dataclass(frozen=True)
class Source:
    """A task, and where its data lie below the folder of --data; generated data have no file."""

    task: str
    file: str | None
    max_length: int | None
    examples: int  # the most that the study trains on; translation has the workshop paper's half


# English-French pairs of Tatoeba, IMDb twice, SNLI, CIFAR-10.
SOURCES: Mapping[str, Source] = {
    "translation": Source("machine_translation", "en_fr_tatoeba/train.jsonl.gz", 64, 5120),
    "snli": Source("glue/rte", "snli/train.jsonl.gz", 64, 1280),
    "masked": Source("masked_language_modeling", "imdb/train.jsonl.gz", 64, 1280),
    "cifar10": Source("image_classification", "cifar10/train.parquet", None, 1280),
    "imdb": Source("binary_classification", "imdb/train.jsonl.gz", 64, 1280),
}


@dataclass(frozen=True)
class Size:
    """How large the runs are. The runs of a size have equally many updates per epoch."""

    examples: int  # of a measured trajectory
    compared: int  # of the runs that compare losses at tuned rates; as many updates, on smaller batches
    batches: int  # per epoch; ten in the workshop paper
    epochs: int
    test_epochs: Sequence[int]
    points: int  # measured per such epoch
    test_batch: int
    tune_epochs: int
    swept: int  # examples of the sweep over batch sizes
    swept_batches: Sequence[int]  # its batch sizes; the last is the full batch
    updates: int  # of its runs with equally many updates
    swept_epochs: int  # of its runs on equally many examples
    pretraining: int  # epochs
    pretraining_batch: int
    grid: Sequence[float]  # of learning rates, as factors of the list's
    seeds: Sequence[int]
    readme: Sequence[str]  # flags of README's two runs


FULL = Size(
    examples=5120,
    compared=640,
    batches=10,
    epochs=5,
    test_epochs=(1, 3, 5),
    points=1,
    test_batch=64,
    tune_epochs=2,
    swept=128,
    swept_batches=(8, 32, 128),
    updates=64,
    swept_epochs=8,
    pretraining=10,
    pretraining_batch=32,
    grid=HALF_DECADES,
    seeds=(0, 1, 2),
    readme=(),
)
SMALL = Size(
    examples=16,
    compared=16,
    batches=2,
    epochs=2,
    test_epochs=(1, 2),
    points=1,
    test_batch=4,
    tune_epochs=1,
    swept=8,
    swept_batches=(4, 8),
    updates=2,
    swept_epochs=1,
    pretraining=1,
    pretraining_batch=8,
    grid=(1.0,),
    seeds=(0, 1),
    readme=("--dataset_size", "16", "--batch_size", "8"),
)


@dataclass(frozen=True)
class Run:
    """One run folder. `flags` is called when the runs before are there, with the folder of the study."""

    name: str
    script: str
    flags: Callable[[Path], list[str]]


def runs(size: Size, data: Path | None, encoder: str | None = None) -> Iterator[Run]:
    """Every run of the study whose data there are; with no folder of data, all of them on generated data.

    `encoder`, a name of the hub or a folder: only the runs that fine-tune it, and the same from fresh weights."""
    sources = {name: source for name, source in SOURCES.items() if data is None or _file(source, data).exists()}
    if encoder is not None:
        yield from _fine_tuned(size, data, [name for name in FINE_TUNED if name in sources], of_hub(encoder), True)
        return
    for name, source in sources.items():
        yield from _claims(name, source, size, data)
        if name == "masked":
            yield from _class_imbalance(size)
    if "translation" in sources:
        yield from _batch_sizes(size, data)
        yield _landscape("scaling", SOURCES["translation"], size, data, "PARAMETER_SCALING", ["--lr", "3e-3"])
        yield from _since(size, data)
    yield from _generated(size)
    if {"masked", *FINE_TUNED} <= sources.keys():
        yield _pretraining(size, data)
        yield from _fine_tuned(size, data, FINE_TUNED, of_run(ENCODER))


def missing(data: Path | None) -> list[str]:
    """Files that the study would use and that are not there."""
    return [] if data is None else [str(f) for s in SOURCES.values() if not (f := _file(s, data)).exists()]


# ---- the parts -----------------------------------------------------------------------------------------------------


def _claims(name: str, source: Source, size: Size, data: Path | None) -> Iterator[Run]:
    """The papers' claims: losses at tuned rates, and both trajectories."""
    tuned = f"{name}-convergence"
    yield _convergence(tuned, source, size, data, "WORKSHOP")
    for optimizer in ("adam", "sgd"):
        train = ["--train_optimizer", optimizer, *(["--measure_on", "both"] if name == "translation" else [])]
        yield _landscape(f"{name}-{optimizer}", source, size, data, "WORKSHOP", train, tuned, optimizer)
        if (name, optimizer) == ("translation", "adam"):
            yield _landscape(f"{name}-{TUNED_ADAM}", source, size, data, "WORKSHOP", train, tuned, TUNED_ADAM)
    if name in ("snli", "cifar10"):
        for seed in size.seeds:
            flags = [*_task(source, data, min(size.examples, source.examples)), *TOY, "--seed", str(seed)]
            yield Run(
                f"{name}-hessian{seed}", "run_hessian.py", _constant([*flags, "--batch_size", str(size.test_batch)])
            )


def _batch_sizes(size: Size, data: Path | None) -> Iterator[Run]:
    """SGD against Adam from small batches to the full one, after equally many updates and equally many examples."""
    source = SOURCES["translation"]
    for batch in size.swept_batches:
        epochs = max(1, size.updates * batch // size.swept)
        for what, count in (("updates", epochs), ("examples", size.swept_epochs)):
            shared = [
                *_task(source, data, size.swept),
                *TOY,
                "--batch_size",
                str(batch),
                "--num_epochs",
                str(count),
            ]
            flags = [*shared, *_list("SGD_AND_ADAM"), *_tuning(count, size, count), *_seeds(size)]
            tuned = f"batch{batch}-{what}-convergence"
            yield Run(tuned, "run_convergence.py", _constant(flags))
            if what == "updates":
                first, middle = 1, (count + 1) // 2
                measured = [
                    *shared, *_list("SGD_AND_ADAM"), *_seeds(size), "--skip_search", "--test_batch_size",
                    str(min(size.test_batch, size.swept)), "--num_sample_sharpness", "1",
                    "--test_epochs", *map(str, sorted({first, middle, count})),
                ]  # fmt: skip
                yield Run(f"batch{batch}-adam", "run_landscape.py", _with_rate(measured, tuned, "adam"))


def _class_imbalance(size: Size) -> Iterator[Run]:
    """Generated translations whose words have Zipf exponents 0, .5 and 1: losses, and sharpness per class."""
    source = Source("machine_translation", None, 64, size.compared)
    for exponent in ("0", "0.5", "1"):
        yield _convergence(f"zipf{exponent}-convergence", source, size, None, "SGD_AND_ADAM", ["--zipf", exponent])
        tuned = f"zipf{exponent}-trainers"
        yield _convergence(tuned, source, size, None, "TRAINERS", ["--zipf", exponent])
        measured = ["--zipf", exponent, "--frequency_classes", "5", "--skip_search"]
        for optimizer in ("adam", TUNED_ADAM, "sgd"):
            train = [*measured, "--train_optimizer", optimizer.removesuffix("_tuned")]
            yield _landscape(f"zipf{exponent}-{optimizer}", source, size, None, "SGD_AND_ADAM", train, tuned, optimizer)


def _pretraining(size: Size, data: Path | None) -> Run:
    """An encoder that learns masked words of IMDb."""
    masked = SOURCES["masked"]
    flags = [
        *_task(masked, data, min(size.examples, masked.examples)), *TOY, *_list("ADAM"), "--save_model",
        "--num_epochs", str(size.pretraining), "--batch_size", str(size.pretraining_batch), "--seeds", "0",
    ]  # fmt: skip
    return Run(ENCODER, "run_convergence.py", _constant(flags))


def _fine_tuned(
    size: Size, data: Path | None, names: Sequence[str], starts: Starts, large: bool = False
) -> Iterator[Run]:
    """Losses and Adam's trajectory from each start. `large`: at the smaller rates of large pretrained encoders, where
    Adam trains at its tuned rate, too."""
    rows, optimizer = ("FINE_TUNING", TUNED_ADAM) if large else ("SGD_AND_ADAM", "adam")
    for name in names:
        for start, model in starts.items():
            tuned = f"{start}-{name}-convergence"
            yield _convergence(tuned, SOURCES[name], size, data, rows, model=model)
            measured = f"{start}-{name}-adam"
            yield _landscape(measured, SOURCES[name], size, data, rows, ["--skip_search"], tuned, optimizer, model)


def _since(size: Size, data: Path | None) -> Iterator[Run]:
    """Optimizers since the papers: losses at tuned rates, and their steps along Adam's run. Clip fractions."""
    source = SOURCES["translation"]
    yield _convergence("modern-convergence", source, size, data, "MODERN")
    shared = ["--skip_search", "--lr", PAPER_RATE]
    yield _landscape("modern-adam", source, size, data, "MODERN", [*shared, "--top_eigenvalues"])
    yield _landscape("clip_sweep", source, size, data, "SWEPT", [*shared, "--clip_sweep"])


def _generated(size: Size) -> Iterator[Run]:
    """README's runs, and the curvature of Adam's and of Muon's own steps as Wang et al. (arXiv:2606.04662) compare it:
    on generated words with three Zipf exponents."""
    yield Run("readme-landscape", "run_landscape.py", _constant(size.readme))
    yield Run("readme-convergence", "run_convergence.py", _constant(size.readme))
    source = Source("machine_translation", None, 64, size.compared)
    for exponent, optimizer in itertools.product(("0", "0.5", "1"), ("adam", "muon_adamw")):
        own = ["--zipf", exponent, "--skip_search", "--train_optimizer", optimizer, "--lr", "1e-2"]
        yield _landscape(f"own_step{exponent}-{optimizer}", source, size, None, "SGD_AND_ADAM", own)


# ---- command lines -------------------------------------------------------------------------------------------------


def _convergence(
    name: str,
    source: Source,
    size: Size,
    data: Path | None,
    rows: str,
    more: Sequence[str] = (),
    model: Model = toy,
) -> Run:
    examples = min(size.compared, source.examples)
    flags = [
        *_task(source, data, examples), "--batch_size", str(examples // size.batches), "--num_epochs", str(size.epochs),
        *_list(rows), *_tuning(size.epochs, size), *_seeds(size), *more,
    ]  # fmt: skip
    return Run(name, "run_convergence.py", lambda study: [*flags, "--model", model(study)])


def _landscape(
    name: str,
    source: Source,
    size: Size,
    data: Path | None,
    rows: str,
    more: Sequence[str],
    tuned: str | None = None,
    optimizer: str = "adam",
    model: Model = toy,
) -> Run:
    """`tuned`: the run whose chosen rate of `optimizer` this one trains with, unless the paper gives one."""
    examples = min(size.compared if rows in ON_FEW else size.examples, source.examples)
    flags = [
        *_task(source, data, examples), "--batch_size", str(examples // size.batches), "--num_epochs", str(size.epochs),
        "--test_epochs", *map(str, size.test_epochs), "--num_sample_sharpness", str(size.points),
        "--test_batch_size", str(size.test_batch), *_list(rows), *_seeds(size), *more,
    ]  # fmt: skip
    rate = _constant(flags) if tuned is None else _with_rate(flags, tuned, optimizer)
    return Run(name, "run_landscape.py", lambda study: [*rate(study), "--model", model(study)])


def _task(source: Source, data: Path | None, examples: int) -> list[str]:
    dataset = "toy" if data is None or source.file is None else str(_file(source, data))
    length = [] if source.max_length is None else ["--max_length", str(source.max_length)]
    return ["--task", source.task, "--dataset", dataset, *length, "--dataset_size", str(examples)]


def _file(source: Source, data: Path) -> Path:
    return data / (source.file or "")


def _list(name: str) -> list[str]:
    return ["--algorithm_list", f"{LISTS}:{name}"]


def _seeds(size: Size) -> list[str]:
    return ["--seeds", *map(str, size.seeds)]


def _tuning(epochs: int, size: Size, tune_epochs: int | None = None) -> list[str]:
    """Trials of `tune_epochs`, by default few: a rate that is best for a while may diverge later."""
    tune_epochs = tune_epochs or size.tune_epochs
    return ["--tune_lr", "--tune_epochs", str(min(epochs, tune_epochs)), "--lr_grid", *map(str, size.grid)]


def _constant(flags: Sequence[str]) -> Callable[[Path], list[str]]:
    return lambda study: list(flags)


def _with_rate(flags: Sequence[str], tuned: str, optimizer: str) -> Callable[[Path], list[str]]:
    """Adam trains at the paper's rate, SGD at the one that was chosen here: the paper's does not move a new model."""
    if optimizer == "adam":
        return _constant([*flags, "--lr", PAPER_RATE])
    label = "adam" if optimizer == TUNED_ADAM else optimizer
    return lambda study: [*flags, "--lr", repr(chosen_rate(study / tuned, label))]


def chosen_rate(folder: Path, label: str) -> float:
    """The rate that --tune_lr chose for a row. Raises: LookupError, in one line, if all rates diverged."""
    rates = [
        row["lr"]
        for row in read_table(folder / "tuned_learning_rates.csv")
        if row["algorithm"] == label and row["chosen"]
    ]
    if not rates:
        raise LookupError(f"{folder}: no learning rate of {label} was chosen, all diverged")
    return rates[0]
