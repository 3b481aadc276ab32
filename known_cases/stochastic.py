"""The edge of stochastic stability: mini-batch SGD (arXiv:2412.20553), also with momentum (arXiv:2604.14108).

The sorting task of `preconditioned`, two of the 27 sequences per batch. Batch sharpness is the curvature of the
batches' own losses along their own gradients, E[g_B' H_B g_B] / E[|g_B|^2]. It rises to 2/lr and stays there. The
largest eigenvalue of the full Hessian stays below. Undampened momentum of .9 at a tenth of the rate has the same
plateau.
"""

import numpy as np
import torch

from curvature.objective import Batch
from known_cases.chebyshev import squared_errors, tanh_network
from known_cases.eigenvalue import largest_eigenvalue
from known_cases.preconditioned import LENGTH, SYMBOLS, WIDTH, sorting_batch
from known_cases.rows import Row, below, near
from known_cases.trajectory import Trajectory
from torch_optimizer import Algorithm

BATCH_SIZE = 2
STEPS, LATE, EVERY = 10_000, 5000, 25  # all steps; the last of them, at every 25th of which batches are drawn
DRAWN = 4
EIGENVALUES = 10  # how often the full Hessian's is found, over the late steps
RUNS = (
    ("SGD", "lr 0.1, 0.13", "2412.20553", 0.15, [(lr, Algorithm("sgd", lr=lr)) for lr in (0.1, 0.13)]),
    (
        "SGD, momentum .9",
        "lr 0.01, as 0.1 without",
        "2604.14108",
        0.25,
        [(0.1, Algorithm("sgd", lr=0.01, momentum=0.9))],
    ),
)


def edge_of_stochastic_stability() -> list[Row]:
    """Batch sharpness and the largest eigenvalue, both times lr / 2 with the lr of the run without momentum."""
    rows = []
    for name, rates, source, within, runs in RUNS:
        late_means = [(lr / 2 * sharpness, lr / 2 * top) for lr, row in runs for sharpness, top in [_late_means(row)]]
        where = f"sorting, batches of {BATCH_SIZE}, {name}, {rates}"
        ones = [1.0] * len(late_means)
        rows.append(near(f"{where}: batch sharpness lr / 2", [b for b, _ in late_means], ones, source, within=within))
        rows.append(below(f"{where}: lambda_max lr / 2", [top for _, top in late_means], 0.9, source))
    return rows


def _late_means(row: Algorithm) -> tuple[float, float]:
    """Batch sharpness, and the largest eigenvalue of the full Hessian; both over the late steps."""
    size = LENGTH * SYMBOLS
    start = tanh_network(seed=0, width=WIDTH, inputs=size, outputs=size)
    trajectory = Trajectory(row, start, squared_errors, sorting_batch())
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS - LATE):
        trajectory.take_step(_draw(trajectory.batch, generator))
    curvature = square = 0.0
    eigenvalues = []
    for step in range(LATE):
        trajectory.take_step(_draw(trajectory.batch, generator))
        if step % EVERY == 0:
            for _ in range(DRAWN):
                bend, length = _along_own_gradient(trajectory, _draw(trajectory.batch, generator))
                curvature, square = curvature + bend, square + length
        if step % (LATE // EIGENVALUES) == 0:
            eigenvalues.append(largest_eigenvalue(trajectory))
    return curvature / square, float(np.mean(eigenvalues))


def _along_own_gradient(trajectory: Trajectory, batch: Batch) -> tuple[float, float]:
    """g_B' H_B g_B and |g_B|^2 of a batch, from the direction of the plain sgd row on it."""
    own = Trajectory(Algorithm("sgd", lr=1.0), trajectory.params, trajectory.loss_fn, batch)
    direction, quadratic = own.propose()
    return quadratic.sharpness * direction.length**2, direction.length**2


def _draw(batch: Batch, generator: torch.Generator) -> Batch:
    """BATCH_SIZE examples without replacement."""
    chosen = torch.randperm(len(batch["x"]), generator=generator)[:BATCH_SIZE]
    return {name: value[chosen] for name, value in batch.items()}
