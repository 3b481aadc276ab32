"""What the entry scripts share on the command line: flags and their ranges."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import torch

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Parser(argparse.ArgumentParser):
    """Answers wrong input with one line and exit status 2; shows every default that is not None in --help."""

    def __init__(self, description: str):
        super().__init__(description=description, formatter_class=_HelpFormatter, allow_abbrev=False)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        unset = action.default in (None, False, argparse.SUPPRESS)
        return action.help if unset else super()._get_help_string(action)


# ---- types of flags -----------------------------------------------------------------------------------------------


def number(kind: type, low: float, high: float = float("inf"), *, exclusive: bool = False) -> Callable[[str], Any]:
    """An argparse type: an int or float in [low, high], or (low, high] if `exclusive`; the answer names the range."""
    interval = f"{'(' if exclusive else '['}{low}, {high}{']' if high < float('inf') else ')'}"

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {kind.__name__} in {interval}, got {text!r}") from None
        if not (low < value if exclusive else low <= value) or not value <= high or value == float("inf"):
            raise argparse.ArgumentTypeError(f"expected {kind.__name__} in {interval}, got {text!r}")
        return value

    return parse


positive_int = number(int, 1)
positive_float = number(float, 0, exclusive=True)
seed_number = number(int, 0, 2**31 - 1)


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
    """An argparse type: text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a name, got nothing")
    return text


def device(text: str) -> torch.device:
    """An argparse type: a device of this machine; "auto" is the first CUDA device if there is one, else the CPU."""
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(text)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        here = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise argparse.ArgumentTypeError(
            f"device {text!r} cannot be used ({str(error).splitlines()[0]}); this machine has {', '.join(here)}"
        ) from None
    return chosen


# ---- groups of flags ----------------------------------------------------------------------------------------------


def add_task_flags(parser: Parser, tasks: Any, lists: Any = None, deed: str = "trained") -> Any:
    """`lists`: the algorithm lists to choose from, for a script that takes one. `deed`: what is done with the task."""
    group = parser.add_argument_group(f"what is {deed} (a flag left out takes the task's default)")
    group.add_argument("--task", type=one_of("task", tasks), default="toy", help="one of " + ", ".join(tasks))
    group.add_argument("--dataset", type=nonempty, help="hub id, local file in the same schema, or 'toy'")
    group.add_argument(
        "--model", type=nonempty, help="hub id, folder of a saved model, or 'toy': the architecture, small and new"
    )
    group.add_argument("--dataset_size", type=positive_int, metavar="N", help="use the first N examples")
    group.add_argument("--max_length", type=positive_int, metavar="TOKENS", help="longest input and target, of texts")
    group.add_argument(
        "--windows_per_file",
        type=number(int, 0),
        metavar="N",
        help="the first N windows of each file are examples, 0: all; of the autoregressive task",
    )
    group.add_argument("--hf_key", metavar="KEY", help="hub access token for gated data (or set HF_TOKEN)")
    if lists is not None:
        group.add_argument(
            "--algorithm_list",
            type=one_of("algorithm list", lists),
            help="list of algorithm_list.py: " + ", ".join(lists),
        )
    return group


def add_training_flags(parser: Parser) -> Any:
    group = parser.add_argument_group("training")
    group.add_argument("--num_epochs", type=positive_int, metavar="N")
    group.add_argument("--batch_size", type=positive_int, metavar="N", help="examples of one update")
    group.add_argument(
        "--micro_batch_size",
        type=positive_int,
        metavar="N",
        help="examples held at once: bounds memory; in training, batch norm sees as many",
    )
    group.add_argument("--save_model", action="store_true", help="keep the trained model in FOLDER/model")
    return group


def add_machine_flags(parser: Parser) -> Any:
    group = parser.add_argument_group("machine and output")
    group.add_argument("--device", type=device, default="auto", help="cpu, cuda, cuda:1, ...; auto: CUDA if any")
    group.add_argument(
        "--output_dir", type=nonempty, metavar="FOLDER", help="where the results go; by default a name under output/"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run in that folder, if there is one")
    group.add_argument("--verbose", action="store_true", help="log more; with an error, its traceback")
    return group


def fill_in(settings: argparse.Namespace, defaults: Any) -> None:
    """Give every setting that was left out the task's default of that name."""
    for field in fields(defaults):
        if getattr(settings, field.name, 0) is None:
            setattr(settings, field.name, getattr(defaults, field.name))


# ---- what is written down ----------------------------------------------------------------------------------------


def default_output(*words: str) -> str:
    """output/word-word-...: the run folder where the user names none."""
    return "output/" + "-".join(word.replace("/", "-") for word in words)
