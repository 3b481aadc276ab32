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

# For the toy task: every optimizer of the package once, the paper's three clipped variants, all at 10 %.
TOY = [
    Algorithm("sgd", lr=1e-1, **MOMENTUM),
    Algorithm("sgd", lr=1.0, **MOMENTUM, coordinate_clip=0.1),
    Algorithm("adam", lr=2e-3),
    Algorithm("adafactor", relative_step=True),
    Algorithm("adafactor", relative_step=True, coordinate_clip=0.1),
    Algorithm("lion", lr=5e-4),
    Algorithm("sign_sgd", lr=5e-4, **MOMENTUM),
    Algorithm("normalized_sgd", lr=1e-3, **MOMENTUM),
    Algorithm("normalized_sgd", lr=1e-3, **MOMENTUM, coordinate_clip=0.1),
]

ALGORITHM_LISTS = {
    "workshop": WORKSHOP,
    "machine_translation": MACHINE_TRANSLATION,
    "toy": TOY,
}
