"""How compact tables are laid out: width, names, notes and bounds in every medium."""

from __future__ import annotations

import io
import random
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from benchbd.report import board
from benchbd.report.compact import sections
from benchbd.report.fit import GITHUB, WIDTH, fit
from benchbd.report.formats.latex import table_text
from benchbd.report.formats.terminal import show
from benchbd.report.table import Column, Row, Table, TableCell

LONG = "d" * 150
DASH = "\N{EN DASH}"


def rendered_widths(markdown):
    """Characters of each markdown table as a reader sees it, three a column included for padding, by hand."""
    for block in re.findall(r"(?:^\|.*\n)+", markdown + "\n", re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines() if not re.match(r"\| ?:?-", line)]
        total = 0
        for column in zip(*lines, strict=True):
            parts = [part for cell in column for part in cell.split("<br>")]
            total += 3 + max(cell_len(re.sub(r"\*\*|\\", "", part.strip())) for part in parts)
        yield total


@pytest.fixture(scope="module")
def large(make_record):
    """40 attacks and 25 defenses; two variants have long parameter lists, one defense a name of 150 characters."""
    chance = random.Random(3)
    defenses = [("none", {}), *((f"defense-with-number-{n}", {}) for n in range(22)), (LONG, {})]
    defenses += [("newdef", {"alpha": n / 100}) for n in range(9)]
    return board(
        make_record(f"attack-{a}", name, 0, 0.9, 1.0 if name == "none" else chance.random(), given={"defense": given})
        for a in range(40)
        for name, given in defenses
    )


def test_every_markdown_table_is_readable_without_scrolling(large):
    text = large.render("md")
    found = list(rendered_widths(text))
    assert len(found) > 30
    assert max(found) <= WIDTH, "the summary, whose words break"
    assert sorted(found)[-2] <= GITHUB
    assert LONG in text, "the name is in a footnote"


def test_a_summary_with_long_words_is_split_too(make_record):
    more = {"needs": ["clean", "truth"], "returns": "resnet-s(stem=64,width=128)"}
    records = [
        make_record(f"{'long-attack' * 3}-{a}", d, s, 0.9, 0.5 + s / 10, **more)
        for a in range(9)
        for d in ("none", "a-defense-with-a-long-name-1", "a-defense-with-a-long-name-2")
        for s in (0, 1)
    ]
    first, *rest = rendered_widths(board(records).render("md"))
    assert first <= WIDTH, "the summary, whose words break"
    assert max(rest) <= GITHUB


def table(**more):
    columns = [Column("pinned"), *(Column(f"c{n}", unit="fraction") for n in range(6))]
    rows = [
        Row("one", [TableCell("p"), *(TableCell("12345") for _ in range(6))]),
        Row("two", [TableCell("p"), TableCell("1"), *(TableCell() for _ in range(5))], rule=True),
        Row("three", [TableCell("p"), *(TableCell("12345") for _ in range(6))]),
    ]
    return Table("t", "Title", "Stub", columns, rows, lead=["lead"], notes=["note"], **more)


def test_a_split_table_keeps_every_cell_and_its_line():
    parts = fit(table(), 32, "columns", pinned=1)
    # By hand: (5 + 3) for the labels, (6 + 3) for the pinned column, and 5 + 3 for each number: one fits into 32.
    assert [[c.label for c in part.columns] for part in parts] == [["pinned", f"c{n}"] for n in range(6)]
    assert [part.title for part in parts] == ["Title", *["Title, further columns"] * 5]
    assert [part.lead for part in parts] == [["lead"], *[[]] * 5]
    assert [part.notes for part in parts] == [*[[]] * 5, ["note"]]
    assert [(r.label, r.rule) for r in parts[0].rows] == [("one", False), ("two", True), ("three", False)]
    assert [(r.label, r.rule) for r in parts[1].rows] == [("one", False), ("three", True)]
    assert len(fit(table(), 200, "columns")) == 1


def test_the_line_before_the_controls_stays_in_further_blocks(make_record):
    attacks = [f"attack-with-a-long-name-{n}" for n in range(9)]
    records = [
        make_record(a, d, 0, control=d == "random-filter") for a in attacks for d in ("none", "lfd", "random-filter")
    ]
    records.append(make_record(attacks[0], "oracle", control=True))
    (found,) = board(records).overviews()
    blocks = [t for t, _ in sections(found) if t.key == "asr"]
    assert len(blocks) > 1
    assert [r.label for r in blocks[0].rows if r.rule] == ["oracle"]
    for block in blocks[1:]:
        assert [(r.label, r.rule) for r in block.rows] == [("none", False), ("lfd", False), ("random-filter", True)]


@pytest.mark.parametrize("width", [40, 60, 80, 110])
def test_a_terminal_of_any_width_shows_every_digit_and_name(make_record, width):
    records = [
        make_record(a, d, s, 0.8123 + s / 100, 0.1234 + s / 10)
        for a in ("bn-g", "tj-sq", "lfd-adaptive", "dynamic")
        for d in ("none", "neural-cleanse-own", "fine-pruning", "random-filter")
        for s in (0, 1)
    ]
    out = io.StringIO()
    made = board(records)
    show(made, Console(file=out, width=width, color_system=None))
    text = out.getvalue()
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    for table, _ in sections(made.overviews()[0], width):
        for cell in (cell for row in table.rows for cell in row.cells if cell.value is not None):
            assert cell.display in text
    if width > 40:
        assert text.count("neural-cleanse-own") > 5


@pytest.mark.parametrize("form", ["md", "text", "latex"])
@pytest.mark.parametrize(("seeds", "low", "high"), [(2, "12.00", "14.00"), (5, "8.37", "23.63")])
def test_bounds_are_in_every_medium_where_the_legend_says(make_record, form, seeds, low, high):
    """Of 0.12, 0.14, ... : the range of two; of five, 16 - 2.776 * sqrt(0.1) points, 2.776 being t(0.975, 4)."""
    if seeds == 5:
        mean, half = 16.0, 2.7764451 * (10**0.5) / 5**0.5
        low, high = f"{mean - half:.2f}", f"{mean + half:.2f}"
    records = [make_record("bn-g", "lfd", s, 0.9, 0.12 + 0.02 * s) for s in range(seeds)]
    text = board(records).render(form)
    assert "Every number with its bounds" in text
    between = {"latex": "--"}.get(form, DASH)
    bounds = f"({low}{between}{high})" if seeds == 2 else f"[{low}, {high}]"
    bounds = bounds.replace("[", r"\[").replace("]", r"\]") if form == "md" else bounds
    assert bounds in " ".join(text.split())


def test_variants_have_distinct_short_names(make_record):
    """The parameters of an unknown plugin, of which some look the same in a label."""
    given = [{"alpha": 0.12345671}, {"alpha": 0.12345672}, {}, {"alpha": "0.12345671"}, {"alpha": 1}, {"alpha": 1.0}]
    records = [make_record("bn-g", "newdef", 0, 0.9, 0.1 + n / 10, given={"defense": g}) for n, g in enumerate(given)]
    (found,) = board(records).overviews()
    names = {line.defense.params: line.name for line in found.lines}
    assert len(set(names.values())) == len(names) == len(given)
    assert names["{}"] == "newdef"
    explained = {*names.values(), *(note.partition(" ")[2] for note in found.short.notes)}
    for one, other in (("0.12345671", '"0.12345671"'), ("1", "1.0")):
        alike = {names[f'{{"alpha": {value}}}'] for value in (one, other)}
        assert any(name[-1] in "⁰¹²³⁴⁵⁶⁷⁸⁹" for name in alike)
        assert explained & {f"alpha={one}", f"alpha={other}"}, "the note has the value as JSON"
    assert "alpha=0.12345672" in explained


def test_a_variant_that_lacks_a_parameter_differs(make_record):
    records = [make_record("bn-g", "newdef", given={"defense": g}) for g in ({}, {"k": 1})]
    (found,) = board(records).overviews()
    assert {line.name for line in found.lines} == {"newdef", "newdef(k=1)"}


def test_a_cell_with_failed_seeds_says_so(make_record):
    records = [make_record("bn-g", d, s, 0.9, 0.5) for d in ("none", "ac") for s in (0, 1, 2)]
    records += [make_record("bn-g", "lfd", s, 0.95, 0.01) for s in (0, 1)] + [
        make_record("bn-g", "lfd", 2, status="oom")
    ]
    made = board(records)
    shown = {r.label: r.cells[0] for t, _ in sections(made.overviews()[0]) if t.key == "asr" for r in t.rows}
    assert (shown["lfd"].display, shown["lfd"].best) == ("1.0₂ oom", False)
    assert shown["ac"].display == "50.0"
    assert "1.00 (1.00" + DASH + "1.00) oom" in made.render("md")


def test_each_latex_table_explains_its_own_signs(make_record):
    single = {"teachers": 1, "teacher_epochs": 7}
    records = [
        make_record(a, d, s, 0.9, 0.1 if a == "wanet" else 0.9, given={"attack": p, "defense": q})
        for a, p in (("bn-g", {}), ("blend", {"alpha": 0.3}), ("wanet", {}))
        for d, q in (("none", {}), ("lfd", single))
        for s in (0, 1)
    ]
    text = board(records).render("latex")
    tables = re.findall(r"\\begin\{table\*\}.*?\\end\{table\*\}", text, re.DOTALL)
    sign = r"\\textsuperscript\{\d\}|\$\\dagger\$"
    for found in tables:
        body, notes = found.split(r"\bottomrule")
        assert set(re.findall(sign, body)) == set(re.findall(sign, notes))
    assert sum(bool(re.search(sign, found)) for found in tables) >= 4
    heats = [found for found in tables if re.search(r"caption\{(CA|ASR) ", found)]
    assert len(heats) == 2
    assert all("Mean over 2 seeds" in found for found in heats)


@pytest.mark.parametrize("label", ["[red]x", "*x"])
def test_a_latex_label_is_not_the_argument_of_the_row_before(label):
    made = Table("t", "T", "S", [Column("c")], [Row("a", [TableCell("1")]), Row(label, [TableCell("2")], rule=True)])
    lines = table_text(made).splitlines()
    row = next(line for line in lines if label in line)
    assert row.startswith("{}")


def test_long_latex_tables_are_several(large):
    text = large.render("latex")
    for found in re.findall(r"\\midrule(.*?)\\bottomrule", text, re.DOTALL):
        assert found.count(r"\\") <= 45
    assert "continued" in text
