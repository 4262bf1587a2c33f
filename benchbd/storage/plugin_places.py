"""Where the plugin files of a results folder's runs were, so that one of its cells can run again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from benchbd.core.files import write_text

FILE = "plugins.json"


def plugin_places(output: Path) -> dict[str, list[str]]:
    """The plugin files that the last run of each matrix had, by the matrix's name; empty if nothing usable is there."""
    try:
        found = json.loads((output / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: [f for f in files if isinstance(f, str)] for name, files in found.items() if isinstance(files, list)}


def keep_plugin_places(output: Path, matrix: str, files: Sequence[str]) -> None:
    """Note the plugin files of a matrix, absolute paths. Nothing is written if they are known, or if there are none."""
    places = plugin_places(output)
    if places.get(matrix, []) != [*files]:
        write_text(output / FILE, json.dumps({**places, matrix: [*files]}, indent=2, sort_keys=True) + "\n")
