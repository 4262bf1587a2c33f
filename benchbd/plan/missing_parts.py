"""The components of cells whose files are missing, and the cells whose work can be computed without these files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from benchbd.core.kinds import KINDS
from benchbd.errors import UsageError
from benchbd.plan.absent_files import AbsentFiles
from benchbd.plan.cell import Cell
from benchbd.plan.work import work_of


class MissingPart(NamedTuple):
    """A component that lacks a file or a package.

    Attributes:
        kind: ``dataset``, ``model``, ``attack`` or ``defense``.
        json: the component, as in :class:`benchbd.plugins.part.Part`.
        line: what is missing and what to do, in one line.
    """

    kind: str
    json: str
    line: str


def missing_parts(
    cells: Collection[Cell], root: str | None, absent: AbsentFiles | None = None
) -> Iterator[MissingPart]:
    """The distinct components of cells that lack files, by kind.

    Args:
        cells: the cells.
        root: folder of the data sets; None is the user's cache.
        absent: what has been asked before; grows.
    """
    absent = AbsentFiles() if absent is None else absent
    needed = {(kind, getattr(cell, kind).json): cell for kind in KINDS for cell in cells}
    for (kind, part), cell in needed.items():
        if line := absent.line(kind, part, getattr(cell.components(), kind), root):
            yield MissingPart(kind, part, line)


def with_known_work(cells: Iterable[Cell], missing: Iterable[MissingPart]) -> list[Cell]:
    """The cells without those whose work depends on what the missing files hold, such as the number of images.

    Raises:
        UsageError: a component that lacks nothing cannot say its work.
    """
    lacking = {(part.kind, part.json) for part in missing}
    known: dict[tuple[str, ...], bool] = {}
    found = []
    for cell in cells:
        parts = tuple(getattr(cell, kind).json for kind in KINDS)
        if parts not in known:
            known[parts] = lacking.isdisjoint(zip(KINDS, parts, strict=True)) or _says_work(cell)
        if known[parts]:
            found.append(cell)
    return found


def _says_work(cell: Cell) -> bool:
    try:
        list(work_of([cell]))
    except UsageError:
        return False
    return True
