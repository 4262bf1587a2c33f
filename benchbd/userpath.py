"""Paths as users write them: ``~`` expanded, and whatever is wrong with one said in one line."""

from __future__ import annotations

import stat
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
