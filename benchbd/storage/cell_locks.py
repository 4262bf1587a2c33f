"""Locks on cells: only one run at a time works on a cell, even if several runs share an output folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchbd.core.locks import FileLock, lock_state


class CellLocks:
    """Locks on cells. The run's process holds them, and the kernel releases them however the process dies."""

    def __init__(self, output: Path) -> None:
        self._folder = output / "running"
        self._held: dict[str, FileLock] = {}

    def take(self, cell_id: str) -> bool:
        """Lock a cell; False if another run holds it."""
        if cell_id in self._held:
            return True
        lock = FileLock(self._folder / cell_id)
        if not lock.take_now():
            return False
        self._held[cell_id] = lock
        return True

    def give_up(self, cell_id: str) -> None:
        """Release a cell's lock and remove its lock file."""
        lock = self._held.pop(cell_id, None)
        if lock is not None:
            lock.release()

    def close(self) -> None:
        """Release every lock."""
        for cell_id in list(self._held):
            self.give_up(cell_id)
        with contextlib.suppress(OSError):  # another run holds locks in there, or no cell was ever locked
            self._folder.rmdir()


def running(output: Path) -> set[str]:
    """IDs of the cells that a run is working on now. Removes the lock files of dead runs."""
    folder = output / "running"
    if not folder.is_dir():
        return set()
    return {path.name for path in sorted(folder.iterdir()) if lock_state(path, remove=True) == "held"}
