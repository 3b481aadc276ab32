"""The algorithms that are compared. This file is yours to edit.

A row is one optimizer with its options. A list is some rows between square brackets:

    MINE = [
        Algorithm("sgd", lr=1e-3, momentum=0.9, dampening=0.9),
        Algorithm("sgd", lr=5e-3, momentum=0.9, dampening=0.9, coordinate_clip=0.1),
        Algorithm("adam", lr=2e-3),
    ]

Your lists may also stand in a file of their own: --algorithm_list my_lists.py:MINE.

To change a row, change its numbers. To add a row, copy a line. To add a list, write it anywhere
below, give it a name in ALGORITHM_LISTS at the end of this file (`"mine": MINE,`), and run

    python run_landscape.py --algorithm_list mine --output_dir output/mine
    python run_convergence.py --algorithm_list mine --output_dir output/mine-trained

What stands in a row:

- First the optimizer: a name of `torch_optimizer/registry.py`, such as "sgd", "adam" or "lion", or
  any torch.optim.Optimizer class, also your own (import it below, write it without quotes), or where
  to import one from: "my_package.module:MyOptimizer".
- `lr`: the rate that run_convergence.py trains with. In run_landscape.py the sharpness does not depend on it; the edge
  numbers, which judge the row's own step, do.
- `coordinate_clip=0.1`: cut the largest 10 % of all gradient coordinates to a common height.
- `clip_update=0.5` (adam, lion): cut the largest half of the finished update's coordinates.
- `step_size`: distance between the points of the loss scan; left out, the curvature chooses it.
- `groups=[{"params": r"bias|norm", "weight_decay": 0.0}]`: options of their own for the parameters
  in whose name the pattern is found; the first pattern that fits counts.
- All other options are the optimizer's own: see its file in `torch_optimizer/`, or torch.optim.

Keep one "sgd" row without clipping: sharpness is compared with it. A wrong row is answered before
the run starts, with its list, its number and what would do.

"muon" is torch.optim.Muon: it moves matrices alone, embeddings and output head among them, and
leaves biases and norms where they are. "muon_adamw" is how Muon is used: Muon for the hidden
matrices, AdamW for embeddings, head and the rest, both at one `lr`.
"""

from torch_optimizer import Algorithm

# The papers' momentum for SGD and its relatives is m <- 0.9 m + 0.1 g.
MOMENTUM = dict(momentum=0.9, dampening=0.9)
# The workshop paper's algorithms 1 and 2 start it from m = 0; torch and the released code from m = g.
FROM_ZERO = dict(momentum=0.9, dampening=0.9, zero_start=True)

# Where the papers leave a choice open, it is made like this in all lists:
# - Adafactor at a fixed rate still scales its step by the size of each tensor, max(1e-3, RMS(x)). The
#   workshop text puts the rate in the place of alpha_t, which holds that size, so it can be read
#   either way. `scale_parameter=False` leaves the size out.
# - Adafactor has no first moment, as in the workshop's algorithms 3 and 4 and in the released code;
#   the text around them says that all algorithms have momentum. `beta1=0.9` adds it.
# - "ours" marks a rate or a list that no paper reports.

# Pan & Li, OPT 2022, tables 2 to 6, machine translation: clipping at 5 % throughout. Image and
# binary classification take this list, too; there it is ours, for no paper reports rates for them.
WORKSHOP = [
    Algorithm("sgd", lr=1e-3, **FROM_ZERO),
    Algorithm("sgd", lr=8e-1, **FROM_ZERO, coordinate_clip=0.05),
    Algorithm("adam", lr=2e-3),
    Algorithm("adafactor", relative_step=True),
    Algorithm("adafactor", relative_step=True, coordinate_clip=0.05),
    Algorithm("normalized_sgd", lr=5e-4, **FROM_ZERO),
    Algorithm("normalized_sgd", lr=5e-4, **FROM_ZERO, coordinate_clip=0.05),
]

# The same paper, masked language modeling (table 2): other rates, and Adafactor's fixed.
WORKSHOP_MASKED_LANGUAGE_MODELING = [
    Algorithm("sgd", lr=1e-2, **FROM_ZERO),
    Algorithm("sgd", lr=8e-1, **FROM_ZERO, coordinate_clip=0.05),
    Algorithm("adam", lr=2e-3),
    Algorithm("adafactor", relative_step=False, lr=1e-2),
    Algorithm("adafactor", relative_step=False, lr=1e-2, coordinate_clip=0.05),
    Algorithm("normalized_sgd", lr=5e-5, **FROM_ZERO),
    Algorithm("normalized_sgd", lr=5e-5, **FROM_ZERO, coordinate_clip=0.05),
]

# Pan & Li, arXiv:2306.00204, machine translation: 10 % for the SGD family, 50 % for the adaptive ones.
# The rates are those of the released code. It passes no momentum; the text says that all have it.
MACHINE_TRANSLATION = [
    Algorithm("sgd", lr=1e-3, **MOMENTUM),
    Algorithm("sgd", lr=5e-3, **MOMENTUM, coordinate_clip=0.1),
    Algorithm("adam", lr=2e-3),
    Algorithm("adam", lr=3e-3, coordinate_clip=0.5),
    Algorithm("adam", lr=3e-3, clip_update=0.5),  # the rate is ours
    Algorithm("adafactor", relative_step=True),
    Algorithm("adafactor", relative_step=False, lr=3e-2, coordinate_clip=0.5),
    Algorithm("lion", lr=2e-3),
    Algorithm("lion", lr=2e-3, clip_update=0.5),  # the rate is ours
    Algorithm("sign_sgd", lr=2e-3, **MOMENTUM),
    Algorithm("normalized_sgd", lr=5e-4, **MOMENTUM),
    Algorithm("normalized_sgd", lr=6e-4, **MOMENTUM, coordinate_clip=0.1),
]

# The same paper, autoregressive language modeling.
AUTOREGRESSIVE = [
    Algorithm("sgd", lr=3e-5, **MOMENTUM),
    Algorithm("adam", lr=1e-4),
    Algorithm("adam", lr=1.5e-4, coordinate_clip=0.5),
    Algorithm("adafactor", relative_step=False, lr=5e-4),
    Algorithm("adafactor", relative_step=False, lr=5e-3, coordinate_clip=0.5),
    Algorithm("lion", lr=2e-4),
]

# Ours: each optimizer of the package, the papers' three clipped variants at 10 %. The rates are what
# `python run_convergence.py --tune_lr --tune_epochs 5` chose for the toy task.
TOY = [
    Algorithm("sgd", lr=10.0, **MOMENTUM),
    Algorithm("sgd", lr=3.16, **MOMENTUM, coordinate_clip=0.1),
    Algorithm("adam", lr=2e-2),
    Algorithm("adafactor", relative_step=True),
    Algorithm("adafactor", relative_step=True, coordinate_clip=0.1),
    Algorithm("lion", lr=1.58e-2),
    Algorithm("sign_sgd", lr=1.58e-2, **MOMENTUM),
    Algorithm("normalized_sgd", lr=3.16e-3, **MOMENTUM),
    Algorithm("normalized_sgd", lr=1e-2, **MOMENTUM, coordinate_clip=0.1),
]

# Ours: the same rows for `--dataset toy --model toy` with `--task masked_language_modeling` and
# `--task autoregressive`, where larger steps diverge. Rates tuned alike, and rounded.
TOY_OTHER = [
    Algorithm("sgd", lr=1.0, **MOMENTUM),
    Algorithm("sgd", lr=3.16, **MOMENTUM, coordinate_clip=0.1),
    Algorithm("adam", lr=3.2e-3),
    Algorithm("adafactor", relative_step=True),
    Algorithm("adafactor", relative_step=True, coordinate_clip=0.1),
    Algorithm("lion", lr=1e-3),
    Algorithm("sign_sgd", lr=1.6e-3, **MOMENTUM),
    Algorithm("normalized_sgd", lr=1e-3, **MOMENTUM),
    Algorithm("normalized_sgd", lr=1e-3, **MOMENTUM, coordinate_clip=0.1),
]

# Ours: optimizers that the two papers do not have. The rates are places to start from (`--tune_lr`).
BEYOND_THE_PAPERS = [
    Algorithm("sgd", lr=1e-3, **MOMENTUM),
    Algorithm("adam", lr=1e-3),
    Algorithm("adamw", lr=1e-3, weight_decay=0.1),
    Algorithm("muon_adamw", lr=1e-3, weight_decay=0.1),  # Muon for the hidden matrices, AdamW for the rest
    Algorithm("muon", lr=1e-3, weight_decay=0.1),  # matrices alone, embeddings included; all else stays
]

# Ours: optimizers that came later, beside SGD and Adam. The rates are what `python run_convergence.py --tune_lr
# --lr_grid 0.316 1 3.16 --tune_epochs 2` chose for the toy task; docs/results.md has those for real sentences.
MODERN = [
    Algorithm("sgd", lr=10.0, **MOMENTUM),
    Algorithm("adam", lr=6.3e-2),
    Algorithm("adamw", lr=6.3e-2, weight_decay=0.1),
    Algorithm("nadam", lr=6.3e-2),
    Algorithm("radam", lr=2.0),  # its first steps are shortened
    Algorithm("torch.optim:Adafactor", lr=1e-1),
    Algorithm("lion", lr=5e-2),
    Algorithm("muon_adamw", lr=6.3e-2, weight_decay=0.1),
]

# Ours: the long version's list with two optimizers that it does not have.
MACHINE_TRANSLATION_AND_BEYOND = [
    *MACHINE_TRANSLATION,
    Algorithm("adamw", lr=1e-3, weight_decay=0.1),
    Algorithm("muon", lr=1e-3, weight_decay=0.1),
]


def gradient_heterogeneity(
    *,
    adam: float,
    rmsprop: float,
    sgd: float,
    sgd_momentum: float,
    sign_sgd: float,
    sign_sgd_momentum: float,
) -> list[Algorithm]:
    """Tomihari & Sato's six optimizers at these learning rates. Momentum is m <- 0.9 m + g here. Signum's own average,
    m <- 0.9 m + 0.1 g from zero, is a tenth of it at every step. So its signs are the same."""
    return [
        Algorithm("adam", lr=adam),
        Algorithm("rmsprop", lr=rmsprop),
        Algorithm("sgd", lr=sgd),
        Algorithm("sgd", lr=sgd_momentum, momentum=0.9),
        Algorithm("sign_sgd", lr=sign_sgd),
        Algorithm("sign_sgd", lr=sign_sgd_momentum, momentum=0.9),
    ]


# Tomihari & Sato, arXiv:2502.00213, the learning rates of their code, for gradients clipped to norm 1 (the tasks'
# --max_grad_norm). For roberta the schedule is linear. The first line is ours: small models from scratch.
COLUMNS = ("adam", "rmsprop", "sgd", "sgd_momentum", "sign_sgd", "sign_sgd_momentum")
LEARNING_RATES = {
    #                                              adam  rmsprop  sgd    +momentum  sign_sgd  +momentum
    "gradient_heterogeneity":                     (1e-3, 1e-3,    0.1,   0.01,      1e-3,     1e-4),
    "gradient_heterogeneity/roberta-boolq":       (1e-5, 1e-5,    0.1,   0.01,      1e-5,     1e-5),
    "gradient_heterogeneity/roberta-mrpc":        (1e-5, 1e-5,    0.1,   0.01,      1e-5,     1e-5),
    "gradient_heterogeneity/roberta-sst2":        (1e-5, 1e-5,    0.1,   0.01,      1e-5,     1e-5),
    "gradient_heterogeneity/roberta-cb":          (1e-4, 1e-5,    0.1,   0.01,      1e-5,     1e-5),
    "gradient_heterogeneity/roberta-cola":        (1e-5, 1e-5,    0.01,  0.001,     1e-4,     1e-5),
    "gradient_heterogeneity/roberta-rte":         (1e-5, 1e-5,    0.01,  0.001,     1e-5,     1e-6),
    "gradient_heterogeneity/roberta-wic":         (1e-5, 1e-5,    0.01,  0.001,     1e-5,     1e-5),
    "gradient_heterogeneity/resnet18-flowers":    (1e-4, 1e-4,    0.1,   0.01,      1e-4,     1e-5),
    "gradient_heterogeneity/resnet18-aircraft":   (1e-4, 1e-4,    0.1,   0.01,      1e-4,     1e-5),
    "gradient_heterogeneity/vit-flowers":         (1e-5, 1e-5,    0.1,   0.01,      1e-4,     1e-5),
    "gradient_heterogeneity/vit-aircraft":        (1e-5, 1e-5,    0.5,   0.01,      1e-5,     1e-5),
}  # fmt: skip

# Their rates at the other schedules of --lr_scheduler, which they give for two tasks and the methods with momentum.
OTHER_SCHEDULES = {
    #                                                          sgd + momentum  sign_sgd + momentum
    "gradient_heterogeneity/roberta-cb-constant":              (0.01,          1e-6),
    "gradient_heterogeneity/roberta-cb-cosine":                (0.01,          1e-5),
    "gradient_heterogeneity/roberta-cb-linear_with_warmup":    (0.01,          1e-5),
    "gradient_heterogeneity/roberta-rte-constant":             (0.001,         1e-6),
    "gradient_heterogeneity/roberta-rte-cosine":               (0.001,         1e-5),
    "gradient_heterogeneity/roberta-rte-linear_with_warmup":   (0.001,         1e-5),
}  # fmt: skip

ALGORITHM_LISTS = {
    "workshop": WORKSHOP,
    "workshop_masked_language_modeling": WORKSHOP_MASKED_LANGUAGE_MODELING,
    "machine_translation": MACHINE_TRANSLATION,
    "autoregressive": AUTOREGRESSIVE,
    "toy": TOY,
    "toy_other": TOY_OTHER,
    "modern": MODERN,
    "beyond_the_papers": BEYOND_THE_PAPERS,
    "machine_translation_and_beyond": MACHINE_TRANSLATION_AND_BEYOND,
    **{
        name: gradient_heterogeneity(**dict(zip(COLUMNS, rates, strict=True))) for name, rates in LEARNING_RATES.items()
    },
    **{
        name: [Algorithm("sgd", lr=sgd, momentum=0.9), Algorithm("sign_sgd", lr=sign_sgd, momentum=0.9)]
        for name, (sgd, sign_sgd) in OTHER_SCHEDULES.items()
    },
}
