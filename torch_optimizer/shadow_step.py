"""The update directions of optimizers of other packages."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from torch_optimizer.algorithm import Algorithm


class ShadowStep:
    """The update directions of an optimizer that only knows `step()`: it steps on float64 copies of the parameters.

    v = (x' - x) / lr, with x' where its step would go. In float32 the difference would lose the small coordinates.
    """

    def __init__(self, algorithm: Algorithm, params: Iterable[Tensor]):
        self.params = list(params)
        self.copies = [nn.Parameter(p.detach().to(torch.float64, copy=True)) for p in self.params]
        self.optimizer = algorithm.build(self.copies)

    def directions(self) -> dict[Tensor, Tensor]:
        for copy, p in zip(self.copies, self.params, strict=True):
            copy.data.copy_(p.detach())
            copy.grad = None if p.grad is None else p.grad.double()
        self.optimizer.step()
        # a rate of None is the optimizer's own affair, of 0 no step: v = x' - x then
        learning_rate = {copy: g["lr"] or 1.0 for g in self.optimizer.param_groups for copy in g["params"]}
        return {
            p: ((copy.data - p.detach()) / learning_rate[copy]).to(p.dtype)
            for copy, p in zip(self.copies, self.params, strict=True)
            if copy in learning_rate and p.grad is not None  # Muon takes the matrices only
        }

    def state_dict(self) -> dict:
        return self.optimizer.state_dict()  # the copies are made anew at every step

    def load_state_dict(self, state: dict) -> None:
        self.optimizer.load_state_dict(state)
        copies = [copy for group in self.optimizer.param_groups for copy in group["params"]]
        for i, copy in enumerate(copies):  # torch has cast all of it to float64: NAdam's float32 product, for one
            for name, value in state["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.optimizer.state[copy][name] = value.to(self.optimizer.state[copy][name].device)
