"""Where data sets are looked for."""

from __future__ import annotations

import os
from pathlib import Path

from benchbd.errors import UsageError


def data_folder(given: str | None) -> str | None:
    """``--data`` or ``BENCHBD_DATA``, checked to be a readable folder; None where neither is given."""
    folder = given or os.environ.get("BENCHBD_DATA") or None
    if folder is None:
        return None
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UsageError(f"data folder {folder}: no such folder; name the one that holds cifar-10-batches-py, gtsrb, ...")
    if not os.access(path, os.R_OK | os.X_OK):
        raise UsageError(f"data folder {folder}: not readable; check its permissions")
    return str(path)
