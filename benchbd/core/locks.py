"""Locks on files: an flock, which the kernel releases when its holder dies, so that no lock outlives a crash."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from benchbd.core.files import open_own

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]


class NoLocks(OSError):
    """The system or the file system has no such locks."""


def _flock(handle: int, *, wait: bool) -> None:
    """Lock an open file. Raises BlockingIOError where somebody else holds it and ``wait`` is False, and NoLocks."""
    if fcntl is None:
        raise NoLocks(errno.ENOTSUP, "this system has no file locks")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise NoLocks(error.errno, error.strerror) from error


def _still_there(handle: int, path: Path) -> bool:
    """Whether a locked file is the one that lies at ``path``.

    Whoever held the lock before removed its file on release, perhaps the very file that was just locked; and a lock on
    a removed file is no lock: the next process makes a new file and locks that.
    """
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


class FileLock:
    """An exclusive lock on a file, which is made when the lock is taken and removed when it is released.

    Args:
        path: the lock file; a symbolic link in its place is removed, not followed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def take(self, waiting: Callable[[], None] | None = None) -> None:
        """Take the lock, after whoever holds it.

        Args:
            waiting: called once if somebody else holds it.

        Raises:
            OSError: the file cannot be made, or there are no locks here (:class:`NoLocks`).
        """
        if not self.take_now():
            if waiting:
                waiting()
            while not self._lock_file(wait=True):
                pass

    def take_now(self) -> bool:
        """Take the lock; False where somebody else holds it. Raises OSError like :meth:`take`."""
        try:
            while not self._lock_file(wait=False):
                pass
        except BlockingIOError:
            return False
        return True

    def _lock_file(self, *, wait: bool) -> bool:
        """Lock the file that lies there now; False where it was removed meanwhile."""
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
        """Remove the file and then let the lock go; nothing where it is not held."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(handle)


@contextlib.contextmanager
def locked_if_possible(path: Path) -> Iterator[None]:
    """Hold a lock until the block ends.

    Where the system or the file system has no such locks, everybody goes on at once: callers replace files atomically,
    so that only work is done twice.
    """
    lock = FileLock(path)
    with contextlib.suppress(NoLocks):
        lock.take()
    try:
        yield
    finally:
        lock.release()


def lock_state(path: Path, *, remove: bool = False) -> Literal["held", "free", "none"]:
    """Whether somebody holds a lock; ``none`` where no lock file lies there, or none that can be asked.

    Args:
        path: the lock file; a symbolic link is not followed.
        remove: remove the file of a lock that nobody holds, as a killed holder leaves one. It is removed while locked,
            so that nobody can take it for theirs.
    """
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
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
