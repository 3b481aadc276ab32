"""Optimizers with coordinate-wise clipping, and the registry of names that `algorithm_list.py` uses."""

from torch_optimizer.adafactor import Adafactor
from torch_optimizer.adam_clip import AdamClip
from torch_optimizer.algorithm import Algorithm
from torch_optimizer.direction_optimizer import DirectionOptimizer
from torch_optimizer.lion import Lion
from torch_optimizer.muon_adamw import MuonAdamW
from torch_optimizer.normalized_sgd import NormalizedSGD
from torch_optimizer.registry import OPTIMIZERS
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
