"""The algorithm lists of the study. The rates are places to start from: run_convergence.py --tune_lr moves them."""

import algorithm_list
from algorithm_list import FROM_ZERO, MOMENTUM
from torch_optimizer import Algorithm

RATES = {"sgd": 1.0, "adam": 3e-3, "normalized_sgd": 3e-3}  # for small fresh models

# The seven rows of the workshop paper, with its clipping at 5 %.
WORKSHOP = [row.with_options(lr=RATES[row.name]) if row.name in RATES else row for row in algorithm_list.WORKSHOP]

# What the objections are about: the gap between SGD and Adam.
SGD_AND_ADAM = [
    Algorithm("sgd", lr=1.0, **FROM_ZERO),
    Algorithm("adam", lr=3e-3),
]

# The same as run_landscape.py --train_optimizer trains: SGD's momentum starts from the first gradient.
TRAINERS = [
    Algorithm("sgd", lr=1.0, **MOMENTUM),
    Algorithm("adam", lr=3e-3),
]

# The same for large pretrained encoders, which smaller rates suit.
FINE_TUNING = [row.with_options(lr=lr) for row, lr in zip(SGD_AND_ADAM, (0.1, 1e-4), strict=True)]

# Adafactor with its step scaled by the size of each tensor, and without.
PARAMETER_SCALING = [
    Algorithm("sgd", lr=1.0, **FROM_ZERO),
    Algorithm("adam", lr=3e-3),
    Algorithm("adafactor", relative_step=False, lr=1e-2),
    Algorithm("adafactor", relative_step=False, lr=3e-3, scale_parameter=False),
    Algorithm("adafactor", relative_step=False, lr=1e-2, coordinate_clip=0.05),
    Algorithm("adafactor", relative_step=False, lr=3e-3, scale_parameter=False, coordinate_clip=0.05),
]

ADAM = [Algorithm("adam", lr=1e-3)]  # trains the encoder that is fine-tuned later

# Optimizers that came after the papers, and those whose clip fraction is swept.
MODERN = algorithm_list.MODERN
SWEPT = [*SGD_AND_ADAM, Algorithm("adafactor", relative_step=False, lr=1e-2), Algorithm("lion", lr=1e-3)]
