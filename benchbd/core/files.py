"""Files written whole or not at all, and opened so that what lies in a results folder cannot lead a write out of it."""

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
        error: the error, or what another process gave as the reason of its failure.
    """
    if isinstance(error, str):
        return any(text in error for text in _FULL_TEXTS)
    return isinstance(error, OSError) and error.errno in _FULL


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


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and fsync it. Raises FileExistsError where something is in its place."""
    with path.open("xb") as file:
        file.write(data)
        _sync(file)


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut, where the file system knows how."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to, which takes the place of ``path`` when the block ends without an error.

    Readers see the old bytes or the new ones, never a part. The file lies beside ``path`` until then, is fsynced before
    the rename, and is removed when anything goes wrong. A symbolic link at ``path`` is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own length: that of ``path`` may be as long as the file system allows.
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
    """Write a file whole or not at all (see :func:`atomic_file`)."""
    with atomic_file(path) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file, UTF-8, whole or not at all (see :func:`atomic_file`).

    Raises:
        UsageError: the place cannot be written.
    """
    try:
        atomic_write(Path(path), text.encode())
    except OSError as error:
        raise UsageError(f"{Path(path)}: cannot be written ({error.strerror})") from None
