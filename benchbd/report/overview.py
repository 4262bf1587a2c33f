"""What readers ask of one data set, model and recipe: a line per defense, heat maps, rankings, sensitivity."""

from __future__ import annotations

from typing import NamedTuple

from benchbd.core.severity import tone
from benchbd.report import stats, wording
from benchbd.report.averages import average
from benchbd.report.dataset_table import NAMING
from benchbd.report.footnotes import ShortNames
from benchbd.report.gate import implanted
from benchbd.report.groups import TRANSFORMED, Group
from benchbd.report.labels import Labels, Variant
from benchbd.report.mixed_data import OTHER_DATA, mixed_data
from benchbd.report.ranking import MEASURES, Ranking, Sensitivity, rank, refusals, sensitivities
from benchbd.report.table import Table, TableCell
from benchbd.report.timing import Clock
from benchbd.report.titles import AT_CHANCE, chance_cells, competitors, titles

UNRANKED = "?"
"""Stands for the letters of a defense that was not tested against all others."""


class Number(NamedTuple):
    """A mean over attacks: a fraction, its spread over seeds if all attacks have the same seeds, and the title."""

    mean: float
    spread: stats.Spread | None
    best: bool = False


class Worst(NamedTuple):
    """The attack with the highest ASR against a defense, and that ASR, a fraction."""

    attack: Variant
    asr: float


class Line(NamedTuple):
    """One defense in the summary. Means are over the attacks of :attr:`Overview.attacks` that it has.

    Attributes:
        defense: the defense.
        name: its short name, with signs that the notes explain.
        control: whether it sees the truth.
        group: its letters in the first ranking that there is, or :data:`UNRANKED`; empty for no defense and for
            controls, which are not compared.
        ca: mean CA; None without a value, as below.
        asr: mean ASR.
        worst: the worst attack.
        der: mean DER.
        cost: multiple of the wall-clock time of no defense, over common cells on one device.
        attacks: number of attacks that it has.
        needs: its inputs beyond the poisoned set, in words.
        comparable: whether its means may be compared with those of others: it is no control, has just the attacks that
            the compared defenses have between them, and no failed seed, model at chance or other data there.
    """

    defense: Variant
    name: str
    control: bool
    group: str
    ca: Number | None
    asr: Number | None
    worst: Worst | None
    der: Number | None
    cost: float | None
    attacks: int
    needs: str
    comparable: bool = True


class HeatMap(NamedTuple):
    """A metric of every defense (rows) on every attack (columns).

    Attributes:
        metric: ``ca`` or ``asr``.
        heading: the metric as the table's definitions name it.
        defenses: the rows.
        attacks: the columns. That of CA includes the row without an attack.
        names: short names of the columns, with signs that the notes explain.
        cells: one tuple a row. ``value`` is a fraction, ``records`` are the IDs behind it.
    """

    metric: str
    heading: str
    defenses: tuple[Variant, ...]
    attacks: tuple[Variant, ...]
    names: tuple[str, ...]
    cells: tuple[tuple[TableCell, ...], ...]


class Overview(NamedTuple):
    """One data set, model and recipe.

    Attributes:
        title: the scale in words.
        tag: plain name of the data set.
        lead: lines above the tables.
        attacks: the attacks that the summary, the rankings and the sensitivity are over: the implanted ones, or all
            where nothing is known about any.
        of: number of attacks in the table.
        judged: whether it is known of any attack if it is implanted.
        usual_seeds: number of seeds of most cells.
        lines: the summary: no defense, the ranked defenses, the others, the controls.
        asr: ASR as a heat map.
        ca: CA as a heat map.
        rankings: the ranking by each measure.
        sensitivities: the spread of defenses over their variants.
        short: short names.
        notes: what signs and footnotes stand for.
        table: the full table, attacks as rows.
        means: the full summary table.
    """

    title: str
    tag: str
    lead: tuple[str, ...]
    attacks: tuple[Variant, ...]
    of: int
    judged: bool
    usual_seeds: int
    lines: tuple[Line, ...]
    asr: HeatMap
    ca: HeatMap
    rankings: dict[str, Ranking]
    sensitivities: tuple[Sensitivity, ...]
    short: ShortNames
    notes: tuple[str, ...]
    table: Table
    means: Table

    def seeds_differ(self, *maps: HeatMap) -> bool:
        """Whether a cell of these heat maps with a value has another number of seeds than most."""
        cells = (cell for heat in maps for row in heat.cells for cell in row)
        return any(cell.value is not None and cell.n != self.usual_seeds for cell in cells)

    @property
    def ranking(self) -> Ranking:
        """The first ranking that there is, by DER before ASR."""
        return _first(self.rankings)

    @property
    def refusal(self) -> str:
        """Why measures have no ranking, in a sentence for each reason; empty if all have one."""
        return refusals(self.rankings.values())


class Tables(NamedTuple):
    """What an overview is made from: a group, its clock, and its two full tables."""

    group: Group
    clock: Clock
    table: Table
    means: Table
    usual_seeds: int


def evidence(group: Group, gate: float) -> tuple[list[Variant], bool]:
    """The attacks that say something about defenses: the implanted ones, or all if none was judged; and if any was."""
    verdicts = {row: implanted(group, row, gate) for row in group.attacks()}
    judged = any(holds is not None for holds in verdicts.values())
    return [row for row, holds in verdicts.items() if holds or not judged], judged


def _first(rankings: dict[str, Ranking]) -> Ranking:
    """The first ranking that ranks any defense; that of the first measure if none does."""
    return next((r for r in rankings.values() if r.order), rankings[MEASURES[0]])


def overview(given: Tables, labels: Labels, gate: float) -> Overview:
    """Build the overview of a group."""
    group = given.group
    rows, judged = evidence(group, gate)
    short = ShortNames(labels, group.rows, group.columns)
    rankings = {measure: rank(group, rows, measure) for measure in MEASURES}
    ranking = _first(rankings)
    order = _order(group, ranking)
    lead = [*given.table.lead, *_paper_lead(given.table)]
    marks = [note for note in given.table.notes if not note.startswith(NAMING)]
    return Overview(
        title=given.table.title,
        tag=given.table.tag,
        lead=tuple(lead),
        attacks=tuple(rows),
        of=len(group.attacks()),
        judged=judged,
        usual_seeds=given.usual_seeds,
        lines=tuple(_lines(given, rows, order, short, ranking)),
        asr=_heat(given, "asr", group.attacks(), order, short),
        ca=_heat(given, "ca", group.rows, order, short),
        rankings=rankings,
        sensitivities=sensitivities(group, rows),
        short=short,
        notes=(*short.notes, *marks),
        table=given.table,
        means=given.means,
    )


def _order(group: Group, ranking: Ranking) -> list[Variant]:
    """No defense, the ranked defenses, the others, the controls."""
    rest = [c for c in group.columns if c not in ranking.order and c not in group.controls]
    undefended = [c for c in rest if c == group.undefended()]
    others = [c for c in rest if c not in undefended]
    return [*undefended, *ranking.order, *others, *(c for c in group.columns if c in group.controls)]


def _paper_lead(table: Table) -> list[str]:
    """The differences from the paper's scale, of a table with the paper's values."""
    label = "Scale differences from the paper"
    return [f"{label}: {row.cells[0].display}." for row in table.rows if row.label == label]


def _lines(given: Tables, rows: list[Variant], order: list[Variant], short: ShortNames, ranking: Ranking) -> list[Line]:
    group, mixed = given.group, mixed_data(given.group)
    found = {m: {c: average(group, c, rows, m) for c in order} for m in ("ca", "asr", "der")}
    best = {metric: titles(group, rows, metric) for metric in found}
    compared = {row for row in rows for column in competitors(group) if group.entry(row, column).values("ca")}
    lines = []
    for column in order:
        numbers = {
            metric: Number(mean.mean, mean.spread(), column in best[metric])
            for metric, by_column in found.items()
            if (mean := by_column[column])
        }
        worst = [(rate, row) for row in rows if (rate := group.entry(row, column).mean("asr"))]
        relative = given.clock.relative(column)
        sign = OTHER_DATA * mixed.deviates(rows, column) + TRANSFORMED * (column in group.transforms)
        sign += AT_CHANCE * bool(chance_cells(group, group.rows, column))
        control = column in group.controls
        top = max(worst, key=lambda item: item[0].mean, default=None)
        covered = {row for row in rows if group.entry(row, column).values("ca")}
        flawed = control or mixed.deviates(rows, column) or chance_cells(group, rows, column)
        failed = any(group.entry(row, column).failures() for row in rows)
        lines.append(
            Line(
                defense=column,
                name=f"{short(column)} {sign}".rstrip(),
                control=control,
                group=_letters(ranking, control or column == group.undefended(), column),
                ca=numbers.get("ca"),
                asr=numbers.get("asr"),
                worst=Worst(top[1], top[0].mean) if top else None,
                der=numbers.get("der"),
                cost=relative[0] if relative else None,
                attacks=len(covered),
                needs=wording.needs_text(group.needs.get(column, ()), False, group.returns.get(column)),
                comparable=covered == compared and not flawed and not failed,
            )
        )
    return lines


def _letters(ranking: Ranking, apart: bool, column: Variant) -> str:
    """The letters of a defense in the summary; empty for one that stands ``apart``, since it is not compared."""
    return "" if apart else ranking.groups.get(column, UNRANKED)


def _heat(given: Tables, metric: str, rows: list[Variant], order: list[Variant], short: ShortNames) -> HeatMap:
    """The cells of the full table, turned, with a tone for ASR."""
    group = given.group
    offset = metric == "asr"
    bodies = dict(zip(group.rows, given.table.rows, strict=False))
    cells = tuple(
        tuple(bodies[row].cells[2 * group.columns.index(column) + offset] for row in rows) for column in order
    )
    if metric == "asr":
        for cell in (cell for line in cells for cell in line):
            cell.tone = tone(cell.value)
    names = tuple(f"{short(row)} {bodies[row].mark}".rstrip() for row in rows)
    return HeatMap(metric, group.definitions.heading(metric), tuple(order), tuple(rows), names, cells)
