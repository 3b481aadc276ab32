"""v'Hv compared with two packages that multiply with the Hessian: curvlinops and pytorch-hessian-eigenthings.

Neither is among this project's requirements; a package that is not installed is skipped:

    pip install --no-deps curvlinops-for-pytorch hessian-eigenthings einops einconv linear-operator

curvlinops 3.0.1 is wrong on a model with `nn.LayerNorm`, by up to 1 % here. It takes torch.func.jvp of
torch.func.jacrev, which torch 2.13 gets wrong at that operation. The jvp of grad, and central differences, agree with
this project. So its transformer has the same norm written out.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from curvature.borrowing import measuring, twice_differentiable
from curvature.direction import Direction
from curvature.objective import functional_loss, trainable_parameters
from known_cases.rows import Row, near, skipped
from landscape_utils import PseudoUpdates, directional_sharpness
from torch_optimizer import Algorithm

SEQUENCES, TOKENS, VOCABULARY, WIDTH = 8, 6, 7, 16
ROWS = {
    "sgd": Algorithm("sgd", lr=1.0),
    "adam": Algorithm("adam", lr=1e-3),
    "sign_sgd": Algorithm("sign_sgd", lr=1e-3),
    "muon": Algorithm("muon", lr=1e-3),
}


class WrittenOutNorm(nn.LayerNorm):
    """nn.LayerNorm by way of elementary operations."""

    def forward(self, input: Tensor) -> Tensor:
        centered = input - input.mean(-1, keepdim=True)
        return self.weight * centered * (centered.square().mean(-1, keepdim=True) + self.eps).rsqrt() + self.bias


class Transformer(nn.Module):
    """One encoder layer between an embedding and a head; token numbers [B, T] -> logits [B T, VOCABULARY]."""

    def __init__(self, norm: type[nn.LayerNorm]):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=2, dim_feedforward=2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True
        )
        self.layer.norm1, self.layer.norm2 = norm(WIDTH), norm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(tokens))).flatten(0, 1)


def losses(forward: Callable, batch) -> Tensor:
    """The mean cross-entropy over the tokens of each sequence [B]."""
    each = nn.functional.cross_entropy(forward(batch["x"]), batch["y"].flatten(), reduction="none")
    return each.view(len(batch["x"]), -1).mean(1)


def by_curvlinops(model: nn.Module, batch, vectors: Tensor) -> list[float]:
    """v'Hv of each column of `vectors` [P, K], by curvlinops' Hessian operator."""
    from curvlinops import HessianLinearOperator

    data = [(batch["x"], batch["y"].flatten())]
    hessian = HessianLinearOperator(model, nn.CrossEntropyLoss(), list(model.parameters()), data)
    return (vectors * (hessian @ vectors)).sum(0).tolist()


def by_eigenthings(model: nn.Module, batch, vectors: Tensor) -> list[float]:
    """v'Hv of each column of `vectors` [P, K], by pytorch-hessian-eigenthings' Hessian operator."""
    from hessian_eigenthings import HessianOperator, supervised_loss

    data = [(batch["x"], batch["y"].flatten())]
    hessian = HessianOperator(model, data, supervised_loss(nn.CrossEntropyLoss()))
    return [(v @ hessian.matvec(v)).item() for v in vectors.T]


PEERS = (
    ("curvlinops", "curvlinops", by_curvlinops, WrittenOutNorm),
    ("pytorch-hessian-eigenthings", "hessian_eigenthings", by_eigenthings, nn.LayerNorm),
)


def other_packages() -> list[Row]:
    """Directional sharpness of four rows' first steps on a small transformer, beside each package's."""
    rows = []
    for name, package, theirs, norm in PEERS:
        case = f"transformer, sharpness of {', '.join(ROWS)}: {name}"
        if find_spec(package) is None:
            rows.append(skipped(case, f"{package} is not installed", name))
        else:
            rows.append(near(case, *_both_ways(norm, theirs), name))
    return rows


def _both_ways(norm: type[nn.LayerNorm], theirs: Callable) -> tuple[list[float], list[float]]:
    """The rows' sharpness as it is measured here, and by the package."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Transformer(norm).double()
        tokens = torch.randint(VOCABULARY, (SEQUENCES, TOKENS))
    batch = {"x": tokens, "y": tokens.flip(1)}
    with measuring(model), twice_differentiable():
        losses(model, batch).mean().backward()
        directions = PseudoUpdates(dict(model.named_parameters()), ROWS).advance()
        model.zero_grad()
        quadratics = directional_sharpness(
            functional_loss(model, losses), trainable_parameters(model), list(directions.values()), [batch]
        )
        units = [Direction.of(v).unit() for v in directions.values()]
        vectors = torch.stack([torch.cat([v[n].flatten() for n, _ in model.named_parameters()]) for v in units], dim=1)
        return [quadratic.sharpness for quadratic in quadratics], theirs(model, batch, vectors)
