"""Signs in a teacher's losses: valleys, density against scipy's, crowded labels, the choice of rung and alpha."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchbd.defenses._signs import (
    PLACES,
    Crowd,
    Sign,
    Valley,
    alpha_from,
    choose,
    crowd_of,
    density,
    sign_of,
    valley_of,
)
from benchbd.defenses.lfd import threshold


def two_groups(low: int, high: int, gap: float = 5.0, seed: int = 0) -> np.ndarray:
    """Losses around exp(-gap) and around 1, with log deviations of 1 and 0.7."""
    rng = np.random.default_rng(seed)
    return np.exp(np.concatenate([rng.normal(-gap, 1.0, low), rng.normal(0.0, 0.7, high)]))


def test_density_is_scipys_with_silvermans_bandwidth():
    values = np.random.default_rng(0).normal(size=700)
    low, high = np.percentile(values, [25, 75])
    width = 0.9 * min(values.std(), (high - low) / 1.34) * 700**-0.2
    places, heights = density(values)
    expected = stats.gaussian_kde(values, width / values.std(ddof=1))(places)
    np.testing.assert_allclose(heights, expected, atol=0.005 * expected.max())
    assert len(places) == PLACES
    assert np.trapezoid(heights, places) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("low", "high"), [(250, 250), (50, 450), (2500, 2500), (100, 4900)])
def test_a_valley_parts_two_groups(low, high):
    losses = two_groups(low, high)
    found = valley_of(losses)
    assert math.exp(-4.5) < found.loss < math.exp(-1.0)
    assert found.below == (losses <= found.loss).sum() == pytest.approx(low, rel=0.05)
    assert 0.5 < found.depth <= 1


def test_an_empty_gap_is_parted_in_its_middle():
    found = valley_of(np.exp(np.concatenate([np.linspace(-9, -8, 300), np.linspace(0, 1, 300)])))
    assert (found.depth, found.below) == (pytest.approx(1, abs=0.01), 300)
    assert math.log(found.loss) == pytest.approx(-4, abs=0.5)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite_have_no_valley(wrong):
    losses = two_groups(250, 250)
    for place in (0, 499):
        broken = losses.copy()
        broken[place] = wrong
        with np.errstate(all="raise"):
            assert valley_of(broken) is None
            assert not sign_of(broken, np.arange(500) % 2).shown


@pytest.mark.parametrize("count", [50, 500, 5000])
def test_one_group_has_no_valley(count):
    rng = np.random.default_rng(0)
    shapes = {
        "log-normal": lambda: np.exp(rng.normal(0, 1, count)),
        "gamma": lambda: rng.gamma(2.0, 0.5, count),
        "exponential": lambda: rng.exponential(1.0, count),
        "log-uniform": lambda: np.exp(rng.uniform(-6, 1, count)),
    }
    for name, draw in shapes.items():
        assert sum(valley_of(draw()) is not None for _ in range(20)) <= 1, name


def test_equal_losses_few_samples_and_small_groups_have_no_valley():
    assert valley_of(np.full(500, 0.7)) is None
    assert valley_of(np.zeros(500)) is None
    assert valley_of(np.empty(0)) is None
    assert valley_of(two_groups(15, 15)) is None
    assert valley_of(two_groups(10, 500)) is None
    assert valley_of(two_groups(500, 10)) is None


def test_losses_of_zero_are_a_group_of_their_own():
    rng = np.random.default_rng(0)
    losses = np.concatenate([np.zeros(100), np.exp(rng.normal(0, 0.7, 400))])
    assert valley_of(losses).below == 100
    mostly = np.concatenate([np.zeros(450), losses[100:150]])  # no spread between the quartiles
    assert valley_of(mostly).below == 450


def test_the_crowded_label_among_the_lowest_losses_by_hand():
    labels = np.arange(4000) % 4
    losses = np.linspace(1, 2, 4000)
    lowest = np.flatnonzero(labels == 2)[-30:]
    losses[lowest] = 0.0  # 1 % of the set are 40 samples: these 30 and the first ten
    found = crowd_of(losses, labels)
    first_ten = np.bincount(labels[:10], minlength=4)
    assert found == Crowd(2, (30 + first_ten[2]) / 40, 0.25)
    assert found.excess == pytest.approx((found.share - 0.25) / 0.75)
    assert crowd_of(np.ones(30), np.zeros(30, np.int64)).excess == 0.0
    assert crowd_of(np.ones(200), np.arange(200) % 2).share == 0.5  # ties go by position


def planted(poison: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Losses and labels of 5,000 samples of ten classes; so many have label 3 and a low loss."""
    rng = np.random.default_rng(seed)
    labels = np.arange(5000) % 10
    labels[:poison] = 3
    losses = np.exp(rng.normal(0, 0.7, 5000))
    losses[:poison] = np.exp(rng.normal(-6, 1, poison))
    return losses, labels


@pytest.mark.parametrize("poison", [50, 250, 500, 1500])
def test_learnt_poison_shows_the_sign_and_sets_alpha(poison):
    losses, labels = planted(poison)
    sign = sign_of(losses, labels)
    assert sign.shown
    assert sign.crowd.label == 3
    alpha = alpha_from(losses, sign)
    assert alpha == pytest.approx(poison / 5000, rel=0.1, abs=0.002)
    split = threshold(losses, alpha)
    np.testing.assert_array_equal(split.candidates, losses <= sign.valley.loss)
    assert split.candidates[:poison].mean() > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_without_learnt_poison_the_sign_is_not_shown(seed):
    losses, labels = planted(0, seed)
    assert not sign_of(losses, labels).shown
    easy = losses * np.where(labels == 4, 0.1, 1.0)  # one easy class crowds the lowest losses, without a valley
    sign = sign_of(easy, labels)
    assert sign.crowd.label == 4
    assert sign.crowd.excess > 0.5
    assert not sign.shown
    assert alpha_from(easy, sign) is None


def test_two_groups_in_every_class_are_not_something_that_few_samples_share():
    losses = two_groups(2500, 2500)
    order = np.random.default_rng(1).permutation(5000)
    assert not sign_of(losses[order], np.arange(5000) % 10).shown


def test_a_valley_above_most_losses_sets_no_alpha():
    losses = np.linspace(0, 1, 100)
    crowd = Crowd(0, 1.0, 0.1)
    assert alpha_from(losses, Sign(crowd, Valley(0.6, 0.9, 30))) is None
    assert alpha_from(losses, Sign(crowd, Valley(0.4, 0.9, 30))) == pytest.approx(0.395)
    assert alpha_from(losses, Sign(crowd, None)) is None


def test_the_first_rung_with_the_sign_counts_and_in_it_the_lowest_mean_loss_of_those_that_show_it():
    yes, no = Sign(Crowd(1, 0.9, 0.1), Valley(0.1, 0.9, 50)), Sign(Crowd(1, 0.2, 0.1), None)
    assert choose([[no, no], [no, yes, yes], [yes, yes]], [[1.0, 0.5], [0.1, 1.7, 1.6], [0.2, 0.1]]) == (1, 2)
    assert choose([[no, no, no], [no]], [[1.8, 1.7, float("nan")], [0.1]]) == (0, 1)
    assert choose([[yes, no], [yes]], [[float("nan"), 1.0], [0.1]]) == (0, 0)


def test_a_sign_is_json():
    text = Sign(Crowd(3, 0.9, 0.1), Valley(0.1, 0.75, 50)).as_json()
    assert text == {
        "label": 3,
        "share": 0.9,
        "expected": 0.1,
        "excess": pytest.approx(8 / 9),
        "valley": {"loss": 0.1, "depth": 0.75, "below": 50},
        "sign": True,
    }
    assert Sign(Crowd(3, 0.9, 0.1), None).as_json()["sign"] is False
