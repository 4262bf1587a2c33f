"""What dead processes leave behind: lock files nobody holds, and half-written files under temporary names."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from benchbd.storage.cell_locks import running

OLD = 3600.0
"""Seconds after which nobody can still be writing a temporary file."""


class StaleFiles(NamedTuple):
    """What a sweep found (and removed): lock files and temporary files or folders."""

    locks: int
    temporary: int


def _free(lock: Path, remove: bool) -> bool:
    """True where nobody holds a lock file; it is removed while held, so that nobody can be fooled."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if remove:
            lock.unlink(missing_ok=True)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def remove_stale_files(output: Path, *, older_than: float = OLD, remove: bool = True) -> StaleFiles:
    """Remove what dead processes left in a results folder. Safe while others work in it.

    Args:
        output: the results folder.
        older_than: age in seconds from which a temporary file is litter; living writers need seconds.
        remove: False only counts.
    """
    if remove:
        running(output)
    folder = output / "store" / "locks"
    locks = [p for p in folder.iterdir() if _free(p, remove)] if folder.is_dir() else []
    temporary = 0
    places = (
        (output / "store" / "tmp", "*"),
        (output / "records", ".*.tmp"),
        (output, ".writing-*"),
        (output / "logs", "worker-*.log"),
    )
    for place, pattern in places:
        for path in sorted(place.glob(pattern)) if place.is_dir() and not place.is_symlink() else ():
            with contextlib.suppress(OSError):
                if time.time() - path.lstat().st_mtime < older_than:
                    continue
                temporary += 1
                if not remove:
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
    return StaleFiles(len(locks), temporary)
