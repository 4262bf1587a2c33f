"""Records as one Parquet table: a row for each cell, every column of one type, identities as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbd.core.extras import extra_module
from benchbd.core.files import named_file
from benchbd.core.plain import printable
from benchbd.report.export import flat

ALWAYS = {
    "id": "text",
    "label": "text",
    "matrix": "text",
    "dataset": "text",
    "model": "text",
    "attack": "text",
    "defense": "text",
    "seed": "whole",
    "status": "text",
    "error": "text",
    **dict.fromkeys(("ca", "asr", "ra", "clean_asr", "asr_all", "ca_non_target"), "number"),
}
"""Columns that every table has, with their types, whatever the records hold."""


def as_parquet(records: Sequence[Mapping[str, Any]], target: Path, output: Path | None = None) -> None:
    """Write one row per cell; further columns are all fields that any record has, as in the csv.

    Args:
        records: the records.
        target: the file.
        output: not used; the other exports take the results folder.

    Raises:
        UsageError: pyarrow is missing.
    """
    arrow = extra_module("pyarrow", "parquet", "a Parquet file")
    parquet = extra_module("pyarrow.parquet", "parquet", "a Parquet file")
    rows = [flat(record) for record in records]
    names = list(dict.fromkeys([*ALWAYS, *(name for row in rows for name in row)]))
    types = {"text": arrow.string(), "whole": arrow.int64(), "number": arrow.float64()}
    columns, fields = [], []
    for name in names:
        values = [row.get(name) for row in rows]
        kind = ALWAYS.get(name) or _kind(values)
        columns.append(arrow.array([_as(kind, value) for value in values], types[kind]))
        fields.append(arrow.field(printable(name), types[kind]))
    table = arrow.Table.from_arrays(columns, schema=arrow.schema(fields))
    with named_file(target) as file:
        parquet.write_table(table, file)


def _kind(values: Sequence[Any]) -> str:
    """The type that holds all values of a column without a change."""
    given = [value for value in values if value is not None]
    if given and all(type(value) is int and abs(value) < 2**63 for value in given):
        return "whole"
    numbers = all(type(value) is float or (type(value) is int and abs(value) <= 2**53) for value in given)
    return "number" if given and numbers else "text"


def _as(kind: str, value: Any) -> Any:
    if value is None:
        return None
    if kind == "text":
        return printable(value if isinstance(value, str) else json.dumps(value))
    if type(value) not in (int, float):
        return None
    return int(value) if kind == "whole" else float(value)
