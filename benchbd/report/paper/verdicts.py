"""The verdict table: each claim of the paper holds, fails or was not measured, with figures and scale."""

from __future__ import annotations

from collections.abc import Sequence

from benchbd.report.groups import Group
from benchbd.report.labels import Labels
from benchbd.report.mixed_data import OTHER_DATA
from benchbd.report.paper import claims_ablations, claims_curves, claims_table2
from benchbd.report.paper.evidence import Claim, Evidence
from benchbd.report.table import Column, Row, Table, TableCell

HOLDS, FAILS, OPEN = "holds", "fails", "not measured"

COLUMNS = (
    Column("Where"),
    Column("Verdict"),
    Column("Paper"),
    Column("Measured"),
    Column("Measured on"),
    Column("Differences from the paper"),
)


def claims() -> list[Claim]:
    """Every claim, in the order of the paper's sections."""
    return [*claims_table2.claims(), *claims_ablations.claims(), *claims_curves.claims()]


def verdict_table(groups: Sequence[Group], labels: Labels, gate: float) -> Table:
    """Judge every claim at every scale that measured it."""
    evidence = Evidence(groups, labels, gate)
    rows, counts = [], {HOLDS: 0, FAILS: 0, OPEN: 0}
    for claim in claims():
        findings = claim.judge(evidence)
        for finding in findings:
            verdict = HOLDS if finding.holds else FAILS
            counts[verdict] += 1
            texts = (
                claim.where,
                f"{verdict} {OTHER_DATA}" if OTHER_DATA in finding.figures else verdict,
                claim.published,
                finding.figures,
                evidence.scale(finding.scale),
                evidence.differences(finding),
            )
            rows.append(Row(claim.text, [TableCell(text) for text in texts]))
        if not findings:
            counts[OPEN] += 1
            rows.append(Row(claim.text, [TableCell(text) for text in (claim.where, OPEN, claim.published, "", "", "")]))
    mixed = any(OTHER_DATA in cell.display for row in rows for cell in row.cells)
    return Table(
        "",
        "The paper's claims",
        "Claim",
        list(COLUMNS),
        rows,
        lead=[f"{counts[HOLDS]} hold, {counts[FAILS]} fail, {counts[OPEN]} not measured."],
        notes=[
            "A verdict compares means in percent; “not separable” means that the 95 % t-interval of the paired "
            "difference, from five common seeds on, contains 0. ASR claims leave out attacks that are not implanted.",
            "A verdict at a smaller scale than the paper's may not hold at the paper's scale.",
            *([f"{OTHER_DATA} the verdict compares numbers of different data."] if mixed else []),
        ],
    )
