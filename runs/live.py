"""The numbers of a run as they come, sent to a logger such as TensorBoard or Weights & Biases (`--log`).

A metric is called after table, column and row: `sharpness/edge_quadratic/adam`, `training/loss`. The tables themselves
are written all the same. If a logger fails, a warning says so once, and the run continues without it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

TABLES = ("training", "sharpness", "eigenvalues", "losses", "scores", "blocks", "heterogeneity")
PLACES = ("epoch", "batch", "iteration", "seed", "examples", "seconds", "number")  # where a row is, not what it says
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio"}  # name of --log -> what pip installs


class LiveLog:
    """Sends rows to an object with `log(metrics)` or `add_scalar(name, value, step)`; None: to nobody."""

    def __init__(self, target: Any = None) -> None:
        self.target: Any = target
        self.count = 0  # rows sent so far: the step where a row has no iteration

    def row(self, table: str, row: Mapping[str, Any]) -> None:
        """Send the numbers of one row, as its table has them; empty cells are left out."""
        if self.target is None or table not in TABLES:
            return
        self.count += 1
        words = [str(cell) for cell in row.values() if isinstance(cell, str)]
        words += [f"seed {row['seed']}"] if "seed" in row else []
        step = row["iteration"] if isinstance(row.get("iteration"), int) else self.count
        metrics: dict[str, float] = {
            "/".join([table, column, *words]): cell
            for column, cell in row.items()
            if column not in PLACES and isinstance(cell, (int, float)) and math.isfinite(cell)
        }
        try:
            self._send(metrics, step)
        except Exception as error:  # of a library that is not ours, perhaps of its network
            self._give_up(error)

    def _send(self, metrics: dict[str, float], step: int) -> None:
        if hasattr(self.target, "add_scalar"):
            for name, value in metrics.items():
                self.target.add_scalar(name, value, step)
        else:  # the step is a metric of its own: several rows of a run share one, and wandb's steps may only grow
            self.target.log({**metrics, "iteration": step})

    def _give_up(self, error: Exception) -> None:
        log.warning("--log: %s; the run continues without it", " ".join(str(error).split()) or type(error).__name__)
        self.target = None

    def close(self) -> None:
        """Let the logger write what it still holds."""
        finish = getattr(self.target, "finish", None) or getattr(self.target, "close", None)
        try:
            if finish is not None:
                finish()
        except Exception as error:
            self._give_up(error)


def logger_named(name: str | None) -> Callable[[Path, dict[str, Any]], LiveLog]:
    """What makes the live log of a run, from its folder and its settings.

    Args:
        name: "tensorboard", "wandb", "trackio", or a dotted path "package.module.thing" of an object with `log` or
            `add_scalar`, or of a function that makes one from the run folder; None: no log.

    Raises: ValueError, in one line, for a package or an object that is not there.
    """
    if name is None:
        return lambda folder, settings: LiveLog()
    if name in PACKAGES:
        library = _library(name)
        return lambda folder, settings: LiveLog(_target(name, library, folder, settings))
    thing = _named(name)
    if _takes_metrics(thing):
        return lambda folder, settings: LiveLog(thing)
    if not callable(thing):
        raise ValueError(f"--log {name} has neither log nor add_scalar, and is no function that makes such an object")
    return lambda folder, settings: LiveLog(_made(name, thing, folder))


def _library(name: str) -> Any:
    try:
        return import_module("torch.utils.tensorboard" if name == "tensorboard" else name)
    except ImportError as error:
        raise ValueError(f"--log {name} needs a package that is not installed: pip install {PACKAGES[name]}") from error


def _target(name: str, library: Any, folder: Path, settings: dict[str, Any]) -> Any:
    if name == "tensorboard":
        return library.SummaryWriter(folder / "tensorboard")
    library.init(project="optimizer-sharpness", name=folder.name, config=settings)
    return library


def _named(path: str) -> Any:
    module, dot, thing = path.rpartition(".")
    known = f"known: {', '.join(PACKAGES)}, or a dotted path"
    if not dot:
        raise ValueError(f"--log {path} is not a logger; {known}")
    try:
        return getattr(import_module(module), thing)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--log {path}: {' '.join(str(error).split())}; {known}") from error


def _takes_metrics(thing: Any) -> bool:
    return not isinstance(thing, type) and (hasattr(thing, "log") or hasattr(thing, "add_scalar"))


def _made(name: str, make: Callable[[Path], Any], folder: Path) -> Any:
    made = make(folder)
    if not _takes_metrics(made):
        raise ValueError(f"--log {name} made a {type(made).__name__}, which has neither log nor add_scalar")
    return made
