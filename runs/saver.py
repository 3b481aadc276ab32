"""When a run is stored, and when it stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from curvature.ranks import ALONE, Ranks
from runs import background
from runs.checkpoints import Checkpoints, restore
from runs.stopping import Stopped, StopRequest

FAILED = 1000  # in the place of a signal, and more than any: the latest checkpoint could not be written


class Saver:
    """Stores a run where that is due, and stops it after a signal.

        saver = Saver(folder, every=100, stop=stop)
        done = saver.restore(stored)                      # iterations that the newest checkpoint holds; 0: a new run
        for iteration in range(done + 1, last + 1):
            ...
            saver.after(iteration, stored.state_dict, milestone=ends_epoch, place=f"iteration {iteration}")

    Args:
        folder: the run folder; checkpoints go to folder/checkpoints, or to that of `job` below it.
        every: store after this many units of work, besides every milestone; None: at milestones only.
        stop: what a signal sets.
        ranks: the processes at work on this run: a signal to one stops all, and the first stores for all.
    """

    def __init__(self, folder: Path, every: int | None, stop: StopRequest, ranks: Ranks = ALONE, job: str = ""):
        self.checkpoints, self.every, self.stop = Checkpoints(folder / "checkpoints" / job), every, stop
        self.ranks = ranks

    def restore(self, stored: Any) -> int:
        """Load the newest intact checkpoint into `stored`; returns its number, 0 where there is none."""
        return restore(self.checkpoints, stored)

    def after(
        self,
        count: int,
        state: Callable[[], dict[str, Any]],
        *,
        place: str,
        milestone: bool = False,
        number: int | None = None,
    ) -> None:
        """Store `state()` if that is due after `count` units of work.

        Args:
            place: where the run is, for the message: "iteration 12".
            milestone: store in any case.
            number: of the checkpoint, larger than all before; None: `count`.

        Raises: Stopped, with the run stored, after a signal; CannotWrite, also if an earlier checkpoint could not be
            written.
        """
        # read once: a signal that comes later waits for the next call; and on all ranks, so that all stop here
        signal = self.ranks.largest(FAILED if background.has_failed() else self.stop.signal or 0)
        if signal == FAILED:
            self.ranks.leading(background.wait)
        if signal or milestone or (self.every and count % self.every == 0):
            to_store = state()
            self.ranks.leading(lambda: self.checkpoints.save(count if number is None else number, to_store))
        if signal:
            self.ranks.leading(background.wait)
            raise Stopped(signal, place)
