from __future__ import annotations

import itertools
import random

import pytest

from benchbd.report import published
from benchbd.report.groups import group_records
from benchbd.report.labels import Variant
from benchbd.report.ranking import gains, letters, rank, refusals, sensitivities
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


@pytest.mark.parametrize("given", [(1, 1, 2, -2, 3, 3, 0), (2, 2, 2, 2, 2, -1, 3), (1, -1, 1, 1, 1, 1, 0, 0)])
def test_ties_of_small_samples_agree_with_the_permutations_of_scipy(given):
    from scipy.stats import PermutationMethod, wilcoxon

    kept = [float(v) for v in given if v]
    expected = wilcoxon(kept, method=PermutationMethod(n_resamples=1000))  # at most 2 ** 7: all of them
    assert signed_rank(given).p == pytest.approx(expected.pvalue, rel=1e-9)


@pytest.mark.parametrize(
    "given", [(1, 1, 2, -2, 3, 3, 0), (1, -1, 1, 1, 1, 1, 0, 0), (2, 2, 2, 2, 2, 2), (5, 0, 0, -1)]
)
def test_ties_of_small_samples_are_exact(given):
    """All assignments of signs, one by one."""
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


def test_letters_go_on_after_z():
    order = variants([f"d{i}" for i in range(54)])
    apart = [frozenset(p) for p in itertools.combinations(order, 2)]
    found = list(letters(order, apart).values())
    assert found[:3] == ["a", "b", "c"]
    assert (found[25], found[26], found[51], found[52], found[53]) == ("z", "a2", "z2", "a3", "b3")


@pytest.mark.parametrize("seed", range(20))
def test_items_share_a_letter_unless_they_are_told_apart(seed):
    draw, order = random.Random(seed), variants("abcdefg")
    pairs = [frozenset(p) for p in itertools.combinations(order, 2)]
    apart = {p for p in pairs if draw.random() < 0.4}
    found = letters(order, apart)
    for pair in pairs:
        one, other = pair
        assert bool(set(found[one]) & set(found[other])) == (pair not in apart)


ATTACKS = ("bn-g", "bn-w", "blend", "sig", "cl", "l2", "wanet", "dynamic")


def lined_up(make_record, asrs, seeds=2, attacks=ATTACKS, ca=0.9, **more):
    """Undefended records, and those of defenses whose ASR is given; each attack and seed moves all alike."""
    records = [make_record(a, "none", s, 0.9, 1.0) for a in attacks for s in range(seeds)]
    for defense, asr in asrs.items():
        for (i, attack), seed in itertools.product(enumerate(attacks), range(seeds)):
            step = (i * seeds + seed + 1) / 1000
            records.append(make_record(attack, defense, seed, ca, asr + step * (1 + 10 * asr), **more))
    return records


def test_the_better_defense_wins(make_record):
    found = ranked(lined_up(make_record, {"ac": 0.5, "lfd": 0.01, "abl": 0.012}), "asr")
    names = [v.name for v in found.order]
    assert names == ["lfd", "abl", "ac"]
    assert {v.name: text for v, text in found.groups.items()} == {"lfd": "a", "abl": "b", "ac": "c"}
    duel = found.duels[found.order[0], found.order[2]]
    # Eight attacks of one sign have the p-value 2 / 2 ** 8; three duels, the smallest is multiplied by three.
    assert (duel.wins, duel.ties, duel.losses, duel.better) == (8, 0, 0, 1)
    assert (duel.p, duel.adjusted) == (2 / 256, 3 * 2 / 256)
    assert found.duels[found.order[2], found.order[0]].better == -1
    assert (found.pairs, found.unranked, found.refusal) == ((8, 8), {}, "")


def test_defenses_that_are_not_told_apart_stand_by_their_means(make_record):
    """Eight attacks, four won by each: no duel is significant, and the size of the gains decides the order."""
    asrs = {"ac": (0.02, 0.90), "abl": (0.10, 0.50), "fine-pruning": (0.05, 0.65)}
    records = [make_record(a, "none", 0, 0.9, 1.0) for a in ATTACKS]
    records += [
        make_record(attack, defense, 0, 0.9, pair[i % 2] + i / 1000)
        for defense, pair in asrs.items()
        for i, attack in enumerate(ATTACKS)
    ]
    for measure in ("asr", "der"):
        found = ranked(records, measure)
        assert {duel.better for duel in found.duels.values()} == {0}
        assert [v.name for v in found.order] == ["abl", "fine-pruning", "ac"]
        assert set(found.groups.values()) == {"a"}


def test_der_weighs_the_accuracy_that_a_defense_costs(make_record):
    records = lined_up(make_record, {"lfd": 0.01}, ca=0.2) + [
        r for r in lined_up(make_record, {"abl": 0.05}, ca=0.9) if r["defense"] != "none"
    ]
    assert [v.name for v in ranked(records, "asr").order] == ["lfd", "abl"]
    assert [v.name for v in ranked(records, "der").order] == ["abl", "lfd"]


@pytest.mark.parametrize("seeds", [1, 5])
def test_under_six_attacks_there_is_no_ranking_however_many_seeds(make_record, seeds):
    found = ranked(lined_up(make_record, {"ac": 0.5, "lfd": 0.01}, seeds, ATTACKS[:5]), "asr")
    assert (found.order, found.groups, found.pairs) == ((), {}, None)
    assert {v.name for v in found.unranked} == {"ac", "lfd"}
    assert "needs 6 attacks" in found.refusal
    assert "at most 5" in found.refusal
    found = ranked(lined_up(make_record, {"ac": 0.5, "lfd": 0.01}, seeds, ATTACKS[:6]), "asr")
    assert [found.groups[v] for v in found.order] == ["a", "b"]
    assert found.refusal == ""


def test_variants_of_one_attack_count_once(make_record):
    records = [
        make_record(a, d, 0, 0.9, v + i / 100, given={"attack": {"rate": rate}})
        for i, a in enumerate(("bn-g", "bn-w", "blend", "cl", "l2"))
        for d, v in (("ac", 0.5), ("lfd", 0.1))
        for rate in (0.1, 0.05)
    ]
    found = ranked(records, "asr")
    assert {d.pairs for d in found.duels.values()} == {5}
    assert found.order == ()


def test_an_attack_is_the_mean_over_common_seeds_and_variants():
    one, other, third = (Variant("attack", n, p) for n, p in (("bn", "1"), ("bn", "2"), ("sig", "")))
    a = {(one, 0): 0.5, (one, 1): 0.3, (other, 0): 0.9, (third, 0): 0.2, (third, 1): 0.0}
    b = {(one, 0): 0.4, (one, 1): 0.4, (other, 0): 0.5, (third, 0): 0.20003, (third, 2): 1.0}
    common = [place for place in a if place in b]
    # bn: mean of (0.1 - 0.1) / 2 and 0.4; sig: equal as shown, on its only common seed.
    assert gains(a, b, common, 1) == pytest.approx([0.2, 0.0])
    assert gains(a, b, common, -1) == pytest.approx([-0.2, 0.0])


def test_only_attacks_that_both_have_count_and_no_control(make_record):
    records = lined_up(make_record, {"ac": 0.5, "lfd": 0.01, "abl": 0.2})
    records = [r for r in records if r["defense"] != "abl" or r["attack"] == "sig"]
    records += [make_record(a, "oracle", s, 0.9, 0.0, control=True) for a in ATTACKS for s in (0, 1)]
    records += [make_record("none", d, s, 0.9) for d in ("ac", "lfd") for s in (0, 1)]
    found = ranked(records, "asr")
    assert [v.name for v in found.order] == ["lfd", "ac"]
    assert {v.name: why for v, why in found.unranked.items()} == {
        "abl": "under 6 attacks in common with another defense"
    }
    assert {(a.name, b.name): d.pairs for (a, b), d in found.duels.items()} == {
        **dict.fromkeys([("lfd", "ac"), ("ac", "lfd")], 8),
        **dict.fromkeys([("lfd", "abl"), ("abl", "lfd"), ("ac", "abl"), ("abl", "ac")], 1),
    }


def without(records, defense, attacks):
    return [r for r in records if r["defense"] != defense or r["attack"] not in attacks]


def test_untested_defenses_never_share_a_letter(make_record):
    """ac and abl share no attack; spectral has all attacks, but under six with each."""
    more = ("tj-sq", "tj-wm")
    records = lined_up(make_record, {"ac": 0.9, "abl": 0.01, "spectral": 0.5}, attacks=(*ATTACKS, *more))
    records = without(without(records, "ac", ATTACKS[:5]), "abl", (*ATTACKS[5:], *more))
    found = ranked(records, "asr")
    assert found.groups == {}
    assert len(found.unranked) == 3
    # With all attacks, spectral and lfd are tested; a defense on few attacks stays out.
    found = ranked(records + lined_up(make_record, {"lfd": 0.02}, attacks=(*ATTACKS, *more)), "asr")
    assert {v.name: text for v, text in found.groups.items()} == {"lfd": "a", "spectral": "b"}
    assert {v.name for v in found.unranked} == {"ac", "abl"}
    for a, b in itertools.combinations(found.groups, 2):
        assert found.duels[a, b].p is not None


def test_defenses_that_no_outcome_could_tell_apart_are_untested(make_record):
    """Six attacks: the smallest p-value is 2 / 64 for two defenses, and three times that for three."""
    found = ranked(lined_up(make_record, {"ac": 0.5, "lfd": 0.01, "abl": 0.2}, attacks=ATTACKS[:6]), "asr")
    assert found.order == ()
    assert "no outcome could be significant" in found.refusal
    assert all(duel.p is None for duel in found.duels.values())
    seven = ranked(lined_up(make_record, {"ac": 0.5, "lfd": 0.01, "abl": 0.2}, attacks=ATTACKS[:7]), "asr")
    assert list(seven.groups.values()) == ["a", "b", "c"]  # 3 x 2 / 128 is 0.047


def test_a_defense_whose_duels_could_never_be_significant_is_dropped(make_record):
    """Eight attacks for two defenses, six for the third: 2 x 2 / 64 exceeds 0.05, 2 / 256 does not."""
    records = without(lined_up(make_record, {"ac": 0.5, "lfd": 0.01, "abl": 0.2}), "ac", ATTACKS[:2])
    found = ranked(records, "asr")
    assert {v.name: text for v, text in found.groups.items()} == {"lfd": "a", "abl": "b"}
    assert [(v.name, why[:38]) for v, why in found.unranked.items()] == [
        ("ac", "no outcome could be significant for la")
    ]


CHANCE = {"notes": {"ca_per_class": [1.0] + [0.0] * 9, "test_images": 10000}}


def test_a_model_that_has_learnt_nothing_has_no_rank(make_record):
    records = lined_up(make_record, {"ac": 0.5, "abl": 0.2})
    records += [make_record(a, "lfd", s, 0.1, 0.0, **CHANCE) for a in ATTACKS for s in (0, 1)]
    for measure in ("asr", "der"):
        found = ranked(records, measure)
        assert [v.name for v in found.order] == ["abl", "ac"]
        assert {v.name: why for v, why in found.unranked.items()} == {"lfd": "a model at chance on clean images"}


def test_refusals_name_what_is_missing(make_record):
    def why(records, measure="der"):
        return ranked(records, measure).refusal

    assert why([make_record("none", d) for d in ("none", "ac")]) == "No ranking: no record has an attack."
    assert why([make_record()]) == "No ranking: there is no defense to compare."
    assert why([make_record(), make_record(defense="ac")]) == "No ranking: a defense needs a rival."
    assert "here they share none" in why([make_record(), make_record("sig", "ac"), make_record(defense="abl")])
    group = only([make_record(defense=d) for d in ("none", "ac", "abl")])
    assert rank(group, [], "der").refusal == "No ranking: no attack counts as implanted."


def test_a_refusal_says_which_measures_it_is_about(make_record):
    group = only(lined_up(make_record, {"ac": 0.5, "lfd": 0.01}, 1, ATTACKS[:5]))
    rankings = [rank(group, group.attacks(), measure) for measure in ("der", "asr")]
    assert refusals(rankings).startswith("No ranking by DER or ASR: a test needs 6 attacks")
    assert refusals(rankings[1:]).startswith("No ranking by ASR: ")


def test_values_of_different_data_are_left_out(make_record):
    records = lined_up(make_record, {"ac": 0.5, "lfd": 0.01})
    for r in records:
        other = r["defense"] == "lfd" and r["attack"] == "sig"
        r["data"] = {"train": "t2" if other else "t", "test": "e", "weights": None}
    found = ranked(records, "asr")
    assert found.pairs == (7, 7)


def test_equal_as_shown_is_a_tie(make_record):
    records = [
        make_record(a, d, s, 0.9, v) for d, v in (("ac", 0.1), ("lfd", 0.10004)) for a in ATTACKS for s in (0, 1)
    ]
    found = ranked(records, "asr")
    assert {(d.wins, d.ties, d.losses) for d in found.duels.values()} == {(0, 8, 0)}
    assert set(found.groups.values()) == {"a"}


@pytest.mark.parametrize(("attacks", "seeds"), [(6, 2), (6, 5), (9, 2), (14, 2)])
def test_clustered_values_keep_the_nominal_error(attacks, seeds):
    """Equal defenses whose difference varies by 15 points between attacks and by 2 between seeds."""
    draw, runs, wrong, pooled = random.Random(5), 1500, 0, 0
    rows = [Variant("attack", str(i), "{}") for i in range(attacks)]
    for _ in range(runs):
        a = {}
        for row in rows:
            effect = draw.gauss(0, 0.15)
            a |= {(row, s): effect + draw.gauss(0, 0.02) for s in range(seeds)}
        wrong += signed_rank(gains(a, dict.fromkeys(a, 0.0), a, 1)).p <= 0.05
        pooled += signed_rank(list(a.values())).p <= 0.05
    assert wrong / runs < 0.05 + 0.017  # three standard errors
    assert pooled / runs > 0.12, "pairs of attack and seed are no independent observations"


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


def test_sensitivity_leaves_out_pairs_of_different_data(make_record):
    records = []
    for eps, train, asr in ((0.33, "t", 0.2), (0.2, "u", 0.8)):
        for attack in ("bn-g", "sig"):
            record = make_record(attack, "spectral", 0, 0.9, asr, given={"defense": {"eps": eps}})
            record["data"] = {"train": train if attack == "sig" else "t", "test": "e", "weights": None}
            records.append(record)
    group = only(records)
    (found,) = sensitivities(group, group.attacks())
    assert (found.pairs, found.asr) == (1, pytest.approx((0.2, 0.8)))
    assert sensitivities(group, [row for row in group.attacks() if row.name == "sig"]) == ()
