"""The board as one HTML file that works offline. This module puts it together; scripts make it answer."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING

from benchbd.errors import counted
from benchbd.report.compact import BOUNDS
from benchbd.report.formats.page_packing import LARGEST_PAGE, Lines, inert_json
from benchbd.report.formats.page_records import PageRecords
from benchbd.report.formats.page_scale import scale
from benchbd.report.formats.page_tables import table_html, text
from benchbd.storage.results_file import ordered

if TYPE_CHECKING:
    from benchbd.report.board import Board

SCRIPTS = ("page_base.js", "page_tables.js", "page_scatter.js", "page_evidence.js", "page_records.js")
"""The parts of the script, in this order: each uses only names of earlier ones."""

GENERATOR = '<meta name="generator" content="benchbd leaderboard">'
"""What every page has near its beginning, and by which a later one may replace it."""


@functools.cache
def _resource(name: str) -> str:
    return (resources.files("benchbd.report.formats") / name).read_text(encoding="utf-8")


@functools.cache
def script() -> str:
    """The page's script, as its element holds it."""
    parts = "\n".join(_resource(name) for name in SCRIPTS)
    return f'\n"use strict";\n(() => {{\n{parts}}})();\n'


def hash_source(content: str) -> str:
    """The source of a content security policy that allows an inline element with exactly this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def policy() -> str:
    """The content security policy: nothing is loaded, and only the page's own script and style count."""
    return (
        f"default-src 'none'; style-src {hash_source(_resource('page.css'))}; script-src {hash_source(script())}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def render_html(board: Board) -> str:
    """Render the whole page."""
    found = ordered(board.records)
    records = PageRecords(board, found)
    columns = records.columns()
    places = {ident: place for place, ident in enumerate(columns["id"])}
    lines = Lines(LARGEST_PAGE)
    scales = [scale(each, number, records, lines, places) for number, each in enumerate(board.overviews())]
    further = "".join(table_html(table, f"further-{n}") for n, table in enumerate(board.further_tables(), 1))
    data = {
        "columns": columns,
        "variants": records.names(),
        "scales": [each.data for each in scales],
    }
    parts = {
        "title": text(board.title),
        "csp": text(policy()),
        "generator": GENERATOR,
        "css": _resource("page.css"),
        "script": script(),
        "count": counted(len(found), "record"),
        "reading": "\n".join(f"<li>{text(line)}</li>" for line in (*board.reading, BOUNDS, *board.notes)),
        "glance": "".join(each.glance for each in scales) or "<li>No records yet.</li>",
        "tables": "\n".join(each.section for each in scales) + further,
        "data": inert_json(data),
    }
    template = _resource("page.html")
    lines.budget -= sum(len(part.encode("utf-8", "surrogatepass")) for part in (template, *parts.values()))
    evidence = records.evidence(lines)
    parts["places"] = inert_json(evidence)
    parts["lines"] = "\n".join(lines.lines)
    # One pass, so that text from a record is never taken for a placeholder of the template.
    return re.sub(r"@@(\w+)@@", lambda match: parts[match[1]], template)
