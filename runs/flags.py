"""What the entry scripts share on the command line: flags, their ranges, and one-line answers to wrong input."""

import argparse
import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import torch
from tqdm import tqdm

from torch_optimizer import Algorithm

OUR_LOGGERS = (
    "__main__", "checkpoints", "hessian_utils", "landscape_utils", "learning_rates", "measuring", "plotting",
    "recorder", "results", "resuming", "tasks", "training",
)  # fmt: skip
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


@contextmanager
def answering_input_errors(parser: Parser) -> Iterator[None]:
    """Around everything before the work starts: what is wrong with the input is said in one line, exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        logging.getLogger(__name__).debug("traceback", exc_info=True)
        parser.error(str(error) or repr(error))


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
        "--micro_batch_size", type=positive_int, metavar="N",
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


def recorded(settings: argparse.Namespace) -> dict[str, Any]:
    """The settings as config.json keeps them; its algorithms stand beside them."""
    return {name: value for name, value in vars(settings).items() if name != "algorithms"}


def described(algorithms: dict[str, Algorithm]) -> list[dict[str, Any]]:
    """The rows as config.json keeps them."""
    return [
        dict(label=label, name=row.name, options=dict(row.options), step_size=row.step_size)
        for label, row in algorithms.items()
    ]


def start_logging(verbose: bool) -> None:
    """Messages go to standard error, above the progress bars."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_BarHandler()], force=True)
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if verbose else logging.INFO)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}"  # one line, no code


class _BarHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def progress(iterable=None, **options) -> tqdm:
    """A progress bar that is silent when standard error is not a terminal."""
    return tqdm(iterable, disable=None, dynamic_ncols=True, **options)


def prepare_machine() -> None:
    """Reproducible kernels where there is a choice (CUDA; those of the CPU are), and memory that is kept.

    glibc returns large blocks to the system at every free, and taking them anew costs a page fault every 4 KiB, which
    can take longer than the arithmetic. So: no blocks by mmap, and up to 2 GiB of freed heap kept.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 2**28)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that writes all memory once more
