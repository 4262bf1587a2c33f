"""Paths as users write them: ``~`` expanded, and whatever is wrong with one said in one line."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from benchbd.errors import UsageError, shown

LONGEST = 4000
"""Characters beyond which no system takes a path."""


def user_path(text: str, what: str) -> Path:
    """The path that a user wrote.

    Args:
        text: as written; ``~`` is the home folder.
        what: what the path is of, for the message (``plugin``, ``--output``).

    Raises:
        UsageError: it has a NUL in it, is too long, or names the home of nobody.
    """
    if "\0" in text or len(text) > LONGEST:
        raise UsageError(f"{what} {shown(text)}: that is no path")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{what} {shown(text)}: no such home folder") from None


def look(path: Path, what: str) -> Literal["file", "folder", "other", "nothing"]:
    """What lies at a path. Raises UsageError where the system refuses to say (permissions, a name too long)."""
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


def data_folder(given: str | None) -> str | None:
    """``--data`` or ``BENCHBD_DATA``, checked to be a readable folder; None where neither is given.

    Raises:
        UsageError: there is no such folder, or it may not be read.
    """
    folder = given or os.environ.get("BENCHBD_DATA") or None
    if folder is None:
        return None
    path = user_path(folder, "data folder")
    if look(path, "data folder") != "folder":
        holds = "name the one that holds cifar-10-batches-py, gtsrb, ..."
        raise UsageError(f"data folder {shown(folder, 200)}: no such folder; {holds}")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UsageError(f"data folder {shown(folder, 200)}: not readable; check its permissions")
    return str(path)


VARIABLE = "BENCHBD_DATA"


@contextlib.contextmanager
def data_given(folder: str | None) -> Iterator[None]:
    """While open, ``BENCHBD_DATA`` is ``folder``, where one is given; worker processes inherit it."""
    before = os.environ.get(VARIABLE)
    if folder and "\0" not in folder:
        os.environ[VARIABLE] = folder
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before
