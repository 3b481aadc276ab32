"""What each figure is called and shows, in words that a reader of the page understands without the papers."""

from __future__ import annotations

import re

PLACE = re.compile(r"_(seed|epoch|batch)(\d+)")
# Kind of figure -> its title, and what it shows; in the order of the page.
KINDS = {
    "speed_and_sharpness": (
        "Speed and sharpness",
        "How fast each optimizer trains, and its final loss against the sharpness of its steps.",
    ),
    "sharpness_ratios_overlay": (
        "Relative sharpness in each run",
        "Directional sharpness relative to the reference: below 1 is flatter.",
    ),
    "sharpness_overlay": ("Sharpness in each run", "How much the loss bends along each algorithm’s next step."),
    "loss_overlay": ("Training loss in each run", "The training loss of each algorithm, update by update."),
    "heterogeneity_overlay": (
        "Gradient and curvature in each run",
        "Every point is a tensor; the curves show how unevenly both are spread.",
    ),
    "sharpness_ratios": (
        "Relative sharpness",
        "How much the loss bends along every algorithm’s next step, relative to the reference: below 1 is flatter.",
    ),
    "edge_numbers": (
        "Edge numbers",
        "How near each step comes to its edge, the distance beyond which the loss is higher than at the start. 1/2 is "
        "the best place of the quadratic model.",
    ),
    "critical_learning_rates": (
        "Critical learning rates",
        "Each row’s learning rate against the critical one, at which its step would end on its edge. Points above the "
        "line step too far.",
    ),
    "training_step": (
        "The step that the run takes",
        "The curvature along it, beside the limit that its learning rate sets and, where it was measured, the largest "
        "eigenvalue.",
    ),
    "scan": (
        "Loss scan",
        "The loss along every algorithm’s next step, from the same parameters. Dashed: the quadratic model of slope "
        "and sharpness. Large markers: the lowest point. The panels zoom out from left to right.",
    ),
    "directional_sharpness": (
        "Sharpness",
        "How much the loss bends along every algorithm’s next step: lower is flatter.",
    ),
    "decomposition": ("Parts of the model", "Which layers or kinds of tensors hold slope and curvature of every step."),
    "clip_sweep": (
        "Sharpness against the share that is clipped",
        "Sharpness, slope and predicted decrease of a step when more and more of its largest coordinates are clipped.",
    ),
    "curvature_by_size": (
        "Curvature of the largest coordinates",
        "How much of the curvature along SGD’s step its largest coordinates carry, alone and together with the rest.",
    ),
    "histogram": (
        "Sizes of coordinates",
        "How the sizes of a step’s coordinates are distributed, one panel per optimizer.",
    ),
    "loss_by_epoch": ("Training loss by epoch", "The training loss of every algorithm, epoch by epoch."),
    "loss_by_iteration": ("Training loss by update", "The training loss of every algorithm, update by update."),
    "scores": ("Scores", "The scores on held-out examples after every epoch."),
    "learning_rates": ("Learning rates", "The final loss of every trial of the learning rate; circles: chosen."),
    "gradient_against_curvature": (
        "Gradient against curvature",
        "Every point is a tensor of the model: its gradient against its largest curvature.",
    ),
    "lorenz": (
        "How uneven they are",
        "Which share of the tensors holds which share of gradient and curvature. The further a curve hangs below the "
        "diagonal, the more uneven it is.",
    ),
    "along_depth": ("Along the model", "Gradient and largest curvature of every tensor, in the model’s order."),
    "training_loss": ("Training loss", "The loss of every batch before the update, and its mean over each epoch."),
}


def place_of(stem: str) -> int:
    """Where on the page a figure with this file name stands; those of one kind keep their order."""
    kind = PLACE.sub("", stem)
    return list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def title_and_caption(stem: str) -> tuple[str, str]:
    """
    >>> title_and_caption("histogram_epoch2_batch6")[0]
    'Sizes of coordinates, epoch 2, batch 6'
    """
    kind = PLACE.sub("", stem)
    title, shown = KINDS.get(kind, (kind.replace("_", " ").capitalize(), ""))
    return ", ".join([title, *(f"{word} {number}" for word, number in PLACE.findall(stem))]), shown
