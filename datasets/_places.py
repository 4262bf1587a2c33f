"""The folders in which data sets look for their files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from benchbd import UsageError


def cache() -> Path:
    """The user's cache folder for data (not created): ``$XDG_CACHE_HOME/benchbd/data``, else under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that relative paths must be ignored.
    if base and Path(base).is_absolute():
        return Path(base) / "benchbd" / "data"
    try:
        return Path.home() / ".cache" / "benchbd" / "data"
    except RuntimeError as error:
        raise UsageError("there is no home folder to keep data in; set XDG_CACHE_HOME or give --data DIR") from error


def base(root: str | None) -> Path:
    """The data folder: the one given by ``--data`` or ``BENCHBD_DATA``, else the user's cache."""
    return Path(root).expanduser() if root else cache()


def find(root: str | None, folders: Sequence[str], inside: str) -> Path | None:
    """The first of ``folders`` below the root that contains a file or folder named ``inside``, or None.

    Raises:
        UsageError: the given root is not a folder, or cannot be read.
    """
    start = base(root)
    try:
        if root and not start.is_dir():
            what = "is not a folder" if start.exists() else "does not exist"
            raise UsageError(f"data folder {start} {what}; --data / BENCHBD_DATA must name an existing folder")
        if root:
            next(start.iterdir(), None)
        for folder in folders:
            if (start / folder / inside).exists():
                return start / folder
    except OSError as error:
        raise UsageError(f"data folder {start} cannot be read: {reason(error)}; check its permissions") from error
    return None


def reason(error: BaseException) -> str:
    """The reason of an exception, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__
