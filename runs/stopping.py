"""Signals wait until the run can be stored."""

import os
import signal
import time
from contextlib import suppress


class Stopped(Exception):
    """A signal asked the run to end, and the run is stored."""

    def __init__(self, number: int, place: str):
        super().__init__(f"stopped by {signal.Signals(number).name} after {place}")
        self.number = number


class StopRequest:
    """While active, a signal that asks the process to end only sets `signal`; the run looks at it between two
    iterations. A second one ends the process at once, with 128 + its number.

        with StopRequest() as stop:
            ...
            if stop.signal: ...

    Within `patience` seconds of the first, a second one counts as the same: who started the process may pass on what
    it has got itself.

    The signals are SIGTERM (a scheduler's), SIGINT (Ctrl-C) and SIGHUP (the terminal is closed). A process that was
    started with `nohup` still ignores SIGHUP.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    NOTE = b"\nstopping as soon as this iteration is measured and stored; once more to stop at once\n"

    def __init__(self, patience: float = 0.0):
        self.signal: int | None = None
        self.patience, self.came_at = patience, 0.0

    def __enter__(self) -> "StopRequest":
        under_nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        taken = [number for number in self.SIGNALS if not (number == signal.SIGHUP and under_nohup)]
        self._before = {number: signal.signal(number, self._receive) for number in taken}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame) -> None:
        if self.signal is not None:
            if time.monotonic() - self.came_at < self.patience:
                return
            os._exit(128 + number)
        self.signal, self.came_at = number, time.monotonic()
        with suppress(OSError):  # nobody reads any more: a closed terminal, a pipe whose reader ended
            os.write(2, self.NOTE)  # print and logging may be in the middle of a line
