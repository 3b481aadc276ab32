"""Where the time of run_landscape.py goes: its functions, timed from outside."""

import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from unittest.mock import patch

import torch

TRAINING = "training"
MEASURING = {  # stage -> the functions that it consists of, where they are called
    "sharpness": ["landscape_core.measurement.quadratic_models"],
    "rounding errors": ["landscape_core.measurement.rounding_errors"],
    "gradient and noise": [
        "landscape.measurements.noise_coordinates",
        "landscape.measurements.gradient_norm",
        "landscape_core.measurement.noise_share",
    ],
    "edges and norms": [
        "landscape.measurements.loss_at",
        "landscape_core.measurement.edge_of",
        "landscape_core.measurement.spectral_length",
    ],
    "scans": ["landscape.measurements.scan_point"],
    "histograms": ["landscape.measurements.update_histogram"],
    "the training row": ["run_landscape.with_training_row"],
}
OTHER = {
    TRAINING: ["training.loop.gradient_of_batch"],
    "pseudo-updates": ["run_landscape.PseudoUpdates.advance", "run_landscape.PseudoUpdates.not_finite"],
    "checkpoints": ["runs.saver.Saver.after"],
    "figures": ["run_landscape.draw_all"],
}
REST = "everything else"


class Stopwatch:
    """Seconds by stage. A stage within another counts for itself alone. Each waits for the device at both ends."""

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.device, self.clock = device, clock
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.stages = [REST]
        self.since = clock()

    def _turn(self) -> None:
        """What has passed belongs to the stage that is under way."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = self.clock()
        self.seconds[self.stages[-1]] += now - self.since
        self.since = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._turn()
        self.stages.append(name)
        self.calls[name] += 1
        try:
            yield
        finally:
            self._turn()
            self.stages.pop()

    @contextmanager
    def running(self) -> Iterator[None]:
        """While active, the functions of the stages are timed. Raises: AttributeError where one is no longer there."""
        patches = [self._around(name, place) for name, places in {**MEASURING, **OTHER}.items() for place in places]
        for each in patches:
            each.start()
        self.since = self.clock()
        try:
            yield
        finally:
            self._turn()
            for each in patches:
                each.stop()

    def _around(self, name: str, place: str):
        owner, _, attribute = place.rpartition(".")
        try:
            holder = importlib.import_module(owner)
        except ModuleNotFoundError:  # a class
            module, _, kind = owner.rpartition(".")
            holder = getattr(importlib.import_module(module), kind)
        function = getattr(holder, attribute)

        @wraps(function)
        def timed(*args, **kwargs):
            with self.stage(name):
                return function(*args, **kwargs)

        return patch.object(holder, attribute, timed)

    @property
    def measuring(self) -> float:
        return sum(self.seconds[name] for name in MEASURING)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())
