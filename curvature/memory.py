"""How much of a device's memory a measurement plans with."""

import torch

SHARE = 4  # what is planned for takes a quarter of the device's memory; model, states and recordings have the rest


def planned_bytes(device: torch.device) -> int | None:
    """A quarter of the memory of a GPU, in bytes; None on a CPU. It depends on the machine alone and not on what is
    free at the moment, so that a resumed run plans alike."""
    if device.type == "cpu":
        return None
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // SHARE
    return 2**30  # a device that does not report it
