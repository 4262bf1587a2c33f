"""Which defense is best, in a sentence."""

from __future__ import annotations

import pytest

from benchbd.report import board
from benchbd.report.formats.latex import render_latex
from benchbd.report.formats.markdown import render_md
from benchbd.report.formats.page import render_html
from benchbd.report.formats.terminal import render_text
from benchbd.report.headline import _enumerated as enumerated
from benchbd.report.headline import facts, headline


def answer(make_record, defenses, attacks=8, seeds=(0, 1)):
    """The headline of a table; ``defenses`` gives each ASR by the number of an attack."""
    records = [make_record(f"a{a}", "none", s, 0.9, 0.95) for a in range(attacks) for s in seeds]
    records += [
        make_record(f"a{a}", d, s, 0.9, asr(a)) for d, asr in defenses.items() for a in range(attacks) for s in seeds
    ]
    (found,) = board(records).overviews()
    return headline(found)


def test_one_defense_is_best(make_record):
    found = answer(make_record, {"lfd": lambda a: 0.01 + a / 100, "ac": lambda a: 0.9, "abl": lambda a: 0.5 + a / 50})
    assert found.sentence == "lfd is best: significantly better by DER than each of 2 other ranked defenses."
    assert [line.name for line in found.leaders] == ["lfd"]
    assert found.undefended.name == "none"
    assert found.certainty == (
        "3 defenses compared over 8 attacks by Wilcoxon's signed-rank test at 5 %, with Holm's correction. "
        "2 seeds a cell."
    )


def test_defenses_that_cannot_be_told_apart_share_the_lead(make_record):
    found = answer(
        make_record,
        {"lfd": lambda a: 0.1 + 0.05 * (a % 2), "abl": lambda a: 0.15 - 0.05 * (a % 2), "ac": lambda a: 0.9},
        attacks=10,
    )
    first, second = (line.name for line in found.leaders)
    assert {first, second} == {"lfd", "abl"}
    assert found.sentence == f"{first} leads by DER; {second} is not significantly different."


def test_an_attack_that_only_one_defense_met_does_not_decide_who_leads(make_record):
    """One defense was also measured where every defense may fail: the mean over its own attacks says nothing."""
    records = [make_record(f"a{a}", "none", 0, 0.9, 0.95) for a in range(11)]
    records += [make_record(f"a{a}", "lfd", 0, 0.9, 0.10 + 0.05 * (a % 2)) for a in range(10)]
    records += [make_record(f"a{a}", "abl", 0, 0.9, 0.17 - 0.05 * (a % 2)) for a in range(10)]
    (even,) = board(records).overviews()
    (uneven,) = board([*records, make_record("a10", "lfd", 0, 0.9, 1.0)]).overviews()
    assert headline(even).sentence == "lfd leads by DER; abl is not significantly different."
    assert headline(uneven).sentence == headline(even).sentence
    assert headline(uneven).leaders[0].der.mean < headline(uneven).leaders[1].der.mean


def test_a_cell_with_more_seeds_than_most_is_not_hidden(make_record):
    records = [make_record(f"a{a}", d, 0, 0.9, asr) for a in range(8) for d, asr in (("none", 0.9), ("lfd", 0.1))]
    (even,) = board(records).overviews()
    (uneven,) = board([*records, make_record("a0", "lfd", 1, 0.9, 0.1)]).overviews()
    assert headline(even).certainty.endswith(" 1 seed a cell.")
    assert headline(uneven).certainty.endswith(" 1 seed in most cells.")


def test_names_are_enumerated_as_in_a_sentence():
    assert enumerated(["a"]) == "a"
    assert enumerated(["a", "b"]) == "a and b"
    assert enumerated(["a", "b", "c"]) == "a, b and c"
    assert enumerated(list("abcdefgh")) == "a, b, c, d, e, f and 2 more"


@pytest.mark.parametrize("attacks", [1, 5])
def test_too_few_attacks_make_no_best(make_record, attacks):
    found = answer(make_record, {"lfd": lambda a: 0.0, "ac": lambda a: 0.9}, attacks=attacks)
    assert found.sentence == "lfd has the highest mean DER, but no defense can be called best."
    assert [line.name for line in found.leaders] == ["lfd"]
    assert found.certainty.startswith("No ranking by DER or ASR: a test needs 6 attacks")
    assert found.certainty.endswith(" 2 seeds a cell.")


@pytest.mark.parametrize("medium", ["md", "html", "text", "latex"])
def test_the_reason_for_no_ranking_stands_once(medium, make_record):
    """All media said it below the summary and below the last table, and those with a headline there too."""
    render = {"md": render_md, "html": render_html, "text": render_text, "latex": render_latex}[medium]
    asr = {"none": 0.95, "lfd": 0.0, "ac": 0.9}
    given = board([make_record(a, d, s, 0.9, rate) for a in ("sig", "bn-g") for d, rate in asr.items() for s in (0, 1)])
    said = " ".join(render(given).split())
    assert said.count("a test needs 6 attacks that two defenses share") == 1
    assert said.count("No ranking by DER or ASR") == 1
    assert said.count("is not ranked") == 1
    assert ("is not ranked, for the reason above." in said) == (medium != "latex")


def test_a_measure_without_a_ranking_says_why_beside_one_with(make_record):
    """DER ranks both; by ASR, no outcome could be significant, since the two are equal but for one attack."""
    records = [make_record(f"a{a}", "none", 0, 0.9, 0.95) for a in range(8)]
    records += [make_record(f"a{a}", "lfd", 0, 0.9, 0.5) for a in range(8)]
    records += [make_record(f"a{a}", "ac", 0, 0.8 - a / 100, 0.5 + (a == 0) / 10) for a in range(8)]
    made = board(records)
    (found,) = made.overviews()
    assert found.ranking.measure == "der"
    assert found.refusal.startswith("No ranking by ASR: with 1 duel over at most 1 attack with a difference")
    assert render_md(made).count("No ranking by ASR: with 1 duel") == 1


def test_one_defense_alone_has_no_highest(make_record):
    found = answer(make_record, {"lfd": lambda a: 0.0}, attacks=2)
    assert found.leaders == ()
    assert "highest" not in found.sentence


def test_records_without_an_attack(make_record):
    (found,) = board([make_record("none", "ac", status="failed", error="x")]).overviews()
    assert headline(found).sentence == "No defense can be called best."
    assert headline(found).certainty == "No ranking: no record has an attack."
    assert facts(headline(found), found) == ["No ranking: no record has an attack."]


@pytest.mark.parametrize("fmt", ["md", "text"])
def test_a_text_says_first_which_defense_is_best_how_sure_and_at_what_cost(make_record, fmt):
    """Above the first table, in one line each: the answer, the numbers of the leader and of no defense, the test."""
    records = [
        make_record(f"a{a}", d, s, ca, asr + a / 100, time={"total": seconds, "own": seconds, "stages": {}})
        for a in range(8)
        for d, ca, asr, seconds in (("none", 0.95, 0.9, 100), ("lfd", 0.93, 0.01, 250), ("ac", 0.9, 0.8, 150))
        for s in (0, 1)
    ]
    text = board(records).render(fmt)
    top = " ".join(text[text.index("80 epochs") : text.index("Summary")].split())
    assert "lfd is best: significantly better by DER than 1 other ranked defense." in top
    assert "lfd: CA 93.0 %, ASR 4.5 % (worst: 8.0 %, a7), DER 93.5 %, 2.50 \N{MULTIPLICATION SIGN} the time" in top
    assert "none: CA 95.0 %, ASR 93.5 % (worst: 97.0 %, a7)" in top
    assert "compared over 8 attacks by Wilcoxon's signed-rank test" in top
    assert "|" not in top, "before any table"


def test_a_leader_by_wins_is_not_called_the_one_with_the_best_mean(make_record):
    """abl beats ac on every attack; lfd's mean is better, but one attack makes it no significant rival of ac."""
    found = answer(
        make_record,
        {
            "lfd": lambda a: 0.95 if a == 0 else 0.0,
            "abl": lambda a: 0.3 + a / 100,
            "ac": lambda a: 0.4 + a / 100,
        },
        attacks=8,
    )
    assert found.leaders[0].name == "abl"
    assert found.sentence == "abl has the most significant wins by DER; lfd is not significantly different."


TRADE = {"lfd": (0.9, lambda a: 0.2 + a / 100), "abl": (0.6, lambda a: 0.01 + a / 100), "ac": (0.9, lambda a: 0.9)}
"""lfd keeps CA, abl has a lower ASR on every attack; by DER, lfd is better."""


def traded_board(make_record, defenses):
    """A board of ten attacks; ``defenses`` gives each CA, and each ASR by the number of an attack."""
    records = [make_record(f"a{a}", "none", 0, 0.9, 0.95) for a in range(10)]
    records += [make_record(f"a{a}", d, 0, ca, asr(a)) for d, (ca, asr) in defenses.items() for a in range(10)]
    return board(records)


def traded(make_record, defenses):
    (found,) = traded_board(make_record, defenses).overviews()
    return found


def test_a_defense_that_is_better_by_asr_than_the_first_is_named_with_its_ca(make_record):
    found = traded(make_record, TRADE)
    assert headline(found).sentence.startswith("lfd is best: significantly better by DER")
    line = "By ASR alone, abl (lower on 10 of 10 attacks, CA 60.0 %) is significantly better than lfd (CA 90.0 %)."
    assert facts(headline(found), found).count(line) == 1


def test_several_that_are_better_by_asr_share_the_line(make_record):
    found = traded(make_record, TRADE | {"dbd": (0.7, lambda a: 0.05 + a / 100)})
    assert headline(found).by_asr == (
        "By ASR alone, abl (lower on 10 of 10 attacks, CA 60.0 %) and dbd (lower on 10 of 10 attacks, CA 70.0 %) are "
        "significantly better than lfd (CA 90.0 %)."
    )


@pytest.mark.parametrize(
    "asr",
    [lambda a: 0.2 + a / 100, lambda a: 0.01 + a / 100 if a < 6 else 0.5, lambda a: 0.3 + a / 100],
    ids=["equal", "lower on six of ten", "higher"],
)
def test_where_none_is_significantly_better_by_asr_nothing_is_added(make_record, asr):
    found = traded(make_record, TRADE | {"abl": (0.6, asr)})
    assert headline(found).leaders[0].name == "lfd"
    assert headline(found).by_asr == ""
    assert not [line for line in facts(headline(found), found) if "By ASR" in line]


@pytest.mark.parametrize("fmt", ["md", "text", "html"])
def test_every_text_and_the_page_say_it_once(make_record, fmt):
    text = " ".join(traded_board(make_record, TRADE).render(fmt).split())
    assert text.count("By ASR alone, abl (lower on 10 of 10") == 1
