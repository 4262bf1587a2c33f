"""How glibc's allocator treats the freed tensors of a worker: whether it keeps them for the next step."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

THRESHOLD, MOST = (1 << 22) + 1, (1 << 25) + 1
"""Bytes from which tensors go back to the kernel: in every training, and in those that take little memory."""
LITTLE = 1 << 30
"""Peak memory in bytes of a process whose training takes little."""
M_MMAP_THRESHOLD = -3
"""glibc's number of this setting, from malloc.h."""

KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": THRESHOLD,
    "MALLOC_TRIM_THRESHOLD_": 1 << 31,
    "MALLOC_TOP_PAD_": 1 << 26,
    "THP_MEM_ALLOC_ENABLE": 1,
}
"""Settings of glibc's allocator, in bytes, and of torch's. Freed activations are kept for the next step.

Returning each to the kernel and faulting it in again takes a tenth of the training time of a thin ResNet-18 on a CPU.
Tensors above 4 MiB still go back to the kernel: their holes would make a full ResNet-18 at batch 128 take 1,530 MiB
instead of 1,370. Torch asks for huge pages for them, which costs 35 MiB there and saves three quarters of the
page faults. Values that the user has set stay."""


@contextlib.contextmanager
def kept_if_little() -> Iterator[None]:
    """Within the block, keep freed tensors of up to 32 MiB, if this process has taken little memory so far.

    The largest activations of the fast track have 24 to 31 MiB, so a step has no page faults. Does nothing outside of
    a worker, whose settings alone it may change, and on systems without glibc.
    """
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") != str(THRESHOLD) or not 0 < peak() < LITTLE or not _set(MOST):
        yield
        return
    try:
        yield
    finally:
        _set(THRESHOLD)


def give_back() -> None:
    """Return freed memory that the allocator keeps to the kernel, in a worker; elsewhere do nothing.

    A stage's freed activations otherwise stay resident beside the sets and the activations of the next stage, whose
    tensors of other sizes fit badly into their holes. The next stage has 25,000 page faults for each 100 MB, 0.1 s.
    """
    if os.environ.get("MALLOC_MMAP_THRESHOLD_") == str(THRESHOLD):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _set(threshold: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, threshold))
    except (OSError, AttributeError):
        return False


def peak() -> int:
    """Peak memory of this process in bytes; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
