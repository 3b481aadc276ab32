"""The gradient of a loss at one point, with the graph that lets it be differentiated again: exact products with H.

graph = GradientGraph(loss_fn, params, batches, names, keep_graphs=True)
graph.product({"w": u})                  # {"w": H_ww u}, a Hessian-vector product (HVP)
graph.product({"w": u, "b": c})          # both rows of [[H_ww, H_wb], [H_bw, H_bb]] times (u, c)
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from curvature.gelu import StoredGelu
from curvature.leaves import check_sources, leaves_at
from curvature.objective import Batch, LossFunction, Params

SUSPECT = 1000  # rounding errors of the loss: a block that changes it by less may be nothing but rounding
DISPLACEMENTS = 4  # points beside x at which such a block is measured again
DISPLACED_BY = 100  # their distance from x, in rounding errors of x


class GradientGraph:
    """The gradient of f at one point, with the graph that lets it be differentiated again.

    points: name -> tensor, aliases of the given parameters; only those in `names` are differentiated.
    gradients: name -> gradient of the mean loss, without graph, for each of `names`.
    loss: the mean loss.

    With `keep_graphs` each micro-batch's graph is built once and kept; without, once per product.
    Raises: FloatingPointError for a loss or gradient that is not finite; ValueError for losses that are not [B]."""

    def __init__(
        self, loss_fn: LossFunction, params: Params, batches: Sequence[Batch], names: list[str], keep_graphs: bool
    ):
        self.loss_fn, self.batches = loss_fn, batches
        self.points = leaves_at(params, names)
        self.examples, total_loss = 0, 0.0
        self.kept: list[dict[str, Tensor]] = []  # per micro-batch, gradients with their graph; empty if not kept
        self.gradients = {name: torch.zeros_like(self.points[name], requires_grad=False) for name in names}
        for batch in batches:
            gradients, losses = self._differentiate(batch, names)
            if not torch.isfinite(losses).all():
                raise FloatingPointError("the loss is not finite at these parameters, so it has no Hessian to measure")
            self.examples += len(losses)
            total_loss += losses.double().sum().item()
            for name, gradient in gradients.items():
                self.gradients[name] += gradient.detach()
            if keep_graphs:
                self.kept.append(gradients)
        self.loss = total_loss / self.examples
        for name, gradient in self.gradients.items():
            gradient /= self.examples
            if not torch.isfinite(gradient).all():
                raise FloatingPointError(f"the gradient of {name} is not finite: its Hessian block has no measure")

    def _differentiate(
        self, batch: Batch, names: list[str], points: Params | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Gradient, with its graph, of the sum of one micro-batch's losses, for those of `names` that it depends on.

        `points`: where; by default at the object's. Returns also the losses [B]."""
        points = points or self.points
        with torch.enable_grad(), StoredGelu():
            losses = self.loss_fn(points, batch)  # [B]
            if losses.dim() != 1:
                raise ValueError(f"loss_fn must return one loss for each example, shape [B]; got {list(losses.shape)}")
            if not losses.requires_grad:
                return {}, losses
            check_sources(losses, points)
            xs = [points[name] for name in names]
            gradients = torch.autograd.grad(losses.sum(), xs, create_graph=True, allow_unused=True)
        return {name: g for name, g in zip(names, gradients, strict=True) if g is not None}, losses.detach()

    def product(self, u: Params, x: Params | None = None) -> dict[str, Tensor]:
        """H u, for the part of H that belongs to the tensors of `u` (of `names`); u and the result have their shapes.

        `x`: other values of these tensors, at which the product is taken with new graphs."""
        keep = bool(self.kept) and x is None
        points = self.points | {name: value.detach().requires_grad_() for name, value in (x or {}).items()}
        totals = {name: torch.zeros_like(points[name], requires_grad=False) for name in u}
        for index, batch in enumerate(self.batches):
            gradients = self.kept[index] if keep else self._differentiate(batch, list(u), points)[0]
            # a gradient without graph: the loss does not depend on the tensor, or only linearly
            curved = {name: g for name in u if (g := gradients.get(name)) is not None and g.requires_grad}
            if not curved:
                continue
            weights = [u[name].to(points[name].dtype) for name in curved]
            parts = torch.autograd.grad(
                list(curved.values()), [points[name] for name in u], weights, retain_graph=keep, allow_unused=True
            )
            for total, part in zip(totals.values(), parts, strict=True):
                if part is not None:  # None: linear in the tensor, though not in what it is multiplied with
                    total += part
        return {name: total / self.examples for name, total in totals.items()}

    def bends_little(self, name: str, eigenvalue: float) -> bool:
        """Whether this curvature, over the tensor's own length (at least 1), changes the loss by little more than
        rounding. An exact 0 is no rounding error."""
        x = self.points[name]
        square = max(1.0, torch.linalg.vector_norm(x.detach(), dtype=torch.float64).item() ** 2)
        return 0 < abs(eigenvalue) * square <= SUSPECT * torch.finfo(x.dtype).eps * abs(self.loss)

    def rounding_of_product(self, name: str) -> float:
        """A norm that the rounding error of H_bb u is unlikely to exceed, for u of length 1.

        Lanczos' method sees rounding errors where they break the block's symmetry. In a block of one element, or with
        errors on the diagonal only, they do not. So the product is repeated where x differs by some rounding errors:
        that changes every rounding error and hardly any curvature."""
        x = self.points[name].detach()
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(2, x.shape, generator=generator) * 2 - 1
        u = signs.to(x) / math.sqrt(x.numel())  # every element counts alike
        product = self.product({name: u})[name]
        step = DISPLACED_BY * torch.finfo(x.dtype).eps
        changes = []
        for _ in range(DISPLACEMENTS):
            d = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) * x.abs().clamp_min(1)
            changes.append(self.product({name: u}, {name: x + step * d})[name] - product)
        return 10 * max(torch.linalg.vector_norm(change, dtype=torch.float64).item() for change in changes)
