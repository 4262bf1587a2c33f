"""Atomic file writes, and opening files so that a link in a results folder cannot redirect a write out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from benchbd.errors import UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "the disk is full", "Disk quota exceeded")


def is_disk_full(error: BaseException | str) -> bool:
    """Whether a write failed because the disk is full or a quota is used up.

    Args:
        error: the error, or the reason that another process gave for its failure.
    """
    if isinstance(error, str):
        return any(text in error for text in _FULL_TEXTS)
    return isinstance(error, OSError) and error.errno in _FULL


def open_own(path: Path, flags: int) -> int:
    """Open a file and return its descriptor. A missing file or folder is created.

    A symbolic link at ``path`` is removed, not followed: a results folder may come from somebody else.

    Args:
        path: the file.
        flags: flags of ``os.open`` (``os.O_RDWR``, ``os.O_WRONLY | os.O_APPEND``).
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
    """Open a cell's log for appending and return its descriptor."""
    return open_own(path, os.O_WRONLY | os.O_APPEND)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and fsync it. Raises FileExistsError if the path exists."""
    with path.open("xb") as file:
        file.write(data)
        _sync(file)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder survive a power cut, if the file system supports that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, which replaces ``path`` when the block ends without an error.

    Readers see the old bytes or the new ones, never a mixture. The new file lies beside ``path`` until the rename, is
    fsynced before it, and is removed after any error. A symbolic link at ``path`` is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The temporary name is independent of ``path``, whose name may be as long as the file system allows.
    temporary = path.with_name(f".writing-{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            yield file
            _sync(file)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file completely or not at all (see :func:`atomic_file`)."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file completely or not at all (see :func:`atomic_file`).

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        atomic_write(Path(path), text.encode())
    except OSError as error:
        raise UsageError(f"{Path(path)}: cannot be written ({error.strerror})") from None
