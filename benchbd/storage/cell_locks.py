"""One run at a time works on a cell, also where several runs share an output folder."""

from __future__ import annotations

import contextlib
from pathlib import Path

from benchbd.core.locks import FileLock, lock_state


class CellLocks:
    """Locks on cells, held by the run's process and given up by the kernel when it dies, however it dies."""

    def __init__(self, output: Path) -> None:
        self._folder = output / "running"
        self._held: dict[str, FileLock] = {}

    def take(self, cell_id: str) -> bool:
        """Claim a cell; False where another run has it."""
        if cell_id in self._held:
            return True
        lock = FileLock(self._folder / cell_id)
        if not lock.take_now():
            return False
        self._held[cell_id] = lock
        return True

    def give_up(self, cell_id: str) -> None:
        """Release a cell and remove its lock file."""
        lock = self._held.pop(cell_id, None)
        if lock is not None:
            lock.release()

    def close(self) -> None:
        """Release everything."""
        for cell_id in list(self._held):
            self.give_up(cell_id)
        with contextlib.suppress(OSError):  # another run has cells in there, or none was ever claimed
            self._folder.rmdir()


def running(output: Path) -> set[str]:
    """Ids of the cells that some run works on at this moment. Left-over files of dead runs are swept away."""
    folder = output / "running"
    if not folder.is_dir():
        return set()
    return {path.name for path in sorted(folder.iterdir()) if lock_state(path, remove=True) == "held"}
