"""What comes before all other imports of a script: the answer to an old Python, and a quiet end by Ctrl-C.

    import runs.start_up  # the first import of a script

This file, and the scripts, are written in the syntax of Python 3.6, so that an old Python can read and answer.
"""

import os
import signal
import sys
import time
from pathlib import Path

BEGAN = time.time()  # when this process started, before the slow imports
OLDEST = (3, 11)  # that the pinned packages of requirements.txt can be installed on
ROOT = Path(__file__).resolve().parent.parent


def answer_to(version):
    """The line for a Python that is too old, as sys.version_info gives its version; None for one that will do."""
    if tuple(version[:2]) >= OLDEST:
        return None
    needed, running = (".".join(str(number) for number in numbers) for numbers in (OLDEST, version[:3]))
    return f"this needs Python {needed} or later; {sys.executable} is Python {running}"


def is_our_script(path):
    """Whether the program is a script in the repository's root, rather than something that imports one."""
    return path.suffix == ".py" and path.resolve().parent == ROOT


if is_our_script(Path(sys.argv[0])):
    if answer_to(sys.version_info) is not None:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {answer_to(sys.version_info)}")
    if (
        "RANK" in os.environ or "SLURM_PROCID" in os.environ
    ):  # a process that ends makes those that are connected to it print pages of C++
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is written yet; `StopRequest` takes over when it is
