"""Merges the records of several results folders by cell ID. No result is lost and every conflict is reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchbd.core.files import write_text
from benchbd.core.numerics import precision_class
from benchbd.errors import one_line
from benchbd.plan.cell import identity
from benchbd.storage import records
from benchbd.storage import results_file as checked
from benchbd.storage.record_schema import METRICS


class Conflict(NamedTuple):
    """Two finished records of one cell with different metrics.

    Attributes:
        id: the cell's ID.
        label: the cell's readable name.
        difference: the largest absolute difference of CA, ASR and RA, as a fraction.
        kept: path of the second record.
        classes: precision classes of the two records, if they differ; else empty.
    """

    id: str
    label: str
    difference: float
    kept: Path
    classes: tuple[str, ...] = ()


class Merged(NamedTuple):
    """The result of a merge.

    Attributes:
        added: number of cells that the target lacked, or had without a result.
        same: number of cells whose metrics agree on both sides.
        conflicts: cells whose metrics differ; both records are kept.
        refused: one line for each rejected record.
    """

    added: int
    same: int
    conflicts: list[Conflict]
    refused: list[str]


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

    A finished record is never replaced. If both sides have finished records with different metrics, the second is
    written to ``conflicts/``. A finished record replaces one without a result.

    Raises:
        UsageError: a source holds no records, or the output cannot be written.
    """
    added = same = 0
    conflicts: list[Conflict] = []
    refused: list[str] = []
    for source in sources:
        for record in checked.each(source, identity, lambda error: refused.append(one_line(error))):
            mine, problem = records.look_up(output, record["id"])
            if problem is not None and problem.unreadable:
                refused.append(one_line(f"{problem}; {record['id']} is not merged into it"))
                continue
            if mine is None or (mine["status"] != "done" and record["status"] == "done"):
                records.write_record(output, record)
                added += 1
            elif record["status"] != "done" or _difference(mine, record) == 0.0:
                same += 1
            else:
                conflicts.append(_keep_both(output, mine, record))
    return Merged(added, same, conflicts, refused)


def _keep_both(output: Path, mine: dict[str, Any], record: dict[str, Any]) -> Conflict:
    text = json.dumps(record, sort_keys=True, indent=1) + "\n"
    name = f"{record['id']}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    path = output / "conflicts" / name
    write_text(path, text)
    names = tuple(precision_class(each) or "unknown" for each in (mine, record))
    classes = names if names[0] != names[1] else ()
    return Conflict(record["id"], str(record.get("label") or record["id"]), _difference(mine, record), path, classes)
