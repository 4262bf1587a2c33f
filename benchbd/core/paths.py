"""Paths from users: ``~`` is expanded, and every fault is reported in one line."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from benchbd.core.variables import variables
from benchbd.errors import UsageError, shown

VARIABLE = "BENCHBD_DATA"
"""Environment variable with the folder of the data sets."""
FILES_VARIABLE = "BENCHBD_FILES"
"""Environment variable with the folder of the user's own files (:mod:`benchbd.core.files_folder`)."""
LONGEST = 4000
"""Length in characters beyond which no system accepts a path."""


def user_path(text: str, what: str) -> Path:
    """Parse a path from the user.

    Args:
        text: the path; ``~`` is the home folder.
        what: the role of the path, for the message (``plugin``, ``--output``).

    Raises:
        UsageError: the path contains a NUL, is too long, or names the home folder of an unknown user.
    """
    if "\0" in text or len(text) > LONGEST:
        raise UsageError(f"{what} {shown(text)}: not a valid path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{what} {shown(text)}: no such home folder") from None


def look(path: Path, what: str) -> Literal["file", "folder", "other", "nothing"]:
    """The type of the object at a path. Raises UsageError if the system does not tell (permissions, a long name)."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what} {shown(str(path), 200)}: cannot be read ({reason})") from None
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def name_below(text: str) -> str | None:
    """The usual spelling of a relative name (no ``./``, no ``//``, no ``/`` at the end); None if it is not one.

    A name that is empty or absolute, has a ``..`` or begins with ``~`` leads elsewhere, as does one that no system
    accepts. Links are not looked at. A cell's ID holds the usual spelling, so that each spelling gives the same cell.
    """
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in text or len(text) > LONGEST:
        return None
    return None if path.parts[0].startswith("~") else path.as_posix()


def name_in_data(text: str, what: str) -> str:
    """The usual spelling of a name below the data folder (see :func:`name_below`).

    Args:
        text: the name.
        what: the plugin and its parameter, for the message (``csv-folder: folder``).

    Raises:
        UsageError: it does not lie below the data folder.
    """
    name = name_below(text)
    if name is None:
        raise UsageError(f"{what} must lie below the data folder (--data), not at {shown(text, 200)}")
    return name


def data_folder(given: str | None) -> str | None:
    """The folder from ``--data`` or ``BENCHBD_DATA``, checked to be readable; None if neither is given.

    Raises:
        UsageError: the folder does not exist or is not readable.
    """
    folder = given or os.environ.get(VARIABLE) or None
    if folder is None:
        return None
    path = user_path(folder, "data folder")
    if look(path, "data folder") != "folder":
        hint = "give the folder that holds cifar-10-batches-py, gtsrb, ..."
        raise UsageError(f"data folder {shown(folder, 200)}: no such folder; {hint}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UsageError(f"data folder {shown(folder, 200)}: not readable; check its permissions")
    return str(path)


def user_cache() -> Path | None:
    """The user's cache folder for benchbd (not created); None if there is no home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that relative paths must be ignored.
    if not Path(base).is_absolute():
        try:
            return Path.home() / ".cache" / "benchbd"
        except RuntimeError:
            return None
    return Path(base) / "benchbd"


@contextlib.contextmanager
def data_given(folder: str | None) -> Iterator[None]:
    """Set ``BENCHBD_DATA`` to ``folder``, if given, inside the context. Worker processes inherit it.

    ``BENCHBD_FILES``, which a matrix file sets (:mod:`benchbd.core.files_folder`), gets its old value at the end.
    """
    given = folder if folder and "\0" not in folder else os.environ.get(VARIABLE)
    with variables({VARIABLE: given, FILES_VARIABLE: os.environ.get(FILES_VARIABLE)}):
        yield
