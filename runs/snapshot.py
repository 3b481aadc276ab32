"""A copy of a run's state in the memory of the host."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from runs.estimate import free_memory

HOST = torch.device("cpu")


def has_room(state: Any) -> bool:
    """Whether the host has twice the memory that a snapshot takes: as much again stays free for the run. False where
    the system does not tell."""
    free = free_memory(HOST)
    return free is not None and 2 * size_of(state) <= free


def size_of(state: Any) -> int:
    """Bytes of the tensors in a state; what several of them share counts once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in plain_tensors(state)}.values())


def snapshot(state: Any) -> Any:
    """The state as it is now, with tensors on the CPU. `torch.save` writes the same bytes for both.

    Tensors that share memory, such as tied weights and the states of rows that differ only in what they make of one,
    are copied once and share it again.
    """
    copies: dict[tuple[torch.device, int, int], torch.UntypedStorage] = {}
    known = {}  # what deepcopy takes for copied already
    for t in plain_tensors(state):
        storage = t.untyped_storage()
        place = t.device, storage.data_ptr(), storage.nbytes()
        if place not in copies:
            copies[place] = storage.clone() if t.is_cpu else storage.cpu()
        made = torch.empty(0, dtype=t.dtype).set_(copies[place], t.storage_offset(), t.size(), t.stride())
        known[id(t)] = made.requires_grad_(t.requires_grad)
    return copy.deepcopy(state, known)


def plain_tensors(state: Any) -> list[Tensor]:
    """The tensors in dicts, lists and tuples that are nothing but their numbers; deepcopy serves the others."""
    plain = (t for t in tree_leaves(state) if type(t) is Tensor)
    return [t for t in plain if t.layout == torch.strided and not (t.is_conj() or t.is_neg() or vars(t))]
