"""One run at a time works on a cell, also where several runs share an output folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from benchbd.core.files import open_own


class CellLocks:
    """Locks on cells, held by the run's process and given up by the kernel when it dies, however it dies."""

    def __init__(self, output: Path) -> None:
        self._folder = output / "running"
        self._held: dict[str, int] = {}

    def _path(self, cell_id: str) -> Path:
        return self._folder / cell_id

    def take(self, cell_id: str) -> bool:
        """Claim a cell; False where another run has it."""
        if cell_id in self._held:
            return True
        while True:
            handle = open_own(self._path(cell_id), os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            # Whoever held it before may have unlinked the very file that was just locked.
            try:
                same = os.fstat(handle).st_ino == self._path(cell_id).stat().st_ino
            except FileNotFoundError:
                same = False
            if same:
                self._held[cell_id] = handle
                return True
            os.close(handle)

    def give_up(self, cell_id: str) -> None:
        """Release a cell and remove its lock file."""
        handle = self._held.pop(cell_id, None)
        if handle is not None:
            self._path(cell_id).unlink(missing_ok=True)
            os.close(handle)

    def close(self) -> None:
        """Release everything."""
        for cell_id in list(self._held):
            self.give_up(cell_id)
        with contextlib.suppress(OSError):  # another run has cells in there, or none was ever claimed
            self._folder.rmdir()


def running(output: Path) -> set[str]:
    """Ids of the cells that some run works on at this moment. Left-over files of dead runs are swept away."""
    busy: set[str] = set()
    folder = output / "running"
    if not folder.is_dir():
        return busy
    for path in sorted(folder.iterdir()):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            busy.add(path.name)
        finally:
            os.close(handle)
    return busy
