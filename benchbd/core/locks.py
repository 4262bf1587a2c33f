"""File locks (flock). The kernel releases a lock when its holder dies, so no lock outlives a crash."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from benchbd.core.files import open_own, open_plain

try:
    import fcntl
except ImportError:  # this system has no flock
    fcntl = None  # type: ignore[assignment]


class NoLocks(OSError):
    """The system or the file system does not support file locks."""


def _flock(handle: int, *, wait: bool) -> None:
    """Lock an open file. Raises NoLocks; BlockingIOError if ``wait`` is False and another process holds the lock."""
    if fcntl is None:
        raise NoLocks(errno.ENOTSUP, "this system has no file locks")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise NoLocks(error.errno, error.strerror) from error


def _still_there(handle: int, path: Path) -> bool:
    """Whether a locked file is still the one at ``path``.

    The previous holder removes the file on release, possibly the very file that was just locked. A lock on a removed
    file protects nothing: the next process creates a new file and locks that.
    """
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


class FileLock:
    """An exclusive lock on a file. Taking the lock creates the file; releasing the lock removes it.

    Args:
        path: the lock file. A symbolic link at this path is removed, not followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, waiting: Callable[[], None] | None = None) -> None:
        """Take the lock; wait while another process holds it.

        Args:
            waiting: called once if another process holds it.

        Raises:
            OSError: the file cannot be created, or locks are not supported (:class:`NoLocks`).
        """
        if not self.take_now():
            if waiting:
                waiting()
            while not self._lock_file(wait=True):
                pass

    def take_now(self) -> bool:
        """Take the lock without waiting; False if another process holds it. Raises OSError like :meth:`take`."""
        try:
            while not self._lock_file(wait=False):
                pass
        except BlockingIOError:
            return False
        return True

    def _lock_file(self, *, wait: bool) -> bool:
        """Lock the current file; False if it was removed in the meantime."""
        handle = open_own(self.path, os.O_RDWR)
        try:
            _flock(handle, wait=wait)
            if _still_there(handle, self.path):
                self._handle = handle
                return True
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return False

    def release(self) -> None:
        """Remove the file, then release the lock. Does nothing if the lock is not held."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(handle)


@contextlib.contextmanager
def locked_if_possible(path: Path) -> Iterator[None]:
    """Hold a lock until the block ends.

    If the system or the file system has no file locks, the block runs without one. Callers replace files atomically, so
    the worst case is duplicated work.
    """
    lock = FileLock(path)
    with contextlib.suppress(NoLocks):
        lock.take()
    try:
        yield
    finally:
        lock.release()


def lock_state(path: Path, *, remove: bool = False) -> Literal["held", "free", "none"]:
    """Whether a process holds a lock; ``none`` if the lock file is missing or cannot be checked.

    Args:
        path: the lock file. A symbolic link is not followed.
        remove: whether to remove the file of a lock that nobody holds; a killed holder leaves such a file. The file is
            locked during the removal, so no other process can take it as its own.
    """
    while True:
        try:
            handle = open_plain(path, os.O_RDWR)
        except OSError:
            return "none"
        try:
            _flock(handle, wait=False)
            if _still_there(handle, path):
                if remove:
                    path.unlink(missing_ok=True)
                return "free"
        except BlockingIOError:
            return "held"
        except OSError:
            return "none"
        finally:
            os.close(handle)
