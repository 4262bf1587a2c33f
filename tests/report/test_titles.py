"""Who has a title in summary and averages, and what the summary says of itself."""

from __future__ import annotations

import pytest

from benchbd.report import board
from benchbd.report.compact import sections
from benchbd.report.figures import charts
from benchbd.report.formats.latex import render_latex
from benchbd.report.titles import AT_CHANCE

ATTACKS = ("bn-g", "blend", "sig")
TEN = [0.1] * 10


def overview(records):
    (found,) = board(records).overviews()
    return found


def best(records, metric):
    return {line.defense.name for line in overview(records).lines if (n := getattr(line, metric)) and n.best}


def average_best(records):
    """(defense, metric) of every bold cell of the average over attacks, and of the full summary's first two columns."""
    table, means = board(records).tables[:2]
    (row,) = [r for r in table.rows if r.label == "Average over attacks"]
    columns = [(c.group, c.label) for c in table.columns]
    full = {(r.label, m) for r in means.rows for m, c in zip(("CA", "ASR"), r.cells, strict=False) if c.best}
    assert full == {place for place, cell in zip(columns, row.cells, strict=False) if cell.best}
    return full


def notes(records):
    return next(s.table for s in sections(overview(records)) if s.table.key == "summary").notes


def with_seeds(make_record, last):
    """Three defenses on three attacks: lfd is best by far and has ``last`` seeds on sig, three elsewhere."""
    records = [make_record(a, "none", s, 0.9, 1.0) for a in ATTACKS for s in range(3)]
    for attack in ATTACKS:
        for seed in range(3):
            records += [make_record(attack, "ac", seed, 0.80, 0.50), make_record(attack, "abl", seed, 0.82, 0.45)]
            if attack != "sig" or seed < last:
                records.append(make_record(attack, "lfd", seed, 0.90, 0.01))
    return records


def test_nobody_has_the_title_of_an_average_if_a_rival_lacks_a_seed(make_record):
    uneven, even = with_seeds(make_record, 2), with_seeds(make_record, 3)
    for metric in ("ca", "asr", "der"):
        assert best(even, metric) == {"lfd"}
        assert best(uneven, metric) == set()
    assert average_best(even) == {("lfd", "CA"), ("lfd", "ASR")}
    assert average_best(uneven) == set()


@pytest.mark.parametrize(
    ("ca", "asr", "shared"),
    [
        (0.8901, 0.01, {"ca", "asr", "der"}),
        (0.8899, 0.01, {"asr", "der"}),  # more than a point of CA below
        (0.90, 0.0299, {"ca", "asr", "der"}),
        (0.90, 0.0301, {"ca"}),  # more than two points of ASR above, and so more than one of DER below
    ],
)
def test_a_title_is_shared_within_a_point_of_ca_or_der_and_two_of_asr(make_record, ca, asr, shared):
    records = [make_record("bn-g", "none", s, 0.95, 1.0) for s in range(2)]
    records += [make_record("bn-g", "lfd", s, 0.90, 0.01) for s in range(2)]
    records += [make_record("bn-g", "abl", s, ca, asr) for s in range(2)]
    for metric in ("ca", "asr", "der"):
        assert best(records, metric) == ({"lfd", "abl"} if metric in shared else {"lfd"}), metric


def test_a_defense_with_failures_takes_no_title_and_blocks_none(make_record):
    records = [r for r in with_seeds(make_record, 3) if (r["attack"], r["defense"], r["seed"]) != ("sig", "lfd", 2)]
    records.append(make_record("sig", "lfd", 2, status="oom"))
    assert best(records, "asr") == {"abl"}


def chance(make_record, accuracies, **more):
    given = {"notes": {"ca_per_class": accuracies, "test_images": 10000}}
    return [make_record(a, "dbd", s, 0.1, 0.0, **given, **more) for a in ATTACKS for s in range(3)]


def test_a_model_at_chance_has_no_title_and_a_sign(make_record):
    records = with_seeds(make_record, 3)
    found = records + chance(make_record, TEN)
    assert best(found, "asr") == {"lfd"}
    assert best(records + chance(make_record, [0.5] * 10), "asr") == {"lfd", "dbd"}
    (line,) = [line for line in overview(found).lines if line.defense.name == "dbd"]
    assert line.name == f"dbd {AT_CHANCE}"
    table = board(found).tables[0]
    body = next(r for r in table.rows if r.label == "sig")
    shown = {(c.group, c.label): cell for c, cell in zip(table.columns, body.cells, strict=False)}
    assert not shown["dbd", "ASR"].best
    assert shown["lfd", "ASR"].best
    assert AT_CHANCE in shown["dbd", "ASR"].display
    assert any(n.startswith(AT_CHANCE) and "the model of seed 0 is at chance (CA 10.00)" in n for n in table.notes)
    assert not any(n.startswith(AT_CHANCE) for n in board(records).tables[0].notes)


def test_latex_tables_and_heatmaps_explain_the_sign_beside_each_use(make_record):
    records = with_seeds(make_record, 3)
    shown, plain = board(records + chance(make_record, TEN)), board(records)
    note = "a model does not beat guessing on clean images, so the defense does not compete there"
    floats = [part for part in render_latex(shown).split(r"\begin{table*}") if r"dbd \textasciitilde" in part]
    assert len(floats) >= 3
    assert all(note in part for part in floats)
    assert note not in render_latex(plain)
    (notes,) = [line for line in floats[0].splitlines() if line.startswith(r"\par\medskip")]
    assert notes.endswith(".")
    assert f"{AT_CHANCE}\N{NO-BREAK SPACE}{note}" in charts.charts("heatmap", shown, metric="asr")[0].note
    assert note not in charts.charts("heatmap", plain, metric="asr")[0].note


def test_one_model_at_chance_takes_the_title_of_its_cell_and_of_the_averages(make_record):
    records = with_seeds(make_record, 3)
    for record in records:
        if (record["attack"], record["defense"], record["seed"]) == ("sig", "lfd", 1):
            record["notes"] = {"ca_per_class": TEN, "test_images": 10000}
    assert best(records, "asr") == {"abl"}
    rows = board(records).tables[0].rows
    assert [[cell.best for cell in row.cells].index(True) for row in rows[:2]] == [6, 6]  # lfd
    assert "lfd" not in {d for d, _ in average_best(records)}


def test_only_compared_defenses_have_a_letter_or_a_question_mark(make_record):
    records = with_seeds(make_record, 3) + [make_record(a, "oracle", control=True) for a in ATTACKS]
    assert {line.defense.name: line.group for line in overview(records).lines} == {
        **{"none": "", "oracle": ""},
        **dict.fromkeys(("ac", "abl", "lfd"), "?"),
    }
    assert "needs 6 attacks" in notes(records)[0]
    six = ("bn-g", "bn-w", "blend", "sig", "cl", "l2")
    records = [make_record(a, d, 0, 0.9, v) for a in six for d, v in (("none", 1.0), ("ac", 0.5), ("lfd", 0.1))]
    records += [make_record("sig", "abl"), make_record("sig", "oracle", control=True)]
    assert {line.defense.name: line.group for line in overview(records).lines} == {
        **{"none": "", "lfd": "a", "ac": "b", "abl": "?", "oracle": ""},
    }
    assert "? is not ranked: abl (under 6 attacks in common with another defense)." in notes(records)[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([("bn-g", "none", 0.9), ("sig", "none", 0.1)], "the 1 attack of 2 that counts as implanted"),
        ([("bn-g", "ac", 0.9), ("sig", "abl", 0.1)], "over all 2 attacks. Whether an attack is implanted is unknown"),
        ([("bn-g", "ac", 0.9)], "over the only attack. Whether an attack is implanted is unknown"),
        ([("bn-g", "none", 0.2), ("bn-g", "ac", 0.1)], "No attack of 1 counts as implanted"),
        ([("none", "none", None), ("none", "ac", None)], "No record has an attack"),
    ],
)
def test_the_summary_says_what_its_means_are_over(make_record, given, said):
    found = notes([make_record(a, d, s, 0.9, asr) for a, d, asr in given for s in (0, 1)])
    assert sum(said in note for note in found) == 1
    assert sum("count as implanted" in note for note in found) == 0


def test_the_sensitivity_says_that_it_is_over_implanted_attacks(make_record):
    records = [make_record("bn-g", "lfd", given={"defense": {"beta": b}}) for b in (0.0, 0.1)]
    for more, said in (([], False), ([make_record("bn-g")], True)):
        (table,) = [s.table for s in sections(overview(records + more)) if s.table.key == "sensitivity"]
        assert ("implanted attacks only" in table.notes[0]) == said
