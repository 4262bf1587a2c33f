"""LaTeX tables compile, whatever names and texts the records hold. Skipped where there is no pdflatex."""

from __future__ import annotations

import random
import re
import shutil
import subprocess

import pytest

from benchbd.report import board
from benchbd.report.formats.latex import FLOATS, escape, table_text
from benchbd.report.ranking import letters
from benchbd.report.table import Column, Row, Table, TableCell

HOSTILE = (
    "a_$x_1^2$", "b%&#~{", "中文 攻击", "_hidden", "x" * 60, "r\\frac{", "ü<é>|", "[opt]*", "*star", "--b``q''\"",
    "\N{GREEK SMALL LETTER ALPHA}→Ω",
    "100%", "&&\\\\", "«ñ» ß Ł", "tab\tname", "ﬁ½²", "{}", "\udce9", "\x07", "^^M", "?`!`", "\\end{document}",
)  # fmt: skip
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs}%s
\begin{document}
\input{body}
\end{document}
"""


@pytest.fixture
def compiled(tmp_path):
    """A function that compiles tables with pdflatex and returns its log."""
    if shutil.which("pdflatex") is None:
        pytest.skip("there is no pdflatex here")

    def run(body, packages=r"\usepackage{graphicx}"):
        (tmp_path / "t.tex").write_text(DOCUMENT % packages)
        (tmp_path / "body.tex").write_text(body, encoding="utf-8")
        words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "t.tex"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=120, check=False)
        log = done.stdout.decode("latin-1")
        errors = [line for line in log.splitlines() if line.startswith("!")]
        assert done.returncode == 0, (errors, log[-2000:])
        assert (tmp_path / "t.pdf").stat().st_size > 1000
        return log

    return run


def test_a_board_of_hostile_names_compiles(make_record, compiled):
    rng = random.Random(0)
    records = [
        make_record(attack, defense, seed, rng.random(), 0.9 if defense == "none" else rng.random())
        for attack in (*HOSTILE, "none")
        for defense in ("none", *(name + "!" for name in HOSTILE))
        for seed in (0, 1)
    ]
    records.append(make_record("bn-g", "lfd", 0, status="failed", error="a_b % {"))
    for dataset in ("gtsrb", "a_b$%"):
        records += [make_record(a, d, dataset=dataset) for a in ("bn-g", HOSTILE[0]) for d in ("none", HOSTILE[1])]
    text = board(records).render("latex")
    assert text.isascii()
    assert text.count(r"\begin{table*}") > 2 * FLOATS
    log = compiled(text)
    assert "Float too large" not in log
    assert "Missing character" not in log


def test_the_paper_s_verdicts_compile(published_records, compiled):
    compiled(board(published_records, paper=True).render("latex"))


def test_a_table_wider_than_the_page_is_scaled_down(compiled):
    columns = [Column(f"column {n}") for n in range(20)]
    made = Table("t", "T", "S", columns, [Row("a", [TableCell("a long text")] * 20)])
    assert "Overfull" not in compiled(table_text(made))
    assert "Overfull" in compiled(table_text(made), packages="")  # It compiles without the package as well.


def test_thirty_groups_have_thirty_letters_that_compile(compiled):
    from benchbd.report.labels import Variant

    order = [Variant("defense", f"d{n:02}", "{}") for n in range(30)]
    apart = [frozenset((a, b)) for place, a in enumerate(order) for b in order[place + 1 :]]
    found = letters(order, apart)
    assert len(set(found.values())) == 30
    assert [found[item] for item in order[24:28]] == ["y", "z", "a2", "b2"]
    # Letters of several groups stay readable: each is one letter with its number.
    assert re.findall(r"[a-z]\d*", "za2b2") == ["z", "a2", "b2"]
    rows = [Row(item.name, [TableCell(found[item])]) for item in order]
    compiled(table_text(Table("t", "T", "S", [Column("Group")], rows)))


@pytest.mark.parametrize("text", HOSTILE)
def test_escaped_text_is_plain_ascii_and_tells_names_apart(text):
    made = escape(text)
    assert made.isascii()
    assert made.isprintable()
    others = [escape(other) for other in HOSTILE if other != text]
    assert made not in others
