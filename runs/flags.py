"""What the entry scripts share on the command line: the flags of task, training and machine, and what they need."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from runs import bridge
from runs.flag_types import device, folder_name, list_name, name_or_path, nonempty, number, one_of, positive_int
from runs.processes import leave_the_first_word
from torch_optimizer.rows import is_place


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
                self.error(f"{word.removesuffix('=--')}: '--' is not a value")
        if line := bridge.answer(args, self._option_string_actions):
            self.error(line)
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        if not self.speaks:
            leave_the_first_word()
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n" if self.speaks else None)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        unset = action.default in (None, False, argparse.SUPPRESS)
        return action.help if unset else super()._get_help_string(action)


# ---- groups of flags ----------------------------------------------------------------------------------------------


def add_task_flags(parser: Parser, tasks: Any, lists: Any = None, verb: str = "trained") -> Any:
    """`lists`: the algorithm lists to choose from, for a script that takes one. `verb`: what is done with the task."""
    group = parser.add_argument_group(f"what is {verb} (a flag left out takes the task's default)")
    group.add_argument("--task", type=one_of("task", tasks), default="toy", help="one of " + ", ".join(tasks))
    group.add_argument("--dataset", type=name_or_path, help="hub id, local file or folder of data, or 'toy': generated")
    group.add_argument(
        "--columns",
        type=nonempty,
        nargs="+",
        metavar="ROLE=COLUMN",
        help="which columns hold the task's fields: input=TEXT target=LABEL, and input2=TEXT for the second text of a "
        "pair",
    )
    group.add_argument("--config", type=nonempty, metavar="NAME", help="configuration of a hub data set")
    group.add_argument(
        "--split", type=nonempty, metavar="NAME", help="train on this split of a hub data set or a saved folder"
    )
    group.add_argument(
        "--eval_dataset",
        type=name_or_path,
        metavar="DATA",
        help="held-out data, given as --dataset is, for tasks that have scores",
    )
    group.add_argument(
        "--model",
        type=name_or_path,
        help="hub id, folder of a saved model, or 'toy': the task's architecture, small and with new weights",
    )
    group.add_argument("--dataset_size", type=positive_int, metavar="N", help="use the first N examples")
    group.add_argument(
        "--max_length",
        type=positive_int,
        metavar="TOKENS",
        help="longest input and longest target of a text task, in tokens",
    )
    group.add_argument(
        "--windows_per_file",
        type=number(int, 0),
        metavar="N",
        help="of the autoregressive task: the first N windows of --max_length tokens of each file are examples; 0: all",
    )
    group.add_argument(
        "--zipf",
        type=number(float, 0, 10),
        metavar="S",
        help="exponent of generated data: words of a kind (translation) or labels (classification) have frequencies "
        "proportional to rank^-S; 0: all alike",
    )
    group.add_argument(
        "--hf_key",
        type=nonempty,
        metavar="KEY",
        help="hub access token for gated data; better set HF_TOKEN, since other users of the machine can see flags",
    )
    if lists is not None:
        group.add_argument(
            "--algorithm_list",
            type=list_name(lists),
            metavar="LIST",
            help="the optimizers to compare: a list of your own, FILE.py:NAME, or one of algorithm_list.py: "
            + ", ".join(lists),
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
    group.add_argument("--num_epochs", type=positive_int, metavar="N", help="passes over the training data")
    group.add_argument("--batch_size", type=positive_int, metavar="N", help="examples per update")
    group.add_argument(
        "--micro_batch_size",
        type=positive_int,
        metavar="N",
        help="examples per forward and backward pass: bounds memory. In training, batch norm averages over as many. On "
        "a GPU, run_landscape.py measures on as many as its memory holds",
    )
    group.add_argument("--save_model", action="store_true", help="keep the trained model in FOLDER/model")
    return group


def add_machine_flags(parser: Parser) -> Any:
    group = parser.add_argument_group("machine and output")
    group.add_argument(
        "--device",
        type=device,
        help="cpu, cuda, cuda:1, mps or auto: a GPU if there is one, of several processes each its own; by default "
        "auto",
    )
    group.add_argument(
        "--output_dir",
        type=folder_name,
        metavar="FOLDER",
        help="run folder of the results; by default a name under output/",
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run in that folder, if there is one")
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="print what would be done, how long it would take and how much memory it needs; write nothing",
    )
    group.add_argument(
        "--log",
        type=nonempty,
        metavar="LOGGER",
        help="also send the numbers while they are measured: to tensorboard, wandb or trackio, or to your own object "
        "with a method log or add_scalar, such as package.module.name",
    )
    group.add_argument("--verbose", action="store_true", help="log more, and show the traceback of an error")
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


def own_list(settings: argparse.Namespace) -> str | None:
    """FILE.py:NAME, where the algorithm list lies in a Python file of the user's."""
    name = getattr(settings, "algorithm_list", None)
    return name if name and is_place(name) else None


def refuse_foreign_code(settings: argparse.Namespace, given: Mapping[str, Any]) -> None:
    """Raises: ValueError, in one line, if a config.json, which may come from elsewhere, names a Python file to run."""
    if (name := own_list(settings)) and "algorithm_list" not in given:
        raise ValueError(
            f"the run's algorithm list is in a Python file, which is run only if it is given: --algorithm_list {name}"
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
