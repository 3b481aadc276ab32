"""The adaptive edge of stability: full-batch RMSprop and Adam (arXiv:2207.14484).

A tanh network learns to sort: all sequences of three symbols out of three, mean squared error against the sorted
sequence. The largest eigenvalue of P^-1 H rises to (2 + 2 beta1) / ((1 - beta1) lr) and stays there. That is 2/lr for
RMSprop and 38/lr for Adam with beta1 = .9. P is the diagonal that divides the momentum in the row's step.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from known_cases.chebyshev import squared_errors, tanh_network
from known_cases.eigenvalue import largest_eigenvalue
from known_cases.rows import Row, near
from known_cases.trajectory import Trajectory
from torch_optimizer import Algorithm

SYMBOLS, LENGTH, WIDTH = 3, 3, 20
SOURCE = "2207.14484"


def sorting_batch() -> dict[str, Tensor]:
    """All sequences and each one sorted, both one-hot: [SYMBOLS^LENGTH, LENGTH SYMBOLS], float64."""
    sequences = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=LENGTH)))

    def one_hot(s: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(s, SYMBOLS).flatten(1).double()

    return {"x": one_hot(sequences), "y": one_hot(sequences.sort(dim=1).values)}


def preconditioner(trajectory: Trajectory) -> dict[str, Tensor]:
    """The diagonal of P, as the row's state has it: sqrt of the second moments + eps, with both bias corrections.

    Of `adam` and of torch's RMSprop.
    """
    group = trajectory.optimizer.param_groups[0]
    diagonal = {}
    for name, p in trajectory.params.items():
        state = trajectory.optimizer.state[p]
        if "exp_avg_sq" in state:
            beta1, beta2 = group["betas"]
            second = state["exp_avg_sq"] / (1 - beta2 ** state["step"])
            diagonal[name] = (1 - beta1 ** state["step"]) * (second.sqrt() + group["eps"])
        else:
            diagonal[name] = state["square_avg"].sqrt() + group["eps"]
    return diagonal


STEPS, WINDOWS, MEASURED = 2000, 20, 15  # all steps; in how many parts; steps measured at the end of each part
RUNS = (
    ("RMSprop", "2/lr", 2, [Algorithm("rmsprop", lr=lr, alpha=0.999) for lr in (0.005, 0.01)]),
    ("Adam", "38/lr", 38, [Algorithm("adam", lr=lr) for lr in (0.02, 0.03)]),
)


def adaptive_edge_of_stability() -> list[Row]:
    """RMSprop and Adam, two learning rates each: the eigenvalue, and the realized edge beside it."""
    rows = []
    for name, text, factor, algorithms in RUNS:
        late_means = [_late_means(row) for row in algorithms]
        rates = [row.options["lr"] for row in algorithms]
        values = [value * lr / factor for (value, _), lr in zip(late_means, rates, strict=True)]
        edges = [edge for _, edge in late_means]
        where = f"sorting, {name}, lr {', '.join(map(str, rates))}"
        ones = [1.0] * len(rates)
        rows.append(near(f"{where}: lambda_max(P^-1 H) over {text}", values, ones, SOURCE, within=0.1))
        rows.append(near(f"{where}: edge_realized", edges, ones, SOURCE, within=0.15))
    return rows


def _late_means(row: Algorithm) -> tuple[float, float]:
    """The eigenvalue and the realized edge, means over the second half of the run. Steps uphill have no edge."""
    size = LENGTH * SYMBOLS
    start = tanh_network(seed=0, width=WIDTH, inputs=size, outputs=size)
    trajectory = Trajectory(row, start, squared_errors, sorting_batch())
    for _ in range(STEPS // 2):
        trajectory.take_step()
    values, steps = [], []
    for _ in range(WINDOWS // 2):
        for _ in range(STEPS // WINDOWS - MEASURED):
            trajectory.take_step()
        steps += [trajectory.measure_step() for _ in range(MEASURED)]
        values.append(largest_eigenvalue(trajectory, preconditioner(trajectory)))
    return float(np.mean(values)), float(np.nanmean([step.edge_realized for step in steps]))
