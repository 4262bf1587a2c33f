"""Select records as ``--filter`` and ``--exclude`` select cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchbd.core.kinds import KINDS
from benchbd.core.numerics import Numerics
from benchbd.errors import UsageError
from benchbd.plan.cell import Cell
from benchbd.plan.filters import Filters
from benchbd.plugins.part import Part
from benchbd.report.labels import Labels, variant
from benchbd.storage.record_schema import Record


def _cell(record: Mapping[str, Any], labels: Labels) -> Cell:
    """A record's cell, as filters see it: with the labels of tables. Its plugins need not be known here."""
    spec = record.get("spec") or {}
    found = {kind: variant(record, kind) for kind in KINDS}
    parts: dict[str, Any] = {
        kind: Part(item.name, int((spec.get(kind) or {}).get("version") or 0), item.values(), labels(item))
        for kind, item in found.items()
    }
    numerics = Numerics.parse({key: spec[key] for key in ("precision", "threads") if key in spec})
    return Cell(**parts, recipe=record.get("recipe") or {}, seed=record["seed"], numerics=numerics)


def select_records(records: Sequence[Record], filters: list[str], excludes: list[str]) -> list[Record]:
    """The records whose cells hold for every filter and for no exclude.

    Raises:
        UsageError: an expression cannot be read, matches no record, or no record is left.
    """
    labels = Labels({variant(record, kind) for record in records for kind in KINDS})
    cells = [_cell(record, labels) for record in records]
    for cell, record in zip(cells, records, strict=True):
        cell.__dict__["id"] = record["id"]  # An older record's id is not that of its cell today.
    selection = Filters(filters, excludes)
    selection.check(tuple(cells))
    kept = [record for record, cell in zip(records, cells, strict=True) if selection.keep(cell)]
    if records and not kept:
        texts = "; ".join([f"--filter {text}" for text in filters] + [f"--exclude {text}" for text in excludes])
        raise UsageError(f"no record is left after {texts} ({len(records)} in the results)")
    return kept
