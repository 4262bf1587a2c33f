"""Merges the records of several results folders by cell ID. No result is lost and every conflict is reported."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchbd.core.files import write_text
from benchbd.core.hashing import canonical
from benchbd.core.numerics import precision_class
from benchbd.errors import UsageError, counted, one_line
from benchbd.plan.cell import identity
from benchbd.storage import records
from benchbd.storage import results_file as checked
from benchbd.storage.circumstances import differences
from benchbd.storage.data_version import DataVersion, data_version, usual_version
from benchbd.storage.plugin_places import merge_places
from benchbd.storage.record_schema import METRICS, is_id


class Conflict(NamedTuple):
    """Two finished records of one cell with different metrics, or measured on different data.

    Attributes:
        id: the cell's ID.
        label: the cell's readable name.
        difference: the largest absolute difference of CA, ASR and RA, as a fraction.
        kept: path of the second record.
        classes: precision classes of the two records, if they differ; else empty.
        data: what differs in data and initial weights, such as ``test set``; empty if nothing is known to differ.
        other: what else is known to differ, such as ``code of defense lfd`` or ``torch 2.12.0 and 2.13.0``.
    """

    id: str
    label: str
    difference: float
    kept: Path
    classes: tuple[str, ...] = ()
    data: str = ""
    other: tuple[str, ...] = ()


class Merged(NamedTuple):
    """The result of a merge.

    Attributes:
        added: number of cells that the target lacked, or had without a result.
        same: number of cells whose metrics agree on both sides.
        conflicts: cells whose metrics differ; both records are kept.
        refused: one line for each rejected record.
        mixed: one line for each data set and model whose merged records were measured on different data.
    """

    added: int
    same: int
    conflicts: list[Conflict]
    refused: list[str]
    mixed: list[str]


class _Measured(NamedTuple):
    """What tells whether a record was measured on the same data as others: data set and model, version, label."""

    key: str
    version: DataVersion
    label: str


def _difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Largest absolute difference of the metrics; 1 if only one of the records has a metric."""
    found = [0.0]
    for name in METRICS:
        a, b = one.get(name), other.get(name)
        if (a is None) != (b is None):
            found.append(1.0)
        elif a is not None and b is not None:
            found.append(abs(a - b))
    return max(found)


def merge(sources: Sequence[Path], output: Path) -> Merged:
    """Copy the records of ``sources`` into ``output``.

    A finished record is never replaced. If both sides have finished records with different metrics or of different
    data, the second is written to ``conflicts/``. A finished record replaces one without a result. A record that cannot
    be written is refused, and the others are merged. The output also notes where plugin files and programs were, for
    matrices of which it says nothing, so that merged cells can run again.

    Raises:
        UsageError: a source holds no records. Nothing is merged then.
        OSError: the output's folder of records cannot be written.
    """
    added = same = 0
    conflicts: list[Conflict] = []
    refused: list[str] = []
    standing: dict[str, _Measured | None] = {}
    for source in sources:
        checked.check(source)
    for source in sources:
        for record in checked.each(source, identity, lambda error: refused.append(one_line(error))):
            mine, problem = records.look_up(output, record["id"])
            if problem is not None and problem.unreadable:
                refused.append(one_line(f"{problem}; {record['id']} is not merged into it"))
                continue
            try:
                if mine is None or (mine["status"] != "done" and record["status"] == "done"):
                    records.write_record(output, record)
                    added += 1
                    mine = record
                elif record["status"] != "done" or not (_difference(mine, record) or _other_data(mine, record)):
                    same += 1
                else:
                    conflicts.append(_keep_both(output, mine, record))
                standing[record["id"]] = _measured(mine)
            except (OSError, UsageError) as error:
                if not os.access(output / "records", os.W_OK):
                    raise
                refused.append(one_line(f"{record['id']} is not merged: {error}"))
        if output.is_dir():
            merge_places(source, output)
    return Merged(added, same, conflicts, refused, _mixed(_everything(output, standing)))


def _other_data(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What is known to differ in the data and initial weights of two records."""
    here, there = data_version(one), data_version(other)
    return here.difference(there) if here is not None and there is not None else ""


def _everything(output: Path, standing: Mapping[str, _Measured | None]) -> Iterator[_Measured | None]:
    """All records of a folder by ID; those in ``standing`` are not read again."""
    for path in sorted((output / "records").glob("*.json")):
        if path.stem in standing:
            yield standing[path.stem]
        elif is_id(path.stem) and (record := records.read_record(output, path.stem)):
            yield _measured(record)


def _measured(record: dict[str, Any]) -> _Measured | None:
    version = data_version(record)
    if version is None:
        return None
    return _Measured(canonical([record["spec"]["dataset"], record["spec"]["model"]]), version, str(record["label"]))


def mixed_data(results: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each data set and model whose checked records were measured on different data."""
    return _mixed(map(_measured, results))


def _mixed(results: Iterable[_Measured | None]) -> list[str]:
    found: dict[str, list[tuple[DataVersion, str]]] = {}
    for measured in results:
        if measured is not None:
            found.setdefault(measured.key, []).append((measured.version, measured.label))
    lines = []
    for group in found.values():
        usual = usual_version(version for version, _ in group)
        others = [(version, label) for version, label in group if usual and version != usual]
        if usual and others:
            version, label = others[0]
            lines.append(
                f"{len(others)} of {counted(len(group), 'cell')} such as {label} were measured on another "
                f"{usual.difference(version)} than the rest"
            )
    return lines


def _keep_both(output: Path, mine: dict[str, Any], record: dict[str, Any]) -> Conflict:
    text = json.dumps(record, sort_keys=True, indent=1) + "\n"
    name = f"{record['id']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    path = output / "conflicts" / name
    write_text(path, text)
    names = tuple(precision_class(each) or "unknown" for each in (mine, record))
    return Conflict(
        record["id"],
        str(record.get("label") or record["id"]),
        _difference(mine, record),
        path,
        classes=names if names[0] != names[1] else (),
        data=_other_data(mine, record),
        other=tuple(differences(mine, record)),
    )
