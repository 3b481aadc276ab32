"""Optimizers with coordinate-wise clipping, and the registry of names that `algorithm_list.py` uses.

Rows and names are here at once. A class is imported when it is asked for, and torch, which takes seconds, with it.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_optimizer.algorithm import Algorithm
from torch_optimizer.registry import OPTIMIZERS

if TYPE_CHECKING:
    from torch_optimizer.adafactor import Adafactor
    from torch_optimizer.adam_clip import AdamClip
    from torch_optimizer.direction_optimizer import DirectionOptimizer
    from torch_optimizer.lion import Lion
    from torch_optimizer.muon_adamw import MuonAdamW
    from torch_optimizer.normalized_sgd import NormalizedSGD
    from torch_optimizer.sgd_clip import SGDClip
    from torch_optimizer.shadow_step import ShadowStep
    from torch_optimizer.sign_sgd import SignSGD

__all__ = [
    "OPTIMIZERS",
    "Adafactor",
    "AdamClip",
    "Algorithm",
    "DirectionOptimizer",
    "Lion",
    "MuonAdamW",
    "NormalizedSGD",
    "SGDClip",
    "ShadowStep",
    "SignSGD",
]

if all(Path(__file__).with_name(name).exists() for name in ("diffgrad.py", "yogi.py")):  # both are that package's
    raise ImportError(
        f"{Path(__file__).parent} mixes the files of two packages, torch-optimizer of PyPI and "
        f"sharpness-of-optimizers, which have the same import name: uninstall both, and install each in an environment "
        f"of its own"
    )

MODULES = {
    "Adafactor": "adafactor",
    "AdamClip": "adam_clip",
    "DirectionOptimizer": "direction_optimizer",
    "Lion": "lion",
    "MuonAdamW": "muon_adamw",
    "NormalizedSGD": "normalized_sgd",
    "SGDClip": "sgd_clip",
    "ShadowStep": "shadow_step",
    "SignSGD": "sign_sgd",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}: it is that of sharpness-of-optimizers, and not "
            f"torch-optimizer of PyPI, which has the same import name"
        )
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
