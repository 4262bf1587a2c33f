"""A results file from elsewhere, checked without running anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from benchbd.errors import UsageError, counted, one_line, shown
from benchbd.plan.cell import Cell, identity
from benchbd.report.verification.finding import Finding, named, of_record
from benchbd.report.verification.installation import Installation
from benchbd.report.verification.plausibility import contradictions
from benchbd.storage import results_file
from benchbd.storage.record_file import Unusable
from benchbd.storage.record_schema import METRICS, Record


class Submission(NamedTuple):
    """The result of :func:`read_submission`.

    Attributes:
        records: those that keep the schema, by ID; of several with one ID the first.
        number: of records, including those that cannot be used.
        findings: what is wrong with them or differs from this installation.
        notes: what could not be compared.
        cells: those that this installation can run again, by ID.
        left_out: why others cannot run here, with their number.
    """

    records: dict[str, Record]
    number: int
    findings: list[Finding]
    notes: list[str]
    cells: dict[str, Cell]
    left_out: dict[str, int]


def read_submission(place: Path, root: str | None) -> Submission:
    """Read and check a results file or folder. Nothing in it is changed.

    Args:
        place: the file or folder.
        root: folder of the data sets as the user gave it.

    Raises:
        UsageError: there is no such file or folder, it cannot be read, or it holds no record.
    """
    unusable: list[Unusable] = []
    found = results_file.load(place, identity, unusable.append)
    number = len(found) + len(unusable)
    if not number:
        raise UsageError(f"{shown(str(place), 200)}: has no records")
    findings = [Finding("record", one_line(problem)) for problem in unusable]
    records: dict[str, Record] = {}
    for record in found:
        records.setdefault(record["id"], record)
    findings += [*_duplicates(found), *_shared_models(records.values())]
    for record in found:
        findings += [of_record("number", record, text) for text in contradictions(record)]
    here = Installation(root, place)
    here.compare(records.values())
    reasons: dict[str, int] = defaultdict(int)
    cells = {}
    for cell_id, cell in here.cells.items():
        if why := here.can_run(cell):
            reasons[one_line(why)] += 1
        else:
            cells[cell_id] = cell
    return Submission(records, number, findings + here.findings, [*map(one_line, here.notes)], cells, dict(reasons))


def _duplicates(records: Iterable[Record]) -> Iterable[Finding]:
    """One finding for each cell with several records."""
    by_id: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_id[record["id"]].append(record)
    for same in by_id.values():
        if len(same) > 1:
            alike = all(each == same[0] for each in same)
            results = {tuple(each.get(name) for name in ("status", *METRICS)) for each in same}
            how = "alike" if alike else "with different results" if len(results) > 1 else "with the same results"
            yield of_record("duplicate", same[0], f"has {len(same)} records, {how}; keep one")


def _shared_models(records: Iterable[Record]) -> Iterable[Finding]:
    """Cells of different seeds that name one trained model: the seed is part of a model's key."""
    owners: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        model = record["artifacts"].get("model")
        if record["status"] == "done" and isinstance(model, str):
            owners[model].append(record)
    for sharing in owners.values():
        other = next((each for each in sharing if each["seed"] != sharing[0]["seed"]), None)
        if other is not None:
            text = f"names the trained model of {other['id']} {named(other)} as its own, but their seeds differ"
            yield of_record("duplicate", sharing[0], text)


def summary(submission: Submission, findings: int, notes: int) -> str:
    """The number of records, findings and notes in one line."""
    done = sum(record["status"] == "done" for record in submission.records.values())
    found = f"{counted(findings, 'finding')}, {counted(notes, 'note')}"
    return f"{counted(submission.number, 'record')}, {done} done: {found}"
