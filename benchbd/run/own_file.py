"""Files of a results folder, opened so that what lies in it cannot lead a write out of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def open_own(path: Path, flags: int) -> int:
    """Open a file, made where it is missing, as is its folder; the file descriptor.

    A symbolic link in its place is removed, not followed: a results folder may have come from somebody else.

    Args:
        path: the file.
        flags: how to open it (``os.O_RDWR``, ``os.O_WRONLY | os.O_APPEND``).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags |= os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        path.unlink(missing_ok=True)
        return os.open(path, flags, 0o644)


def open_log(path: Path) -> int:
    """Open a cell's log for appending; the file descriptor."""
    return open_own(path, os.O_WRONLY | os.O_APPEND)
