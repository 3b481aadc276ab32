"""Prepare the machine: reproducible kernels, products in float32, and freed memory kept for reuse."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

# Compute capabilities of A100 and A30, and of H100, H200 and GH200. B200, (10, 0), has half of float32's rate; B300,
# (10, 3), and the cards for graphics have a 32nd of it or less.
FULL_RATE_FLOAT64 = {(8, 0), (9, 0)}


def prepare_machine() -> None:
    """Choose reproducible kernels on CUDA (those of the CPU are reproducible), and keep freed memory. Neither matrix
    products nor convolutions round to TF32 there, in training as in measurements.

    glibc returns large blocks to the system at every free. Allocating them again costs a page fault every 4 KiB, which
    can take longer than the arithmetic. So no blocks come from mmap, and up to 2 GiB of freed heap are kept.
    """
    import torch

    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)
        libc.mallopt(m_top_pad, 2**28)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("highest")  # TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 is set in some containers
        torch.backends.cudnn.allow_tf32 = False  # True by default
        # a debugging aid that writes all memory once more
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  unknown to type checkers


def recommend_float64(device: torch.device, dtype: str) -> None:
    """Log a line if measurements are in float32 on a GPU that computes in float64 as fast."""
    import torch

    is_nvidia = device.type == "cuda" and torch.version.hip is None
    if dtype == "float32" and is_nvidia and torch.cuda.get_device_capability(device) in FULL_RATE_FLOAT64:
        name = torch.cuda.get_device_name(device)
        log.info("%s computes in float64 at full rate: --dtype float64 measures without rounding errors", name)


def machine_state() -> dict[str, int | str]:
    """What of this machine changes the last digits of a result: sums are split among the threads."""
    import torch

    return {"threads": torch.get_num_threads()}
