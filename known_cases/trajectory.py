"""An optimizer row that trains on a small float64 loss, with the numbers along each of its steps."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from curvature.direction import Direction
from curvature.objective import Batch, LossFunction
from landscape_utils import PseudoUpdates, QuadraticModel, directional_sharpness, mean_loss
from torch_optimizer import Algorithm


@dataclass(frozen=True)
class Step:
    """A step that was taken: the quadratic model along its direction, its length and the loss behind it."""

    quadratic: QuadraticModel
    length: float
    loss_after: float

    @property
    def edge_quadratic(self) -> float:
        return self.quadratic.edge(self.length)

    @property
    def edge_realized(self) -> float:
        return self.quadratic.realized_edge(self.length, self.loss_after - self.quadratic.loss)


class Trajectory:
    """Training by one row. The update direction comes from `PseudoUpdates`, the step from the optimizer itself.

    Args:
        row: of an algorithm list; its lr is the one that it trains with.
        start: name -> tensor; copied.
        loss_fn: (params, batch) -> per-example losses [B].
        batch: the full batch; another one may be given at each step.
    """

    def __init__(self, row: Algorithm, start: Mapping[str, Tensor], loss_fn: LossFunction, batch: Batch):
        self.params = {name: nn.Parameter(value.detach().clone()) for name, value in start.items()}
        self.optimizer = row.build(self.params)
        self.pseudo = PseudoUpdates(self.params, {"row": row})
        self.loss_fn, self.batch = loss_fn, batch

    def take_step(self, batch: Batch | None = None) -> float:
        """Train without measuring. Returns the loss before the step."""
        loss = self._backward(self.batch if batch is None else batch)
        self.pseudo.advance(collect=False)
        self.optimizer.step()
        return loss

    def propose(self) -> tuple[Direction, QuadraticModel]:
        """The direction of the next step, and the loss along it."""
        self._backward(self.batch)
        direction = self.pseudo.advance()["row"]
        return direction, directional_sharpness(self.loss_fn, self.params, [direction], [self.batch])[0]

    def measure_step(self) -> Step:
        """Measure along the next step, then take it."""
        direction, quadratic = self.propose()
        length = self.lr * direction.length
        self.optimizer.step()
        return Step(quadratic, length, self.loss)

    def search_line(self) -> QuadraticModel:
        """Measure along the next direction, then go to the minimum of the quadratic model along it."""
        direction, quadratic = self.propose()
        self.optimizer.param_groups[0]["lr"] = quadratic.best_distance / direction.length
        self.optimizer.step()
        return quadratic

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    @property
    def loss(self) -> float:
        """On the full batch."""
        return mean_loss(self.loss_fn, self.params, [self.batch])

    def _backward(self, batch: Batch) -> float:
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.params, batch).mean()
        loss.backward()
        return loss.item()
