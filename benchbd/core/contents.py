"""Digests of what files hold. Files that have not changed since the last look are not read again.

The digest depends on names and bytes alone, so a copy of a folder has the digest of the original, whatever its dates.
A list in the user's cache folder keeps the sha256 of each file with its state: inode, size, and the times of the last
change of its bytes and of its inode. A file in the same state still has these bytes, with one exception: a clock ticks
in steps, so a file may change twice within one step and keep its state. A file that had changed less than RECENT before
it was read is therefore not kept in the list, as in Git's index.

The list may be deleted at any time. Without it, or where it cannot be written, digests are the same and take longer.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchbd.core.environment import cores
from benchbd.core.files import atomic_write, read_plain
from benchbd.core.paths import user_cache

FORMAT = 1
"""Part of the name of every list: raise it when the form of a list changes."""
RECENT = 2_000_000_000
"""Nanoseconds: the coarsest step of a file system's clock (FAT)."""
TOGETHER = 256
"""Files that a thread reads in one go."""
BLOCK = 1 << 20
"""Bytes read at a time."""


def contents_digest(paths: Sequence[str | os.PathLike[str]]) -> str | None:
    """sha256 over the names and contents of files; None if there are no files.

    Names are relative to the innermost folder that contains all of the files. Links are followed.

    Args:
        paths: the files, in any order.

    Raises:
        OSError: a file is missing, cannot be read, or is not a regular file.
    """
    files = sorted({os.path.abspath(path) for path in paths})  # noqa: PTH100
    if not files:
        return None
    # The folder that the first and the last of sorted paths have in common contains all of them.
    folder = os.path.commonpath([os.path.dirname(file) for file in (files[0], files[-1])])  # noqa: PTH120
    names = [file[len(folder) :].lstrip(os.sep) for file in files]
    digest = hashlib.sha256()
    for name, content in zip(names, content_hashes(folder, names), strict=True):
        digest.update(os.fsencode(name) + b"\0" + content.encode() + b"\n")
    return digest.hexdigest()


def content_hashes(folder: str | os.PathLike[str], names: Sequence[str]) -> list[str]:
    """sha256 (hex) of each file's bytes, in the order of ``names``, which are relative to ``folder``.

    Raises:
        OSError: a file is missing, cannot be read, or is not a regular file.
    """
    start = os.path.abspath(folder).rstrip(os.sep)  # noqa: PTH100
    kept = _list_of(start)
    known = _read_list(kept)
    paths = [f"{start}{os.sep}{name}" for name in names]
    found, unknown = [""] * len(names), []
    for place, (name, path) in enumerate(zip(names, paths, strict=True)):
        state, entry = _state(os.stat(path)), known.get(name, "")  # noqa: PTH116
        if entry.startswith(state):
            found[place] = entry[len(state) :]
        else:
            unknown.append(place)
    fresh = {}
    for place, (state, sha) in zip(unknown, _hash_all([paths[place] for place in unknown]), strict=True):
        found[place] = sha
        if state:
            fresh[names[place]] = state + sha
    if fresh and kept is not None:
        _write_list(kept, fresh)
    return found


def _state(status: os.stat_result) -> str:
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} "


def _hash_all(paths: Sequence[str]) -> list[tuple[str, str]]:
    """State ('' for a file that changed just now) and sha256 of each file."""
    parts = [paths[start : start + TOGETHER] for start in range(0, len(paths), TOGETHER)]
    if len(parts) <= 1:
        return [_hash(path) for path in paths]
    # hashlib and reads release the GIL; a network disk waits for each file.
    with ThreadPoolExecutor(min(8, 2 * cores())) as pool:
        return [pair for part in pool.map(lambda part: [_hash(path) for path in part], parts) for pair in part]


def _hash(path: str) -> tuple[str, str]:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # to open a FIFO would wait for its writer
    try:
        now, before = time.time_ns(), os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        digest = hashlib.sha256()
        while block := os.read(handle, BLOCK):
            digest.update(block)
        state = _state(os.fstat(handle))
    finally:
        os.close(handle)
    settled = state == _state(before) and not _recent(before, now)
    return state if settled else "", digest.hexdigest()


def _recent(status: os.stat_result, now: int) -> bool:
    """Whether a file changed within RECENT. A program may set the first time to any date, but not the second."""
    return abs(now - status.st_mtime_ns) < RECENT or now - status.st_ctime_ns < RECENT


def _list_of(folder: str) -> Path | None:
    """The file that keeps the hashes of a folder's files; None if the user has no cache folder."""
    cache = user_cache()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
    return None if cache is None else cache / "contents" / f"{name}-{FORMAT}.json"


def _read_list(kept: Path | None) -> dict[str, str]:
    """State and hash by name; empty if the list is absent or damaged."""
    if kept is None:
        return {}
    try:
        check, _, body = read_plain(kept).partition(b"\n")
        if check.decode() != hashlib.sha256(body).hexdigest():
            return {}
        return json.loads(body)  # type: ignore[no-any-return]
    except (OSError, ValueError, RecursionError):
        return {}


def _write_list(kept: Path, fresh: dict[str, str]) -> None:
    # Another process may have added files in the meantime. If two write at once, one of them reads its files again.
    body = json.dumps({**_read_list(kept), **fresh}).encode()
    with contextlib.suppress(OSError):
        atomic_write(kept, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
