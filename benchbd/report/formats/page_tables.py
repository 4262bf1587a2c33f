"""The page's tables in HTML. They can be read without the script, which adds sorting, filters and the records."""

from __future__ import annotations

import html
import re
from itertools import pairwise

from benchbd.core.severity import BAD, FAIR
from benchbd.report.table import Column, Row, Table, TableCell
from benchbd.report.wording import DASH

SHADES = (0.01, FAIR, 0.3, BAD, 0.75, 0.9)
"""ASR from which each shade of the heat map but the first begins. Two of them are where other formats change colour."""


GROUP, LETTER = "Group", r"[a-z]\d*"
"""The column of a defense's letters, and one of them."""


def text(value: object) -> str:
    """The value as text that HTML cannot read as anything else."""
    return html.escape(str(value), quote=True)


def attributes(**given: object) -> str:
    """`` name="value"`` for each attribute with a value; ``class_`` and ``data_x`` become ``class`` and ``data-x``."""
    named = (
        (name.strip("_").replace("_", "-"), value) for name, value in given.items() if value not in (None, "", False)
    )
    return "".join(f' {name}="{text(value)}"' for name, value in named)


def shade(asr: float | None) -> str:
    """The class of an ASR's colour, from ``h0`` (under 1 %) to ``h6``; empty without an ASR."""
    return "" if asr is None else f"h{sum(asr >= bound for bound in SHADES)}"


def shades_text() -> str:
    """The legend of the colours."""
    bounds = [0, *(round(100 * bound) for bound in SHADES), 100]
    swatches = "".join(
        f'<span class="h{number}">{low}{DASH}{high}</span>' for number, (low, high) in enumerate(pairwise(bounds))
    )
    return f'<span class="shades">{swatches}</span>'


def _letters(shown: str, among: list[str]) -> str:
    """The letters of a group as chips below each other, so that equal letters stand in one line."""
    own = re.findall(LETTER, shown)
    if not own or "".join(own) != shown:
        return text(shown)
    chips = "".join(f'<span class="in">{letter}</span>' if letter in own else "<span></span>" for letter in among)
    return f'<span class="letters">{chips}</span>'


def _cell(cell: TableCell, column: Column, letters: list[str]) -> str:
    asr = cell.value is not None and column.direction == "down" and "ASR" in column.label
    decided = not column.unit and cell.display.endswith("*")  # a duel of a ranking
    classes = (
        "num" if column.unit else "words",
        "best" if cell.best and not decided else "",
        "rule-left" if column.rule else "",
        shade(cell.value) if asr else "",
        ("win" if cell.best else "loss") if decided else "",
    )
    shown = _letters(cell.display, letters) if column.label == GROUP else text(cell.display)
    shown = f'<span class="shown">{shown}</span>' if cell.best else shown
    best = '<span class="sr"> (best)</span>' if cell.best and not decided else ""
    extra = f'<span class="extra">{text(cell.extra)}</span>' if cell.extra else ""
    value = None if cell.value is None else repr(float(cell.value))
    given = attributes(class_=" ".join(filter(None, classes)), data_value=value, title=cell.note)
    return f"<td{given}>{shown}{best}{extra}</td>"


def _letters_of(table: Table) -> list[str]:
    """Every letter in the column of groups, in order."""
    places = [place for place, column in enumerate(table.columns) if column.label == GROUP]
    shown = [row.cells[place].display for row in table.rows for place in places]
    return sorted({letter for one in shown for letter in re.findall(LETTER, one)})


def _row(table: Table, row: Row, letters: list[str]) -> str:
    pairs = zip(row.cells, table.columns, strict=True)
    cells = [_cell(cell, column, letters) for cell, column in pairs]
    defense = row.tag if table.stub == "Defense" and row.kind == "body" else ""
    classes = " ".join(filter(None, ("rule" if row.rule else "", row.kind if row.kind != "body" else "")))
    label = f'<th scope="row">{text(f"{row.label} {row.mark}".rstrip())}</th>'
    return f"<tr{attributes(class_=classes, data_defense=defense)}>{label}{''.join(cells)}</tr>"


def sort_heading(label: str, place: int, direction: str = "", **given: object) -> str:
    """A heading that sorts by its column when it is pressed."""
    better = {"up": ", higher is better", "down": ", lower is better"}.get(direction, "")
    hidden = f'<span class="sr">{better}</span>' if better else ""
    button = f'<button type="button" class="sort">{text(label)}{hidden}</button>'
    return f"<th{attributes(scope='col', data_place=str(place), **given)}>{button}</th>"


def _head(table: Table) -> str:
    heads = [sort_heading(table.stub, 0, class_="stub")]
    for place, column in enumerate(table.columns, 1):
        classes = " ".join(filter(None, ("num" if column.unit else "", "rule-left" if column.rule else "")))
        heads.append(sort_heading(column.heading, place, column.direction, class_=classes))
    return f"<tr>{''.join(heads)}</tr>"


def scroll(inner: str, key: str) -> str:
    """A region that scrolls sideways by itself, named by the heading of that ID."""
    return f"<div{attributes(class_='scroll', role='region', aria_labelledby=key, tabindex='0')}>{inner}</div>"


def notes_html(notes: list[str]) -> str:
    """Notes as a list; empty without any."""
    return f'<ul class="notes">{"".join(f"<li>{text(line)}</li>" for line in notes)}</ul>' if notes else ""


def table_html(table: Table, key: str, *, folded: bool = False) -> str:
    """Render a table as a section: heading, scrollable table, notes. A folded one opens when its heading is pressed."""
    letters = _letters_of(table)
    body = "".join(_row(table, r, letters) for r in table.rows if r.kind == "body")
    rest = "".join(_row(table, r, letters) for r in table.rows if r.kind != "body")
    lead = "".join(f'<p class="lead">{text(line)}</p>' for line in table.lead)
    inner = (
        f'<table class="sortable"><thead>{_head(table)}</thead><tbody>{body}</tbody>'
        f"{f'<tbody>{rest}</tbody>' if rest else ''}</table>"
    )
    heading = f'<h{table.level} id="{text(key)}">{text(table.title)}</h{table.level}>'
    content = f"{lead}{scroll(inner, key)}{notes_html(table.notes)}"
    content = f"<details><summary>{heading}</summary>{content}</details>" if folded else heading + content
    given = attributes(class_=f"table {table.key.partition('-')[0]}".rstrip(), aria_labelledby=key)
    return f"<section{given}>{content}</section>"
