"""The names that rows and `--train_optimizer` may use. A new optimizer needs its file and a line here."""

import torch

from torch_optimizer.adafactor import Adafactor
from torch_optimizer.adam_clip import AdamClip
from torch_optimizer.lion import Lion
from torch_optimizer.muon_adamw import MuonAdamW
from torch_optimizer.normalized_sgd import NormalizedSGD
from torch_optimizer.sgd_clip import SGDClip
from torch_optimizer.sign_sgd import SignSGD

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": SGDClip,
    "normalized_sgd": NormalizedSGD,
    "sign_sgd": SignSGD,
    "adam": AdamClip,
    "adafactor": Adafactor,
    "lion": Lion,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "muon": torch.optim.Muon,  # matrices alone, embeddings and output head included; all else stays where it is
    "muon_adamw": MuonAdamW,  # Muon for the hidden matrices, AdamW for the rest
}
