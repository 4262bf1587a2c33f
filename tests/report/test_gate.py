"""A row counts as implanted only if the trigger makes the undefended model take images for the target."""

from __future__ import annotations

import json

import pytest

from benchbd.report import board
from benchbd.report.compare import compare
from benchbd.report.gate import judge, lift_of, sign_test
from benchbd.report.wording import UNDEFINED

TEN = [0.9] * 10


def measured(make_record, asr, clean_asr, *, seed=0, images=1000, unchanged=0, per_class=TEN, attack="bn-g", **more):
    """An undefended record whose counts agree with its rates; whatever reaches the target without the trigger stays."""
    gained, lost = round(max(0.0, asr - clean_asr) * images), round(max(0.0, clean_asr - asr) * images)
    counts = {"images": images, "unchanged": unchanged, "gained": gained, "lost": lost}
    notes = {"ca_per_class": per_class, "test_images": images, "triggered_test_images": images}
    ca = sum(per_class) / len(per_class)
    return make_record(attack, "none", seed, ca, asr, clean_asr=clean_asr, triggered=counts, notes=notes, **more)


@pytest.mark.parametrize(
    ("given", "holds", "why"),
    [
        ({"asr": 0.98, "clean_asr": 0.02}, True, ""),
        ({"asr": 0.5, "clean_asr": 0.02}, True, ""),
        ({"asr": 0.49, "clean_asr": 0.02}, False, "ASR 49.00 is below 50 %"),
        # The target class got twice its share from the poison, and the trigger does the rest.
        ({"asr": 0.9, "clean_asr": 0.2}, True, ""),
        ({"asr": 0.9, "clean_asr": 0.45}, True, ""),
        ({"asr": 0.9, "clean_asr": 0.46}, False, "ASR 90.00, but 46.00 without the trigger"),
        ({"asr": 0.95, "clean_asr": 0.97}, False, "ASR 95.00, but 97.00 without the trigger"),
        # Everything is the target: ASR 1, and 1 without the trigger.
        (
            {"asr": 1.0, "clean_asr": 1.0, "per_class": [0.0, 1.0] + [0.0] * 8},
            False,
            "the model of seed 0 is at chance",
        ),
        # A model that knows the trigger and nothing else.
        ({"asr": 1.0, "clean_asr": 0.0, "per_class": [1.0] + [0.0] * 9}, False, "the model of seed 0 is at chance"),
        ({"asr": 1.0, "clean_asr": 1.0, "unchanged": 1000}, False, "the trigger changes no pixel"),
        ({"asr": 0.98, "clean_asr": 0.02, "unchanged": 15}, True, ""),
        # Two classes: half of the images reach the target by chance.
        ({"asr": 0.52, "clean_asr": 0.5, "per_class": [0.5, 0.5]}, False, "the model of seed 0 is at chance"),
        ({"asr": 0.6, "clean_asr": 0.35, "per_class": [0.65, 0.65]}, False, "ASR 60.00, but 35.00"),
        ({"asr": 0.95, "clean_asr": 0.1, "per_class": [0.9, 0.9]}, True, ""),
        # A fair coin throws four heads in a row with probability 1/16, five with 1/32.
        ({"asr": 1.0, "clean_asr": 0.0, "images": 2}, False, "the lift may be chance on 2 test images"),
        ({"asr": 1.0, "clean_asr": 0.0, "images": 4}, False, "the lift may be chance on 4 test images"),
        (
            {"asr": 1.0, "clean_asr": 0.0, "images": 1, "per_class": [1.0, 1.0]},
            False,
            "the lift may be chance on 1 test ",
        ),
        ({"asr": 1.0, "clean_asr": 0.0, "images": 5}, True, ""),
    ],
)
def test_verdicts_by_hand(make_record, given, holds, why):
    found = judge([measured(make_record, **given)], 0.5)
    assert found.holds is holds
    assert found.why.startswith(why)
    assert bool(found.why) is not holds
    assert found.lift.mean == pytest.approx(given["asr"] - given["clean_asr"])


def test_the_class_accuracies_and_not_the_accuracy_show_a_collapse(make_record):
    # 95 % of the test images are of one class. A model that guesses it has CA 95 % and learnt nothing.
    record = measured(make_record, 0.9, 0.0, per_class=[1.0, 0.0]) | {"ca": 0.95}
    assert "at chance" in judge([record], 0.5).why
    record = measured(make_record, 0.9, 0.0, per_class=[0.7, 0.8]) | {"ca": 0.705}
    assert judge([record], 0.5).holds
    assert judge([measured(make_record, 0.9, 0.0, per_class=[1.0])], 0.5).holds  # one class shows nothing


@pytest.mark.parametrize(
    ("classes", "images", "chance", "learnt"),
    [
        (10, 100, 0.149, 0.150),  # 1.645 standard deviations of a proportion: 0.1 + 1.645 x 0.03
        (10, 10_000, 0.1049, 0.1050),
        (2, 100, 0.582, 0.583),
        (10, 2, 0.44, 0.45),  # 0.1 + 1.645 x 0.212
        (10, 1, 0.54, 0.56),  # the bound is 0.593, but halfway to perfection is enough
        (2, 1, 0.74, 0.76),
        (10, 0, 0.10, 0.11),  # of an unknown number of images: chance itself
    ],
)
def test_a_model_is_at_chance_where_guessing_would_reach_its_accuracy_in_one_of_twenty_tests(
    make_record, classes, images, chance, learnt
):
    def why(accuracy):
        record = measured(make_record, 0.9, 0.0, per_class=[accuracy] * classes)
        return judge([record | {"notes": record["notes"] | {"test_images": images}}], 0.5).why

    assert "at chance" in why(chance)
    assert why(learnt) == ""


def test_a_lift_over_seeds_is_rounded_against_the_attack(make_record):
    """Five gained and none lost is evidence (1/32); a mean of 4.5 gained and 0.5 lost is not."""
    seeds = [measured(make_record, 1.0, 0.0, seed=s, images=5) for s in range(2)]
    assert judge(seeds, 0.5).holds
    seeds[1]["triggered"] = {"images": 5, "unchanged": 0, "gained": 4, "lost": 0}
    assert judge(seeds, 0.5).why == "the lift may be chance on 5 test images"
    eight = [measured(make_record, 1.0, 0.0, seed=s, images=8) for s in range(2)]
    eight[0]["triggered"] = {"images": 8, "unchanged": 0, "gained": 7, "lost": 1}  # (8 + 1) / 2**8 = 0.035
    assert judge(eight[:1], 0.5).holds
    eight[1]["triggered"] = {"images": 8, "unchanged": 0, "gained": 7, "lost": 0}
    assert judge(eight, 0.5).holds  # 0.5 lost is taken for one
    eight[1]["triggered"] = {"images": 8, "unchanged": 0, "gained": 7, "lost": 2}  # 1.5 lost for two: 46 / 2**9
    assert judge(eight, 0.5).why == "the lift may be chance on 8 test images"


def test_seeds_are_judged_together_and_one_collapsed_model_spoils_the_row(make_record):
    good = measured(make_record, 0.96, 0.02, seed=0)
    weak = measured(make_record, 0.2, 0.02, seed=1)
    assert judge([good, weak], 0.5).holds
    assert judge([good, weak], 0.5).lift.mean == pytest.approx(0.56)
    collapsed = measured(make_record, 1.0, 1.0, seed=1, per_class=[0.0, 1.0] + [0.0] * 8)
    assert judge([good, collapsed], 0.5).why == "the model of seed 1 is at chance (CA 10.00)"
    # Two seeds share their four test images: they are not eight.
    few = [measured(make_record, 1.0, 0.0, seed=s, images=4) for s in range(5)]
    assert judge(few, 0.5).why == "the lift may be chance on 4 test images"


def test_a_low_gate_wants_the_trigger_to_do_it_too(make_record):
    # All-to-all: the ASR cannot exceed CA by much, so the matrix lowers the gate.
    twenties = [0.28] * 10
    assert judge([measured(make_record, 0.22, 0.08, per_class=twenties)], 0.2).holds
    assert not judge([measured(make_record, 0.22, 0.12, per_class=twenties)], 0.2).holds
    assert not judge([measured(make_record, 0.0, 0.0)], 0.0).holds


def test_the_sign_test_is_the_binomial_one():
    from scipy.stats import binomtest

    for more, less in ((0, 0), (5, 0), (4, 0), (12, 5), (530, 470), (600, 500), (5000, 4900), (0, 2000)):
        n = more + less
        expected = binomtest(more, n, alternative="greater").pvalue if n else 1.0
        assert sign_test(more, less) == pytest.approx(expected, abs=1e-3)


def old(make_record, asr, per_class=TEN, images=1000, attack="bn-g", **more):
    """A record of a version that did not measure the clean ASR."""
    notes = {"ca_per_class": per_class, "test_images": images, "triggered_test_images": images}
    return make_record(attack, "none", 0, sum(per_class) / len(per_class), asr, notes=notes, **more)


def test_old_records_are_judged_by_their_asr_and_chance(make_record):
    assert judge([old(make_record, 0.5)], 0.5) == (True, "", None, False)
    assert judge([make_record(asr=0.5)], 0.5) == (True, "", None, False)  # without any note
    assert judge([old(make_record, 0.49)], 0.5).below
    assert "at chance" in judge([old(make_record, 1.0, [1.0] + [0.0] * 9)], 0.5).why
    assert judge([old(make_record, 0.52, [0.9, 0.9])], 0.5).why == "ASR 52.00 may be chance with 2 classes"
    assert judge([old(make_record, 0.6, [0.9, 0.9])], 0.5).holds
    assert judge([], 0.5) == (None, "", None, False)


@pytest.mark.parametrize("notes", [{"ca_per_class": 3}, {"ca_per_class": ["x", None, True]}, {"ca_per_class": {}}, {}])
@pytest.mark.parametrize("count", [None, "many", -1, 10**400, 1.5, []])
def test_odd_notes_of_a_foreign_record_decide_nothing(make_record, notes, count):
    counts = {"test_images": count, "triggered_test_images": count}
    assert judge([make_record(asr=0.9, notes={**notes, **counts})], 0.5).holds
    assert judge([make_record(asr=0.9, clean_asr=0.1, notes={**notes, **counts})], 0.5).holds
    assert judge([old(make_record, 0.9) | {"notes": {"ca_per_class": TEN, **counts}}], 0.5).holds


def row(table, label):
    return next(r for r in table.rows if r.label == label)


def test_a_board_of_old_records_says_what_it_said(make_record):
    made = board([old(make_record, 0.9), old(make_record, 0.1, attack="sig")])
    assert "Lift" not in [c.label for c in made.tables[0].columns]
    assert made.reading[-1] == "An attack counts as implanted if its undefended ASR is at least 50 %."
    assert made.notes == []
    told = "† not implanted: the undefended ASR is below 50 %, so it is not evidence for any defense."
    assert told in made.tables[0].notes
    assert made.not_implanted == ["sig on cifar10 is not implanted: ASR 10.00 is below 50 %"]


@pytest.fixture
def mixed(make_record):
    records = [measured(make_record, 0.96 + s / 100, 0.02, seed=s) for s in (0, 1)]
    records += [measured(make_record, 1.0, 1.0, unchanged=1000, attack="blend")]
    records += [old(make_record, 0.9, attack="sig"), make_record("none"), make_record("cl", "lfd")]
    records += [make_record(d, "oracle", control=True) for d in ("bn-g", "blend")]
    return records


def test_the_last_column_is_the_undefended_lift(mixed):
    made = board(mixed, paper=True)
    table = made.tables[0]
    assert [c.label for c in table.columns[:-1]] == ["CA", "ASR"] * (len(table.columns) // 2)
    assert table.columns[-1].heading == "Lift"
    assert table.columns[-1].rule
    lifts = {r.label: r.cells[-1] for r in table.rows if r.kind == "body"}
    assert lifts["bn-g"].value == pytest.approx(0.945)
    assert lifts["bn-g"].n == 2
    assert (lifts["blend"].display, lifts["sig"].display) == ("0.00", "unknown")
    assert lifts["none"].display == lifts["cl"].display == UNDEFINED
    assert [row(table, a).mark for a in ("bn-g", "blend", "sig", "cl", "none")] == ["", "†", "", "‡", ""]
    assert "blend: the trigger changes no pixel." in next(n for n in table.notes if n.startswith("†"))
    assert "the lift is ASR minus clean ASR" in made.reading[-1]
    assert "Average, implanted attacks" in [r.label for r in table.rows]
    assert made.not_implanted == ["blend on cifar10 is not implanted: the trigger changes no pixel"]


@pytest.mark.parametrize("fmt", ["md", "csv", "json", "latex", "html", "jsonl"])
def test_every_format_shows_the_lift(mixed, fmt):
    text = board(mixed, paper=True).render(fmt)
    if fmt == "jsonl":
        assert sum("clean_asr" in json.loads(line) for line in text.splitlines()) == 3
    else:
        # The page packs the values of a record into its evidence, and its script names them.
        shown = {"md": ("lift of none", "94.5"), "latex": ("lift of none", "94.5"), "html": ('["lift", e.lift]',)}
        assert all(word in text for word in shown.get(fmt, ("Lift", "94.50")))
        assert "the trigger changes no pixel" in text


def test_the_papers_claims_use_the_same_rule(make_record):
    def verdict(clean_asr):
        records = [measured(make_record, 0.9, clean_asr, seed=s) for s in (0, 1)]
        records += [make_record("bn-g", d, s, asr=0.01) for d in ("abl", "ac", "fine-pruning") for s in (0, 1)]
        records += [make_record("bn-g", "lfd", s, asr=0.01, given={"defense": {"teachers": 1}}) for s in (0, 1)]
        table = next(t for t in board(records, paper=True).tables if t.title == "The paper's claims")
        return row(table, "CIFAR-10: LfD has the lowest average ASR of the four defenses").cells[1].display

    assert verdict(0.02) != "not measured"
    assert verdict(0.85) == "not measured"


def test_compare_shows_the_change_of_the_lift(make_record):
    before, after = measured(make_record, 0.9, 0.1), measured(make_record, 0.9, 0.3)
    assert lift_of(before) == pytest.approx(0.8)
    assert lift_of(make_record()) is None
    (line,) = compare([before], [after]).lines
    assert line.changes["lift"].mean == pytest.approx(-20)
    (line,) = compare([make_record()], [after]).lines
    assert line.changes["lift"] is None
