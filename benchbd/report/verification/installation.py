"""Records against this installation: which cells it can build, and whose code or data differ from what it has."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchbd.core.kinds import KINDS
from benchbd.core.paths import data_folder
from benchbd.errors import BenchbdError, UnknownPlugin, counted, shown
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack
from benchbd.plugins.input_files import missing_files
from benchbd.plugins.source_digest import CODE
from benchbd.plugins.spec import parse_spec
from benchbd.report.verification.finding import Finding, of_many, of_record
from benchbd.report.verification.plausibility import beyond_the_data
from benchbd.storage.merge import mixed_data
from benchbd.storage.plugin_places import absent_plugin
from benchbd.storage.record_schema import Record
from benchbd.storage.staleness import InputFiles, changed_sources

PROGRAMS = ("command", "program")
"""Parameters with which a component runs another program. A stranger's record must not run one here."""
_DIGEST = re.compile(rf"(?:{re.escape(CODE)})?[0-9a-f]{{64}}")
"""Digests of code, of this kind and of the earlier one."""


class Installation:
    """The plugins and data of this installation, compared with records.

    Attributes:
        cells: by ID, the cells that can be built here.
        findings: what differs.
        notes: what cannot be compared.
    """

    def __init__(self, root: str | None, place: Path) -> None:
        """Args: root: folder of the data sets as the user gave it; place: the results folder or file."""
        self.cells: dict[str, Cell] = {}
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self._root, self._place = root, place
        self._problems: dict[tuple[str, ...], str] = {}

    def compare(self, records: Iterable[Record]) -> None:
        """Compare records with the plugins that are here, and finished ones with code and data, too."""
        records = [*records]
        plugins: list[tuple[str, str]] = []
        sources: list[tuple[str, str]] = []
        data: list[tuple[str, str]] = []
        files, older, undated = InputFiles(self._root), 0, 0
        for record in records:
            cell, problems = self._cell(record)
            plugins += [(text, record["id"]) for text in problems]
            if cell is not None:
                plugins += [(text, record["id"]) for text in _declared_otherwise(cell, record)]
                if record["label"] != cell.label:
                    text = f"is called {shown(record['label'], 200)} in label"
                    self.findings.append(of_record("record", {**record, "label": cell.label}, text))
            if record["status"] != "done":
                continue
            undigested = _without_digest(record)
            sources += [(text, record["id"]) for text in undigested]
            older += _is_older(record)
            undated += not record.get("data")
            if cell is None:
                continue
            self.cells[record["id"]] = cell
            self.findings += [of_record("number", record, text) for text in self._sizes(cell, record)]
            for name in changed_sources(cell, record):
                sources.append((f"{name} was measured with other code than that of this installation", record["id"]))
            for name in files.changed(cell, record):
                data.append((f"{name} here differ from those that were measured", record["id"]))
        self.findings += [*of_many("plugin", plugins), *of_many("source", sources), *of_many("data", data)]
        self.findings += [Finding("data", line) for line in mixed_data(records)]
        self.notes += files.unknown()
        if undated:
            self.notes.append(f"{counted(undated, 'record')} of an earlier release without fingerprints of data")
        if older:
            self.notes.append(f"{counted(older, 'record')} with digests of code of an earlier kind, not comparable")
        if dirty := sum(_is_dirty(record) for record in records if record["status"] == "done"):
            self.notes.append(f"{counted(dirty, 'record')} measured with uncommitted changes in benchbd's checkout")

    def _cell(self, record: Record) -> tuple[Cell | None, list[str]]:
        """The cell of a record, or what keeps it from being built here."""
        spec, matrix = record["spec"], str(record.get("matrix") or "")
        problems = [text for kind in KINDS if (text := self._problem(kind, spec[kind], matrix))]
        if problems:
            return None, problems
        try:
            return Cell.from_json({"spec": spec, "matrix": record.get("matrix") or ""}), []
        except BenchbdError as error:
            text = str(error).removesuffix("; plan again")
            return None, [f"a cell cannot be built here: {text}"]

    def _problem(self, kind: str, part: Mapping[str, Any], matrix: str) -> str:
        """What keeps a component of a matrix's spec from being built here; empty if nothing does."""
        name, version = str(part["name"]), part.get("version")
        key = (kind, name, repr([version, part.get("params")]), matrix)
        if key not in self._problems:
            try:
                self._problems[key] = self._built(kind, name, version, part)
            except UnknownPlugin as error:
                text = absent_plugin(error, self._place, matrix)
                whose = "" if (error.kind, error.name) == (kind, name) else f"{kind} {shown(name)}: "
                self._problems[key] = whose + text
        return self._problems[key]

    def _built(self, kind: str, name: str, version: Any, part: Mapping[str, Any]) -> str:
        """As above. Raises UnknownPlugin if the component, or one that it names, is not here."""
        try:
            here = registry.load(f"{kind}s", name).version
            if here != version or isinstance(version, bool):
                return f"{kind} {name} is version {here} here, but was measured in version {shown(version)}"
            registry.make(f"{kind}s", name, **part["params"])
        except UnknownPlugin:
            raise
        except (BenchbdError, TypeError, ValueError, RecursionError) as error:
            return f"{kind} {shown(name)} cannot be built here: {error}"
        return ""

    def _sizes(self, cell: Cell, record: Record) -> list[str]:
        """The numbers of images that the data set does not have; none if it cannot be asked without its files."""
        try:
            with registry.blame("datasets", cell.dataset.name):
                components = cell.components()
                brings_images = type(components.attack).poisoned_set is not Attack.poisoned_set
                return [*beyond_the_data(record, components.dataset.info(), brings_images)]
        except BenchbdError:
            return []

    def can_run(self, cell: Cell) -> str:
        """Why a cell cannot be run again here; empty if it can."""
        for kind in KINDS:
            part = getattr(cell, kind)
            if _runs_program(part.name, part.params):
                return f"{kind} {part.name} runs a program that the record names"
        try:
            folder = data_folder(self._root)
            found = cell.components()
            lines = (missing_files(plugin, folder) for plugin in (found.attack, found.model, found.dataset))
            return next(filter(None, lines), "")
        except BenchbdError as error:
            return str(error)


def _runs_program(name: str, params: Mapping[str, Any]) -> bool:
    """Whether a component declares that it runs a program, names one in a parameter, or names a component that does."""
    if any(name in PROGRAMS for name in params) or any(_declares_program(kind, name) for kind in KINDS):
        return True
    for value in params.values():
        try:
            if isinstance(value, str) and _runs_program(*parse_spec(value, "component")):
                return True
        except BenchbdError:  # other text than a spec
            continue
    return False


def _declares_program(kind: str, name: str) -> bool:
    try:
        return bool(getattr(registry.load(f"{kind}s", name), "runs_program", False))
    except BenchbdError:  # no component of this kind has the name
        return False


def _declared_otherwise(cell: Cell, record: Record) -> list[str]:
    """What a record says about its defense that the plugin does not."""
    defense = cell.components().defense
    return [
        f"{name} is {shown(record[name])}, but defense {defense.name} has {shown(here)} here"
        for name, here in (("needs", list(defense.needs)), ("control", defense.control))
        if record[name] != here
    ]


def _without_digest(record: Record) -> list[str]:
    """The components of a finished record whose code it does not name."""
    found = []
    for kind in KINDS:
        digest = record["sources"].get(kind)
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            found.append(f"{kind} {record[kind]} has no digest of its code in sources")
    return found


def _is_older(record: Record) -> bool:
    digests = [record["sources"].get(kind) for kind in KINDS]
    return any(
        isinstance(digest, str) and _DIGEST.fullmatch(digest) and not digest.startswith(CODE) for digest in digests
    )


def _is_dirty(record: Record) -> bool:
    git = record["env"].get("git")
    return isinstance(git, Mapping) and git.get("dirty") is True
