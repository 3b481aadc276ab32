"""Several processes that do one piece of work: each a share of it, and all of them the same result.

The unit is the micro-batch, formed as for one process. Micro-batch j belongs to rank j mod W. What a micro-batch gives,
a row of numbers or a gradient, is added in the order of the micro-batches, as one process adds it. So no result depends
on W, not in its last bit. A plain all-reduce adds in another order for every W.

    ranks.rows(compute, batches)                  # compute(batch) of every micro-batch, on all ranks
    ranks.accumulate(backward, batches, params)   # the sum of their gradients, on all ranks

`ALONE` is the one process of an ordinary run: everything is its own, and nothing is sent.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from curvature.memory import is_out_of_memory

T = TypeVar("T")
PIECE = 2**20  # elements that are passed on at once: a rank adds a piece while the next one comes
LONGEST_MESSAGE = 2000  # bytes of a text that ranks tell each other
DIMENSIONS = 4  # of a row, at most


class RankLost(RuntimeError):
    """Another process of the run has ended, or does not answer."""


def whole(item: T) -> Sequence[T]:
    """An item as its only part."""
    return [item]


class Ranks:
    """One process alone."""

    rank, world = 0, 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    def rows(
        self,
        compute: Callable[[T], Tensor],
        items: Sequence[T],
        progress: Callable[[Sequence[T]], Iterable[T]] = iter,
    ) -> Tensor:
        """compute(item) of every item, stacked in their order: [items, *shape of a row], float64. Each is computed by
        one rank, and all ranks get all rows.

        progress: wraps the iteration over a rank's own items, such as tqdm.

        Raises: torch.OutOfMemoryError on all ranks where one has run out of memory, so that all try again alike;
            ValueError for no item.
        """
        if not len(items):
            raise ValueError("there is nothing to compute: no micro-batch was given")
        return torch.stack([compute(item) for item in progress(items)])

    def accumulate(
        self,
        backward: Callable[[Any], Tensor],
        items: Sequence[T],
        params: Iterable[Tensor],
        parts: Callable[[T], Sequence[Any]] = whole,
        everywhere: bool = True,
    ) -> Tensor:
        """backward(part) for every part of every item, each item by one rank. It adds to the `.grad` of `params`, which
        are None before, and returns a number. On return `.grad` holds the sum over all parts, added in their order.

        parts: of an item, whose gradients are computed one after the other.
        everywhere: False leaves the sum on the rank of the last item, `owner(items - 1)`, which saves one message of
            its size; `.grad` is of no use on the others.

        Returns: a number per item, the sum of its parts', [items] in float64.
        Raises: as `rows`.
        """
        if not len(items):
            raise ValueError("there is nothing to compute: no micro-batch was given")
        return torch.stack([reduce(add, [backward(part).double() for part in parts(item)]) for item in items])

    def owner(self, place: int) -> int:
        """The rank that holds the thing of this number, where things are too large for every rank to hold all."""
        return place % self.world

    def broadcast(self, tensors: Iterable[Tensor], source: int) -> None:
        """Overwrite the tensors with those of the rank `source`, whose shapes and types they have."""

    def to_leader(self, given: Tensor | None, source: int) -> Tensor | None:
        """The tensor [N] of bytes that the rank `source` gives, on the leader; None on the others, and where the leader
        itself is the source. All ranks call it."""
        return None

    def largest(self, number: int) -> int:
        """The largest of the ranks' numbers."""
        return number

    def agree(self, trouble: str | None) -> str | None:
        """The trouble of the first rank that has one, in words; None if none has. All ranks have come here then."""
        return trouble

    def leading(self, action: Callable[[], Any]) -> None:
        """Let the leader do it. Raises: its ValueError or OSError, on the other ranks as a `LeaderFailed`."""
        action()


ALONE = Ranks()


class LeaderFailed(ValueError):
    """What the leader was to do failed there, and the leader says so; the message is its line."""


class Connected(Ranks):
    """The processes of torch.distributed's default group, one of them this one.

    Small messages go over gloo, between CPUs. Gradients and directions go by the group's own backend.

    sent: what this rank has given to others, in bytes by kind: "rows", "gradients", "directions", "states", "words". A
        broadcast counts once, on its source.
    """

    def __init__(self) -> None:
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        backend = str(dist.get_backend_config() if hasattr(dist, "get_backend_config") else dist.get_backend())
        self.words = None if "gloo" in backend else dist.new_group(backend="gloo")
        self.sent: Counter[str] = Counter()
        self.waits = False  # whether this process waits for others at this moment

    # ---- rows -------------------------------------------------------------------------------------------------------

    def rows(
        self,
        compute: Callable[[T], Tensor],
        items: Sequence[T],
        progress: Callable[[Sequence[T]], Iterable[T]] = iter,
    ) -> Tensor:
        if not len(items):
            raise ValueError("there is nothing to compute: no micro-batch was given")
        mine, failed = torch.zeros(0, 0), ""
        try:
            own_items = [compute(item).detach() for item in progress(items[self.rank :: self.world])]
            mine = torch.stack(own_items).double().cpu() if own_items else mine
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failed = str(error)
        shape = list(mine.shape[1:]) if mine.numel() else []
        heads = self._gathered(torch.tensor([bool(failed), len(shape), *shape] + [0] * (DIMENSIONS - len(shape))))
        self._all_out_of_memory([bool(head[0]) for head in heads], failed)
        shape = heads[0][2 : 2 + int(heads[0][1])].tolist()  # rank 0 has the first item
        per_rank = -(-len(items) // self.world)
        padded = torch.zeros(per_rank, *shape, dtype=torch.float64)
        if mine.numel():
            padded[: len(mine)] = mine
        parts = self._gathered(padded)
        return torch.stack([parts[j % self.world][j // self.world] for j in range(len(items))])

    # ---- gradients --------------------------------------------------------------------------------------------------

    def accumulate(
        self,
        backward: Callable[[Any], Tensor],
        items: Sequence[T],
        params: Iterable[Tensor],
        parts: Callable[[T], Sequence[Any]] = whole,
        everywhere: bool = True,
    ) -> Tensor:
        if not len(items):
            raise ValueError("there is nothing to compute: no micro-batch was given")
        total = _OrderedSum(self, list(params), len(items))
        numbers = []
        for first in range(0, len(items), self.world):
            place, number, failed = first + self.rank, 0.0, ""
            if place < len(items):
                try:
                    for part in parts(items[place]):
                        number += backward(part).item()
                        total.take()
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    failed = str(error)
            heads = self._gathered(torch.tensor([bool(failed), number], dtype=torch.float64))
            self._all_out_of_memory([bool(head[0]) for head in heads], failed)
            numbers += [head[1] for head in heads]
            total.add(place)
        total.finish(everywhere)
        return torch.stack(numbers[: len(items)])

    def _all_out_of_memory(self, failed: Sequence[bool], own: str) -> None:
        if any(failed):
            raise torch.OutOfMemoryError(own or f"out of memory on rank {failed.index(True)}")

    # ---- words ------------------------------------------------------------------------------------------------------

    def largest(self, number: int) -> int:
        return max(int(each) for each in self._gathered(torch.tensor([number]), "words"))

    def agree(self, trouble: str | None) -> str | None:
        said = (trouble or "").encode()[:LONGEST_MESSAGE]
        text = torch.zeros(LONGEST_MESSAGE + 1, dtype=torch.uint8)
        text[0] = trouble is not None
        text[1 : 1 + len(said)] = torch.tensor(list(said), dtype=torch.uint8)
        for each in self._gathered(text, "words"):
            if each[0]:
                return bytes(each[1:].tolist()).rstrip(b"\0").decode(errors="replace")
        return None

    def leading(self, action: Callable[[], Any]) -> None:
        error = None
        if self.leads:
            try:
                action()
            except (ValueError, OSError) as failure:
                error = failure
        trouble = self.agree(None if error is None else " ".join(str(error).split()))
        if error is not None:
            raise error
        if trouble is not None:
            raise LeaderFailed(trouble)

    # ---- what is sent -----------------------------------------------------------------------------------------------

    def broadcast(self, tensors: Iterable[Tensor], source: int) -> None:
        for tensor in tensors:
            with self.waiting():
                dist.broadcast(tensor, source)
            self.sent["directions"] += tensor.nbytes * (self.rank == source)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wraps what waits for other ranks. Raises: RankLost for a connection that is gone."""
        self.waits = True
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankLost(" ".join(str(error).split())[:300]) from error
        finally:
            self.waits = False

    def to_leader(self, given: Tensor | None, source: int) -> Tensor | None:
        if source == 0:
            return None
        size = self.largest(0 if given is None else given.numel())
        pieces = (given if given is not None else torch.empty(size * self.leads, dtype=torch.uint8)).split(PIECE)
        with self.waiting():
            for piece in pieces:
                if self.rank == source:
                    dist.send(piece, 0)
                    self.sent["states"] += piece.nbytes
                elif self.leads:
                    dist.recv(piece, source)
        return torch.cat(pieces) if self.leads else None

    def _gathered(self, own: Tensor, kind: str = "rows") -> list[Tensor]:
        """The tensor of every rank, each of the same shape and on the CPU."""
        parts = [torch.empty_like(own) for _ in range(self.world)]
        with self.waiting():
            dist.all_gather(parts, own, group=self.words)
        self.sent[kind] += own.nbytes
        return parts


class _OrderedSum:
    """((g_0 + g_1) + g_2) + ..., where each micro-batch j gives some of these, in the hands of rank j mod W.

    The sum so far goes from rank to rank, in pieces, so that all ranks add at once. Each holds its own gradients and a
    piece. Rank 0 gets the sum of a round, one micro-batch of each rank, before the next round begins.
    """

    def __init__(self, ranks: Connected, params: list[Tensor], count: int) -> None:
        self.ranks, self.params, self.count = ranks, params, count
        self.has = torch.zeros(len(params), dtype=torch.uint8)  # which parameters have got a gradient
        kinds = dict.fromkeys((p.dtype, p.device) for p in params)
        self.groups = [[i for i, p in enumerate(params) if (p.dtype, p.device) == kind] for kind in kinds]
        self.sums: list[Tensor | None] = [None] * len(self.groups)  # flat, of each group
        self.later: list[list[list[Tensor]]] = [[] for _ in self.groups]  # own gradients that a sum has yet to get

    def take(self) -> None:
        """The gradient of the next part of this rank's micro-batch is complete: it leaves `.grad`."""
        for number, group in enumerate(self.groups):
            own, total = [self._taken(i) for i in group], self.sums[number]
            if total is None:
                self.sums[number] = torch.cat(own)
            elif self.ranks.leads:  # it has all that comes before
                for here, g in zip(total.split([g.numel() for g in own]), own, strict=True):
                    here += g
            else:
                self.later[number].append(own)

    def _taken(self, i: int) -> Tensor:
        """The gradient of a parameter, flat."""
        p = self.params[i]
        grad, p.grad = p.grad, None
        self.has[i] |= grad is not None
        # x + -0.0 is x, also for x = -0.0: as if nothing had been added
        absent = torch.full((1,), -0.0, dtype=p.dtype, device=p.device)
        return absent.expand(p.numel()) if grad is None else grad.reshape(-1)

    def add(self, place: int) -> None:
        """Add what this rank has taken of micro-batch `place`, its own in this round. All ranks call it in each round;
        a `place` past the last is nobody's."""
        ranks = self.ranks
        for number, own in enumerate(self.sums):
            if place < self.count and own is not None:
                self._pass_on(own, self.later[number], onward=place + 1 < self.count)
            after = place - ranks.rank + ranks.world  # the leader's next micro-batch
            if after < self.count and own is not None:
                self.later[number] = []
                if ranks.leads:
                    self._receive(own, ranks.world - 1)
                else:
                    self.sums[number] = None

    def _pass_on(self, own: Tensor, later: list[list[Tensor]], onward: bool) -> None:
        """Put own gradients on what comes from the rank before, piece by piece, and pass each on. The leader's own are
        part of `own` already."""
        ranks, under_way = self.ranks, []
        buffer = torch.empty_like(own[:PIECE])
        with ranks.waiting():
            for piece, *more in zip(own.split(PIECE), *map(_in_pieces, later), strict=True):
                if not ranks.leads:
                    arrived = buffer[: piece.numel()]
                    dist.recv(arrived, ranks.rank - 1)
                    torch.add(arrived, piece, out=piece)
                for each in more:
                    piece += each
                if onward:
                    under_way.append(dist.isend(piece, (ranks.rank + 1) % ranks.world))
                    ranks.sent["gradients"] += piece.nbytes
            for each in under_way:
                each.wait()

    def _receive(self, total: Tensor, source: int) -> None:
        with self.ranks.waiting():
            for piece in total.split(PIECE):
                dist.recv(piece, source)

    def finish(self, everywhere: bool) -> None:
        """Give the sum to all ranks, or leave it on one, as `.grad` of the parameters; None where no micro-batch had a
        gradient."""
        last = self.ranks.owner(self.count - 1)
        self.has = torch.stack(self.ranks._gathered(self.has, "words")).amax(0)
        if not everywhere and self.ranks.rank != last:
            self.sums = []
        for group, total in zip(self.groups, self.sums, strict=False):
            first = self.params[group[0]]
            size = sum(self.params[i].numel() for i in group)
            total = torch.empty(size, dtype=first.dtype, device=first.device) if total is None else total
            if everywhere:
                with self.ranks.waiting():
                    dist.broadcast(total, last)
                self.ranks.sent["gradients"] += total.nbytes * (self.ranks.rank == last)
            start = 0
            for i in group:
                p = self.params[i]
                if self.has[i]:  # not a view: its place in memory would decide how it is read
                    p.grad = torch.empty_like(p, requires_grad=False).copy_(
                        total[start : start + p.numel()].view(p.shape)
                    )
                start += p.numel()
        self.sums = []


def _in_pieces(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """torch.cat(tensors).split(PIECE), with one piece at a time in memory."""
    held, missing = [], PIECE
    for tensor in tensors:
        while tensor.numel():
            part, tensor = tensor[:missing], tensor[missing:]
            held.append(part)
            missing -= part.numel()
            if not missing:
                yield torch.cat(held)
                held, missing = [], PIECE
    if held:
        yield torch.cat(held)
