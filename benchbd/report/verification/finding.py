"""A finding about a results file, and findings that many records share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from benchbd.errors import counted, one_line

Kind = Literal["record", "duplicate", "number", "plugin", "source", "data", "repeat"]


class Finding(NamedTuple):
    """Something in a results file that is wrong, or that this installation does not confirm.

    Attributes:
        kind: ``record``: it breaks the schema, or its ID is not that of its spec; ``duplicate``; ``number``: its
            numbers contradict each other; ``plugin``: this installation does not know or accept a component;
            ``source``: other code; ``data``: other data or weights; ``repeat``: a cell has other results here.
        text: one line.
        ids: the cells, in the order of the file; empty if the record cannot be read.
    """

    kind: Kind
    text: str
    ids: tuple[str, ...] = ()


def of_record(kind: Kind, record: Mapping[str, Any], text: str) -> Finding:
    """A finding about one record, whose line names the cell."""
    return Finding(kind, one_line(f"{record['id']} {named(record)}: {text}"), (record["id"],))


def named(record: Mapping[str, Any]) -> str:
    """The label of a record's cell, or what its fields say if it has none."""
    parts = (*(str(record[name]) for name in ("dataset", "model", "attack", "defense")), f"s{record['seed']}")
    return str(record.get("label") or "/".join(parts))[:200]


def of_many(kind: Kind, found: Iterable[tuple[str, str]]) -> list[Finding]:
    """One finding for each text, with the number of its cells and the first of them.

    Args:
        kind: of all of them.
        found: text and ID of each case.
    """
    cells: dict[str, list[str]] = {}
    for text, cell in found:
        cells.setdefault(text, []).append(cell)
    return [
        Finding(
            kind, one_line(f"{text} ({counted(len(ids), 'record')}{', such as' if ids[1:] else ':'} {ids[0]})"), (*ids,)
        )
        for text, ids in cells.items()
    ]
