"""The states and directions of the rows, spread over the ranks (`--shard`).

A state lives on one rank, with all rows that read it, and so do their directions. The gradient is whole on every rank.
So thresholds, norms and Adafactor's factors are those of one process, bit for bit. To measure, the owners hand out
their directions in groups (`at_hand`): what is sent at a point is one copy of each direction.
"""

from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from typing import Any

import torch
from torch import Tensor, nn

from curvature.direction import Direction
from curvature.objective import Params
from curvature.ranks import Ranks
from landscape_utils import PseudoUpdates
from torch_optimizer import Algorithm
from training.memory import stand_ins

LARGEST = 4e9  # parameters: with more of them, a model and its gradient leave no room on any card
AT_HAND = 4  # directions that every rank holds at once


def check_size(model: nn.Module) -> None:
    """Raises: ValueError, in one line, for a model that is too large for whole copies of its parameters."""
    size = sum(p.numel() for p in model.parameters())
    if size > LARGEST:
        raise ValueError(
            f"--shard spreads states and directions, and the model stays whole on every rank: at most "
            f"{LARGEST / 1e9:.0f} billion parameters, got {size / 1e9:.1f}; larger ones need their parameters sharded, "
            "too, which this project does not do"
        )


class RemoteDirection(Direction):
    """The direction of a row, in the hands of one rank. All know its length and its largest coordinate; its tensors
    come by `fetched`, which all ranks call at the same place."""

    def __init__(self, own: Direction | None, source: int, like: Params, numbers: tuple[float, float], ranks: Ranks):
        super().__init__({})
        self.own, self.source, self.like, self.ranks = own, source, like, ranks
        self.length, self.largest = numbers

    def fetched(self) -> Direction:
        """The direction itself, on every rank."""
        tensors = {n: torch.empty_like(p, requires_grad=False) for n, p in self.like.items()} if not self.own else None
        direction = self.own or Direction(tensors or {})
        self.ranks.broadcast((direction[name] for name in self.like), self.source)
        direction.length, direction.largest = self.length, self.largest
        return direction


def at_hand(directions: Mapping[str, Direction]) -> Iterator[dict[str, Direction]]:
    """The directions in groups, in their order, each with its tensors on this rank; one group where all have them."""
    if not any(isinstance(v, RemoteDirection) for v in directions.values()):
        yield dict(directions)
        return
    labels = list(directions)
    for start in range(0, len(labels), AT_HAND):
        group = {label: directions[label] for label in labels[start : start + AT_HAND]}
        yield {label: v.fetched() if isinstance(v, RemoteDirection) else v for label, v in group.items()}


class ShardedUpdates:
    """`PseudoUpdates` over the ranks: the same steps and, on the leader, the same checkpoint."""

    def __init__(self, params: dict[str, nn.Parameter], algorithms: dict[str, Algorithm], device, ranks: Ranks):
        self.ranks = ranks
        with torch.random.fork_rng(devices=[]):
            states = PseudoUpdates(stand_ins(params), algorithms).states
        groups = list(dict.fromkeys(states.values()))
        self.sources = {label: ranks.owner(groups.index(state)) for label, state in states.items()}
        self.first = {label: next(n for n in states if states[n] is state) for label, state in states.items()}
        own = {label: row for label, row in algorithms.items() if self.sources[label] == ranks.rank}
        self.own = PseudoUpdates(params, own, device)
        self.like: Params = self.own.mirrors or params

    def _told(self, number_of: Callable[[str], list[float]], count: int) -> dict[str, list[float]]:
        """label -> `count` numbers, each from the rank that has the row."""
        labels = list(self.sources)
        nothing = [0.0] * count

        def table(rank: int) -> Tensor:
            rows = [number_of(label) if self.sources[label] == rank else nothing for label in labels]
            return torch.tensor(rows, dtype=torch.float64)

        if not labels:
            return {}
        rows = self.ranks.rows(table, range(self.ranks.world))
        return {label: rows[self.sources[label], place].tolist() for place, label in enumerate(labels)}

    def advance(self, collect: bool = True) -> dict[str, Direction]:
        """As of `PseudoUpdates`, with the directions where they are."""
        own = self.own.advance(collect)
        if not collect:
            return {}
        told = self._told(lambda label: [own[label].length, own[label].largest], 2)
        return {
            label: RemoteDirection(own.get(label), self.sources[label], self.like, (length, largest), self.ranks)
            for label, (length, largest) in told.items()
        }

    def not_finite(self, directions: Mapping[str, Direction]) -> list[str]:
        own = {label: v.own for label, v in directions.items() if isinstance(v, RemoteDirection) and v.own}
        lost = self.own.not_finite(own)
        told = self._told(lambda label: [float(label in lost)], 1)
        return [label for label in directions if told[label][0]]

    def learning_rates(self) -> dict[str, float]:
        own = self.own.learning_rates()
        return {label: rate for label, (rate,) in self._told(lambda label: [own[label]], 1).items()}

    @property
    def labels(self) -> list[str]:
        return list(self.sources)

    def drop(self, label: str) -> None:
        if self.sources.pop(label) == self.ranks.rank:
            self.own.drop(label)

    def state_dict(self) -> dict[str, dict]:
        """As of `PseudoUpdates`, on the leader; what the others return is of no use."""
        own, states = self.own.state_dict(), {}
        for label, source in self.sources.items():
            first = next(n for n in self.sources if self.first[n] == self.first[label])
            if first != label:
                states[label] = states[first]
            else:
                mine = _packed(own[label]) if source == self.ranks.rank and source else None
                packed = self.ranks.to_leader(mine, source)
                states[label] = own[label] if label in own else _unpacked(packed) if packed is not None else {}
        return states

    def load_state_dict(self, states: dict[str, dict]) -> None:
        self.own.load_state_dict({label: state for label, state in states.items() if label in self.own.states})


def _packed(state: dict[str, Any]) -> Tensor:
    """[bytes]"""
    file = BytesIO()
    torch.save(state, file)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> dict[str, Any]:
    return torch.load(BytesIO(packed.numpy().tobytes()), map_location="cpu", weights_only=True)
