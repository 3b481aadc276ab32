"""Muon for the hidden matrices, AdamW for the rest: the way Muon is used."""

import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer

OUTER = (  # embeddings by the usual names, then output heads, which are modules of the model itself
    r"embed|(^|\.)(wte|wpe|shared|relative_attention_bias)\."
    r"|^(lm_head|head|heads|classifier|score|fc|qa_outputs|vocab_projector)\."
)


class MuonAdamW(Optimizer):
    r"""torch.optim.Muon on the hidden matrices of a model, torch.optim.AdamW on all its other parameters.

    A matrix is hidden if its name does not match `adamw_names`. Embeddings and the output head are matrices, too. But
    their rows stand for tokens or classes, and orthogonalizing them does harm [Jordan et al. 2024,
    kellerjordan.github.io/posts/muon]. With the default `adjust_lr_fn`, Muon's step has the root mean square of a usual
    AdamW step. So both take one lr and one weight decay [Liu et al., arXiv:2502.16982].

    Args:
        params: (name, parameter) pairs, e.g. `model.named_parameters()`.
        lr: of both, in [0, inf), unless AdamW has its own.
        weight_decay: of both, decoupled.
        momentum, nesterov, ns_steps: of torch.optim.Muon.
        adjust_lr_fn: of torch.optim.Muon: "match_rms_adamw", or "original" for a factor sqrt(max(1, rows / columns)).
        adamw_lr: AdamW's own lr, for `adjust_lr_fn="original"`; None: lr.
        betas, eps: of torch.optim.AdamW.
        adamw_names: regular expression for the names of matrices that AdamW takes; the default knows the names in
            transformers and torchvision. In a model with other names give your own, and look at
            `optimizer.param_groups[0]["param_names"]`, which Muon has.

    State: as torch.optim.Muon's and AdamW's.  param_groups: that of Muon first; one is left out if it is empty.
    Raises: ValueError for parameters without names, or an option that Muon or AdamW refuses.

    Example:
        >>> model = torch.nn.ModuleDict(dict(embed=torch.nn.Embedding(9, 4), layer=torch.nn.Linear(4, 4)))
        >>> optimizer = MuonAdamW(model.named_parameters(), lr=1e-3)
        >>> [group["param_names"] for group in optimizer.param_groups]
        [['layer.weight'], ['embed.weight', 'layer.bias']]
    """

    takes_names = True  # `Algorithm.build` passes pairs

    def __init__(
        self,
        params: Iterable[tuple[str, Tensor]],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = "match_rms_adamw",
        adamw_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        adamw_names: str = OUTER,
    ) -> None:
        self._muon = Muon(
            [torch.zeros(1, 1)],
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        adamw_lr = lr if adamw_lr is None else adamw_lr
        self._adamw = AdamW([torch.zeros(1)], lr=adamw_lr, betas=betas, eps=eps, weight_decay=weight_decay)
        hidden, others = _split(list(params), adamw_names)
        groups = [{"params": hidden, **self._muon.defaults}] if hidden else []
        groups += [{"params": others, **self._adamw.defaults}] if others else []
        super().__init__(groups, {})
        self._share()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """For the constructor. Raises ValueError for a group that is neither Muon's nor AdamW's."""
        if "ns_steps" not in param_group and "betas" not in param_group:
            raise ValueError("MuonAdamW takes all parameters when it is made; it takes no further groups")
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, or the groups and state of `load_state_dict`."""
        super().__setstate__(state)
        self._muon, self._adamw = Muon([torch.zeros(1, 1)]), AdamW([torch.zeros(1)])
        self._share()

    def _share(self) -> None:
        """Give both optimizers their groups, the very dictionaries of this one, and its state."""
        self._muon.param_groups = [group for group in self.param_groups if "ns_steps" in group]
        self._adamw.param_groups = [group for group in self.param_groups if "ns_steps" not in group]
        self._muon.state = self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take Muon's step and AdamW's. Returns what `closure` returned, or None."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()
        self._adamw.step()
        return loss


def _split(pairs: list, adamw_names: str) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """The hidden matrices and the others, each in the order given."""
    if not all(isinstance(pair, tuple) and isinstance(pair[0], str) for pair in pairs):
        raise ValueError("MuonAdamW tells hidden matrices by name: give it model.named_parameters(), not tensors alone")
    try:
        pattern = re.compile(adamw_names)
    except (re.error, TypeError) as error:
        raise ValueError(f"adamw_names must be a regular expression, got {adamw_names!r}: {error}") from error
    hidden = [(name, p) for name, p in pairs if p.ndim == 2 and not pattern.search(name)]
    chosen = {name for name, _ in hidden}
    return hidden, [(name, p) for name, p in pairs if name not in chosen]
