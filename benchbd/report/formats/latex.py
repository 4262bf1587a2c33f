"""The board as LaTeX tables (package booktabs), ready to include in a paper."""

from __future__ import annotations

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from benchbd.report import wording
from benchbd.report.compact import BOUNDS, sections
from benchbd.report.footnotes import RAISED_DIGITS, notes_on, signs
from benchbd.report.table import Row, Table, TableCell

if TYPE_CHECKING:
    from benchbd.report.board import Board
    from benchbd.report.overview import Overview

PAGE, LINE = 44, 90
"""Lines of a table, its caption and its notes that fit a page, and characters of a line of notes."""
FITTED = r"\ifdim\wd0>\linewidth\ifdefined\resizebox\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi\else\usebox0\fi"
"""The table in box 0, scaled down if it is wider than the page and the package graphicx is there."""
FLOATS = 12
"""Tables after which LaTeX has to place those that wait; it can hold about twenty back."""

_SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}",
    "<": r"\textless{}", ">": r"\textgreater{}", '"': "''",
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$", "‡": r"$\ddagger$", "·": r"$\cdot$",
    "§": r"\S{}", "¶": r"\P{}",
    "…": r"\dots{}", "‖": r"$\Vert$", "“": "``", "”": "''", "—": "---",
    "→": r"$\to$", "←": r"$\gets$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "≈": r"$\approx$", "∞": r"$\infty$",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "\N{LATIN SMALL LETTER DOTLESS I}": r"\i{}", "«": r"$\ll$", "»": r"$\gg$",
    "°": r"$^\circ$", "•": r"$\bullet$",
    wording.MINUS: r"$-$", wording.DASH: "--", wording.TIMES: r"$\times$",
}  # fmt: skip


_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
"""LaTeX's command for each combining accent."""
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
_CAPITALS = ("GAMMA", "DELTA", "THETA", "LAMDA", "XI", "PI", "SIGMA", "UPSILON", "PHI", "PSI", "OMEGA")
"""Capital Greek letters that LaTeX has; the others look like Latin ones."""
_LIGATURES = {"-": "-", "`": "`?!", "'": "'", ",": ","}
"""Signs that a font joins with one of these signs before them into another sign."""


def escape(text: str) -> str:
    """Escape text for LaTeX. A sign that the usual fonts lack becomes its code point, such as ``U+4E2D``."""
    out, before = [], ""
    for sign in " ".join(text.split()):
        out.append("{}" * (before != "" and before in _LIGATURES.get(sign, "")) + _escaped(sign))
        before = sign
    return "".join(out)


@functools.cache
def _escaped(sign: str) -> str:
    if sign in _SIGNS or (sign.isascii() and sign.isprintable()):
        return _SIGNS.get(sign, sign)
    greek = _GREEK.fullmatch(unicodedata.name(sign, ""))
    if greek and greek[2] != "OMICRON" and (greek[1] == "SMALL" or greek[2] in _CAPITALS):
        name = greek[2].replace("LAMDA", "LAMBDA").replace("FINAL", "VAR")
        return rf"$\{name.capitalize() if greek[1] == 'CAPITAL' else name.lower()}$"
    parts = unicodedata.normalize("NFD", sign)
    base, marks = parts[0], parts[1:]
    if base.isascii() and base.isprintable() and marks and all(mark in _ACCENTS for mark in marks):
        made = _SIGNS.get(base, base)
        for mark in marks:
            made = rf"\{_ACCENTS[mark]}{{{made}}}"
        return made
    plain = unicodedata.normalize("NFKD", sign)
    if plain != sign and plain.isascii() and plain.isprintable():  # A ligature, or another form of a letter.
        return "".join(_SIGNS.get(part, part) for part in plain)
    return f"U+{ord(sign):04X}"


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
    """Render one ``table*`` environment with caption and notes. A table wider than the page is scaled down."""
    sides = "l" + "".join(("|" if c.rule else "") + ("r" if c.unit else "l") for c in table.columns)
    lines = [
        r"\begin{table*}",
        r"\centering\small",
        rf"\caption{{{escape(' '.join([table.title + '.', *table.lead]))}}}",
    ]
    lines += [rf"\sbox0{{\begin{{tabular}}{{{sides}}}", r"\toprule"]
    if any(c.group for c in table.columns):
        spans = [(name, len(list(members))) for name, members in groupby(c.group_heading for c in table.columns)]
        lines.append(" & ".join(["", *(rf"\multicolumn{{{n}}}{{c}}{{{escape(name)}}}" for name, n in spans)]) + r" \\")
    lines.append(" & ".join([escape(table.stub), *(escape(c.heading) for c in table.columns)]) + r" \\")
    lines.append(r"\midrule")
    for row in table.rows:
        lines += [r"\midrule"] if row.rule else []
        lines.append(_row(row))
    lines += [r"\bottomrule", r"\end{tabular}}"]
    lines.append(FITTED)
    if table.notes:
        notes = (escape(f"{note.rstrip('.')}.") for note in table.notes)  # a note on parameters has no full stop
        lines.append(r"\par\medskip\raggedright\footnotesize " + " ".join(notes))
    return "\n".join([*lines, r"\end{table*}"])


_SIGNS |= {sign: rf"\textsuperscript{{{n}}}" for n, sign in enumerate(RAISED_DIGITS)}
_SIGNS |= {sign: rf"$_{{{n}}}$" for n, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}


def _with_notes(table: Table, found: Overview) -> Table:
    """A table that can stand alone: with the notes on the signs that it uses, and with what its means are over."""
    marked = {note: note.partition(" ")[0] for note in found.notes}
    texts = [*table.notes, *(column.heading for column in table.columns)]
    for row in table.rows:
        texts += [row.label, row.mark, *(cell.display for cell in row.cells)]
    own = [note for note in table.notes if note not in marked or not signs(marked[note])]
    own += notes_on(texts, found.notes)
    lead = list(found.lead) if table.key in ("asr", "ca") else table.lead
    return dataclasses.replace(table, title=f"{table.title}: {found.title}", lead=lead, notes=own)


def _pages(table: Table) -> Iterator[Table]:
    """A table that is longer than a page as several."""
    words = sum(map(len, (table.title, *table.lead, *table.notes)))
    most = max(10, PAGE - words // LINE)
    for start in range(0, max(1, len(table.rows)), most):
        title = f"{table.title}, continued" if start else table.title
        yield dataclasses.replace(table, title=title, rows=table.rows[start : start + most])


def render_latex(board: Board) -> str:
    """Render the whole board; it needs \\usepackage{booktabs}, and graphicx to scale down tables that are too wide."""
    tables = [
        _with_notes(page, found)
        for found in board.overviews()
        for table, _ in sections(found)
        for page in _pages(table)
    ]
    tables += board.further_tables()
    head = [f"% {escape(line)}" for line in (board.title, *board.reading, BOUNDS, *board.notes)]
    body = []
    for number, table in enumerate(tables, 1):
        body += [table_text(table), ""]
        body += [r"\clearpage", ""] * (number % FLOATS == 0 and number < len(tables))
    head.insert(0, "% needs \\usepackage{booktabs}, and {graphicx} to scale down wide tables")
    return "\n".join([*head, "", *body[:-1]]) + "\n"
