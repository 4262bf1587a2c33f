"""The board as LaTeX tables (package booktabs), ready to include in a paper."""

from __future__ import annotations

import dataclasses
from itertools import groupby
from typing import TYPE_CHECKING

from benchbd.report import wording
from benchbd.report.compact import sections
from benchbd.report.table import Row, Table, TableCell

if TYPE_CHECKING:
    from benchbd.report.board import Board

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


_SIGNS |= {sign: rf"\textsuperscript{{{n}}}" for n, sign in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")}
_SIGNS |= {sign: rf"$_{{{n}}}$" for n, sign in enumerate("₀₁₂₃₄₅₆₇₈₉")}


def render_latex(board: Board) -> str:
    """Render the whole board; it needs \\usepackage{booktabs}."""
    tables = [
        dataclasses.replace(table, title=f"{table.title}: {found.title}")
        for found in board.overviews()
        for table, folded in sections(found)
        if not folded  # These are longer than a page; csv has their numbers.
    ]
    tables += board.further_tables()
    head = [f"% {escape(line)}" for line in (board.title, *board.reading, *board.notes)]
    return "\n".join(["% needs \\usepackage{booktabs}", *head, "", "\n\n".join(map(table_text, tables))]) + "\n"
