"""Whether a disk is full."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchbd.core.files import is_disk_full

MARGIN = 64 << 20
"""Free bytes below which a disk counts as full: a failed write has been removed again, and the next one is as large."""
SHARE = 0.05
"""The same as a share of the disk, for disks so small that MARGIN would be most of them."""


def disk_is_full(folder: Path) -> bool:
    """Whether the disk of a folder is full, or the user's quota there is used up. The folder may not exist."""
    try:
        state = os.statvfs(folder)
        if state.f_bavail * state.f_frsize < min(MARGIN, SHARE * state.f_blocks * state.f_frsize):
            return True
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return is_disk_full(error)
    return False
