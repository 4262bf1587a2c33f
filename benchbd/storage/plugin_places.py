"""Where plugin files and programs of a results folder's runs were, so that one of its cells can run again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchbd.core.files import write_text
from benchbd.errors import UnknownPlugin, shown

FILE = "plugins.json"
FOLDERS = "folders.json"


def _read(path: Path) -> dict[str, Any]:
    """A mapping by the matrix's name; empty if nothing usable is there."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, places: dict[str, Any]) -> None:
    write_text(path, json.dumps(places, indent=2, sort_keys=True) + "\n")


def plugin_places(output: Path) -> dict[str, list[str]]:
    """The plugin files that runs of each matrix had, by the matrix's name, those of the last run first.

    Empty if nothing usable is there.
    """
    found = _read(output / FILE)
    return {name: [f for f in files if isinstance(f, str)] for name, files in found.items() if isinstance(files, list)}


def keep_plugin_places(output: Path, matrix: str, files: Sequence[str]) -> None:
    """Note the plugin files of a matrix, absolute paths, before those of earlier runs that are still there.

    A later run may need none of them, or others: all cells that are named on the command line belong to one matrix.
    """
    known = plugin_places(output).get(matrix, [])
    wanted = [*files, *(file for file in known if file not in files and Path(file).is_file())] if files else known
    if known != wanted:
        _write(output / FILE, {**plugin_places(output), matrix: wanted})


def absent_plugin(error: UnknownPlugin, output: Path, matrix: str) -> str:
    """What is missing and what to do, if a record of a matrix names a plugin that is not here.

    Args:
        error: the plugin's kind and name.
        output: the results folder; a results file knows no plugin files.
        matrix: the record's matrix.
    """
    what, files = f"no {error.kind} is called {shown(error.name)} here", plugin_places(output).get(matrix, [])
    for file in files:
        if not Path(file).is_file():
            gone = f"the plugin {shown(file, 200)} of matrix {shown(matrix)} is gone"
            return f"{what}; {gone}; name where it is now with --plugin FILE"
    if files:
        named = ", ".join(shown(file, 200) for file in files)
        return f"{what}; name its file with --plugin FILE (runs of matrix {shown(matrix)} had {named})"
    return f"{what}; name its file with --plugin FILE if it is a plugin of its own"


def files_place(output: Path, matrix: str) -> str | None:
    """The folder in which the last run of a matrix looked up the user's files; None if unknown."""
    found = _read(output / FOLDERS).get(matrix)
    return found if isinstance(found, str) else None


def keep_files_place(output: Path, matrix: str, folder: Path) -> None:
    """Note the folder that holds the files of a matrix."""
    if files_place(output, matrix) != str(folder):
        _write(output / FOLDERS, {**_read(output / FOLDERS), matrix: str(folder)})


def merge_places(source: Path, output: Path) -> None:
    """Note in ``output`` what ``source`` says about the matrices of which ``output`` says nothing."""
    for file in (FILE, FOLDERS):
        found, known = _read(source / file), _read(output / file)
        if set(found) - set(known):
            _write(output / file, {**found, **known})
