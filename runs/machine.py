"""Prepare the machine: reproducible kernels, and freed memory kept for reuse."""

import ctypes
import os
import sys


def prepare_machine() -> None:
    """Choose reproducible kernels on CUDA (those of the CPU are reproducible), and keep freed memory.

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
        # a debugging aid that writes all memory once more
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010  unknown to type checkers


def machine_state() -> dict[str, int]:
    """What of this machine changes the last digits of a result: sums are split among the threads."""
    import torch

    return {"threads": torch.get_num_threads()}
