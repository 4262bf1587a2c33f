from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.report import stats


@pytest.mark.parametrize("freedom", [*range(1, 35), 100, 1000])
def test_quantiles_agree_with_scipy(freedom):
    from scipy.special import stdtrit

    assert stats.t_quantile(freedom) == pytest.approx(stdtrit(freedom, 0.975), rel=1e-10)


def test_interval_by_hand():
    # Deviations -2, -1, 0, 1, 2 points: variance 10 / 4; t(0.975, 4) is 2.776445.
    found = stats.mean_of([0.91, 0.92, 0.93, 0.94, 0.95])
    assert found.mean == pytest.approx(0.93)
    assert found.half == pytest.approx(2.776445 * (10 / 4 / 5) ** 0.5 / 100, rel=1e-6)
    assert (found.n, found.low, found.high) == (5, 0.91, 0.95)


def test_interval_agrees_with_scipy():
    from scipy.stats import t

    values = [0.3, 0.42, 0.35, 0.5, 0.31, 0.44]
    mean = sum(values) / 6
    error = (sum((v - mean) ** 2 for v in values) / 5 / 6) ** 0.5
    low, high, kind = stats.spread_of(stats.mean_of(values))
    assert (low, high) == pytest.approx(t.interval(0.95, 5, loc=mean, scale=error))
    assert kind == "t"


def test_the_interval_is_capped_to_what_exists():
    wide = stats.mean_of([0.0, 0.0, 1.0, 0.0, 1.0])
    assert wide.mean - wide.half < 0 < 1 < wide.mean + wide.half + 0.1
    assert stats.spread_of(wide).low == 0.0
    assert stats.spread_of(stats.mean_of([1.0, 1.0, 0.0, 1.0, 0.9])).high == 1.0
    assert stats.spread_of(stats.mean_of([-0.9, 0.0, -0.9, 0.3, -1.0]), floor=-1.0).low == -1.0


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_under_five_seeds_a_mean_has_its_range(seeds):
    values = [0.2, 0.9, 0.5, 0.4][:seeds]
    found = stats.mean_of(values)
    assert found.half is None
    assert stats.spread_of(found) == (0.2, 0.9, "range")


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert stats.mean_of([0.5]) == (0.5, None, 1, 0.5, 0.5)
    assert stats.spread_of(stats.mean_of([0.5])) is None
    assert stats.mean_of([]) is None


def test_pairs_are_compared_by_seed():
    # Seeds differ by far more than the methods: only pairing sees the difference.
    a = {0: 0.10, 1: 0.50, 2: 0.90, 3: 0.20, 4: 0.70}
    b = {0: 0.12, 1: 0.52, 2: 0.921, 3: 0.219, 4: 0.72}
    assert stats.separable(a, b) is True
    assert stats.separable(a, b | {1: 0.45, 3: 0.10}) is False


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.03, 0.05])
def test_the_paired_test_agrees_with_scipy(shift):
    import numpy as np
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(3)
    for n in (5, 6, 12):
        a, b = rng.normal(0.5, 0.02, n), rng.normal(0.5 + shift, 0.02, n)
        assert stats.separable(dict(enumerate(a)), dict(enumerate(b))) == bool(ttest_rel(a, b).pvalue < 0.05)


def test_fewer_than_five_common_seeds_say_nothing():
    four = {0: 0.1, 1: 0.1, 2: 0.1, 3: 0.1, 4: 0.1}
    assert stats.separable(four, {1: 0.9, 2: 0.9, 3: 0.9, 4: 0.9, 5: 0.9}) is None
    assert stats.separable(four, {0: 0.9, 1: 0.9, 2: 0.9, 3: 0.9, 4: 0.9}) is True
    assert stats.difference({0: 0.1}, {1: 0.2}) is None


def test_equal_as_shown_is_a_tie_even_without_spread():
    assert stats.separable(dict.fromkeys(range(5), 0.0), dict.fromkeys(range(5), 0.00004)) is False
    assert stats.separable(dict.fromkeys(range(5), 0.0), dict.fromkeys(range(5), 0.0002)) is True


def test_best_and_its_ties():
    low = {0: 0.010, 1: 0.012}
    close = {0: 0.030, 1: 0.031}  # within two points of the best
    far = {0: 0.032, 1: 0.031}  # 2.05 points away
    assert stats.best({0: far, 1: low, 2: close}, higher=False, margin=0.02) == {1, 2}
    assert stats.best({0: far, 1: low, 2: close}, higher=True, margin=0.0006) == {0}
    assert stats.best({0: {0: 0.92, 1: 0.92}, 1: {0: 0.91, 1: 0.91}}, higher=True, margin=0.01) == {0, 1}


def test_a_mean_within_the_margin_is_not_best_if_five_seeds_tell_it_apart():
    first = {s: 0.900 + s / 1000 for s in range(5)}
    worse = {s: v - 0.005 - (s % 2) / 1000 for s, v in first.items()}
    assert stats.best({0: first, 1: worse}, higher=True, margin=0.01) == {0}
    four = [{s: v for s, v in values.items() if s < 4} for values in (first, worse)]
    assert stats.best(dict(enumerate(four)), higher=True, margin=0.01) == {0, 1}


def test_single_seed_takes_no_title_and_shares_none():
    assert stats.best({0: {0: 0.99}, 1: {0: 0.5, 1: 0.5}}, higher=True, margin=0.01) == set()
    assert stats.best({0: {0: 0.5}, 1: {0: 0.5, 1: 0.5}}, higher=True, margin=0.01) == {1}
    assert stats.best({}, higher=True, margin=0.01) == set()
    assert stats.best({0: {}, 1: {0: 0.5, 1: 0.6}}, higher=True, margin=0.01) == set()


def test_only_a_significantly_worse_mean_loses_the_title():
    """The second is better on the five common seeds, the first in the mean, for four seeds of its own."""
    second = {s: 0.912 + s / 1000 + (s % 2) / 1000 for s in range(5)}
    first = {s: 0.90 + s / 1000 for s in range(5)} | dict.fromkeys((5, 6, 7, 8), 0.95)
    assert stats.difference(first, second).mean < 0
    assert stats.separable(first, second) is True
    assert stats.best({0: first, 1: second}, higher=True, margin=0.01) == set()
    assert stats.best({0: first, 1: second}, higher=False, margin=0.01) == set()
    # Nobody else's title is lost to a rival that is beaten.
    beaten = {s: v - 0.005 for s, v in first.items()}
    assert stats.best({0: first, 1: beaten}, higher=True, margin=0.01) == {0}


def simulated(seed, seeds, means, deviation):
    """Values by seed of each defense: normal, the seed's own share common to all defenses."""
    rng = random.Random(seed)
    shared = [rng.gauss(0, deviation) for _ in range(seeds)]
    return {i: {s: mean + shared[s] + rng.gauss(0, deviation) for s in range(seeds)} for i, mean in enumerate(means)}


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng, runs = random.Random(19), 4000
    for n in (5, 8):
        found = [stats.spread_of(stats.mean_of([rng.gauss(0.5, 0.02) for _ in range(n)])) for _ in range(runs)]
        covered = sum(low <= 0.5 <= high for low, high, _ in found) / runs
        assert 0.935 < covered < 0.965  # four standard errors are 0.014


def test_a_clearly_worse_defense_is_almost_never_best():
    """Two points of CA worse is twice the margin; seeds differ by half a point."""
    runs = 2000
    for seeds, most in ((2, 0.05), (5, 0.005)):
        columns = [simulated(i, seeds, (0.90, 0.88), 0.005) for i in range(runs)]
        false = sum(1 in stats.best(c, higher=True, margin=0.01) for c in columns) / runs
        assert false < most


def test_an_equal_defense_loses_its_title_about_as_often_as_the_test_says():
    """Of two equal defenses whose seeds differ little, the test of 5 % is all that can take the title from one."""
    runs = 4000
    columns = [simulated(i, 5, (0.90, 0.90), 0.002) for i in range(runs)]
    lost = sum(len(stats.best(c, higher=True, margin=0.01)) < 2 for c in columns) / runs
    assert 0.036 < lost < 0.064


@pytest.mark.parametrize(
    ("deviation", "seeds", "share"),
    [(0.01, 2, 0.05), (0.02, 2, 0.32), (0.02, 5, 0.13), (0.05, 2, 0.69), (0.05, 5, 0.53)],
)
def test_an_equal_defense_loses_its_title_as_often_as_the_docs_say(deviation, seeds, share):
    """ASR, independent seeds. Two seeds by theory: the difference of means has the deviation of one seed."""
    rng, runs = random.Random(11), 3000
    lost = 0
    for _ in range(runs):
        columns = {i: {s: rng.gauss(0.3, deviation) for s in range(seeds)} for i in (0, 1)}
        lost += len(stats.best(columns, higher=False, margin=0.02)) < 2
    assert abs(lost / runs - share) < 0.03
    if seeds == 2:
        assert abs(lost / runs - math.erfc(0.02 / deviation / math.sqrt(2))) < 0.03


fractions = st.floats(0, 1)
columns = st.dictionaries(st.integers(0, 5), st.dictionaries(st.integers(0, 4), fractions, min_size=2), min_size=2)


@settings(deadline=None)
@given(columns, st.booleans())
def test_best_holds_a_best_mean(given_columns, higher):
    means = {k: math.fsum(v.values()) / len(v) for k, v in given_columns.items()}
    top = (max if higher else min)(means.values())
    winners = stats.best(given_columns, higher=higher, margin=0.01)
    assert any(means[w] == top for w in winners)


@settings(deadline=None)
@given(st.lists(fractions, min_size=2, max_size=40))
def test_mean_lies_within_its_values(values):
    found = stats.mean_of(values)
    assert min(values) - 1e-12 <= found.mean <= max(values) + 1e-12
    assert (found.half is None) == (len(values) < 5)
    low, high, _ = stats.spread_of(found)
    assert 0 <= low <= found.mean + 1e-12
    assert found.mean - 1e-12 <= high <= 1
