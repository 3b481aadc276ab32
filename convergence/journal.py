"""What run_convergence.py has done so far: the runs that ended, and the one at work.

A script that is taken up goes through all its runs again from the first. Those that ended it finds here; the one at
work goes on after its last stored update.
"""

import json
from pathlib import Path
from typing import Any

from runs.checkpoints import Checkpoints, fitting
from runs.stopping import Stopped, StopRequest
from training.loop import Point


class Journal:
    """Kept in checkpoints: after each run, each of its epochs, each `every` updates, and when a signal asks for it.

    Runs have keys, of all that makes one differ from another; what is kept of a run that ended is plain (JSON).
    """

    def __init__(self, folder: Path, every: int | None, stop: StopRequest):
        self.checkpoints, self.every, self.stop = Checkpoints(folder / "checkpoints"), every, stop
        self.number, state = self.checkpoints.load() or (0, {"ended": "{}", "at_work": None})
        self.ended: dict[str, Any] = json.loads(state["ended"])
        self.at_work: dict[str, Any] | None = state["at_work"]

    def take_up(self, key: str, parts: dict[str, Any]) -> tuple[int, Any]:
        """(updates done, notes) of that run, whose parts (of `load_state_dict`) are brought there; (0, None) if new."""
        if self.at_work is None or self.at_work["key"] != key:
            return 0, None
        state, self.at_work = self.at_work, None  # a second copy of a large model is not held any longer
        with fitting(f"the checkpoint of {key}"):
            for name, part in parts.items():
                part.load_state_dict(state[name])
        return state["iteration"], json.loads(state["notes"])

    def after_step(self, key: str, parts: dict[str, Any], point: Point, notes: Any, epoch_ends: bool) -> None:
        """Store the run at work if that is due. Raises: Stopped after a signal; CannotWrite."""
        if self.stop.signal or epoch_ends or self.every and point.iteration % self.every == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            self._save(state | {"key": key, "iteration": point.iteration, "notes": json.dumps(notes)})
        if self.stop.signal:
            raise Stopped(self.stop.signal, f"iteration {point.iteration} of {key}")

    def end(self, key: str, result: Any) -> None:
        self.ended[key] = result
        self._save(None)

    def _save(self, at_work: dict[str, Any] | None) -> None:
        self.number += 1
        self.checkpoints.save(self.number, {"ended": json.dumps(self.ended), "at_work": at_work})
