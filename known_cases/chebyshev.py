"""The edge of stability: full-batch gradient descent on Chebyshev polynomials (arXiv:2103.00065, sec. 3 and app. C).

A network with one hidden layer of tanh units learns 20 values of a Chebyshev polynomial under mean squared error. The
largest eigenvalue of the Hessian rises until 2/lr and stays there. The gradient then lies mostly along its eigenvector.
The sgd row's directional sharpness settles at the same number, and its realized edge at 1 on average.
"""

import numpy as np
import torch
from torch import Tensor

from known_cases.rows import Row, near
from known_cases.trajectory import Trajectory
from torch_optimizer import Algorithm

WIDTH = 20


def tanh_network(seed: int, width: int = WIDTH, inputs: int = 1, outputs: int = 1) -> dict[str, Tensor]:
    """name -> tensor of a network with one hidden layer, float64; PyTorch's own start of its linear layers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = {"inner": torch.nn.Linear(inputs, width), "outer": torch.nn.Linear(width, outputs)}
    return {f"{n}.{k}": p.detach().double() for n, layer in layers.items() for k, p in layer.named_parameters()}


def squared_errors(params, batch) -> Tensor:
    """|output - target|^2 of each example [B]."""
    hidden = torch.tanh(torch.nn.functional.linear(batch["x"], params["inner.weight"], params["inner.bias"]))
    output = torch.nn.functional.linear(hidden, params["outer.weight"], params["outer.bias"])
    return (output - batch["y"]).square().sum(1)


def chebyshev_batch(degree: int, points: int = 20) -> dict[str, Tensor]:
    """Evenly spaced x in [-1, 1] and T_degree(x), both [points, 1]."""
    x = np.linspace(-1, 1, points)
    y = np.polynomial.chebyshev.Chebyshev.basis(degree)(x)
    return {"x": torch.from_numpy(x).view(-1, 1), "y": torch.from_numpy(y).view(-1, 1)}


STEPS, LATE, EVERY = 4500, 1500, 15  # all steps; the last of them, at every 15th of which two are measured
RATES = (0.225, 0.24, 0.25)
SOURCE = "2103.00065"


def edge_of_stability() -> list[Row]:
    """Degrees 3, 4 and 5, three learning rates each.

    Smaller rates than these get there, too, but in bursts: between them the gradient leaves the eigenvector, and the
    directional sharpness is next to 0. The mean of a few steps then says nothing.
    """
    rows = []
    for degree in (3, 4, 5):
        late_means = [_late_means(degree, lr) for lr in RATES]
        where = f"T{degree}, tanh, lr {', '.join(map(str, RATES))}"
        ones = [1.0] * len(RATES)
        rows.append(near(f"{where}: sharpness lr / 2", [s for s, _ in late_means], ones, SOURCE, within=0.05))
        rows.append(near(f"{where}: edge_realized", [edge for _, edge in late_means], ones, SOURCE, within=0.05))
    return rows


def _late_means(degree: int, lr: float) -> tuple[float, float]:
    """Directional sharpness of the sgd row times lr / 2, and its realized edge; means over late steps."""
    trajectory = Trajectory(Algorithm("sgd", lr=lr), tanh_network(seed=0), squared_errors, chebyshev_batch(degree))
    for _ in range(STEPS - LATE):
        trajectory.take_step()
    steps = []
    for _ in range(LATE // EVERY):
        steps += [trajectory.measure_step(), trajectory.measure_step()]  # two: the gradient turns at every step
        for _ in range(EVERY - 2):
            trajectory.take_step()
    sharpness = float(np.mean([step.quadratic.sharpness for step in steps]))
    return sharpness * lr / 2, float(np.mean([step.edge_realized for step in steps]))
