"""What a checkpoint of a landscape run holds."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from landscape.sharded import ShardedUpdates
from landscape.tables import PointTables
from landscape_utils import PseudoUpdates
from runs.checkpoints import fitting
from runs.saver import Saver
from torch_optimizer import Algorithm

log = logging.getLogger(__name__)


class Stored:
    """What a checkpoint of the run holds: model, training optimizer, the state of every pseudo-update, and the tables.
    Random numbers and the order of the data follow from the seed and the iteration, so they need no storing."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        updates: PseudoUpdates | ShardedUpdates,
        tables: PointTables,
        train_row: Algorithm,
        rows: Mapping[str, Algorithm],
        swept: PseudoUpdates | None = None,
        swept_rows: Mapping[str, Algorithm] | None = None,
    ):
        self.parts = {"model": model, "optimizer": optimizer, "tables": tables}
        self.updates = {"pseudo_updates": updates} | ({"clip_sweep": swept} if swept else {})
        self.optimizer, self.row = optimizer, train_row
        self.rows = {label: repr(row) for label, row in {**rows, **(swept_rows or {})}.items()}

    def state_dict(self) -> dict:
        state = {name: part.state_dict() for name, part in {**self.parts, **self.updates}.items()}
        return state | {"rows": self.rows, "train_row": repr(self.row), "train_optimizer": self.row.name}

    def load_state_dict(self, state: dict) -> None:
        """Restore. After `--allow_changes`, rows that are new or changed start with a fresh state, and so does another
        training optimizer. The same training optimizer with other options keeps its state."""
        same = {label for label, row in self.rows.items() if state["rows"].get(label) == row}
        for label in same.intersection(self.updates["pseudo_updates"].labels) - state["pseudo_updates"].keys():
            self.updates["pseudo_updates"].drop(label)  # it was not finite
        for name, updates in self.updates.items():
            own = state[name] if name == "pseudo_updates" else state.get(name, {})  # a sweep may be new
            updates.load_state_dict({label: one for label, one in own.items() if label in same})
        if state["train_optimizer"] != self.row.name:
            state["optimizer"] = self.optimizer.state_dict()
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if state["train_row"] != repr(self.row):
            for group in self.optimizer.param_groups:
                group.update(self.row.options)


@dataclass
class SeedProgress:
    """How far a run has come through its seeds: it trains from one after the other, each from its first update.

    progress = SeedProgress.restored(saver)
    for seed in progress.left(seeds):
        done = progress.take_up(stored)                 # updates of that seed that are done
        ...
        saver.after(iteration, partial(progress.state, seed, iteration, stored), number=progress.number(iteration))
        progress.end(seed, updates)
    """

    newest: tuple[int, dict[str, Any]] | None = None  # number and state of the checkpoint to resume from
    ended: list[int] = field(default_factory=list)
    before: int = 0  # updates of the seeds that ended: checkpoints are numbered over all of them

    @classmethod
    def restored(cls, saver: Saver) -> "SeedProgress":
        """Raises: DoesNotFit, in one line."""
        newest = saver.checkpoints.load()
        if newest is None:
            return cls()
        number, state = newest
        with fitting(f"checkpoint {number}"):
            state.setdefault("iteration", number)  # versions with one seed told neither
            state.setdefault("seed", None)
            return cls(newest, list(state.get("ended", [])), number - state["iteration"])

    def left(self, seeds: list[int]) -> list[int]:
        """The seeds that did not end, the one that was at work first. Raises: DoesNotFit if it is none of them."""
        left = [seed for seed in seeds if seed not in self.ended]
        at_work = self.newest and self.newest[1]["seed"]
        if at_work is None:
            return left
        with fitting(f"checkpoint {self.newest[0]}"):
            if at_work not in left:
                raise ValueError(f"it belongs to seed {at_work}")
        return [at_work, *(seed for seed in left if seed != at_work)]

    def take_up(self, stored: Stored) -> int:
        """Load the checkpoint, once, into the run of the first seed that is left; returns how many updates it has done.

        Raises: DoesNotFit, in one line."""
        if self.newest is None:
            return 0
        (_, state), self.newest = self.newest, None  # a second copy of a large model is not held any longer
        iteration = state["iteration"]
        with fitting(f"the checkpoint of iteration {iteration}"):
            stored.load_state_dict(state)
        log.info("continuing after iteration %d", iteration)
        return iteration

    def number(self, iteration: int) -> int:
        """Updates of the run, over all seeds, when the present one has done that many: also of its checkpoint."""
        return self.before + iteration

    def state(self, seed: int, iteration: int, stored: Stored) -> dict[str, Any]:
        return stored.state_dict() | {"seed": seed, "iteration": iteration, "ended": list(self.ended)}

    def end(self, seed: int, updates: int) -> None:
        self.ended.append(seed)
        self.before += updates
