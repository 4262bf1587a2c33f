"""The board as one HTML file that works offline. This module writes the tables and data; a script does the rest."""

from __future__ import annotations

import base64
import binascii
import functools
import html
import json
import math
import re
from collections.abc import Mapping
from importlib import resources
from itertools import groupby
from typing import TYPE_CHECKING, Any

from benchbd.core.kinds import KINDS
from benchbd.core.plain import json_text
from benchbd.report.formats.reproduce import command
from benchbd.report.gate import lift_of
from benchbd.report.labels import Labels, asked_numerics, variant
from benchbd.report.probes import probe_of
from benchbd.report.table import Column, Row, Table, TableCell
from benchbd.storage.results_file import ordered

if TYPE_CHECKING:
    from benchbd.report.board import Board

LONGEST_CURVE = 2_000
LONGEST_NOTE = 2_000
LARGEST_PICTURE = 200_000


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _attributes(**given: object) -> str:
    """`` name="value"`` for each attribute with a value; ``class_`` and ``data_x`` become ``class`` and ``data-x``."""
    named = (
        (name.strip("_").replace("_", "-"), value) for name, value in given.items() if value not in (None, "", False)
    )
    return "".join(f' {name}="{_text(value)}"' for name, value in named)


@functools.cache
def _template(name: str) -> str:
    return (resources.files("benchbd.report.formats") / name).read_text(encoding="utf-8")


# Tables


def _cell(cell: TableCell, columns: list[Column], first: bool) -> str:
    column = columns[0]
    classes = ["num" if column.unit and cell.span == 1 else "words"]
    classes += ["best"] if cell.best else []
    classes += (
        ["state"]
        if cell.value is None and cell.records and cell.display[:1].isalnum() and cell.display != "not run"
        else []
    )
    classes += ["rule-left"] if column.rule else []
    shown = f'<span class="shown">{_text(cell.display)}</span>'
    best = '<span class="sr"> (best of the row)</span>' if cell.best else ""
    extra = f'<span class="extra">{_text(cell.extra)}</span>' if cell.extra else ""
    if cell.records:
        content = f"{column.group} {column.label}: {cell.display}".lstrip()
        ids, description = " ".join(cell.records), f"{content}, open records"
        given = _attributes(type="button", class_="open", data_ids=ids, aria_label=description)
        shown = f"<button{given}>{shown}</button>"
    tag = columns[0].tag if len({c.tag for c in columns}) == 1 else ""
    value = None if cell.value is None else repr(float(cell.value))
    given = _attributes(
        class_=" ".join(classes),
        data_value=value,
        data_defense=tag,
        title=cell.note,
        colspan=cell.span if cell.span > 1 else None,
    )
    return f"<td{given}>{shown}{best}{extra}</td>"


def _row(table: Table, row: Row) -> str:
    place, cells = 0, []
    for cell in row.cells:
        cells.append(_cell(cell, table.columns[place : place + cell.span], place == 0))
        place += cell.span
    kind = {"Attack": "attack", "Defense": "defense"}.get(table.stub, "")
    tagged = {f"data_{kind}": row.tag} if kind and row.kind == "body" else {}
    classes = " ".join(filter(None, ("rule" if row.rule else "", row.kind if row.kind != "body" else "")))
    label = f'<th scope="row">{_text(row.label)}{" " + _text(row.mark) if row.mark else ""}</th>'
    return f"<tr{_attributes(class_=classes, **tagged)}>{label}{''.join(cells)}</tr>"


def _head(table: Table) -> str:
    rows = []
    if any(c.group for c in table.columns):
        cells, place = [], 0
        for (group, tag), members in groupby(table.columns, key=lambda c: (c.group_heading, c.tag)):
            width = len(list(members))
            rule = " rule-left" if table.columns[place].rule else ""
            cells.append(
                f"<th{_attributes(scope='colgroup', colspan=width, class_=f'group{rule}', data_defense=tag)}>"
                f"{_text(group)}</th>"
            )
            place += width
        rows.append(f'<tr><td class="stub"></td>{"".join(cells)}</tr>')
    leaves = [
        '<th scope="col" class="stub" data-place="0"><button type="button" class="sort">'
        f"{_text(table.stub)}</button></th>"
    ]
    for place, column in enumerate(table.columns, 1):
        classes = " ".join(filter(None, ("num" if column.unit else "", "rule-left" if column.rule else "")))
        direction = {"up": ", higher is better", "down": ", lower is better", "": ""}[column.direction]
        hidden = f'<span class="sr">{_text(direction)}</span>' if direction else ""
        given = _attributes(scope="col", class_=classes, data_place=place, data_defense=column.tag)
        leaves.append(f'<th{given}><button type="button" class="sort">{_text(column.heading)}{hidden}</button></th>')
    rows.append(f"<tr>{''.join(leaves)}</tr>")
    return "".join(rows)


def table_html(table: Table) -> str:
    """Render a table as a section: heading, scrollable table, notes."""
    body = "".join(_row(table, r) for r in table.rows if r.kind == "body")
    rest = "".join(_row(table, r) for r in table.rows if r.kind != "body")
    lead = "".join(f'<p class="lead">{_text(line)}</p>' for line in table.lead)
    notes = "".join(f"<li>{_text(line)}</li>" for line in table.notes)
    heading = f"h{table.level}"
    return (
        f"<section{_attributes(class_='table', data_dataset=table.tag, aria_labelledby=table.key)}>"
        f'<{heading} id="{_text(table.key)}">{_text(table.title)}</{heading}>{lead}'
        f"<div{_attributes(class_='scroll', role='region', aria_labelledby=table.key, tabindex='0')}>"
        f'<table class="sortable">'
        f"<thead>{_head(table)}</thead><tbody>{body}</tbody>{f'<tbody>{rest}</tbody>' if rest else ''}</table></div>"
        f"{f'<ul class=notes>{notes}</ul>' if notes else ''}</section>"
    )


# Records


def _curve(values: Any) -> list[float | None] | None:
    if not isinstance(values, list) or not 0 < len(values) <= LONGEST_CURVE:
        return None
    if not all(v is None or (isinstance(v, (int, float)) and not isinstance(v, bool)) for v in values):
        return None
    return [float(f"{v:.4g}") if v is not None and math.isfinite(v) else None for v in values]


def train_curves(notes: Mapping[str, Any]) -> list[tuple[str, list[float | None]]]:
    """Training losses as named curves of 4 significant digits; ``notes.train_loss`` is a list or lists by training."""
    given = notes.get("train_loss")
    named = given if isinstance(given, dict) else {"train": given}
    return [(str(name), curve) for name, values in named.items() if (curve := _curve(values)) is not None]


def picture(text: Any) -> str | None:
    """``notes.trigger_png``, a PNG in base64, as a data URL; None for anything else."""
    if not isinstance(text, str) or len(text) > LARGEST_PICTURE:
        return None
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return f"data:image/png;base64,{text}" if data.startswith(b"\x89PNG\r\n\x1a\n") else None


def _histogram(note: Any) -> dict[str, list[float | None]] | None:
    """``detection.histogram`` or ``notes.suspicion``: ``edges`` (bins + 1), ``clean`` and ``poisoned`` counts."""
    if not isinstance(note, dict):
        return None
    found = {key: _curve(note.get(key)) for key in ("edges", "clean", "poisoned")}
    edges, clean, poisoned = found.values()
    fits = edges and clean and poisoned and len(edges) - 1 == len(clean) == len(poisoned)
    return found if fits and None not in edges + clean + poisoned else None  # type: ignore[operator, return-value]


class _Pool:
    """Values that several records share, each stored once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any, key: str) -> int:
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(value)
        return self._places[key]


OWN_NOTES = ("train_loss", "probe", "tsne", "trigger_png", "suspicion")


def _record(record: Mapping[str, Any], labels: Labels, pool: _Pool) -> dict[str, Any]:
    notes = record.get("notes") or {}
    shown = {
        k: record.get(k)
        for k in ("id", "seed", "status", "error", "ca", "asr", "ra", "detection", "poison", "time", "matrix")
    }
    shown |= {"clean_asr": record.get("clean_asr"), "triggered": record.get("triggered"), "lift": lift_of(record)}
    for kind in KINDS:
        item = variant(record, kind)
        shown[kind] = pool.place(
            {"name": item.name, "label": labels(item), "params": item.values()}, f"{kind}{item.name}{item.params}"
        )
    asked = asked_numerics(record)
    recipe = {**(record.get("recipe") or {}), **({"numerics": asked} if asked else {})}
    for kind, facts in (("recipe", recipe), ("env", record.get("env") or {})):
        shown[kind] = pool.place(facts, kind + json.dumps(facts, sort_keys=True))
    if shown["detection"]:
        shown["detection"] = {k: v for k, v in shown["detection"].items() if k != "histogram"}
    shown["cost"] = {
        k: record[k]
        for k in ("trainings", "epochs_trained", "peak_memory_bytes", "needs", "control")
        if record.get(k) not in (None, [])
    }
    shown["command"] = command(record)
    prints = {f"sha256 of {k}": v for k, v in (record.get("data") or {}).items() if v}
    shown["sources"] = {**{f"source of {k}": v for k, v in (record.get("sources") or {}).items()}, **prints}
    if curves := train_curves(notes):
        shown["curves"] = curves
    if probe := probe_of(record):
        shown["probe"] = {
            "epochs": probe["epochs"],
            "clean": _curve(probe["clean_mean"]),
            "poison": _curve(probe["poison_mean"]),
        }
    if histogram := _histogram((record.get("detection") or {}).get("histogram") or notes.get("suspicion")):
        shown["histogram"] = histogram
    if trigger := picture(notes.get("trigger_png")):
        shown["trigger"] = trigger
    rest = {k: v for k, v in notes.items() if k not in OWN_NOTES and len(json.dumps(v)) <= LONGEST_NOTE}
    return {k: v for k, v in {**shown, "notes": rest}.items() if v not in (None, {}, [])}


def inert_json(value: Any) -> str:
    """JSON that is safe in a script element: no character can end the element or start a comment."""
    text = json_text(value, ensure_ascii=False, separators=(",", ":"))
    for sign, code in (
        ("&", "\\u0026"),
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(sign, code)
    return text


def render_html(board: Board) -> str:
    """Render the whole page."""
    pool = _Pool()
    records = [_record(r, board.labels, pool) for r in ordered(board.records)]
    parts = {
        "title": _text(board.title),
        "css": _template("page.css"),
        "script": _template("page.js"),
        "reading": "\n".join(f"<li>{_text(line)}</li>" for line in (*board.reading, *board.notes)),
        "tables": "\n".join(table_html(t) for t in board.tables) or "<p>No records yet.</p>",
        "data": inert_json({"pool": pool.items, "records": records}),
    }
    # One pass, so that text from a record is never taken for a placeholder of the template.
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], _template("page.html"))
