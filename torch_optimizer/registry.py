"""The names that rows and `--train_optimizer` may use. A new optimizer needs its file and a line here.

The classes are imported when they are asked for: the names alone are enough to read a command line, without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PLACES = {  # name -> module and class
    "sgd": "torch_optimizer.sgd_clip.SGDClip",
    "normalized_sgd": "torch_optimizer.normalized_sgd.NormalizedSGD",
    "sign_sgd": "torch_optimizer.sign_sgd.SignSGD",
    "adam": "torch_optimizer.adam_clip.AdamClip",
    "adafactor": "torch_optimizer.adafactor.Adafactor",
    "lion": "torch_optimizer.lion.Lion",
    "adamw": "torch.optim.AdamW",
    "rmsprop": "torch.optim.RMSprop",
    "adagrad": "torch.optim.Adagrad",
    "nadam": "torch.optim.NAdam",
    "radam": "torch.optim.RAdam",
    "muon": "torch.optim.Muon",  # matrices alone, embeddings and output head included; all else stays where it is
    "muon_adamw": "torch_optimizer.muon_adamw.MuonAdamW",  # Muon for the hidden matrices, AdamW for the rest
}


class Registry(Mapping):
    """Name -> optimizer class."""

    def __getitem__(self, name: str) -> type[torch.optim.Optimizer]:
        module, _, optimizer_class = PLACES[name].rpartition(".")
        return getattr(import_module(module), optimizer_class)

    def __contains__(self, name: object) -> bool:
        return name in PLACES

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


OPTIMIZERS = Registry()
