"""A cell's log, opened so that what lies in a results folder cannot lead a write out of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def open_log(path: Path) -> int:
    """Open a log for appending, its folder made where it is missing; the file descriptor.

    A symbolic link in its place is removed, not followed: a results folder may have come from somebody else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        path.unlink(missing_ok=True)
        return os.open(path, flags, 0o644)
