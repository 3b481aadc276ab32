"""Softmax regression on classes with Zipf's frequencies: what gradient descent and sign descent do to rare classes.

The setting of arXiv:2402.19449. Every class has one input of its own, and W starts from 0. Class k has the frequency
pi_k, proportional to 1 / k. By symmetry p, the probability of the right class, is all that matters: with a = W_kk and
gamma = c / (c - 1), the loss is l_k = log(1 + (c - 1) exp(-gamma a)). Then

    gradient flow   a' = pi_k (1 - p)   so that   l_k -> 1 / (gamma pi_k t)
    sign descent    a' = 1, the other logits fall as fast   so that   l_k = log(1 + (c - 1) exp(-2 t))
"""

import math

import torch
from torch import Tensor

from known_cases.rows import Row, near
from known_cases.trajectory import Trajectory
from torch_optimizer import Algorithm

CLASSES = 8
SOURCE = "2402.19449"


def zipf_frequencies(classes: int) -> Tensor:
    """pi_k, proportional to 1 / k; [classes], their sum 1."""
    weights = 1 / torch.arange(1, classes + 1, dtype=torch.float64)
    return weights / weights.sum()


def class_losses(weights: Tensor) -> Tensor:
    """-log p_k of class k at its own input, the k-th unit vector: [classes]."""
    return torch.nn.functional.cross_entropy(weights, torch.arange(len(weights)), reduction="none")


def losses_of_rare_classes() -> list[Row]:
    """The loss of the most frequent class, of a middle one and of the rarest, late in training."""
    frequencies = zipf_frequencies(CLASSES)

    def loss_fn(params, batch):  # the mean over these is the expected loss
        return CLASSES * frequencies * class_losses(params["W"])

    def losses_after(row: Algorithm, steps: int) -> Tensor:
        trajectory = Trajectory(row, {"W": torch.zeros(CLASSES, CLASSES, dtype=torch.float64)}, loss_fn, {})
        for _ in range(steps):
            trajectory.take_step()
        return class_losses(trajectory.params["W"].detach())

    lr, steps, gamma = 8.0, 2000, CLASSES / (CLASSES - 1)
    descent = losses_after(Algorithm("sgd", lr=lr), steps)
    early, late = (losses_after(Algorithm("sign_sgd", lr=0.01), steps) for steps in (400, 800))
    classes = [0, CLASSES // 2, CLASSES - 1]
    products = (gamma * frequencies * lr * steps * descent)[classes].tolist()
    rates = (early / late).log()[classes].div(4).tolist()
    where = f"Zipf classes 1, {CLASSES // 2 + 1}, {CLASSES}"
    at_eight = [math.log1p((CLASSES - 1) * math.exp(-2 * 8))] * len(classes)
    return [
        near(
            f"{where}, gradient descent: loss t pi_k c / (c - 1)", products, [1.0] * len(classes), SOURCE, within=0.02
        ),
        near(f"{where}, sign descent: loss at t = 8", late[classes].tolist(), at_eight, SOURCE),
        near(f"{where}, sign descent: rate of decay", rates, [2.0] * len(classes), SOURCE, within=0.01),
    ]
