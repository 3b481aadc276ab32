"""Known cases on quadratic losses whose numbers are rational, worked out by hand."""

import torch
from torch import Tensor

from curvature.objective import LossFunction
from known_cases.rows import Row, near
from known_cases.trajectory import Trajectory
from torch_optimizer import Algorithm

ONE_EXAMPLE: dict = {}  # the batch of a loss that has no data


def diagonal_quadratic(curvatures: Tensor) -> LossFunction:
    """f = x'Hx / 2 with H = diag(curvatures), as the loss of a single example. A matrix is bent on its diagonal."""

    def loss_fn(params, batch):
        x = params["x"]
        modes = x.diagonal() if x.dim() == 2 else x
        return 0.5 * (curvatures * modes**2).sum().view(1)

    return loss_fn


class PolarDescent(torch.optim.Optimizer):
    """v = -U V' of the gradient's singular value decomposition U S V': Muon without momentum, its factor exact."""

    def __init__(self, params, lr: float = 1.0):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        """Move each matrix by lr times its direction."""
        for group in self.param_groups:
            for p in group["params"]:
                u, _, vh = torch.linalg.svd(p.grad, full_matrices=False)
                p.sub_(u @ vh, alpha=group["lr"])


# ---- edge numbers of a momentum's first steps ---------------------------------------------------------------------


def edge_rationals() -> list[Row]:
    """f = x'Hx / 2, H = diag(4, 1), x0 = H^-1 g0, m <- m / 2 + g / 2 from m = 0, lr = 1/10.

    By hand, with g0 = e1: x0 = 1/4, m1 = 1/2, s = -1/20; edge (1/2) (4 / 400) / (1 / 20) = 1/10. Then x = 1/5,
    g = 4/5, m2 = 13/20, s = -13/200; edge (1/2) 4 (13/200)^2 / ((4/5) (13/200)) = 13/80.
    With g0 = e2: x0 = 1, s = -1/20, edge 1/40; then x = g = 19/20, m2 = 29/40, s = -29/400, edge 29/760.
    """
    row = Algorithm("sgd", lr=0.1, momentum=0.5, dampening=0.5, zero_start=True)
    curvatures = torch.tensor([4.0, 1.0], dtype=torch.float64)
    rows = []
    for mode, exact, text in ((0, (1 / 10, 13 / 80), "1/10, 13/80"), (1, (1 / 40, 29 / 760), "1/40, 29/760")):
        gradient = torch.eye(2, dtype=torch.float64)[mode]
        trajectory = Trajectory(row, {"x": gradient / curvatures}, diagonal_quadratic(curvatures), ONE_EXAMPLE)
        steps = [trajectory.measure_step() for _ in exact]
        where = f"diag(4, 1), momentum 1/2, g0 = e{mode + 1}: first two"
        for name, measured in (
            ("edge_quadratic", [step.edge_quadratic for step in steps]),
            ("edge_realized", [step.edge_realized for step in steps]),
        ):
            rows.append(near(f"{where} {name}", measured, exact, "2608.18415", text=text))
    return rows


# ---- directional sharpness under exact line search ----------------------------------------------------------------

# By hand: every coordinate of a sign step counts the same, so v'Hv / v'v = (10 + 1 + 1 + 1) / 4. Gradient descent from
# a gradient of ones goes 4/13 far and turns it to (-27, 9, 9, 9) / 13: (10 729 + 3 81) / (729 + 243) = 7.75. The next
# step, 4/31, makes its coordinates equal again.
ALWAYS = (3.25, 3.25, 3.25, 3.25, 3.25)
TO_AND_FRO = (3.25, 7.75, 3.25, 7.75, 3.25)
CONVERGENT = (15 / 8, -10 / 8, 3 / 8)  # Newton-Schulz coefficients whose limit is the polar factor


def line_search_on_four_modes() -> list[Row]:
    """One mode of curvature 10, three of 1, unit gradients; each step goes to the minimum of its line."""
    curvatures = torch.tensor([10.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    muon = Algorithm(
        "muon", lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, ns_coefficients=CONVERGENT, ns_steps=30
    )
    rows = []
    for name, row, expected, within in (
        ("gradient descent", Algorithm("sgd", lr=1.0), TO_AND_FRO, 1e-9),
        ("sign descent", Algorithm("sign_sgd", lr=1.0), ALWAYS, 1e-9),
        ("exact polar factor", Algorithm(PolarDescent), ALWAYS, 1e-9),
        ("torch's Muon, convergent", muon, ALWAYS, 1e-2),
    ):
        start = 1 / curvatures
        if row.name in ("polardescent", "muon"):  # these need a matrix
            start = start.diag()
        trajectory = Trajectory(row, {"x": start}, diagonal_quadratic(curvatures), ONE_EXAMPLE)
        sharpness = [trajectory.search_line().sharpness for _ in expected]
        rows.append(
            near(f"one mode of 10, three of 1, {name}: sharpness", sharpness, expected, "by hand", within=within)
        )
    return rows
