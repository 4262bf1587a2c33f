"""The status and the one line that an error ends a cell with."""

from __future__ import annotations

from pathlib import Path

import torch

from benchbd.core.disk_space import disk_is_full
from benchbd.core.files import RESULTS_DISK_FULL, ResultsDiskFull, is_disk_full
from benchbd.errors import BenchbdError, Diverged, Impossible, one_line


def status_and_line(error: BaseException, output: Path) -> tuple[str, str]:
    """A record's ``status`` and ``error`` for an error that ended its cell.

    Args:
        error: what a phase of the cell raised.
        output: the results folder, named where its disk is full and the error does not say which file it is about.
    """
    text = one_line(error)
    if isinstance(error, Diverged):
        return "diverged", text
    if isinstance(error, Impossible):
        return "skipped", text
    if isinstance(error, BenchbdError):
        return "failed", text
    if _is_out_of_memory(error):
        return "oom", text or "out of memory"
    if isinstance(error, ResultsDiskFull):
        return "failed", f"{RESULTS_DISK_FULL} ({error.filename}); free some space and run the same command again"
    if is_disk_full(error):
        place = getattr(error, "filename", None)
        if place is None and not disk_is_full(output):
            return "failed", f"{text}, while the disk of the results has room"
        place = place or output
        return "failed", f"the disk is full ({place}); free some space and run the same command again"
    return "failed", f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or the host. torch says so in several ways."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    signs = ("out of memory", "can't allocate memory", "_ALLOC_FAILED", "_ALLOCATION_FAILED")  # cuBLAS and cuDNN
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
