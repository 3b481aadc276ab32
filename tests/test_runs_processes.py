"""Which process this is, by what torchrun and srun say in the environment, and the card that it takes."""

import pytest
import torch

from runs.flag_types import device
from runs.processes import local_rank, rank, world_size

TORCHRUN = {"WORLD_SIZE": "8", "RANK": "5", "LOCAL_RANK": "1"}
STEP = {"SLURM_STEP_NUM_TASKS": "6", "SLURM_PROCID": "4", "SLURM_LOCALID": "2"}


@pytest.fixture
def started(monkeypatch):
    """started(environment): as if the process had been started with it."""

    def started(environment):
        for name in (*TORCHRUN, *STEP, "SLURM_NTASKS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return started


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, (1, 0, 0)),
    (TORCHRUN, (8, 5, 1)),
    (STEP, (6, 4, 2)),
    (TORCHRUN | STEP, (8, 5, 1)),  # torchrun under srun: one task per machine
    ({"SLURM_NTASKS": "6", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, (1, 0, 0)),  # the batch script itself: no step
    ({"WORLD_SIZE": "4"}, (1, 0, 0)),  # left in a shell
    (TORCHRUN | {"RANK": "none"}, (1, 0, 0)),
])  # fmt: skip
def test_a_process_knows_its_number_from_the_program_that_started_it(environment, expected, started):
    started(environment)
    assert (world_size(), rank(), local_rank()) == expected


@pytest.mark.parametrize(("environment", "cards", "expected"), [
    ({}, 4, []),
    (TORCHRUN, 4, [1]),
    (STEP, 4, [2]),
    (STEP, 1, [0]),  # srun --gpus-per-task=1 shows each process its own card alone
])  # fmt: skip
@pytest.mark.parametrize("flag", ["auto", "cuda"])
def test_each_process_of_a_machine_takes_a_card_of_its_own(flag, environment, cards, expected, started, monkeypatch):
    """The setting stays "cuda", so the config.json of all processes is the same."""
    started(environment)
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert device(flag) == torch.device("cuda") and chosen == expected


def test_a_card_that_is_named_is_taken_by_every_process(started, monkeypatch):
    started(TORCHRUN)
    monkeypatch.setattr(torch.cuda, "set_device", lambda card: pytest.fail("another card was chosen"))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert device("cuda:3") == torch.device("cuda:3")
