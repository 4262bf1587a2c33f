from __future__ import annotations

import itertools
import random

import pytest

from benchbd.report import published
from benchbd.report.groups import group_records
from benchbd.report.labels import Variant
from benchbd.report.ranking import letters, rank, sensitivities
from benchbd.report.signed_rank import holm, signed_rank


def only(records):
    (group,) = group_records(records, published.order(1), published.order(2), published.order(0)).groups
    return group


def ranked(records, measure):
    group = only(records)
    return rank(group, group.attacks(), measure)


@pytest.mark.parametrize("n", [6, 7, 12, 30, 50, 51, 80, 200])
def test_p_values_agree_with_scipy(n):
    from scipy.stats import wilcoxon

    draw = random.Random(n)
    for shift in (0.0, 0.3, 1.0):
        given = [draw.gauss(shift, 1) for _ in range(n)]
        found, expected = signed_rank(given), wilcoxon(given)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert min(found.positive, found.negative) == expected.statistic


@pytest.mark.parametrize("n", [60, 120])
def test_ties_and_zeros_of_large_samples_agree_with_scipy(n):
    from scipy.stats import wilcoxon

    draw = random.Random(n)
    given = [float(draw.randint(-4, 6)) for _ in range(n)]
    assert 0.0 in given
    expected = wilcoxon(given, zero_method="wilcox", correction=False, method="asymptotic")
    kept = sum(v != 0 for v in given)
    assert kept > 50
    assert signed_rank(given).p == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize(
    "given", [(1, 1, 2, -2, 3, 3, 0), (1, -1, 1, 1, 1, 1, 0, 0), (2, 2, 2, 2, 2, 2), (5, 0, 0, -1)]
)
def test_ties_of_small_samples_are_exact(given):
    """All assignments of signs, one by one, as scipy's PermutationMethod takes them."""
    from scipy.stats import rankdata

    sizes = [abs(v) for v in given if v]
    ranks = rankdata(sizes)
    positive = sum(r for r, v in zip(ranks, [v for v in given if v], strict=True) if v > 0)
    least = min(positive, sum(ranks) - positive)
    sums = [
        sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    assert signed_rank(given).p == pytest.approx(min(1, 2 * sum(s <= least for s in sums) / len(sums)))


def test_no_difference_at_all_is_no_evidence():
    assert signed_rank([0.0] * 8).p == 1.0


def test_holm_by_hand():
    # Sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.2; none may lie below the one before it.
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def variants(names):
    return [Variant("defense", name, "{}") for name in names]


def test_letters_by_hand():
    a, b, c, d = order = variants("abcd")
    apart = [frozenset(p) for p in ((a, c), (a, d), (b, d))]
    assert list(letters(order, apart).values()) == ["a", "ab", "bc", "c"]
    assert list(letters(order, []).values()) == ["a"] * 4
    assert list(letters(order, [frozenset(p) for p in itertools.combinations(order, 2)]).values()) == list("abcd")
    assert letters([], []) == {}


@pytest.mark.parametrize("seed", range(20))
def test_items_share_a_letter_unless_they_are_told_apart(seed):
    draw, order = random.Random(seed), variants("abcdefg")
    pairs = [frozenset(p) for p in itertools.combinations(order, 2)]
    apart = {p for p in pairs if draw.random() < 0.4}
    found = letters(order, apart)
    for pair in pairs:
        one, other = pair
        assert bool(set(found[one]) & set(found[other])) == (pair not in apart)


ATTACKS = ("bn-g", "bn-w", "blend", "sig")


def lined_up(make_record, asrs, seeds=2, attacks=ATTACKS, ca=0.9):
    """Undefended records, and those of defenses whose ASR is given; each pair moves all by the same amount."""
    records = [make_record(a, "none", s, 0.9, 1.0) for a in attacks for s in range(seeds)]
    for defense, asr in asrs.items():
        for (i, attack), seed in itertools.product(enumerate(attacks), range(seeds)):
            step = (i * seeds + seed + 1) / 1000
            records.append(make_record(attack, defense, seed, ca, asr + step * (1 + 10 * asr)))
    return records


def test_the_better_defense_wins(make_record):
    found = ranked(lined_up(make_record, {"ac": 0.5, "lfd": 0.01, "abl": 0.012}), "asr")
    names = [v.name for v in found.order]
    assert names == ["lfd", "abl", "ac"]
    assert {v.name: text for v, text in found.groups.items()} == {"lfd": "a", "abl": "b", "ac": "c"}
    duel = found.duels[found.order[0], found.order[2]]
    # Eight pairs of one sign have the p-value 2 / 2 ** 8; three duels, the smallest is multiplied by three.
    assert (duel.wins, duel.ties, duel.losses, duel.better) == (8, 0, 0, 1)
    assert (duel.p, duel.adjusted) == (2 / 256, 3 * 2 / 256)
    assert found.duels[found.order[2], found.order[0]].better == -1
    assert found.pairs == (8, 8)


def test_der_weighs_the_accuracy_that_a_defense_costs(make_record):
    records = lined_up(make_record, {"lfd": 0.01}, ca=0.2) + [
        r for r in lined_up(make_record, {"abl": 0.05}, ca=0.9) if r["defense"] != "none"
    ]
    assert [v.name for v in ranked(records, "asr").order] == ["lfd", "abl"]
    assert [v.name for v in ranked(records, "der").order] == ["abl", "lfd"]


def test_under_six_pairs_there_is_no_ranking(make_record):
    found = ranked(lined_up(make_record, {"ac": 0.5, "lfd": 0.01}, seeds=1), "asr")
    assert (found.order, found.groups, found.pairs) == ((), {}, None)
    assert {v.name for v in found.unranked} == {"ac", "lfd"}
    assert "needs 6 pairs" in found.refusal
    assert "at most 4" in found.refusal
    five = lined_up(make_record, {"ac": 0.5, "lfd": 0.01}, seeds=1, attacks=(*ATTACKS, "cl"))
    assert ranked(five, "asr").order == ()
    six = lined_up(make_record, {"ac": 0.5, "lfd": 0.01}, seeds=1, attacks=(*ATTACKS, "cl", "l2"))
    found = ranked(six, "asr")
    assert [found.groups[v] for v in found.order] == ["a", "b"]
    assert found.refusal == ""


def test_only_pairs_that_both_have_count_and_no_control(make_record):
    records = lined_up(make_record, {"ac": 0.5, "lfd": 0.01, "abl": 0.2})
    records = [r for r in records if r["defense"] != "abl" or r["attack"] == "sig"]
    records += [make_record(a, "oracle", s, 0.9, 0.0, control=True) for a in ATTACKS for s in (0, 1)]
    records += [make_record("none", d, s, 0.9) for d in ("ac", "lfd") for s in (0, 1)]
    found = ranked(records, "asr")
    assert [v.name for v in found.order] == ["lfd", "ac"]
    assert [v.name for v in found.unranked] == ["abl"]
    assert {(a.name, b.name): d.pairs for (a, b), d in found.duels.items()} == {
        **dict.fromkeys([("lfd", "ac"), ("ac", "lfd")], 8),
        **dict.fromkeys([("lfd", "abl"), ("abl", "lfd"), ("ac", "abl"), ("abl", "ac")], 2),
    }


def test_pairs_of_different_data_are_left_out(make_record):
    records = lined_up(make_record, {"ac": 0.5, "lfd": 0.01})
    for r in records:
        other = r["defense"] == "lfd" and r["attack"] == "sig"
        r["data"] = {"train": "t2" if other else "t", "test": "e", "weights": None}
    found = ranked(records, "asr")
    assert found.pairs == (6, 6)


def test_equal_as_shown_is_a_tie(make_record):
    records = [
        make_record(a, d, s, 0.9, v) for d, v in (("ac", 0.1), ("lfd", 0.10004)) for a in ATTACKS for s in (0, 1)
    ]
    found = ranked(records, "asr")
    assert {(d.wins, d.ties, d.losses) for d in found.duels.values()} == {(0, 8, 0)}
    assert set(found.groups.values()) == {"a"}


def test_equal_defenses_are_rarely_told_apart(make_record):
    """Five equal defenses on twelve independent pairs: Holm keeps any false difference under 5 %."""
    draw, runs, wrong = random.Random(7), 400, 0
    for _ in range(runs):
        values = [[draw.gauss(0, 1) for _ in range(12)] for _ in range(5)]
        p_values = [
            signed_rank([x - y for x, y in zip(a, b, strict=True)]).p for a, b in itertools.combinations(values, 2)
        ]
        wrong += min(holm(p_values)) <= 0.05
    assert wrong / runs < 0.05 + 0.033  # three standard errors


def test_a_large_difference_is_found():
    draw, runs, found = random.Random(8), 200, 0
    for _ in range(runs):
        p = signed_rank([draw.gauss(2, 1) for _ in range(12)]).p
        found += holm([p] + [1.0] * 9)[0] <= 0.05
    assert found / runs > 0.9


def test_sensitivity_is_over_the_pairs_that_all_variants_have(make_record):
    records = []
    for alpha, ca, asr in ((0.1, 0.90, 0.2), (0.2, 0.88, 0.6), (0.3, 0.92, 0.05)):
        records += [make_record(a, "lfd", 0, ca, asr, given={"defense": {"alpha": alpha}}) for a in ("bn-g", "sig")]
    records += [make_record("cl", "lfd", 0, 0.1, 1.0, given={"defense": {"alpha": 0.1}}), make_record("sig", "ac")]
    group = only(records)
    (found,) = sensitivities(group, group.attacks())
    assert (found.name, len(found.variants), found.pairs) == ("lfd", 3, 2)
    assert found.ca == pytest.approx((0.88, 0.92))
    assert found.asr == pytest.approx((0.05, 0.6))
