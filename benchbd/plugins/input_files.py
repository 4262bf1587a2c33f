"""The files that a plugin reads: which are missing, and the digest of their contents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from benchbd.core.contents import contents_digest
from benchbd.errors import UsageError, shown
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, Dataset, Defense, Model


def input_files_digest(plugin: Dataset | Model | Attack | Defense, root: str | None) -> str | None:
    """sha256 over the names and contents of the files that a plugin names; None if it names none.

    Args:
        plugin: the data set, model, attack or defense.
        root: folder of the data sets; None is the user's cache. Models and defenses do not get it.

    Raises:
        UsageError: a file is missing or cannot be read, or the plugin's ``input_files`` raises or returns no paths.
    """
    with registry.blame(plugin.kind, plugin.name):
        given: Any = plugin.input_files() if isinstance(plugin, (Model, Defense)) else plugin.input_files(root)
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise TypeError(f"input_files() must return a list of paths, not {shown(given)}")
        if strange := [path for path in given if not isinstance(os.fspath(path), str)]:
            raise TypeError(f"input_files() must return paths as text, not {shown(strange[0])}")
    try:
        return contents_digest(given)
    except (OSError, ValueError) as error:
        file = shown(str(getattr(error, "filename", None) or "a file"), 200)
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{plugin.kind[:-1]} {plugin.name!r}: {file} cannot be read ({reason})") from error


def missing_files(plugin: Dataset | Model | Attack | Defense, root: str | None) -> str | None:
    """The line in which a plugin names a file or package that is missing, or None if nothing is.

    Args:
        plugin: the data set, model, attack or defense.
        root: folder of the data sets; None is the user's cache. Models and defenses do not get it.

    Raises:
        UsageError: ``missing()`` raises, or returns neither a line nor None.
    """
    with registry.blame(plugin.kind, plugin.name):
        line: Any = plugin.missing() if isinstance(plugin, (Model, Defense)) else plugin.missing(root)
        if line is not None and not isinstance(line, str):
            raise TypeError(f"missing() must return a line or None, not {shown(line)}")
    return line or None
