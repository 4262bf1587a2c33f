"""Removes files that dead processes left behind: unheld lock files and half-written temporary files."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from benchbd.core.locks import lock_state
from benchbd.storage.cell_locks import running
from benchbd.storage.records import DAMAGED, FAILED_RERUNS

OLD = 3600.0
"""Age in seconds beyond which no living process still writes a temporary file."""


class StaleFiles(NamedTuple):
    """Numbers of stale files found (and removed): lock files, and temporary files or folders."""

    locks: int
    temporary: int


def remove_stale_files(output: Path, *, older_than: float = OLD, remove: bool = True) -> StaleFiles:
    """Remove the files that dead processes left in a results folder. Safe while other processes work in it.

    Args:
        output: the results folder.
        older_than: age in seconds from which a temporary file is stale; living writers finish within seconds.
        remove: whether to remove the files; False only counts them.
    """
    if remove:
        running(output)
    folder = output / "store" / "locks"
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    locks = sum(lock_state(path, remove=remove) == "free" for path in paths)
    temporary = 0
    places = (
        (output / "store" / "tmp", "*"),
        *((output / name, ".*.tmp") for name in ("records", DAMAGED, FAILED_RERUNS, "conflicts")),
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
    return StaleFiles(locks, temporary)
