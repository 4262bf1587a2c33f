"""One data set's table, laid out as the paper's Table 2: a row per attack, CA and ASR per defense."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from benchbd.errors import counted
from benchbd.report import stats, wording
from benchbd.report.averages import average
from benchbd.report.binomial import sampling_spread
from benchbd.report.gate import implant
from benchbd.report.groups import TRANSFORMED, Group
from benchbd.report.labels import Labels, Variant
from benchbd.report.mixed_code import mixed_code_notes
from benchbd.report.mixed_data import OTHER_DATA, mixed_data
from benchbd.report.precision_classes import classes_of, mixture
from benchbd.report.published import PublishedComparison, scale_differences, scale_text
from benchbd.report.table import Column, Row, Table, TableCell
from benchbd.report.timing import Clock
from benchbd.report.titles import AT_CHANCE, chance_cell, chance_note, competitors, titles
from benchbd.storage.record_schema import METRICS

TABLED = METRICS[:2]
NOT_IMPLANTED = "†"
UNKNOWN_IMPLANT = "‡"
NAMING = "In this table, "
"""Beginning of the note on shortened headings. Formats with footnotes for parameters leave it out."""
LISTED_FAILURES = 8
LISTED_ROWS = 12


def _reasons(records: Iterable[Mapping[str, object]]) -> str:
    return "; ".join(f"seed {r['seed']}: {r['status']} {wording.first_line(r.get('error'))}".rstrip() for r in records)


def usual_seeds(group: Group) -> int:
    """The number of finished seeds that most cells of a group have; 0 without a finished cell."""
    counts = Counter(len(entry.values("ca")) for entry in group.entries.values())
    counts.pop(0, None)
    return max(counts, key=lambda n: (counts[n], n)) if counts else 0


class _Builder:
    """Builds the parts of one table."""

    def __init__(self, group: Group, labels: Labels, clock: Clock, gate: float, paper: bool) -> None:
        self.group, self.labels, self.gate = group, labels, gate
        self.comparison = PublishedComparison(group, labels) if paper else None
        self.clock = clock
        self.mixed = mixed_data(group)
        self.usual_seeds = usual_seeds(group)
        self.implants = {row: implant(group, row, gate) for row in group.attacks()}
        self.lifts = any(found.lift for found in self.implants.values())
        """Whether the table has a column for the lift; records of older versions have none."""

    def columns(self) -> list[Column]:
        columns = []
        for place, item in enumerate(self.group.columns):
            control = item in self.group.controls
            first = control and place > 0 and self.group.columns[place - 1] not in self.group.controls
            group, tag = self.labels.heading(item, self.group.columns), item.name
            mark = TRANSFORMED * (item in self.group.transforms)
            ca, asr = map(self.group.definitions.heading, TABLED)
            columns.append(Column(ca, group, "up", "fraction", control, first, tag, mark))
            columns.append(Column(asr, group, "down", "fraction", control, False, tag, mark))
        if self.lifts:
            columns.append(Column("Lift", unit="fraction", rule=bool(self.group.controls)))
        return columns

    def body(self, row: Variant) -> Row:
        group = self.group
        cells: list[TableCell] = []
        for column in group.columns:
            for metric in TABLED:
                cells.append(self._cell(row, column, metric))
        self._bold(cells, [row])
        mark = ""
        if row not in group.clean:
            mark = {True: "", False: NOT_IMPLANTED, None: UNKNOWN_IMPLANT}[self.implants[row].holds]
        mark += OTHER_DATA * any(self.mixed.deviates([row], column) for column in group.columns)
        if self.lifts:
            cells.append(self._lift(row))
        return Row(self.labels(row), cells, mark=mark, tag=row.name)

    def _lift(self, row: Variant) -> TableCell:
        """The undefended lift of a row; if the attack is not implanted, its note says why."""
        verdict = self.implants.get(row)
        if verdict is None or verdict.holds is None:
            return TableCell(wording.UNDEFINED)
        if (found := verdict.lift) is not None:
            why = f"not implanted: {verdict.why}" if verdict.why else "undefended"
            plain = self.group.undefended()
            ids = self.group.entry(row, plain).ids() if plain else ()
            return TableCell(
                wording.mean_text(found, floor=-1.0),
                found.mean,
                found.half,
                found.n,
                note=why,
                records=ids,
                spread=stats.spread_of(found, floor=-1.0),
            )
        return TableCell("unknown", note="the undefended records are of a version that did not measure it")

    def _without_lift(self, cells: list[TableCell]) -> list[TableCell]:
        """The cells of a row without a lift."""
        return [*cells, TableCell()] if self.lifts else cells

    def _cell(self, row: Variant, column: Variant, metric: str) -> TableCell:
        entry = self.group.entry(row, column)
        values, failures, ids = entry.values(metric), entry.failures(), entry.ids()
        found = entry.mean(metric)
        published = self.comparison.published(row, column) if self.comparison else None
        paper_value = getattr(published, metric) if published else None
        if found is None:
            if not entry.by_seed:
                display, note = wording.NOT_RUN, "no record"
            elif failures and not entry.done():
                display = next(iter(failures)) if len(failures) == 1 else wording.failures_text(failures)
                note = _reasons(entry.by_seed.values())
            else:
                display, note = wording.UNDEFINED, "not defined: this row has no poisoned samples"
                if row not in self.group.clean:
                    note = "unknown: the records are of a version that did not measure it"
            extra = (
                f"paper {wording.percent(paper_value)}"
                if paper_value is not None and row not in self.group.clean
                else ""
            )
            return TableCell(display, published=paper_value, extra=extra, note=note, records=ids)
        display = wording.mean_text(found)
        if failures:
            display += f" (n={found.n}; {wording.failures_text(failures)})"
        elif found.n != self.usual_seeds:
            display += f" (n={found.n})"
        display += f" {OTHER_DATA}" * self.mixed.deviates([row], column)
        display += f" {AT_CHANCE}" * bool(chance_cell(self.group, row, column))
        extra = (
            f"paper {wording.percent(paper_value)}, {wording.signed(found.mean - paper_value)}"
            if paper_value is not None
            else ""
        )
        by_seed = ", ".join(f"seed {s}: {wording.percent(v)}" for s, v in sorted(values.items()))
        spread = stats.spread_of(found)
        if spread is None:
            (seed,) = values
            spread = sampling_spread(entry.by_seed[seed], entry.fields.get(metric, metric))
        cell = TableCell(display, found.mean, found.half, found.n, False, paper_value, extra, by_seed, records=ids)
        cell.spread, cell.failures = spread, wording.failures_text(failures)
        return cell

    def average_row(self, label: str, rows: Sequence[Variant], *, rule: bool = False) -> Row:
        """Average over rows, with coverage."""
        group, cells = self.group, []
        for column in group.columns:
            for metric in TABLED:
                found = average(group, column, rows, metric)
                if found is None:
                    cells.append(TableCell(wording.UNDEFINED))
                    continue
                spread = found.spread()
                sign = f" {OTHER_DATA}" * self.mixed.deviates(rows, column)
                text = f"{found.text()} ({found.rows}/{len(rows)}){sign}"
                cell = TableCell(text, found.mean, found.half(), found.rows, spread=spread)
                self._add_published(cell, rows, column, metric)
                cells.append(cell)
        self._bold(cells, rows)
        return Row(label, self._without_lift(cells), "average", rule=rule)

    def _bold(self, cells: list[TableCell], rows: Sequence[Variant]) -> None:
        """Mark the best numbers of a row that averages over ``rows``."""
        for place, metric in enumerate(TABLED):
            for winner in titles(self.group, rows, metric):
                cells[2 * self.group.columns.index(winner) + place].best = True

    def _add_published(self, cell: TableCell, rows: Sequence[Variant], column: Variant, metric: str) -> None:
        if self.comparison is None or cell.value is None:
            return
        here = [r for r in rows if self.group.entry(r, column).values(metric)]
        published = [p for r in here if (p := self.comparison.published(r, column))]
        if published and len(published) == len(here):
            cell.published = math.fsum(getattr(p, metric) for p in published) / len(published)
            cell.extra = f"paper {wording.percent(cell.published)}, {wording.signed(cell.value - cell.published)}"

    def average_rows(self) -> list[Row]:
        group, rows = self.group, self.group.attacks()
        if len(rows) < 2:
            return []
        averages = [self.average_row("Average over attacks", rows, rule=True)]
        working = [r for r in rows if self.implants[r].holds]
        if working and len(working) < len(rows):
            averages.append(self.average_row("Average, implanted attacks", working))
        covers = [{r for r in rows if group.entry(r, c).values("ca")} for c in competitors(group)]
        covers = [c for c in covers if c]
        common = set.intersection(*covers) if covers else set()
        if common and any(c != common for c in covers):
            averages.append(self.average_row("Average, attacks in common", [r for r in rows if r in common]))
        return averages

    def footer_rows(self) -> list[Row]:
        device = self.clock.device
        clock, needs = [], []
        for column in self.group.columns:
            found = self.clock.mean(column)
            clock.append(
                TableCell(
                    wording.duration(found[0]),
                    found[0],
                    n=found[1],
                    note=f"mean of {counted(found[1], 'cell')} on {device}",
                    span=2,
                )
                if found
                else TableCell(wording.UNDEFINED, span=2)
            )
            text = wording.needs_text(
                self.group.needs.get(column, ()), column in self.group.controls, self.group.returns.get(column)
            )
            needs.append(TableCell(text, span=2))
        rows = [Row("Needs beyond the poisoned set", self._without_lift(needs), "foot")]
        if device:
            rows.insert(0, Row("Wall-clock time per cell", self._without_lift(clock), "foot"))
        if self.comparison is not None:
            differs = scale_differences(self.group.scale, self.labels)
            text = "; ".join(differs) or "none"
            span = 2 * len(self.group.columns) + self.lifts
            rows.append(Row("Scale differences from the paper", [TableCell(text, span=span)], "foot"))
        rows[0].rule = True
        return rows

    def notes(self, table: Table) -> list[str]:
        marks = "".join(row.mark for row in table.rows)
        notes = []
        if NOT_IMPLANTED in marks:
            notes.append(self._not_implanted())
        if UNKNOWN_IMPLANT in marks:
            notes.append(
                f"{UNKNOWN_IMPLANT} unknown whether the attack was implanted: the row has no undefended result."
            )
        notes += self.mixed.notes(self.labels)
        notes += mixed_code_notes(self.group, self.labels)
        notes += chance_note(self.group, self.labels)
        for column, text in self.group.transforms.items():
            notes.append(
                f"{TRANSFORMED} {self.labels(column)} changes every test image, with the trigger and without it, and "
                f"CA, ASR and RA are measured on the result: {text}."
            )
        failed = self._failures()
        if failed:
            notes.append(f"Cells without a result: {wording.listed(failed, LISTED_FAILURES, '; ', '; and ')}.")
        short = self.labels.abbreviations(self.group.columns)
        if short:
            notes.append(f"{NAMING}{'; '.join(short)}.")
        if self.clock.device:
            notes.append(
                f"Wall-clock time is measured on {self.clock.device} only. It is the time the cell would take alone, "
                "including shared stages."
            )
        if mixed := mixture(self.group):
            notes.append(f"{mixed} {self._mixed_rows()}")
        return notes

    def _not_implanted(self) -> str:
        """The note on the rows that are not implanted. It gives each row's reason, unless all lie below the gate."""
        failed = {row: found for row, found in self.implants.items() if found.holds is False}
        if not self.lifts and all(found.below for found in failed.values()):
            return (
                f"{NOT_IMPLANTED} not implanted: the undefended ASR is below {wording.percent(self.gate, 0)} %, "
                "so it is not evidence for any defense."
            )
        reasons = "; ".join(f"{self.labels(row)}: {found.why}" for row, found in failed.items())
        return f"{NOT_IMPLANTED} not implanted, so it is not evidence for any defense. {reasons}."

    def _mixed_rows(self) -> str:
        """The rows whose cells are not comparable with each other, since they are of several precision classes."""
        group = self.group
        rows = [
            self.labels(row)
            for row in group.rows
            if len(classes_of(r for column in group.columns for r in group.entry(row, column).done())) > 1
        ]
        if not rows:
            return "Every row is of one class; averages over rows mix them."
        return f"Rows that mix them: {wording.listed(rows, LISTED_ROWS)}."

    def _failures(self) -> list[str]:
        """Describe the cells without a result. Seeds of one cell with the same outcome share a description."""
        descriptions = []
        for row in self.group.rows:
            for column in self.group.columns:
                ends: dict[str, list[int]] = {}
                for seed, record in sorted(self.group.entry(row, column).by_seed.items()):
                    if record["status"] != "done":
                        ends.setdefault(
                            f"{record['status']} {wording.first_line(record.get('error'))}".rstrip(), []
                        ).append(seed)
                for end, seeds in ends.items():
                    plural = "s" if len(seeds) > 1 else ""
                    named = f"{self.labels(row)} {wording.TIMES} {self.labels(column)}"
                    descriptions.append(f"{named} seed{plural} {', '.join(map(str, seeds))}: {end}")
        return descriptions


def dataset_table(group: Group, labels: Labels, clock: Clock, *, gate: float, paper: bool) -> Table:
    """Build the table of one data set, model and recipe."""
    builder = _Builder(group, labels, clock, gate, paper)
    table = Table(
        key="",
        title=scale_text(group.scale, labels),
        stub="Attack",
        columns=builder.columns(),
        rows=[*(builder.body(row) for row in group.rows), *builder.average_rows(), *builder.footer_rows()],
        tag=group.scale.dataset.name,
    )
    if builder.usual_seeds:
        table.lead = [f"Mean over {wording.seeds_text([builder.usual_seeds])} unless a cell says otherwise."]
    table.notes = builder.notes(table)
    return table
