"""Stale records: a plugin's code or the files that it reads have changed since.

They are reported and never recomputed without a request. A record of an earlier release holds digests of another kind,
or none. It cannot be compared, so it does not count as stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from benchbd.core.kinds import KINDS
from benchbd.core.paths import data_folder
from benchbd.errors import BenchbdError, UsageError, agrees, counted
from benchbd.plan.absent_files import AbsentFiles
from benchbd.plugins import registry
from benchbd.plugins.input_files import input_files_digest
from benchbd.plugins.source_digest import CODE
from benchbd.storage.record_schema import OTHER_SOURCES

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

INPUTS = {
    "dataset": ("files", "data"),
    "model": ("weight_files", "weights"),
    "attack": ("attack_files", "poison"),
    "defense": ("defense_files", "files"),
}
"""By kind of plugin: the entry of a record's ``data`` that holds the digest of its files, and what these are called."""


def known_sources(record: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The digests of the code of a record's plugins, by kind and name: its components, then the others that it used.

    Those that a record of an earlier release does not name are missing.
    """
    found = {}
    if isinstance(sources := record.get("sources"), Mapping):
        found = {(kind, str(record[kind])): sources.get(kind) for kind in KINDS}
    if isinstance(others := record.get(OTHER_SOURCES), Mapping):
        for text, digest in others.items():
            kind, _, name = str(text).partition(" ")
            if kind in KINDS:
                found.setdefault((kind, name), digest)
    return {key: digest for key, digest in found.items() if isinstance(digest, str) and digest.startswith(CODE)}


def changed_sources(cell: Cell, record: Mapping[str, Any]) -> list[str]:
    """The plugins of a cell, such as ``defense lfd``, whose code has changed since its record was written.

    They are its components, and others that these used, such as the network of LfD's teacher.
    """
    found = []
    components = {kind: getattr(cell, kind).name for kind in KINDS}
    for (kind, name), then in known_sources({**record, **components}).items():
        try:
            now = registry.source_digest(f"{kind}s", name)
        except UsageError:
            continue
        if now and then != now:
            found.append(f"{kind} {name}")
    return found


class InputFiles:
    """What the files of plugins hold now. Each plugin's files are looked at once, and only if needed.

    Args:
        root: folder of the data sets as the user gave it; None is ``BENCHBD_DATA`` or the user's cache.
        absent: which components have been asked for missing files before; grows.
    """

    def __init__(self, root: str | None, absent: AbsentFiles | None = None) -> None:
        self._root = root
        self._absent = AbsentFiles() if absent is None else absent
        self._found: dict[tuple[str, str], tuple[str | None, str]] = {}
        self._unknown: Counter[tuple[str, str]] = Counter()

    def changed(self, cell: Cell, record: Mapping[str, Any]) -> list[str]:
        """The inputs of a cell, such as ``data of csv-folder``, that have changed since its record was written.

        There is no verdict on files that the plugin or the record does not name, nor on those that are missing, cannot
        be read or differ because they are damaged, as the plugin says; :meth:`unknown` names these.
        """
        data = record.get("data") or {}
        found = []
        for kind, (entry, noun) in INPUTS.items():
            then = data.get(entry)
            if not isinstance(then, str):
                continue
            text = f"{noun} of {getattr(cell, kind).text}"
            now, error = self._now(kind, cell)
            if now not in (None, then):
                error = self._lacks(kind, cell)
            if error:
                self._unknown[text, error] += 1
            elif now not in (None, then):
                found.append(text)
        return found

    def unknown(self) -> list[str]:
        """One line for each input that could not be compared with the records of :meth:`changed`, with the reason."""
        return [
            f"{text} cannot be compared with the {agrees(number, 'record', 'records')} of {counted(number, 'cell')}: "
            f"{error}"
            for (text, error), number in sorted(self._unknown.items())
        ]

    def _lacks(self, kind: str, cell: Cell) -> str:
        """What the component says that it lacks, such as a file of its format; '' if it lacks nothing."""
        part, component = getattr(cell, kind), getattr(cell.components(), kind)
        try:
            return self._absent.line(kind, part.json, component, data_folder(self._root)) or ""
        except BenchbdError as error:
            return str(error)

    def _now(self, kind: str, cell: Cell) -> tuple[str | None, str]:
        """The digest of a component's files, None if it names none; and why it cannot be computed, if so."""
        key = (kind, getattr(cell, kind).json)
        if key not in self._found:
            try:
                digest = input_files_digest(getattr(cell.components(), kind), data_folder(self._root))
                self._found[key] = digest, ""
            except BenchbdError as error:
                self._found[key] = None, str(error)
        return self._found[key]


def changed_inputs_text(changed: Iterable[Iterable[str]], advice: str) -> list[str]:
    """One line for each changed input, with the number of cells.

    Args:
        changed: the changed inputs (:meth:`InputFiles.changed`) of each cell.
        advice: what to do, for the end of the line.
    """
    counts = Counter(name for names in changed for name in names)
    return [
        f"{name} changed since {counted(number, 'cell')} {agrees(number, 'was', 'were')} measured; {advice}"
        for name, number in sorted(counts.items())
    ]
