"""What the entry scripts share on the command line: flags and their ranges.

torch is imported only where a device or a dtype is asked for, so that wrong input is answered at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs import bridge
from runs.processes import local_rank, world_size
from torch_optimizer.rows import is_place

if TYPE_CHECKING:
    import torch


class NumberTypes(Mapping):
    """Name of a dtype -> torch's."""

    NAMES = ("float32", "float64")

    def __getitem__(self, name: str) -> torch.dtype:
        import torch

        return {each: getattr(torch, each) for each in self.NAMES}[name]

    def __contains__(self, name: object) -> bool:
        return name in self.NAMES

    def __iter__(self) -> Iterator[str]:
        return iter(self.NAMES)

    def __len__(self) -> int:
        return len(self.NAMES)


DTYPES = NumberTypes()


@dataclass(frozen=True)
class Need:
    """When a flag has an effect.

        Need("step_size", "with --skip_search, which leaves out the scans", lambda settings: not settings.skip_search)

    flag: its name.  otherwise: when it has none, in words.  is_met: whether the settings give it an effect.
    """

    flag: str
    otherwise: str
    is_met: Callable[[argparse.Namespace], bool]


class Parser(argparse.ArgumentParser):
    """Answers wrong input with one line and exit status 2; shows every default that is not None in --help.

    `needs`: the table of what flags need to have an effect.
    """

    def __init__(self, description: str, needs: Sequence[Need] = ()):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.needs = tuple(needs)
        self.speaks = True  # False: one of many processes, which would all say the same

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """As argparse does, except for `--` as a value, and for the names of the papers' released code."""
        args = sys.argv[1:] if args is None else list(args)
        for word in args:
            if word == "--" or word.endswith("=--"):  # argparse drops it, and then misses the value
                self.error(f"{word.removesuffix('=--')}: '--' is no value")
        if line := bridge.answer(args, self._option_string_actions):
            self.error(line)
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n" if self.speaks else None)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default in (None, False, argparse.SUPPRESS)
        return action.help if unset else super()._get_help_string(action)


# ---- types of flags -----------------------------------------------------------------------------------------------


LARGEST = {int: 10**9, float: 1e30}  # beyond them float32, or the memory of any machine, overflows
SMALLEST = 1e-30  # below it float32 has no number but 0


def number(kind: type, low: float, high: float | None = None) -> Callable[[str], Any]:
    """An argparse type: an int or float in [low, high]; the answer names the range. `high` left out: `LARGEST`."""
    high = LARGEST[kind] if high is None else high

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {kind.__name__} in [{low}, {high}], got {shortened(text)!r}")
        return value

    return parse


def shortened(text: str, most: int = 60) -> str:
    """The text, or its beginning where it is long."""
    return text if len(text) <= most else f"{text[:most]}..."


positive_int = number(int, 1)
positive_float = number(float, SMALLEST)
seed_number = number(int, 0, 2**31 - 1)


def list_name(lists: Any) -> Callable[[str], str]:
    """The type of a flag that names one of these algorithm lists, or a list in a Python file, FILE.py:NAME."""
    known = one_of("algorithm list", lists)

    return lambda text: text if is_place(text) else known(text)


def own_list(settings: argparse.Namespace) -> str | None:
    """FILE.py:NAME, where the algorithm list lies in a Python file of the user's."""
    name = getattr(settings, "algorithm_list", None)
    return name if name and is_place(name) else None


def refuse_foreign_code(settings: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Raises: ValueError, in one line, if a config.json, which may come from elsewhere, names a Python file to run."""
    if (name := own_list(settings)) and "algorithm_list" not in given:
        raise ValueError(f"the run's algorithm list is a Python file: give it again, --algorithm_list {name}")


def one_of(kind: str, known: Any) -> Callable[[str], str]:
    """An argparse type: one of the known names; a wrong one is answered with them and the closest match."""

    def parse(text: str) -> str:
        if text not in known:
            near = get_close_matches(text, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise argparse.ArgumentTypeError(f"unknown {kind} {text!r}; {hint}known: {', '.join(known)}")
        return text

    return parse


def nonempty(text: str) -> str:
    """An argparse type: text that is not empty, as an unset variable of the shell is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a name, got nothing")
    return text


def name_or_path(text: str) -> str:
    """An argparse type: a name, or a path whose ~user, if it has one, is a user of this machine."""
    if nonempty(text).startswith("~"):
        try:
            Path(text).expanduser()
        except RuntimeError:
            raise argparse.ArgumentTypeError(f"{text!r} is in no user's home") from None
    return text


def folder_name(text: str) -> str:
    """An argparse type: a folder, with ~ and ~user replaced by that user's home."""
    return str(Path(name_or_path(text)).expanduser())


def device(text: str) -> torch.device:
    """An argparse type: a device of this machine; "auto" is a CUDA device if there is one, else the CPU.

    "cuda" is the device of this process: of those that torchrun or srun started on one machine, each has its own."""
    import torch

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cuda" and world_size() > 1 and torch.cuda.device_count():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())  # srun may show each process its own alone
    try:
        if not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", text):
            raise RuntimeError("known are cpu, cuda, cuda:N, mps")
        chosen = torch.device(text)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise argparse.ArgumentTypeError(
            f"device {shortened(text)!r} cannot be used ({str(error).splitlines()[0]}); "
            f"this machine has {', '.join(here)}"
        ) from None
    return chosen


# ---- groups of flags ----------------------------------------------------------------------------------------------


def add_task_flags(parser: Parser, tasks: Any, lists: Any = None, verb: str = "trained") -> Any:
    """`lists`: the algorithm lists to choose from, for a script that takes one. `verb`: what is done with the task."""
    group = parser.add_argument_group(f"what is {verb} (a flag left out takes the task's default)")
    group.add_argument("--task", type=one_of("task", tasks), default="toy", help="one of " + ", ".join(tasks))
    group.add_argument("--dataset", type=name_or_path, help="hub id, local file or folder of data, or 'toy'")
    group.add_argument(
        "--columns",
        type=nonempty,
        nargs="+",
        metavar="ROLE=COLUMN",
        help="what the data call the task's fields: input=TEXT target=LABEL, and input2=TEXT for the second of a pair",
    )
    group.add_argument("--config", type=nonempty, metavar="NAME", help="configuration of a hub data set")
    group.add_argument(
        "--split", type=nonempty, metavar="NAME", help="train on this split of a hub data set or a saved folder"
    )
    group.add_argument(
        "--eval_dataset", type=name_or_path, metavar="DATA", help="held-out examples, for tasks that have scores"
    )
    group.add_argument(
        "--model", type=name_or_path, help="hub id, folder of a saved model, or 'toy': the architecture, small and new"
    )
    group.add_argument("--dataset_size", type=positive_int, metavar="N", help="use the first N examples")
    group.add_argument("--max_length", type=positive_int, metavar="TOKENS", help="longest input and target, of texts")
    group.add_argument(
        "--windows_per_file",
        type=number(int, 0),
        metavar="N",
        help="the first N windows of each file are examples, 0: all; of the autoregressive task",
    )
    group.add_argument(
        "--zipf",
        type=number(float, 0, 10),
        metavar="S",
        help="in generated data, the words of a kind (translation) or the labels (classification) have frequencies "
        "proportional to rank^-S; 0: all alike",
    )
    group.add_argument(
        "--hf_key",
        type=nonempty,
        metavar="KEY",
        help="hub access token for gated data; rather set HF_TOKEN, since other users can see flags",
    )
    if lists is not None:
        group.add_argument(
            "--algorithm_list",
            type=list_name(lists),
            metavar="LIST",
            help="a list of your own, FILE.py:NAME, or one of algorithm_list.py: " + ", ".join(lists),
        )
    return group


def task_arguments(settings: argparse.Namespace) -> dict[str, Any]:
    """What the task flags say, without the name and the seeds: the arguments that `tasks.load_task` takes."""
    names = (
        "dataset", "model", "dataset_size", "hf_key", "max_length", "windows_per_file", "zipf", "columns", "config",
        "split", "eval_dataset",
    )  # fmt: skip
    return {name: getattr(settings, name) for name in names}


def add_training_flags(parser: Parser) -> Any:
    group = parser.add_argument_group("training")
    group.add_argument("--num_epochs", type=positive_int, metavar="N")
    group.add_argument("--batch_size", type=positive_int, metavar="N", help="examples of one update")
    group.add_argument(
        "--micro_batch_size",
        type=positive_int,
        metavar="N",
        help="examples held at once: bounds memory; in training, batch norm sees as many; on a GPU, run_landscape.py "
        "measures on as many as its memory holds",
    )
    group.add_argument("--save_model", action="store_true", help="keep the trained model in FOLDER/model")
    return group


def add_machine_flags(parser: Parser) -> Any:
    group = parser.add_argument_group("machine and output")
    group.add_argument(
        "--device", type=device, help="cpu, cuda, cuda:1, ...; auto: CUDA if any, one per process of torchrun or srun"
    )
    group.add_argument(
        "--output_dir", type=folder_name, metavar="FOLDER", help="where the results go; by default a name under output/"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run in that folder, if there is one")
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="say what would be done, how long it would take and how much memory it needs; write nothing",
    )
    group.add_argument(
        "--log",
        type=nonempty,
        metavar="LOGGER",
        help="send the numbers as they come to tensorboard, wandb, trackio, or a dotted path to anything with log or "
        "add_scalar",
    )
    group.add_argument("--verbose", action="store_true", help="log more; with an error, its traceback")
    return group


def refuse_without_effect(given: Container[str], settings: argparse.Namespace, needs: Iterable[Need]) -> None:
    """Raises: ValueError, in one line, for the first flag that is given and cannot act with these settings."""
    for need in needs:
        if need.flag in given and not need.is_met(settings):
            raise ValueError(f"--{need.flag} has no effect {need.otherwise}; leave it out")


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises: ValueError, in one line, if a seed is given twice."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds names a seed twice: {' '.join(map(str, seeds))}")


def needs_the_hub(settings: argparse.Namespace) -> bool:
    """Whether data or model may come from the hub, rather than both being made on the spot."""
    return any((name or _source_left_out(settings)) != "toy" for name in (settings.dataset, settings.model))


def generates_data(settings: argparse.Namespace) -> bool:
    return (settings.dataset or _source_left_out(settings)) == "toy"


def _source_left_out(settings: argparse.Namespace) -> str:
    """Where data or model come from if their flag is left out; without a task, a checkpoint's run decides."""
    return "toy" if settings.task in (None, "toy") else "hub"


TASK_NEEDS = (
    Need("hf_key", "with generated data and a new model, which need no hub", needs_the_hub),
    Need("zipf", "with data that are not generated (--dataset toy)", generates_data),
)


def fill_in(settings: argparse.Namespace, defaults: Any) -> None:
    """Give every setting that was left out the task's default of that name, and a device."""
    for field in fields(defaults):
        if getattr(settings, field.name, 0) is None:
            setattr(settings, field.name, getattr(defaults, field.name))
    settings.device = settings.device or device("auto")


# ---- what is written down ----------------------------------------------------------------------------------------


def default_output(*words: str) -> str:
    """output/word-word-...: the run folder where the user names none."""
    return "output/" + "-".join(word.replace("/", "-") for word in words)
