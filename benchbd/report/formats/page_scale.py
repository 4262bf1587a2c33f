"""One data set, model and recipe on the page: summary, scatter, heat map, rankings, details."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchbd.report.compact import sections
from benchbd.report.formats.page_packing import Lines
from benchbd.report.formats.page_records import PageRecords
from benchbd.report.formats.page_tables import (
    attributes,
    notes_html,
    scroll,
    shades_text,
    sort_heading,
    table_html,
    text,
)
from benchbd.report.formats.page_tables import shade as shade_of
from benchbd.report.headline import headline
from benchbd.report.overview import Line, Overview
from benchbd.report.points import BEST, RULE, Point, front_line, points
from benchbd.report.table import Row, Table, TableCell
from benchbd.report.wording import TIMES, UNDEFINED, percent

UNSPLIT = 10**9
"""Width at which no table is split: the page's tables scroll by themselves."""


class Scale(NamedTuple):
    """The parts of the page about one overview.

    Attributes:
        glance: its card in the list at the top, as HTML.
        section: its section, as HTML.
        data: what the script needs: components of rows and columns, points, the line of the numbers.
    """

    glance: str
    section: str
    data: dict[str, Any]


def scale(found: Overview, number: int, records: PageRecords, lines: Lines, places: dict[str, int]) -> Scale:
    """Render an overview.

    Args:
        found: the overview.
        number: its number on the page, from 0.
        records: the records of the page.
        lines: the compressed lines of the page.
        places: number of each record by ID.
    """
    tables: dict[str, Table] = {}
    folded = set()
    for section in sections(found, UNSPLIT, headed=True):
        tables[section.table.key] = section.table
        if section.folded:
            folded.add(section.table.key)
    key = f"scale-{number + 1}"
    parts = []
    for name, table in tables.items():
        if name == "summary":
            parts.append(f'<div class="pair">{table_html(table, f"{key}-summary")}{_scatter(key)}</div>')
        elif name == "asr":
            parts.append(_heat(found, table, tables["ca"], key, records))
        elif name == "ca":
            if "asr" not in tables:
                parts.append(_heat(found, None, table, key, records))
        elif name == "numbers":
            parts.append(_unfilled(table, key))
        else:
            parts.append(table_html(table, f"{key}-{name}", folded=name in folded))
    plotted = points(found)
    data = {
        "title": found.title,
        "attacks": [records.variant_number(attack) for attack in found.ca.attacks],
        "defenses": [records.variant_number(line.defense) for line in found.lines],
        "names": {"attacks": list(found.ca.names), "defenses": [line.name for line in found.lines]},
        "headings": [found.ca.heading, found.asr.heading],
        "points": [_point(point, records) for point in plotted],
        "front": [[round(asr, 5), round(ca, 5)] for asr, ca in front_line(plotted)],
        "numbers": lines.add(_numbers(tables["numbers"], places)) if "numbers" in tables else None,
    }
    title = f'<h2 id="{key}" tabindex="-1">{text(found.title)}</h2>'
    given = attributes(class_="scale", data_scale=str(number), aria_labelledby=key)
    return Scale(_glance(found, key, number), f"<section{given}>{title}{''.join(parts)}</section>", data)


# At a glance


def _glance(found: Overview, key: str, number: int) -> str:
    answer = headline(found)
    rows = [_leader(line, found) for line in answer.leaders]
    base = answer.undefended
    if rows and base and base.ca and base.asr:
        rows.append(_leader(base, found, "base"))
    head = "".join(
        f'<th scope="col">{text(name)}</th>'
        for name in ("Defense", found.ca.heading, found.asr.heading, "worst", f"cost {TIMES}")
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if rows else ""
    given = attributes(class_="card", data_scale=str(number))
    basis = f"{answer.by_asr} {answer.certainty}".strip()
    return (
        f'<li{given}><h3><a href="#{key}">{text(found.title)}</a></h3><p class="answer">{text(answer.sentence)}</p>'
        f'{table}<p class="lead">{text(basis)}</p></li>'
    )


def _leader(line: Line, found: Overview, class_: str = "") -> str:
    numbers = [percent(n.mean, 1) if n else UNDEFINED for n in (line.ca, line.asr)]
    worst = f"{percent(line.worst.asr, 1)} {found.short(line.worst.attack)}" if line.worst else UNDEFINED
    cost = UNDEFINED if line.cost is None else f"{line.cost:.2f}"
    shades = ["", shade_of(line.asr.mean if line.asr else None), shade_of(line.worst.asr if line.worst else None), ""]
    cells = zip((*numbers, worst, cost), shades, strict=True)
    shown = "".join(f"<td{attributes(class_=f'num {tint}'.rstrip())}>{text(value)}</td>" for value, tint in cells)
    given = attributes(class_=class_, data_defense=line.defense.name)
    return f'<tr{given}><th scope="row">{text(line.name)}</th>{shown}</tr>'


# Scatter


def _scatter(key: str) -> str:
    """The place of the scatter, which the script draws: its size follows the screen."""
    label = f"{key}-scatter"
    return (
        f'<section class="scatter" aria-labelledby="{label}"><h3 id="{label}">CA against ASR</h3>'
        '<div class="plot"><noscript><p>The plot needs JavaScript; its numbers are in the summary.</p></noscript></div>'
        f'<p class="lead">{BEST} The area of a circle is the cost. {text(RULE)}</p></section>'
    )


def _point(point: Point, records: PageRecords) -> dict[str, Any]:
    spreads = [None if s is None else [round(s.low, 5), round(s.high, 5)] for s in (point.ca_spread, point.asr_spread)]
    return {
        "defense": records.variant_number(point.defense),
        "name": point.name,
        "ca": round(point.ca, 5),
        "asr": round(point.asr, 5),
        "worst": None if point.worst is None else round(point.worst, 5),
        "cost": None if point.cost is None else round(point.cost, 4),
        "kind": "control" if point.control else "none" if point.undefended else "defense",
        "comparable": point.comparable,
        "front": point.front,
        "spreads": spreads,
    }


# Heat map


def _heat(found: Overview, asr: Table | None, ca: Table, key: str, records: PageRecords) -> str:
    """ASR of every defense on every attack, coloured, with CA below each number."""
    label = f"{key}-heat"
    columns = {attack: place for place, attack in enumerate(found.asr.attacks)} if asr else {}
    heads = [sort_heading("Defense", 0, class_="stub")]
    for place, (attack, name) in enumerate(zip(found.ca.attacks, found.ca.names, strict=True), 1):
        heads.append(sort_heading(name, place, class_="num", data_a=str(records.variant_number(attack))))
    body = []
    for number, (line, row) in enumerate(zip(found.lines, ca.rows, strict=True)):
        other = asr.rows[number].cells if asr else []
        cells = "".join(
            _heat_cell(other[columns[attack]] if attack in columns else None, cell)
            for attack, cell in zip(found.ca.attacks, row.cells, strict=True)
        )
        given = attributes(
            class_="rule" if row.rule else "",
            data_defense=line.defense.name,
            data_d=str(records.variant_number(line.defense)),
        )
        body.append(f'<tr{given}><th scope="row">{text(row.label)}</th>{cells}</tr>')
    feet = [row for row in asr.rows if row.kind == "foot"] if asr else []
    foot = "".join(_heat_foot(row, [columns.get(attack) for attack in found.ca.attacks]) for row in feet)
    inner = (
        f'<table class="sortable heat"><thead><tr>{"".join(heads)}</tr></thead><tbody>{"".join(body)}</tbody>'
        f"{f'<tbody>{foot}</tbody>' if foot else ''}</table>"
    )
    title = f"{found.asr.heading} and {found.ca.heading} of every attack, in percent" if asr else ca.title
    lead = "".join(f'<p class="lead">{text(line)}</p>' for line in (asr.lead if asr else ca.lead))
    legend = (
        f'<p class="lead">Large and coloured: {text(found.asr.heading)} {shades_text()}. Small: '
        f"{text(found.ca.heading)}. Choose a cell to see its records.</p>"
    )
    return (
        f'<section class="table" aria-labelledby="{label}"><h3 id="{label}">{text(title)}</h3>{lead}'
        f"{legend if asr else ''}{scroll(inner, label)}{notes_html([*(asr.notes if asr else []), *ca.notes])}</section>"
    )


def _shown(cell: TableCell) -> str:
    return f"<b>{text(cell.display)}</b>" if cell.best else text(cell.display)


def _heat_cell(asr: TableCell | None, ca: TableCell) -> str:
    """One cell; its size counts, since a page may have twenty thousand."""
    if ca.value is None and (asr is None or asr.value is None):
        shown = text(ca.display)
        return f'<td class="state">{shown}</td>' if shown and ca.records else f"<td>{shown}</td>"
    extras = " / ".join(cell.extra.removeprefix("paper ") for cell in (asr, ca) if cell and cell.extra)
    paper = f"<i>paper {text(extras)}</i>" if extras else ""
    small = f"<small>{_shown(ca)}</small>{paper}"
    if asr is None:
        return f"<td>{small}</td>"
    return f"<td{attributes(class_=shade_of(asr.value))}>{_shown(asr)}{small}</td>"


def _heat_foot(row: Row, places: list[int | None]) -> str:
    cells = "".join(f"<td>{'' if place is None else text(row.cells[place].display)}</td>" for place in places)
    return f'<tr class="rule foot"><th scope="row">{text(row.label)}</th>{cells}</tr>'


# Every number


def _unfilled(table: Table, key: str) -> str:
    """The table of all numbers, which the script fills when it is opened: it is by far the longest."""
    label = f"{key}-numbers"
    heads = "".join(
        f"<th{attributes(scope='col', class_='num' if column.unit else '')}>{text(column.heading)}</th>"
        for column in table.columns
    )
    stub = f'<th scope="col" class="stub">{text(table.stub)}</th>'
    inner = f"<table><thead><tr>{stub}{heads}</tr></thead><tbody></tbody></table>"
    return (
        f'<section class="table numbers" aria-labelledby="{label}"><details><summary><h3 id="{label}">'
        f'{text(table.title)}</h3></summary>{scroll(inner, label)}<button type="button" class="more" hidden>Show more'
        f"</button>{notes_html(table.notes)}</details></section>"
    )


def _numbers(table: Table, places: dict[str, int]) -> list[list[Any]]:
    """The rows of that table: the number of one of its records or -1, the label, the cells."""
    rows = []
    for row in table.rows:
        ids = [ident for cell in row.cells for ident in cell.records]
        label = f"{row.label} {row.mark}".rstrip()
        rows.append([places.get(ids[0], -1) if ids else -1, label, *(cell.display for cell in row.cells)])
    return rows
