"""The most memory that a cell takes on its device."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import torch

from benchbd.core import allocator, program


def reset_peak_memory(device: torch.device) -> None:
    """Start measuring: :func:`peak_memory` forgets what cells before this one took."""
    program.reset_peak()
    if device.type == "cuda":
        # A forked cell has not called CUDA yet, and torch refuses cuda:0 here (not cuda) until something has.
        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.reset_peak_memory_stats(device)
    # Linux forgets the process's high-water mark when 5 is written here; a worker runs many cells.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: of the device on CUDA, as this process uses it; else of the largest process of the cell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    own = allocator.peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(own, program.peak())
