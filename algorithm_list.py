"""The algorithms that are compared. Edit me: copy a line, change it, done; `--algorithm_list NAME` picks a list.

    Algorithm("sgd", lr=5e-3, momentum=0.9, dampening=0.9, coordinate_clip=0.1)

The first word is a name of `torch_optimizer.OPTIMIZERS` (or any torch.optim.Optimizer class), the rest its options. One
row serves both scripts: `lr` is what run_convergence.py trains with; `step_size` is the distance between the points of
run_landscape.py's loss scan, and left out it is chosen from the curvature. `coordinate_clip=0.1` cuts the largest 10 %
of all gradient coordinates to a common height.

The paper gives every algorithm of the SGD family momentum 0.9 as m <- 0.9 m + 0.1 g: momentum and dampening both 0.9.
"""

from torch_optimizer import Algorithm

MOMENTUM = dict(momentum=0.9, dampening=0.9)

# Pan & Li, OPT 2022, tables 2 to 6, machine translation: clipping at 5 % throughout.
WORKSHOP = [
    Algorithm("sgd", lr=1e-3, **MOMENTUM),
    Algorithm("sgd", lr=8e-1, **MOMENTUM, coordinate_clip=0.05),
    Algorithm("adam", lr=2e-3),
    Algorithm("adafactor", relative_step=True),
    Algorithm("adafactor", relative_step=True, coordinate_clip=0.05),
    Algorithm("normalized_sgd", lr=5e-4, **MOMENTUM),
    Algorithm("normalized_sgd", lr=5e-4, **MOMENTUM, coordinate_clip=0.05),
]

# Pan & Li, arXiv:2306.00204, machine translation: 10 % for the SGD family, 50 % for the adaptive ones.
MACHINE_TRANSLATION = [
    Algorithm("sgd", lr=1e-3, **MOMENTUM),
    Algorithm("sgd", lr=5e-3, **MOMENTUM, coordinate_clip=0.1),
    Algorithm("adam", lr=2e-3),
    Algorithm("adam", lr=3e-3, coordinate_clip=0.5),
    Algorithm("adam", lr=3e-3, clip_update=0.5),
    Algorithm("adafactor", relative_step=True),
    Algorithm("adafactor", relative_step=False, lr=3e-2, coordinate_clip=0.5),
    Algorithm("lion", lr=2e-3),
    Algorithm("lion", lr=2e-3, clip_update=0.5),
    Algorithm("sign_sgd", lr=2e-3, **MOMENTUM),
    Algorithm("normalized_sgd", lr=5e-4, **MOMENTUM),
    Algorithm("normalized_sgd", lr=6e-4, **MOMENTUM, coordinate_clip=0.1),
]

# The same paper, masked language modelling (table 2): other learning rates, and Adafactor's fixed.
WORKSHOP_MASKED_LANGUAGE_MODELING = [
    Algorithm("sgd", lr=1e-2, **MOMENTUM),
    Algorithm("sgd", lr=8e-1, **MOMENTUM, coordinate_clip=0.05),
    Algorithm("adam", lr=2e-3),
    Algorithm("adafactor", relative_step=False, lr=1e-2),
    Algorithm("adafactor", relative_step=False, lr=1e-2, coordinate_clip=0.05),
    Algorithm("normalized_sgd", lr=5e-5, **MOMENTUM),
    Algorithm("normalized_sgd", lr=5e-5, **MOMENTUM, coordinate_clip=0.05),
]

# Pan & Li, arXiv:2306.00204, autoregressive language modelling.
AUTOREGRESSIVE = [
    Algorithm("sgd", lr=3e-5, **MOMENTUM),
    Algorithm("adam", lr=1e-4),
    Algorithm("adam", lr=1.5e-4, coordinate_clip=0.5),
    Algorithm("adafactor", relative_step=False, lr=5e-4),
    Algorithm("adafactor", relative_step=False, lr=5e-3, coordinate_clip=0.5),
    Algorithm("lion", lr=2e-4),
]

def toy(sgd, sgd_clipped, adam, lion, sign_sgd, normalized_sgd, normalized_sgd_clipped) -> list[Algorithm]:
    """Every optimizer of the package once, the paper's three clipped variants at 10 %, at these learning rates."""
    return [
        Algorithm("sgd", lr=sgd, **MOMENTUM),
        Algorithm("sgd", lr=sgd_clipped, **MOMENTUM, coordinate_clip=0.1),
        Algorithm("adam", lr=adam),
        Algorithm("adafactor", relative_step=True),
        Algorithm("adafactor", relative_step=True, coordinate_clip=0.1),
        Algorithm("lion", lr=lion),
        Algorithm("sign_sgd", lr=sign_sgd, **MOMENTUM),
        Algorithm("normalized_sgd", lr=normalized_sgd, **MOMENTUM),
        Algorithm("normalized_sgd", lr=normalized_sgd_clipped, **MOMENTUM, coordinate_clip=0.1),
    ]


# What `python run_convergence.py --tune_lr --tune_epochs 5` chose for the toy task; and, rounded, with `--dataset toy
# --model toy` for `--task masked_language_modeling` and `--task autoregressive`, where larger steps diverge.
TOY = toy(10.0, 3.16, 2e-2, 1.58e-2, 1.58e-2, 3.16e-3, 1e-2)
TOY_OTHER = toy(1.0, 3.16, 3.2e-3, 1e-3, 1.6e-3, 1e-3, 1e-3)


def gradient_heterogeneity(adam, rmsprop, sgd, sgd_momentum, sign_sgd, sign_sgd_momentum) -> list[Algorithm]:
    """Tomihari & Sato's six optimizers at these learning rates. Momentum is m <- 0.9 m + g here. Signum's own average,
    m <- 0.9 m + 0.1 g from zero, is a tenth of it at every step, so its signs are the same."""
    return [
        Algorithm("adam", lr=adam),
        Algorithm("rmsprop", lr=rmsprop),
        Algorithm("sgd", lr=sgd),
        Algorithm("sgd", lr=sgd_momentum, momentum=0.9),
        Algorithm("sign_sgd", lr=sign_sgd),
        Algorithm("sign_sgd", lr=sign_sgd_momentum, momentum=0.9),
    ]


# Tomihari & Sato, arXiv:2502.00213, the learning rates of their code, for gradients clipped to norm 1 (the tasks'
# --max_grad_norm). For roberta the schedule is linear; at others theirs are these but for sign_sgd with momentum on cb
# (constant: 1e-6) and rte (cosine, linear_with_warmup: 1e-5). The first line is ours: small models from scratch.
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

ALGORITHM_LISTS = {
    "workshop": WORKSHOP,
    "workshop_masked_language_modeling": WORKSHOP_MASKED_LANGUAGE_MODELING,
    "machine_translation": MACHINE_TRANSLATION,
    "autoregressive": AUTOREGRESSIVE,
    "toy": TOY,
    "toy_other": TOY_OTHER,
    **{name: gradient_heterogeneity(*rates) for name, rates in LEARNING_RATES.items()},
}
