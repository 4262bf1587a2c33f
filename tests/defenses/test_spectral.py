"""Spectral signatures: the formula against a plain one, how many are dropped, whose features."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.defenses.ac import Ac
from benchbd.defenses.spectral import Spectral, signature
from benchbd.errors import UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import UNDEFENDED

POISONING = SimpleNamespace(poisons=True)


def plain_scores(features):
    """Power iteration on the covariance of one class, a number at a time where that is clear."""
    rows = features.astype(np.float64)
    centred = [row - sum(rows) / len(rows) for row in rows]
    direction = np.ones(features.shape[1])
    for _ in range(300):
        direction = sum((row @ direction) * row for row in centred)
        direction /= np.linalg.norm(direction)
    return np.array([(row @ direction) ** 2 for row in centred])


def test_scores_are_squared_projections_on_the_top_singular_vector_of_the_own_class():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(60, 6)) * [5, 2, 1, 1, 1, 1] + 10).astype(np.float32)
    labels = np.arange(60) % 2
    found = signature(features, labels, 0.1)
    for label in (0, 1):
        np.testing.assert_allclose(found.scores[labels == label], plain_scores(features[labels == label]), rtol=1e-5)
        centred = features[labels == label] - features[labels == label].mean(0)
        np.testing.assert_allclose(found.spectra[label, 1], np.linalg.norm(centred, 2), rtol=1e-5)
    assert (found.spectra[:, 1] >= found.spectra[:, 2]).all()


def authors_scores(features):
    """What the authors' code scores: features that are not centred, on the first eigenvector of their covariance."""
    values, vectors = np.linalg.eigh(np.cov(features.astype(np.float64), rowvar=False))
    return (features.astype(np.float64) @ vectors[:, values.argmax()]) ** 2


def test_uncentred_scores_are_those_of_the_authors_code():
    features = (np.random.default_rng(0).normal(size=(60, 6)) * [5, 2, 1, 1, 1, 1] + 10).astype(np.float32)
    labels = np.arange(60) % 2
    found, centred = (signature(features, labels, 0.1, how) for how in ("uncentred", "centred"))
    for label in (0, 1):
        np.testing.assert_allclose(found.scores[labels == label], authors_scores(features[labels == label]), rtol=1e-5)
    np.testing.assert_array_equal(found.spectra, centred.spectra)
    assert (found.removed != centred.removed).any()


def test_uncentred_scores_drop_one_side_alone():
    """The mean shifts all projections the same way, so that only one end of the distribution looks suspicious."""
    features = np.zeros((100, 2), np.float32)
    features[:, 0] = np.linspace(1, 9, 100)
    centred, uncentred = (signature(features, np.zeros(100, int), 0.1, how).removed for how in ("centred", "uncentred"))
    assert np.flatnonzero(centred).tolist() == [*range(5), *range(95, 100)]
    assert np.flatnonzero(uncentred).tolist() == list(range(90, 100))


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_of_each_class_the_share_with_the_highest_scores_goes(labels, share, seed):
    labels = np.array(labels)
    features = np.random.default_rng(seed).normal(size=(len(labels), 5)).astype(np.float32)
    found = signature(features, labels, share)
    for label in np.unique(labels):
        own = labels == label
        assert found.removed[own].sum() == int(share * own.sum() + 1e-9)
        if found.removed[own].any():
            assert found.scores[own & found.removed].min() >= found.scores[own & ~found.removed].max(initial=0)
    assert np.isfinite(found.scores).all()
    assert (found.scores >= 0).all()


def test_the_order_of_the_samples_does_not_matter():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(80, 7)).astype(np.float32), np.arange(80) % 3
    order = rng.permutation(80)
    one, other = signature(features, labels, 0.2), signature(features[order], labels[order], 0.2)
    np.testing.assert_array_equal(one.removed[order], other.removed)


def test_features_that_are_all_alike_are_no_fault():
    found = signature(np.ones((9, 4), np.float32), np.zeros(9, np.int64), 0.34)
    assert found.removed.sum() == 3
    assert not found.scores.any()


def test_features_come_from_the_network_of_ac_or_the_undefended_one():
    assert Spectral().trainings(POISONING)[0] == Ac().trainings(POISONING)[0]
    assert Spectral(features_of="undefended").trainings(POISONING)[0] == UNDEFENDED
    plans = {
        Spectral(**how).trainings(POISONING)[1] for how in ({}, {"eps": 0.2}, {"factor": 1.0}, {"scored": "uncentred"})
    }
    assert len(plans) == 4


def test_the_undefended_model_is_asked_for_as_none_asks_for_it(fake_lab):
    features = np.random.default_rng(0).normal(size=(100, 5))
    lab = fake_lab(np.arange(100) % 2, features=features, losses=np.ones(100))
    Spectral(features_of="undefended").train(lab)
    assert lab.calls[0].settings == {}
    assert len(lab.calls[0].ids) == 100
    assert len(lab.calls[1].ids) == 100 - 2 * 7  # 15 % of 50, rounded down
    assert sum(lab.notes["spectral"]["removed_per_class"]) == 14


@pytest.mark.parametrize("how", ["eps=0.0", "eps=1.0", "eps=0.7", "eps=0.5, factor=2.0", "factor=0.0", "eps=-0.1"])
def test_shares_that_are_none_are_refused(how):
    with pytest.raises(UsageError, match="spectral: eps and factor"):
        registry.make("defenses", f"spectral({how})")
