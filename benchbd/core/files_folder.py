"""The folder in which relative names of a user's own files, such as a training program, are looked up.

It is the folder of the matrix file. Worker processes inherit it through an environment variable.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

from benchbd.core.paths import FILES_VARIABLE as VARIABLE
from benchbd.core.paths import look, name_below
from benchbd.errors import UsageError, shown

_found: set[str] = set()
"""Folders that this process has looked in so far: the variable is the user's own if it has another value."""


def files_folder() -> Path:
    """``BENCHBD_FILES``, else the folder of the matrix file that was loaded last, else the current folder; absolute."""
    return Path(os.environ.get(VARIABLE) or ".").expanduser().absolute()


def look_beside(matrix: Path) -> None:
    """Look files up beside a matrix file from now on, in this process and in those that it starts."""
    before = os.environ.get(VARIABLE)
    if not before or before in _found:
        look_in(matrix.absolute().parent)


def look_in(folder: Path) -> None:
    """Look files up in a folder from now on, in this process and in those that it starts."""
    _found.add(str(folder))
    os.environ[VARIABLE] = str(folder)


SKIPPED = ("__pycache__", ".git")
"""Folders inside a named folder that are left out."""


def user_files(names: Sequence[str], whose: str) -> dict[str, Path]:
    """The files that a user names, folders with everything in them.

    Args:
        names: relative names of files and folders below :func:`files_folder`.
        whose: the plugin, for messages.

    Returns:
        Paths by relative name, in the order of their names.

    Raises:
        UsageError: one is missing, is neither a file nor a folder, or cannot be read.
    """
    base = files_folder()
    found: dict[str, Path] = {}
    for name in names:
        path = base / name
        kind = look(path, f"{whose}: files")
        if kind == "nothing":
            hint = f"names are relative to the folder of the matrix file, or to {VARIABLE}"
            raise UsageError(f"{whose}: files: {shown(name)} is not in {shown(str(base), 200)}; {hint}")
        if kind == "other":
            raise UsageError(f"{whose}: files: {shown(str(path), 200)} is neither a file nor a folder")
        if kind == "file":
            found[PurePosixPath(name).as_posix()] = path
            continue
        for at, folders, inside in os.walk(path, onerror=refuse_unreadable):
            folders[:] = sorted(set(folders) - {*SKIPPED})
            for each in inside:
                whole = Path(at) / each
                found[whole.relative_to(base).as_posix()] = whole
    return dict(sorted(found.items()))


def refuse_unreadable(error: OSError) -> NoReturn:
    """Raise UsageError for a file of the user's that cannot be read."""
    raise UsageError(f"{error.filename} cannot be read ({error.strerror or error})") from error


def checked_names(names: Sequence[str], whose: str, reserved: Sequence[str] = ()) -> tuple[str, ...]:
    """The usual spelling of names below :func:`files_folder`, each once, in the order of their first mention.

    Args:
        names: the names.
        whose: the plugin, for messages.
        reserved: words that no name may have as its first part.

    Raises:
        UsageError: a name does not lie below the folder, or its first part is reserved.
    """
    found = []
    for text in names:
        name = name_below(text)
        if name is None:
            raise UsageError(f"{whose}: files: {shown(text)} must be a name below the folder of the matrix file")
        first = name.partition("/")[0]
        if first in reserved:
            raise UsageError(f"{whose}: files: the name {first!r} is taken by benchbd; rename the file")
        found.append(name)
    return tuple(dict.fromkeys(found))
