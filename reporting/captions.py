"""What each figure shows, in a sentence that a reader of the page understands without the papers."""

from __future__ import annotations

import re

PLACE = re.compile(r"_(seed|epoch|batch)(\d+)")
CAPTIONS = {
    "training_loss": "The loss of every batch before the update, and its mean over each epoch.",
    "scan": "The loss along every algorithm’s next step from the same parameters. Dashed: the quadratic model of slope "
    "and sharpness. Large markers: the lowest point. The panels zoom out from left to right.",
    "histogram": "How the sizes of a step’s coordinates are distributed, one panel per optimizer.",
    "directional_sharpness": "How much the loss bends along every algorithm’s next step: lower is flatter.",
    "sharpness_ratios": "How much the loss bends along every algorithm’s next step, relative to the reference: below 1 "
    "is flatter.",
    "edge_numbers": "How near each step comes to its edge, the distance beyond which the loss is higher than at the "
    "start. 1/2 is the best place of the quadratic model.",
    "critical_learning_rates": "Each row’s learning rate against the critical one, at which its step would end on its "
    "edge. Points above the line step too far.",
    "training_step": "The curvature along the step that the run itself takes, beside its learning rate’s limit and, "
    "where it was measured, the largest eigenvalue.",
    "decomposition": "Which layers or kinds of tensors hold slope and curvature of every step.",
    "loss_by_epoch": "The training loss of every algorithm, epoch by epoch.",
    "loss_by_iteration": "The training loss of every algorithm, update by update.",
    "learning_rates": "The final loss of every trial of the learning rate; circles: chosen.",
    "scores": "The scores on held-out examples after every epoch.",
    "gradient_against_curvature": "Every point is a tensor of the model: its gradient against its largest curvature.",
    "along_depth": "Gradient and largest curvature of every tensor, in the model’s order.",
    "lorenz": "Which share of the tensors holds which share of gradient and curvature. The further a curve hangs below "
    "the diagonal, the more uneven it is.",
    "sharpness_overlay": "Directional sharpness in each run.",
    "sharpness_ratios_overlay": "Directional sharpness relative to the reference, in each run.",
    "loss_overlay": "The training loss in each run.",
    "heterogeneity_overlay": "Gradient against curvature of every tensor, and how uneven both are, in each run.",
    "speed_and_sharpness": "How fast each optimizer trains, and its final loss against the sharpness of its steps.",
}


def caption(stem: str) -> str:
    """Of the figure with this file name: what it shows, after the place that it shows it at."""
    place = ", ".join(f"{word} {number}" for word, number in PLACE.findall(stem))
    kind = PLACE.sub("", stem)
    said = CAPTIONS.get(kind, kind.replace("_", " ").capitalize() + ".")
    return f"{place.capitalize()}. {said}" if place else said
