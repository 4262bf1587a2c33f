"""Whether a component of a cell fits its others, and which of its files are missing, before anything runs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from benchbd.core.images import DatasetInfo
from benchbd.core.paths import data_folder
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, Defense, Model
from benchbd.plugins.input_files import missing_files

if TYPE_CHECKING:
    from benchbd.plan.absent_files import AbsentFiles
    from benchbd.plugins.part import Part


def lacks_files(kind: str, part: Part, plugin: Attack | Defense | Model, absent: AbsentFiles | None) -> bool:
    """Whether files of a plugin are missing, which ``absent`` notes.

    Without it, or if it refuses mistakes, a model or a defense raises UsageError. An attack need not: its check does if
    it reads the files.
    """
    if isinstance(plugin, Attack):
        if type(plugin).missing is Attack.missing:  # it needs no files, so the folder need not exist
            return False
        return absent is not None and absent.line(kind, part.json, plugin, data_folder(None)) is not None
    line = missing_files(plugin, None) if absent is None else absent.line(kind, part.json, plugin, None)
    if line and (absent is None or absent.refuse_mistakes):
        raise UsageError(line)
    return line is not None


def dataset_info(part: Part, dataset: Any, absent: AbsentFiles | None = None) -> tuple[DatasetInfo | None, str | None]:
    """A data set's info, or the reason why the data set is impossible.

    Both are None if the data set cannot say its sizes, which ``absent`` notes. Without it, or if the data set lacks
    nothing and ``absent`` refuses mistakes, that raises UsageError.
    """
    try:
        with registry.blame("datasets", dataset.name):
            return dataset.info(), None
    except Impossible as error:
        return None, str(error)
    except UsageError as error:
        if absent is None:
            raise
        line = None
        with contextlib.suppress(UsageError):
            line = absent.line("dataset", part.json, dataset, data_folder(None))
        if line is None and absent.refuse_mistakes:
            raise
        if line is None:
            absent.unsized.append(str(error))
        return None, None


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
