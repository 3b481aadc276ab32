"""The update directions of optimizers of other packages."""

from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torch_optimizer.next_step import latest_rate, moves_of_step


class ShadowStep:
    """The update directions of an optimizer that only knows `step()`: it steps on copies of the parameters.

        v = (x' - x) / lr,   x' where its step would go

    The copies have the parameters' own dtype, so the rule and its state are those of a real run. The difference is
    taken beside it in float64 (`exact_moves`). So each coordinate of v has the precision of the optimizer's arithmetic:
    about 1e-6 of itself in float32, however small it is relative to x. The methods are those of `DirectionOptimizer`.

    Args:
        build: makes the optimizer, any torch.optim.Optimizer, on the copies (name -> copy).
        params: name -> parameter of the trajectory; they are read, never moved.
    """

    def __init__(self, build: Callable[[dict[str, Tensor]], Optimizer], params: Mapping[str, Tensor]) -> None:
        self.params = list(params.values())
        self.copies = [nn.Parameter(p.detach().clone()) for p in self.params]
        self.optimizer = build(dict(zip(params, self.copies, strict=True)))

    def state_key(self) -> Hashable:
        """As DirectionOptimizer's. What decides the state of a foreign optimizer is unknown: it is shared with none."""
        return self

    @torch.no_grad()
    def advance(self, collect: bool = True, thresholds: object = None) -> dict[Tensor, Tensor]:
        """Advance the state on the present `p.grad`. It does not use `thresholds`: its rule is its own.

        Returns: parameter -> v, new tensors; empty if not `collect`. Without a gradient, or where the optimizer has not
            the parameter (Muon has matrices only), it is left out.
        """
        for copy, p in zip(self.copies, self.params, strict=True):
            copy.data.copy_(p.detach())
            copy.grad = None if p.grad is None else p.grad.clone()
        if not collect:
            self.optimizer.step()
            return {}
        moves, lr = moves_of_step(self.optimizer, self.copies), latest_rate(self.optimizer)
        return {
            p: (moves[copy] / lr).to(p.dtype) for copy, p in zip(self.copies, self.params, strict=True) if copy in moves
        }

    def directions(self, moves: dict[Tensor, Tensor] | None = None) -> dict[Tensor, Tensor]:
        """parameter -> v; `moves` is what `advance` gave, None to advance now."""
        return self.advance() if moves is None else moves

    def latest_rate(self, holder: object = None) -> float:
        """The lr by which `advance` divided its moves."""
        return latest_rate(self.optimizer)

    def state_dict(self) -> dict:
        return self.optimizer.state_dict()  # the copies are made again at every step

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)
        copies = [copy for group in self.optimizer.param_groups for copy in group["params"]]
        for i, copy in enumerate(copies):  # torch has cast all of it to the dtype of the parameters
            for name, value in state["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.optimizer.state[copy][name] = value.to(self.optimizer.state[copy][name].device)
