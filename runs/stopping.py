"""Signals that wait until the run can be stored."""

import os
import signal


class Stopped(Exception):
    """A signal asked the run to end, and it is stored."""

    def __init__(self, number: int, place: str):
        super().__init__(f"stopped by {signal.Signals(number).name} after {place}")
        self.number = number


class StopRequest:
    """While active, SIGTERM (a scheduler's) and SIGINT (Ctrl-C) only set `signal`; the run looks at it between two
    iterations. A second one ends the process at once, with 128 + its number.

        with StopRequest() as stop:
            ...
            if stop.signal: ...
    """

    NOTE = b"\nstopping as soon as this iteration is measured and stored; once more to stop at once\n"

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        os.write(2, self.NOTE)  # print and logging may be in the middle of a line
