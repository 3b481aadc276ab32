"""How the loss bends along every optimizer's next step, measured inside of a training loop of one's own.

    from landscape_probe import Algorithm, LandscapeProbe, example_losses

    probe = LandscapeProbe(model, example_losses, optimizer=optimizer, algorithms=["sgd", Algorithm("adam", lr=1e-3)])
    ...                                  # in the loop, after backward() and gradient clipping:
    probe.observe()
    if step % 100 == 0:
        rows = probe.measure(test_batch)  # a list of dicts: loss, slope, sharpness, ratio, edge numbers, errors
    optimizer.step()

`LandscapeCallback` does this in the Trainer of transformers. docs/your_own_loop.md tells more. Here are no files, flags
or tasks, and nothing but torch and numpy is needed.
"""

from typing import TYPE_CHECKING, Any

from landscape_core.example_losses import example_losses
from landscape_core.probe import DEFAULT_ROWS, LandscapeProbe
from torch_optimizer import Algorithm

if TYPE_CHECKING:
    from landscape_core.trainer_callback import LandscapeCallback

__all__ = ["DEFAULT_ROWS", "Algorithm", "LandscapeCallback", "LandscapeProbe", "example_losses"]


def __getattr__(name: str) -> Any:
    """`LandscapeCallback` needs transformers, and is imported when it is asked for."""
    if name == "LandscapeCallback":
        from landscape_core.trainer_callback import LandscapeCallback

        return LandscapeCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
