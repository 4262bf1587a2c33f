"""Files of a results folder, opened so that what lies in it cannot lead a write out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
from pathlib import Path

from benchbd.errors import UsageError


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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file whole or not at all (temporary file beside it, fsync, rename).

    Raises:
        UsageError: the place cannot be written.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=target.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
            Path(temporary).replace(target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror})") from None


FULL = (errno.ENOSPC, errno.EDQUOT)
"""Errors of writing to a full disk, or past a quota."""


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut, where the file system knows how."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part; fsynced before the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        _write(temporary, data)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)
