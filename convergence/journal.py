"""What a job of run_convergence.py has done so far: the trainings that ended, and the one that was interrupted.

A job is one run, or the trials of one row. A process that resumes it replays its trainings in order. It reads finished
ones from here, and continues the interrupted one after its last checkpoint.
"""

import json
from pathlib import Path
from typing import Any

from curvature.ranks import ALONE, Ranks
from runs.checkpoints import fitting
from runs.saver import Saver
from runs.stopping import StopRequest
from training.loop import Point


class Journal:
    """Stored as a checkpoint after each training, each epoch, every `every` updates, and when a signal asks for it.

    The key of a training is everything that makes it differ from the others. The results of finished ones are kept as
    JSON. `job`: the name of the job's folder below that of all checkpoints. `ranks`: as of `Saver`.
    """

    def __init__(self, folder: Path, every: int | None, stop: StopRequest, job: str = "", ranks: Ranks = ALONE):
        self.saver = Saver(folder, every, stop, ranks, job)
        self.number, state = self.saver.checkpoints.load() or (0, {"ended": "{}", "at_work": None})
        with fitting(f"checkpoint {self.number}"):
            self.ended: dict[str, Any] = dict(json.loads(state["ended"]))
            self.at_work: dict[str, Any] | None = state["at_work"] and dict(state["at_work"])
        ranks.agree(None)  # all have read it before one writes the next

    def resume(self, key: str, parts: dict[str, Any]) -> tuple[int, Any]:
        """Restore the parts of that training, which have `load_state_dict`.

        Returns: (updates done, notes); (0, None) for a new one."""
        if self.at_work is None or self.at_work["key"] != key:
            return 0, None
        state, self.at_work = self.at_work, None  # a second copy of a large model is not held any longer
        with fitting(f"the checkpoint of {key}"):
            for name, part in parts.items():
                part.load_state_dict(state[name])
        return state["iteration"], json.loads(state["notes"])

    def after_step(self, key: str, parts: dict[str, Any], point: Point, notes: Any) -> None:
        """Store the present training if that is due. Raises: Stopped after a signal; CannotWrite."""

        def state() -> dict[str, Any]:
            self.number += 1
            own = {name: part.state_dict() for name, part in parts.items()}
            own |= {"key": key, "iteration": point.iteration, "notes": json.dumps(notes)}
            return {"ended": json.dumps(self.ended), "at_work": own}

        place = f"iteration {point.iteration} of {key}"
        self.saver.after(point.iteration, state, place=place, milestone=point.ends_epoch, number=self.number + 1)

    def end(self, key: str, result: Any) -> None:
        """Keep the result of a finished training."""
        self.ended[key] = result
        self.number += 1
        state = {"ended": json.dumps(self.ended), "at_work": None}
        self.saver.ranks.leading(lambda: self.saver.checkpoints.save(self.number, state))
