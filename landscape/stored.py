"""What a checkpoint of a landscape run holds."""

from collections.abc import Mapping

from torch import nn
from torch.optim import Optimizer

from landscape.tables import PointTables
from landscape_utils import PseudoUpdates
from torch_optimizer import Algorithm


class Stored:
    """What a checkpoint of the run holds: model, training optimizer, the state of every pseudo-update, and the tables.
    Random numbers and the order of the data follow from the seed and the iteration, so they need no storing."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        updates: PseudoUpdates,
        tables: PointTables,
        train_row: Algorithm,
        rows: Mapping[str, Algorithm],
    ):
        self.parts = {"model": model, "optimizer": optimizer, "pseudo_updates": updates, "tables": tables}
        self.optimizer, self.row = optimizer, train_row
        self.rows = {label: repr(row) for label, row in rows.items()}

    def state_dict(self) -> dict:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        return state | {"rows": self.rows, "train_row": repr(self.row), "train_optimizer": self.row.name}

    def load_state_dict(self, state: dict) -> None:
        """Restore. After `--allow_changes`, rows that are new or changed start with a fresh state, and so does another
        training optimizer. The same training optimizer with other options keeps its state."""
        same = [label for label, row in self.rows.items() if state["rows"].get(label) == row]
        for label in set(same) - state["pseudo_updates"].keys():  # it was not finite
            self.parts["pseudo_updates"].drop(label)
        state["pseudo_updates"] = {k: s for k, s in state["pseudo_updates"].items() if k in same}
        if state["train_optimizer"] != self.row.name:
            state["optimizer"] = self.optimizer.state_dict()
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if state["train_row"] != repr(self.row):
            for group in self.optimizer.param_groups:
                group.update(self.row.options)
