from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.report import stats


@pytest.mark.parametrize("freedom", [*range(1, 35), 100, 1000])
def test_quantiles_agree_with_scipy(freedom):
    from scipy.special import stdtrit

    assert stats.t_quantile(freedom) == pytest.approx(stdtrit(freedom, 0.975), rel=1e-10)


def test_interval_by_hand():
    # Deviations -1.75, 0.25, -0.75, 2.25 points: variance 8.75 / 3; t(0.975, 3) is 3.182446.
    found = stats.mean_of([0.91, 0.93, 0.92, 0.95])
    assert found.mean == pytest.approx(0.9275)
    assert found.half == pytest.approx(3.182446 * (8.75 / 3 / 4) ** 0.5 / 100, rel=1e-6)
    assert found.n == 4


def test_one_value_has_no_interval_and_none_has_no_mean():
    assert stats.mean_of([0.5]) == (0.5, None, 1)
    assert stats.mean_of([]) is None


def test_pairs_are_compared_by_seed():
    # Seeds differ by far more than the methods: only pairing sees the difference.
    a = {0: 0.10, 1: 0.50, 2: 0.90}
    b = {0: 0.12, 1: 0.52, 2: 0.921}
    assert stats.separable(a, b) is True
    assert stats.separable(a, {0: 0.12, 1: 0.45, 2: 0.93}) is False


def test_fewer_than_two_common_seeds_say_nothing():
    assert stats.separable({0: 0.1, 1: 0.2}, {1: 0.9, 2: 0.9}) is None
    assert stats.difference({0: 0.1}, {1: 0.2}) is None


def test_equal_as_shown_is_a_tie_even_without_spread():
    assert stats.separable({0: 0.0, 1: 0.0}, {0: 0.00004, 1: 0.00004}) is False
    assert stats.separable({0: 0.0, 1: 0.0}, {0: 0.0002, 1: 0.0002}) is True


def test_best_and_its_ties():
    low = {0: 0.010, 1: 0.012, 2: 0.011}
    close = {0: 0.012, 1: 0.010, 2: 0.012}
    far = {0: 0.50, 1: 0.51, 2: 0.49}
    assert stats.best({0: far, 1: low, 2: close}, higher=False) == {1, 2}
    assert stats.best({0: far, 1: low, 2: close}, higher=True) == {0}


def test_single_seed_takes_no_title_and_shares_none():
    assert stats.best({0: {0: 0.99}, 1: {0: 0.5, 1: 0.5}}, higher=True) == set()
    assert stats.best({0: {0: 0.4}, 1: {0: 0.5, 1: 0.5}}, higher=True) == {1}
    assert stats.best({}, higher=True) == set()
    assert stats.best({0: {}, 1: {0: 0.5, 1: 0.6}}, higher=True) == set()


fractions = st.floats(0, 1)
columns = st.dictionaries(st.integers(0, 5), st.dictionaries(st.integers(0, 4), fractions, min_size=2), min_size=2)


@settings(deadline=None)
@given(columns, st.booleans())
def test_best_holds_a_best_mean(given_columns, higher):
    means = {k: math.fsum(v.values()) / len(v) for k, v in given_columns.items()}
    top = (max if higher else min)(means.values())
    winners = stats.best(given_columns, higher=higher)
    assert any(means[w] == top for w in winners)


@settings(deadline=None)
@given(st.lists(fractions, min_size=2, max_size=40))
def test_mean_lies_within_its_values(values):
    found = stats.mean_of(values)
    assert min(values) - 1e-12 <= found.mean <= max(values) + 1e-12
    assert found.half >= 0
