"""Which of several processes this is, as the program says that started them: torchrun, or srun.

    torchrun --nproc_per_node=4 run_convergence.py ...       rank() is 0 to 3, world_size() is 4
    python run_convergence.py ...                            rank() is 0, world_size() is 1

The answers come from the environment alone, so no process group is needed.
"""

import os
import time

TORCHRUN = {"world": "WORLD_SIZE", "rank": "RANK", "local": "LOCAL_RANK"}
SRUN = {"world": "SLURM_STEP_NUM_TASKS", "rank": "SLURM_PROCID", "local": "SLURM_LOCALID"}  # of a step, not of a job


def world_size() -> int:
    """How many processes one command started."""
    return _number("world", 1)


def rank() -> int:
    """The number of this process among all of them, from 0."""
    return _number("rank", 0)


def leads() -> bool:
    """Whether this process is the first of them, or the only one."""
    return rank() == 0


def leave_the_first_word() -> None:
    """Of several processes that end alike, let the first one speak: torchrun ends it as soon as another has ended."""
    if not leads() and "TORCHELASTIC_RUN_ID" in os.environ:
        time.sleep(1.0)


def local_rank() -> int:
    """The number of this process among those on this machine, from 0."""
    return _number("local", 0)


def step() -> str | None:
    """The name of the step of Slurm that started this process: no other command has it. None outside of Slurm."""
    job, number, restarts = (os.environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT"))
    return f"{job}.{number}.{restarts or 0}" if job and number else None


def _number(what: str, alone: int) -> int:
    for names in (TORCHRUN, SRUN):
        values = {key: os.environ.get(name, "") for key, name in names.items()}
        if all(value.isdecimal() for value in values.values()):
            return int(values[what])
    return alone
