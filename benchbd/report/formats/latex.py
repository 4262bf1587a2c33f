"""The board as LaTeX tables (package booktabs), ready to include in a paper."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from benchbd.report import wording
from benchbd.report.compact import BOUNDS, sections
from benchbd.report.table import Row, Table, TableCell

if TYPE_CHECKING:
    from benchbd.report.board import Board
    from benchbd.report.overview import Overview

RAISED_DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
PAGE = 45
"""Most rows of a table, so that it fits a page."""

_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", '"': "''",
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$", "‡": r"$\ddagger$", "·": r"$\cdot$",
    "§": r"\S{}", "¶": r"\P{}",
    "…": r"\dots{}", "‖": r"$\Vert$", "“": "``", "”": "''", "—": "---",
    wording.MINUS: r"$-$", wording.DASH: "--", wording.TIMES: r"$\times$",
}  # fmt: skip


def escape(text: str) -> str:
    """Escape text for LaTeX; a character that LaTeX cannot set becomes a question mark."""
    out = (_SIGNS.get(sign, sign if sign.isascii() and sign.isprintable() else "?") for sign in " ".join(text.split()))
    return "".join(out)


def _cell(cell: TableCell, side: str) -> str:
    text = escape(cell.display)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    if cell.extra:
        text += rf" {{\footnotesize ({escape(cell.extra)})}}"
    return rf"\multicolumn{{{cell.span}}}{{{'c' if cell.span <= 2 else 'l'}}}{{{text}}}" if cell.span > 1 else text


def _row(row: Row) -> str:
    label = rf"\emph{{{escape(row.label)}}}" if row.kind != "body" else escape(row.label)
    if label.startswith(("[", "*")):
        label = "{}" + label  # The end of the row before, or its line, would read it as an argument.
    if row.mark:
        label += f" {escape(row.mark)}"
    return " & ".join([label, *(_cell(c, "r") for c in row.cells)]) + r" \\"


def table_text(table: Table) -> str:
    """Render one ``table*`` environment with caption and notes."""
    sides = "l" + "".join(("|" if c.rule else "") + ("r" if c.unit else "l") for c in table.columns)
    lines = [
        r"\begin{table*}",
        r"\centering\small",
        rf"\caption{{{escape(' '.join([table.title + '.', *table.lead]))}}}",
    ]
    lines += [rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
    if any(c.group for c in table.columns):
        spans = [(name, len(list(members))) for name, members in groupby(c.group_heading for c in table.columns)]
        lines.append(" & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{escape(name)}}}" for name, n in spans)]) + r" \\")
    lines.append(" & ".join([escape(table.stub), *(escape(c.heading) for c in table.columns)]) + r" \\")
    lines.append(r"\midrule")
    for row in table.rows:
        lines += [r"\midrule"] if row.rule else []
        lines.append(_row(row))
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines.append(r"\par\medskip\footnotesize " + " ".join(escape(note) for note in table.notes))
    return "\n".join([*lines, r"\end{table*}"])


_SIGNS |= {sign: rf"\textsuperscript{{{n}}}" for n, sign in enumerate(RAISED_DIGITS)}
_SIGNS |= {sign: rf"$_{{{n}}}$" for n, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}


def _signs(text: str) -> set[str]:
    """Signs in a text that notes explain: numbers of footnotes, and single signs such as a dagger."""
    return set(re.findall(rf"[{RAISED_DIGITS}]+|[†‡§¶‖]", text))


def _with_notes(table: Table, found: Overview) -> Table:
    """A table that can stand alone: with the notes on the signs that it uses, and with what its means are over."""
    marked = {note: note.partition(" ")[0] for note in found.notes}
    texts = [*table.notes, *(column.heading for column in table.columns)]
    for row in table.rows:
        texts += [row.label, row.mark, *(cell.display for cell in row.cells)]
    used = _signs("\n".join(texts))
    own = [note for note in table.notes if note not in marked or not _signs(marked[note])]
    own += [note for note, mark in marked.items() if mark in used]
    lead = list(found.lead) if table.key in ("asr", "ca") else table.lead
    return dataclasses.replace(table, title=f"{table.title}: {found.title}", lead=lead, notes=own)


def _pages(table: Table) -> Iterator[Table]:
    """A table that is longer than a page as several."""
    for start in range(0, max(1, len(table.rows)), PAGE):
        title = f"{table.title}, continued" if start else table.title
        yield dataclasses.replace(table, title=title, rows=table.rows[start : start + PAGE])


def render_latex(board: Board) -> str:
    """Render the whole board; it needs \\usepackage{booktabs}."""
    tables = [
        _with_notes(page, found)
        for found in board.overviews()
        for table, _ in sections(found)
        for page in _pages(table)
    ]
    tables += board.further_tables()
    head = [f"% {escape(line)}" for line in (board.title, *board.reading, BOUNDS, *board.notes)]
    return "\n".join(["% needs \\usepackage{booktabs}", *head, "", "\n\n".join(map(table_text, tables))]) + "\n"
