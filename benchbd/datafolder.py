"""Where data sets are looked for."""

from __future__ import annotations

import os

from benchbd.errors import UsageError, shown
from benchbd.userpath import look, user_path


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
