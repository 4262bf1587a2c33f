"""The results folder as a place: folders that hold everything else of a user's are none."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from benchbd.errors import UsageError, shown
from benchbd.storage.record_schema import is_id


def record_ids(output: Path) -> list[str]:
    """IDs of the records in a results folder, without reading the records."""
    try:
        names = [path.name for path in (output / "records").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name[:-5] for name in names if name.endswith(".json") and is_id(name[:-5]))


def refuse_shared_place(output: Path) -> None:
    """Refuse the root of the file system and the home folder, among whose folders results would be lost.

    Results that lie there already, of an earlier release, stay usable.

    Args:
        output: the folder, as the user wrote it.

    Raises:
        UsageError: it is such a place, and holds no record.
    """
    if (place := _shared_place(output)) and not record_ids(output):
        raise UsageError(
            f"--output {shown(str(output), 200)}: is {place}; give results a folder of their own, such as benchbd-out"
        )


def _shared_place(folder: Path) -> str:
    """What a folder is that holds more than one program's files; '' for any other folder."""
    whole = Path(os.path.realpath(folder))
    if whole == whole.parent:
        return "the root of the file system"
    with contextlib.suppress(RuntimeError):  # there is no home folder
        if whole == Path(os.path.realpath(Path.home())):
            return "your home folder"
    return ""
