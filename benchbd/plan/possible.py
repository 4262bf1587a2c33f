"""Whether a component of a cell fits its others, and which of its files are missing, before anything runs."""

from __future__ import annotations

import contextlib
from typing import Any

from benchbd.core.images import DatasetInfo
from benchbd.core.paths import data_folder
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, Defense, Model
from benchbd.plugins.input_files import missing_files


def missing_data(dataset: Any) -> str | None:
    """The line in which a data set says what is missing, if it can."""
    with contextlib.suppress(UsageError):
        return missing_files(dataset, data_folder(None))
    return None


def lacks_files(plugin: Attack | Defense | Model, absent: list[str] | None) -> bool:
    """Whether files of a plugin are missing; the line goes into ``absent``.

    Without that list, a model or a defense raises UsageError. An attack need not: its check does if it reads the files.
    """
    if absent is None and isinstance(plugin, Attack):
        return False
    line = missing_files(plugin, data_folder(None) if isinstance(plugin, Attack) else None)
    if not line:
        return False
    if absent is None:
        raise UsageError(line)
    absent.append(line)
    return True


def dataset_info(dataset: Any) -> tuple[DatasetInfo | None, str | None]:
    """A data set's info, or the reason why the data set is impossible."""
    try:
        with registry.blame("datasets", dataset.name):
            return dataset.info(), None
    except Impossible as error:
        return None, str(error)


def impossible(component: Any, *arguments: Any, files_missing: bool) -> str | None:
    """Why the component's ``check(*arguments)`` refuses, or None.

    The result is also None if the data set's info is not known, or if the check fails because files are missing.
    """
    if arguments[0] is None:
        return None
    try:
        with registry.blame(component.kind, component.name):
            component.check(*arguments)
    except Impossible as error:
        return str(error)
    except UsageError:
        if not files_missing:
            raise
    return None
