"""Atomic file writes, and opening files so that a link in a results folder cannot redirect a write out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

from benchbd.errors import UsageError

_FULL = (errno.ENOSPC, errno.EDQUOT)
RESULTS_DISK_FULL = "the disk of the results is full"
_FULL_TEXTS = ("No space left on device", "the disk is full", RESULTS_DISK_FULL, "Disk quota exceeded")


def is_disk_full(error: BaseException | str) -> bool:
    """Whether a write failed because the disk is full or a quota is used up.

    Args:
        error: the error, or the reason that another process gave for its failure.
    """
    if isinstance(error, str):
        return any(text in error for text in _FULL_TEXTS)
    return isinstance(error, OSError) and error.errno in _FULL


class ResultsDiskFull(OSError):
    """The disk of the results is full. No cell is at fault; a cell's own full disk is another OSError."""


@contextlib.contextmanager
def results_disk(folder: Path) -> Iterator[None]:
    """A context whose writes go to the results. Raises ResultsDiskFull, with the folder, if their disk is full."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise ResultsDiskFull(error.errno, RESULTS_DISK_FULL, str(folder)) from error


class NotAFile(OSError):
    """A folder, link, pipe, socket or device where a regular file belongs. ``strerror`` says which."""


_NOT_A_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV)
"""Errors of ``os.open`` with the flags of :func:`open_plain` that mean: a link, a folder, a socket or a device."""
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def _not_a_file(path: str | os.PathLike[str]) -> NotAFile:
    with contextlib.suppress(OSError):
        mode = os.lstat(path).st_mode
        kind = next((name for holds, name in _KINDS if holds(mode)), "a device")
        return NotAFile(errno.EINVAL, f"it is {kind}, not a file", os.fspath(path))
    return NotAFile(errno.EINVAL, "it is not a file", os.fspath(path))


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Open a regular file that somebody else may have put there, and return its descriptor.

    A pipe, socket or device never makes the caller wait, and a symbolic link is not followed.

    Raises:
        NotAFile: there is something else at ``path``.
        OSError: the file cannot be opened.
    """
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise _not_a_file(path) from None
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise _not_a_file(path)


def read_plain(path: str | os.PathLike[str], largest: int | None = None) -> bytes:
    """The bytes of a regular file.

    Args:
        path: the file.
        largest: number of bytes from which on the file counts as something else, or None.

    Raises:
        OSError: as for :func:`open_plain`; NotAFile for a file that is too large.
    """
    handle = open_plain(path)
    try:
        size = os.fstat(handle).st_size
        if largest is not None and size >= largest:
            raise NotAFile(errno.EFBIG, f"it is too large ({size / 2**20:,.0f} MiB)", os.fspath(path))
        # No file object: ten thousand records are read at once.
        data = os.read(handle, size + 1)
        while chunk := os.read(handle, 1 << 20):
            data += chunk
        return data
    finally:
        os.close(handle)


def _clear(path: Path) -> None:
    """Make room for a file: remove a link, pipe, socket, device or empty folder, and move a full folder aside."""
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            path.unlink()
            return
    except FileNotFoundError:
        return
    try:
        path.rmdir()
    except OSError:
        path.rename(path.with_name(f"{path.name[:200]}.damaged-{secrets.token_hex(4)}"))


def open_own(path: Path, flags: int) -> int:
    """Open a file and return its descriptor. A missing file or folder is created.

    A symbolic link, pipe, socket, device or folder at ``path`` is removed or moved aside, never followed or waited for:
    a results folder may come from somebody else.

    Args:
        path: the file.
        flags: flags of ``os.open`` (``os.O_RDWR``, ``os.O_WRONLY | os.O_APPEND``).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(20):
        try:
            return open_plain(path, flags | os.O_CREAT)
        except NotAFile:
            _clear(path)
    return open_plain(path, flags | os.O_CREAT)


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


@contextlib.contextmanager
def named_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write to at a place that the user has named.

    A file, or the file that a symbolic link leads to, is replaced when the block ends without an error (see
    :func:`atomic_file`). A device, a pipe or a terminal stays what it is and is written to.
    """
    # The link of a pipe, such as /dev/stdout, leads to a name that is no path: only the link itself can be opened.
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
    else:
        with atomic_file(Path(os.path.realpath(path))) as file:
            yield file


def encoded(text: str) -> bytes:
    """UTF-8 bytes of any text; a lone surrogate becomes its escape, such as ``\\udce9``."""
    return text.encode("utf-8", "backslashreplace")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file completely or not at all (see :func:`atomic_file`).

    A lone surrogate, which UTF-8 cannot hold, is written as its escape: ``\\udce9``. JSON reads that back.

    Raises:
        UsageError: the file cannot be written.
    """
    _write_text(atomic_file, Path(path), text)


def write_named(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text, as :func:`write_text` does, to a place that the user has named (see :func:`named_file`).

    Raises:
        UsageError: it cannot be written.
    """
    _write_text(named_file, Path(path), text)


def _write_text(opened: Callable[[Path], AbstractContextManager[IO[bytes]]], path: Path, text: str) -> None:
    try:
        with opened(path) as file:
            file.write(encoded(text))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None
