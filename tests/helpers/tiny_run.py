"""The entry scripts on a task of milliseconds: `python -m tests.helpers.tiny_run landscape FLAGS`.

A network of two layers with dropout and batch normalization, whose running statistics belong to what a run must store.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401  every optimizer of torch imports it, in seconds: here once for all processes
from torch import nn

import run_convergence
import run_hessian
import run_landscape
from algorithm_list import ALGORITHM_LISTS
from tasks import TASKS, Entry
from tasks.base import Task
from tasks.protocols import TOY
from torch_optimizer import Algorithm

ROWS = [
    Algorithm("sgd", lr=0.1, momentum=0.9, dampening=0.9),
    Algorithm("sgd", lr=0.1, momentum=0.9, coordinate_clip=0.1),
    Algorithm("adam", lr=1e-2),
    Algorithm("adafactor", relative_step=True),
    Algorithm("nadam", lr=1e-2),  # of torch: it steps on a float64 copy
    Algorithm("lion", lr=1e-3),
]
FLAGS = "--task tiny --algorithm_list tiny --dataset_size 20 --batch_size 4"


class Tiny(Task):
    """Rows of three numbers in two classes."""

    def __init__(self, size: int, seed: int, model_seed: int | None = None, norm: type[nn.Module] = nn.BatchNorm1d):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(size, 3, generator=generator)
        examples = [{"x": row, "y": torch.tensor(int(row.sum() > 0))} for row in rows]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed if model_seed is None else model_seed)
            layers = nn.Linear(3, 8), norm(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2)
            super().__init__("tiny", nn.Sequential(*layers), None, examples)

    def length(self, index):
        return 1

    def collate(self, examples):
        return {name: torch.stack([example[name] for example in examples]) for name in ("x", "y")}

    def losses(self, forward, batch, only=None):
        losses = nn.functional.cross_entropy(forward(input=batch["x"]), batch["y"], reduction="none")
        return losses if only is None else losses.masked_fill(~only[batch["y"]], 0)

    def targets(self, index):
        return [self.examples[index]["y"].item()]

    def save_model(self, folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), Path(folder) / "model.pt")


SCRIPTS = {"landscape": run_landscape, "convergence": run_convergence, "hessian": run_hessian}
PREPARE = {name: script.prepare for name, script in SCRIPTS.items()}
NORMS = {"tiny": nn.BatchNorm1d, "tiny_layers": nn.LayerNorm}  # processes can share the training of the second


def undone_by(patch) -> None:
    """Have pytest's `patch` put back what `main` changes."""
    for script in SCRIPTS.values():
        patch.setattr(script, "draw_all", None)
        patch.setattr(script, "prepare", script.prepare)
    patch.setitem(ALGORITHM_LISTS, "tiny", ROWS)
    for name in NORMS:
        patch.setitem(TASKS, name, None)


def main(script: str, arguments: list[str], says_estimate: bool = False) -> int:
    """The script's exit status, on the tiny task. Without figures, which are drawn from its tables alone, and without
    the line of the estimate, which times the steps before the run begins."""
    for name, norm in NORMS.items():
        TASKS[name] = Entry(lambda r, norm=norm: Tiny(r.dataset_size, r.seed, r.model_seed, norm), TOY, TOY)
    ALGORITHM_LISTS["tiny"] = ROWS
    module, prepare = SCRIPTS[script], PREPARE[script]
    module.draw_all = lambda folder: []
    module.prepare = prepare if says_estimate else silent(prepare)
    return module.main(arguments)


def silent(prepare: Callable) -> Callable:
    """The same, without the line of the estimate."""
    return lambda *arguments: replace(prepare(*arguments), says_estimate=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
