"""The tables that readers see: an overview as narrow tables, defenses as rows, with one decimal."""

from __future__ import annotations

from typing import NamedTuple

from benchbd.errors import counted
from benchbd.report import wording
from benchbd.report.fit import WIDTH, fit, wrapped
from benchbd.report.footnotes import LOWERED
from benchbd.report.mixed_data import OTHER_DATA
from benchbd.report.overview import UNRANKED, HeatMap, Number, Overview
from benchbd.report.ranking import Ranking
from benchbd.report.table import Column, Row, Table, TableCell

NUMBERS = "Every number with its bounds"
BOUNDS = f'The bounds of CA and ASR are in "{NUMBERS}", the last table of each data set.'
"""Where readers of these tables find the bounds that the legend describes."""


NEEDS, VARIANTS = 26, 40
"""Characters from which the needs of a defense and the list of its variants break into lines."""


class Section(NamedTuple):
    """A table, and whether it is folded away where the medium can do that."""

    table: Table
    folded: bool = False


def sections(given: Overview, most: int = WIDTH, summary: int = 0, *, headed: bool = False) -> list[Section]:
    """All tables of an overview, the summary first. The last of the open ones carries the notes.

    Args:
        given: the overview.
        most: widest table, in characters.
        summary: the same of the summary, if it may be wider, since a medium breaks its words.
        headed: whether the headline stands above, which says why no measure has a ranking.
    """
    heats = [*_heat_tables(given, given.asr, most), *_heat_tables(given, given.ca, most)]
    shown = [*fit(_summary(given, headed), max(most, summary), "columns"), *heats]
    for ranking in given.rankings.values():
        if duels := _duels(given, ranking):
            shown += fit(duels, most, "defenses")
    if given.sensitivities:
        shown += fit(_sensitivity(given), most, "columns")
    said = (headed and not given.ranking.order) or any(given.refusal in note for note in shown[0].notes)
    if given.refusal and not said:
        shown[-1].notes.append(given.refusal)
    (heats or shown)[-1].notes += given.notes
    folded = [*fit(_costs(given), most, "columns"), *fit(_numbers(given), most, "columns", pinned=2)]
    return [*(Section(t) for t in shown), *(Section(t, folded=True) for t in folded if t.rows)]


def _number(found: Number | None) -> TableCell:
    if found is None:
        return TableCell(wording.UNDEFINED)
    text = wording.percent(found.mean, 1)
    return TableCell(text, found.mean, best=found.best, spread=found.spread)


def _summary(given: Overview, headed: bool) -> Table:
    ca, asr = given.ca.heading, given.asr.heading
    columns = [
        Column("Group"), Column(ca, direction="up", unit="fraction"), Column(asr, direction="down", unit="fraction"),
        Column(f"worst {asr}", direction="down", unit="fraction"), Column("DER", direction="up", unit="fraction"),
        Column(f"cost {wording.TIMES}", unit="ratio"), Column("attacks"), Column("needs"),
    ]  # fmt: skip
    rows: list[Row] = []
    for place, line in enumerate(given.lines):
        worst = TableCell(wording.UNDEFINED)
        if line.worst:
            text = f"{wording.percent(line.worst.asr, 1)} {given.short(line.worst.attack)}"
            worst = TableCell(text, line.worst.asr)
        cost = TableCell(f"{line.cost:.2f}", line.cost) if line.cost is not None else TableCell(wording.UNDEFINED)
        covered = TableCell(f"{line.attacks}/{len(given.attacks)}", line.attacks)
        numbers = [_number(line.ca), _number(line.asr), worst, _number(line.der)]
        cells = [TableCell(line.group), *numbers, cost, covered, TableCell(wrapped(line.needs, NEEDS))]
        rows.append(Row(line.name, cells, rule=_first_control(given, place), tag=line.defense.name))
    ranking = given.ranking
    notes = [
        _coverage(given),
        f"DER is (max(0, ASR drop) {wording.MINUS} max(0, CA drop) + 1) / 2 in percent, relative to no defense with "
        f"the same attack and seed: 50 is no effect, 100 is perfect. Cost {wording.TIMES} is a multiple of the "
        "wall-clock time of no defense, over common cells on one device.",
    ]
    if ranking.order:
        notes.insert(
            0,
            f"Defenses that share a letter do not differ significantly by {ranking.measure.upper()}: Wilcoxon's "
            "signed-rank test on one averaged difference an attack, with Holm's correction. Every ranked defense is "
            f"tested against every other. {_unranked(given, ranking)}".rstrip(),
        )
    elif any(line.group == UNRANKED for line in given.lines):
        why = ", for the reason above." if headed else f". {given.refusal}"
        notes.insert(0, f"{UNRANKED} is not ranked{why}")
    return Table("summary", "Summary", "Defense", columns, rows, notes=notes, level=3, tag=given.tag)


def _coverage(given: Overview) -> str:
    """What the summary's means are over."""
    if not given.of:
        return "No record has an attack, so there are no means over attacks."
    if not given.judged:
        over = "the only attack" if given.of == 1 else f"all {given.of} attacks"
        return (
            f"Means are over {over}. Whether an attack is implanted is unknown, since there is no undefended ASR; "
            "means over different attacks are not comparable."
        )
    if not given.attacks:
        return f"No attack of {given.of} counts as implanted, so there are no means over attacks."
    return (
        f"Means are over the {counted(len(given.attacks), 'attack')} of {given.of} that "
        f"{'count' if len(given.attacks) > 1 else 'counts'} as implanted; those over different attacks are not "
        "comparable."
    )


def _unranked(given: Overview, ranking: Ranking) -> str:
    """The competing defenses without letters, with the reasons; empty if there are none."""
    by_reason: dict[str, list[str]] = {}
    for defense, reason in ranking.unranked.items():
        by_reason.setdefault(reason, []).append(given.short(defense))
    reasons = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in by_reason.items())
    return f"{UNRANKED} is not ranked: {reasons}." if reasons else ""


def _compact(cell: TableCell, usual: int) -> TableCell:
    """A cell of the full table with one decimal; a lowered number is its number of seeds, where that is unusual."""
    if cell.value is None:
        return TableCell("" if cell.display == wording.NOT_RUN else cell.display, records=cell.records, note=cell.note)
    some = cell.n != usual or cell.failures
    text = wording.percent(cell.value, 1) + (str(cell.n).translate(LOWERED) if some else "")
    text += OTHER_DATA if OTHER_DATA in cell.display else ""
    text += f" {cell.failures}" if cell.failures else ""
    extra = "" if cell.published is None else f"paper {wording.percent(cell.published, 1)}"
    found = TableCell(text, cell.value, cell.interval, cell.n, cell.best, cell.published, extra, cell.note)
    found.records, found.spread, found.tone = cell.records, cell.spread, cell.tone
    return found


def _heat_tables(given: Overview, heat: HeatMap, most: int) -> list[Table]:
    arrow = "↑" if heat.metric == "ca" else "↓"
    columns = [Column(n, unit="fraction", tag=a.name) for n, a in zip(heat.names, heat.attacks, strict=True)]
    if not columns:
        return []
    body = []
    for place, (line, cells) in enumerate(zip(given.lines, heat.cells, strict=True)):
        shown = [_compact(cell, given.usual_seeds) for cell in cells]
        body.append(Row(line.name, shown, rule=_first_control(given, place), tag=line.defense.name))
    if heat.metric == "asr" and (lift := _lift(given)):
        body.append(lift)
    title = f"{heat.heading} {arrow} in percent"
    lead = list(given.lead) if heat.metric == "asr" else []
    table = Table(heat.metric, title, "Defense", columns, body, lead=lead, level=3, tag=given.tag)
    return fit(table, most, "attacks")


def _first_control(given: Overview, place: int) -> bool:
    return place > 0 and given.lines[place].control and not given.lines[place - 1].control


def _lift(given: Overview) -> Row | None:
    """The undefended lift of each attack, where the records have it."""
    if given.table.columns[-1].label != "Lift":
        return None
    lifts = dict(zip(given.asr.attacks, (row.cells[-1] for row in given.table.rows), strict=False))
    cells = [lifts[attack] for attack in given.asr.attacks]
    shown = [TableCell(wording.percent(c.value, 1) if c.value is not None else c.display, c.value) for c in cells]
    return Row("lift of none", shown, "foot", rule=True)


def _duels(given: Overview, ranking: Ranking) -> Table | None:
    """Wins, ties and losses of every ranked defense against every other."""
    if not ranking.order:
        return None
    columns = [Column("Group"), *(Column(given.short(c), tag=c.name) for c in ranking.order)]
    rows = []
    for one in ranking.order:
        cells = [TableCell(ranking.groups[one])]
        for other in ranking.order:
            duel = ranking.duels.get((one, other))
            text = wording.UNDEFINED if one == other else ""
            if duel:
                text = f"{duel.wins}/{duel.ties}/{duel.losses}"
                text += {1: "*", -1: "*", 0: "", None: "?"}[duel.better]
            note = "" if duel is None or duel.adjusted is None else f"p = {duel.adjusted:.3g} after Holm's correction"
            cells.append(TableCell(text, best=bool(duel and duel.better == 1), note=note))
        rows.append(Row(given.short(one), cells, tag=one.name))
    few, many = ranking.pairs or (0, 0)
    pairs = f"{few} to {many}" if few != many else str(few)
    notes = [
        f"Each cell counts the attacks ({pairs} a test) where the row's defense is better, equal or worse than the "
        "column's; seeds and variants of an attack are averaged first. * is significant at 5 % after Holm's "
        "correction, bold where the row wins."
    ]
    if ranking.unranked:
        notes.append(_unranked(given, ranking))
    title = f"Which defense is better, by {ranking.measure.upper()}: wins/ties/losses"
    return Table(f"ranking-{ranking.measure}", title, "Defense", columns, rows, notes=notes, level=3, tag=given.tag)


def _range(bounds: tuple[float, float]) -> str:
    return wording.DASH.join(wording.percent(v, 1) for v in bounds)


def _sensitivity(given: Overview) -> Table:
    columns = [Column("variants"), Column("pairs", unit="count"), Column(given.ca.heading), Column(given.asr.heading)]
    rows = [
        Row(s.name, [
            TableCell(wrapped(", ".join(map(given.short, s.variants)), VARIANTS)), TableCell(str(s.pairs), s.pairs),
            TableCell(_range(s.ca)), TableCell(_range(s.asr)),
        ], tag=s.name)
        for s in given.sensitivities
    ]  # fmt: skip
    note = (
        "Smallest and largest mean CA and ASR of a defense's variants in this table, over the pairs of attack and seed "
        f"that all of them have on the same data{'; implanted attacks only' * given.judged}."
    )
    title = "Sensitivity to hyper-parameters"
    return Table("sensitivity", title, "Defense", columns, rows, notes=[note], level=3, tag=given.tag)


def _bounded(cell: TableCell) -> TableCell:
    """A number with two decimals, its bounds and its failed seeds; any other text unchanged."""
    if cell.value is None:
        return TableCell(cell.display, records=cell.records)
    bounds = wording.spread_text(cell.spread) if cell.spread else ""
    text = " ".join(filter(None, (wording.percent(cell.value), bounds, cell.failures)))
    return TableCell(text, cell.value, best=cell.best, records=cell.records)


def _numbers(given: Overview) -> Table:
    """Every number with two decimals, its bounds and the paper's value, one line for each attack and defense."""
    table, paper = given.table, any(c.published is not None for r in given.table.rows for c in r.cells)
    columns = [Column("Defense"), Column("n", unit="count")]
    columns.append(Column(given.ca.heading, direction="up", unit="fraction"))
    columns += [Column("paper", unit="fraction")] * paper
    columns.append(Column(given.asr.heading, direction="down", unit="fraction"))
    columns += [Column("paper", unit="fraction")] * paper
    defenses = [c.group for c in table.columns if c.label == table.columns[0].label]
    order = dict(zip(given.short.defenses, defenses, strict=False))
    rows = []
    attacks = [given.short(attack) for attack in given.ca.attacks]
    for number, row in enumerate(table.rows):
        if row.kind == "foot":
            continue
        label = attacks[number] if row.kind == "body" else row.label
        for place, defense in enumerate(order):
            ca, asr = row.cells[2 * place : 2 * place + 2]
            if ca.display == wording.NOT_RUN or (ca.value is None and row.kind != "body"):
                continue
            cells = [TableCell(given.short(defense)), TableCell(str(ca.n or ""), ca.n or None)]
            for cell in (ca, asr):
                cells.append(_bounded(cell))
                cells += [TableCell(cell.extra.removeprefix("paper "))] * paper
            rows.append(Row(label, cells, row.kind, row.mark))
    notes = ["In averages, n is the number of attacks, and bounds are over seeds, if all of them have the same seeds."]
    return Table("numbers", NUMBERS, "Attack", columns, rows, notes=notes, level=3, tag=given.tag)


def _costs(given: Overview) -> Table:
    """The columns of the full summary that the compact one leaves out."""
    means, left = given.means, ("CA", "ASR", "DER", "Time", "Needs", "Attacks")
    kept = [i for i, c in enumerate(means.columns) if not c.label.startswith(left)]
    names = {"RA, mean": "RA", "Detection AUROC": "AUROC", f"Full trainings {wording.TIMES}": f"full {wording.TIMES}"}
    columns = [
        Column(names.get(c.label, c.label), direction=c.direction, unit=c.unit)
        for c in (means.columns[i] for i in kept)
    ]
    short = [given.short(item) for item in given.short.defenses]
    rows = [
        Row(short[n], [row.cells[i] for i in kept], row.kind, row.mark, row.rule, row.tag)
        for n, row in enumerate(means.rows)
    ]
    notes = [note for note in means.notes if not note.startswith(("Averages", "DER", "Time is"))]
    notes.insert(
        0,
        "RA is a mean over all attacks. TPR (the recall of the poison), FPR and F1 are those of the flagged samples.",
    )
    return Table("costs", "Detection and trainings", "Defense", columns, rows, notes=notes, level=3, tag=given.tag)
