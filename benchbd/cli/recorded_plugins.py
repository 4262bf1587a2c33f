"""Plugins that records name and that are not here: what a line says about them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.errors import UnknownPlugin, UsageError, shown

if TYPE_CHECKING:
    import argparse


@contextlib.contextmanager
def plugins_of(args: argparse.Namespace, output: Path, record: dict[str, Any]) -> Iterator[None]:
    """Register the plugin files that runs of the record's matrix had, unless ``--plugin`` names others.

    A file that is gone or that cannot be loaded matters only if the cell needs it.

    Raises:
        UsageError: what runs inside needs a plugin that is not here.
    """
    from benchbd.plugins import registry
    from benchbd.storage.plugin_places import absent_plugin, plugin_places

    matrix = record.get("matrix") or ""
    problem: UsageError | None = None
    for file in [] if args.plugin else plugin_places(output).get(matrix, []):
        if Path(file).is_file():
            try:
                registry.add_plugin_file(file)
            except UsageError as error:
                problem = problem or error
    try:
        yield
    except UnknownPlugin as error:
        line = problem or absent_plugin(error, output, matrix)
        raise UsageError(f"cell {shown(record['label'], 200)}: {line}") from error


def known_to_records(error: BaseException | None, folder: str) -> str:
    """What to do about an error that says a name is unknown, if records of a results folder have the name; else ''."""
    from benchbd.core.paths import user_path
    from benchbd.storage import results_file
    from benchbd.storage.plugin_places import absent_plugin, plugin_places

    while error is not None and not isinstance(error, UnknownPlugin):
        error = error.__cause__
    with contextlib.suppress(UsageError, OSError):
        output = user_path(folder, "--output")
        if error is None or not any(plugin_places(output).values()):
            return ""
        for record in results_file.each(output, skip=lambda damaged: None):
            if record.get(error.kind) == error.name:
                line = absent_plugin(error, output, record.get("matrix") or "")
                return f"{line} ({shown(str(output), 200)} has records of it)"
    return ""
