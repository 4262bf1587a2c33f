"""Activation clustering: presets and analyses on synthetic clusters, odd groups, scores."""

from __future__ import annotations

import numpy as np
import pytest

from benchbd.defenses._clusters import Settings, cluster, reduced
from benchbd.defenses.ac import Ac
from benchbd.errors import Diverged, UsageError

DIMS = 24


def blobs(*sizes_and_spots, seed=0, spread=0.3):
    """Gaussian blobs around one-hot spots."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.normal(0, spread, (size, DIMS)) + 6.0 * np.eye(DIMS)[spot] for size, spot in sizes_and_spots]
    ).astype(np.float32)


@pytest.fixture
def poisoned_class():
    """Three classes of 100 in one blob each; class 1 has 40 foreign samples more, numbers 300 to 339."""
    features = blobs((100, 0), (100, 1), (100, 2), (40, 9))
    labels = np.concatenate([np.repeat([0, 1, 2], 100), np.full(40, 1)])
    return features, labels, np.arange(len(labels)) >= 300


def found(features, labels, seed=7, **given):
    how = Ac(**given).settings()
    groups = np.zeros_like(labels) if how.scope == "all" else labels
    return cluster(features, groups, how, seed)


def test_presets_mean_what_they_say():
    assert Ac().settings() == Settings("predicted", "ica", "silhouette", 10, 0.35, 0.1)
    assert Ac(preset="trojanzoo") == Ac()
    assert Ac(preset="per-class").settings() == Settings("label", "pca", "size", 10, 0.35, 0.1)
    assert Ac(preset="global").settings() == Settings("all", "ica", "size", 10, 0.35, 0.1)
    assert Ac(preset="global", reduce="pca", dims=4).settings() == Settings("all", "pca", "size", 4, 0.35, 0.1)


def test_per_class_drops_each_class_smaller_cluster(poisoned_class):
    features, labels, poison = poisoned_class
    result = found(features, labels, preset="per-class")
    assert result.removed[poison].all()
    assert not result.removed[(labels == 1) & ~poison].any()
    for label in (0, 2):  # nothing foreign there, and still the smaller part goes
        assert 0 < result.removed[labels == label].sum() <= 50


def test_trojanzoo_drops_only_a_small_part_of_a_clear_split(poisoned_class):
    features, labels, poison = poisoned_class
    result = found(features, labels, preset="trojanzoo", scope="label")
    np.testing.assert_array_equal(result.removed, poison)
    silhouettes = dict(zip(result.groups[:, 0], result.groups[:, 3], strict=True))
    assert silhouettes[1] > 0.1


def test_trojanzoo_keeps_poison_that_is_half_of_the_class():
    features = blobs((100, 0), (100, 1), (100, 9))
    labels = np.repeat([0, 1, 1], 100)
    assert not found(features, labels, preset="trojanzoo", scope="label").removed.any()
    assert found(features, labels, preset="per-class").removed[labels == 1].sum() == 100  # one of the halves goes


def plain_split(features, dims, whitened=True):
    """Principal components, the best of many 2-means, and its silhouette from all pairs of distances.

    FastICA turns the whitened components, which changes neither distances nor clusters.
    """
    centred = features - features.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    points = left[:, :dims] * (len(left) ** 0.5 if whitened else values[:dims])
    rng, best = np.random.default_rng(0), (np.inf, np.zeros(0))
    for _ in range(30):
        centres = points[rng.choice(len(points), 2, replace=False)]
        for _ in range(100):
            far = ((points[:, None] - centres) ** 2).sum(2)
            which = far.argmin(1)
            centres = np.stack([points[which == k].mean(0) for k in (0, 1)])
        best = min(best, (far.min(1).sum(), which), key=lambda found: found[0])
    which = best[1]
    far = ((points[:, None] - points) ** 2).sum(2) ** 0.5
    values = []
    for own in range(len(points)):
        same, other = which == which[own], which != which[own]
        a, b = far[own][same].sum() / (same.sum() - 1), far[own][other].mean()
        values.append((b - a) / max(a, b))
    return which, float(np.mean(values))


@pytest.mark.parametrize(("foreign", "dims"), [(0, 10), (20, 4), (40, 4), (100, 4)])
def test_the_default_rule_is_the_toolbox_s_from_an_independent_computation(foreign, dims):
    """Drop a cluster of less than 35 % if the split's silhouette exceeds 0.1 (trojanzoo's analysis by silhouette)."""
    features = blobs((100, 1), (foreign, 9), seed=foreign)
    result = found(features, np.zeros(len(features), int), scope="label", dims=dims)
    fell_back = bool(result.groups[0, 4])  # FastICA did not converge, and PCA does not whiten
    which, silhouette = plain_split(features.astype(np.float64), dims, whitened=not fell_back)
    sizes = np.bincount(which, minlength=2)
    small = sizes / sizes.sum() < 0.35
    np.testing.assert_array_equal(result.removed, (small & (silhouette > 0.1))[which])
    assert result.removed.sum() == (foreign if foreign < 50 else 0)
    if foreign:  # the halves of one blob are anyone's guess
        assert result.groups[0, 3] == pytest.approx(silhouette, abs=2e-3)
        assert sorted(result.groups[0, 1:3]) == sorted(sizes)


def test_a_clean_set_loses_nothing_where_the_smaller_clusters_are_a_good_part_of_it():
    features = np.concatenate([blobs((200, spot), seed=spot, spread=0.6) for spot in range(10)])
    labels = np.repeat(np.arange(10), 200)
    assert found(features, labels, scope="label").removed.mean() == 0
    assert found(features, labels, preset="per-class").removed.mean() > 0.35


def test_relative_size_asks_no_silhouette(poisoned_class):
    features, labels, poison = poisoned_class
    split = {"preset": "per-class"}
    assert found(features, labels, **split, analysis="relative-size").removed[poison].all()
    assert found(features, labels, **split, analysis="relative-size", max_share=0.2).removed[labels == 1].sum() == 0
    assert found(features, labels, **split, analysis="silhouette", min_silhouette=0.999).removed.sum() == 0


def test_distance_drops_a_cluster_that_lies_with_another_class_even_if_it_is_the_larger():
    features = blobs((100, 0), (60, 1), (90, 0))  # class 1: 60 of its own, 90 that look like class 0
    labels = np.repeat([0, 1, 1], (100, 60, 90))
    result = found(features, labels, preset="per-class", analysis="distance")
    np.testing.assert_array_equal(result.removed, np.arange(250) >= 160)
    assert (result.scores[result.removed] >= 1).all()


def test_global_keeps_the_larger_part_of_everything():
    features = blobs((150, 0), (60, 1), spread=0.1)
    labels = np.concatenate([np.arange(150) % 3, np.arange(60) % 3])
    result = found(features, labels, preset="global")
    np.testing.assert_array_equal(result.removed, np.arange(210) >= 150)


@pytest.mark.parametrize("how", ["pca", "ica", "none"])
def test_scores_rank_dropped_samples_first_and_foreign_ones_above_their_class(poisoned_class, how):
    features, labels, poison = poisoned_class
    result = found(features, labels, preset="per-class", reduce=how)
    assert result.scores[result.removed].min() >= 1 >= result.scores[~result.removed].max()
    own = labels == 1
    assert result.scores[poison].min() > result.scores[own & ~poison].max()
    assert ((result.scores >= 0) & (result.scores <= 2)).all()


def test_same_seed_same_result_and_order_does_not_matter(poisoned_class):
    features, labels, _ = poisoned_class
    one, two = found(features, labels), found(features, labels)
    np.testing.assert_array_equal(one.scores, two.scores)
    order = np.random.default_rng(3).permutation(len(labels))
    shuffled = found(features[order], labels[order], preset="trojanzoo", scope="label")
    straight = found(features, labels, preset="trojanzoo", scope="label")
    np.testing.assert_array_equal(shuffled.removed, straight.removed[order])


def test_groups_that_cannot_be_split_are_kept():
    features = np.concatenate([blobs((1, 0)), blobs((2, 1)), np.ones((50, DIMS), np.float32), blobs((60, 2), (10, 9))])
    labels = np.repeat([0, 1, 2, 3], (1, 2, 50, 70))
    for preset in ("per-class", "trojanzoo"):
        result = found(features, labels, preset=preset, scope="label")
        assert not result.removed[labels < 3].any()
        assert result.removed[labels == 3].sum() == 10


def test_ica_survives_collapsed_features_and_falls_back_to_pca(monkeypatch):
    rng = np.random.default_rng(0)
    flat = (rng.laplace(size=(200, 2)) @ rng.normal(size=(2, DIMS))).astype(
        np.float32
    )  # rank 2, ten dimensions asked for
    points, fell_back = reduced(flat, "ica", 10, 0)
    assert points.shape == (200, 2)
    assert not fell_back
    assert np.isfinite(points).all()

    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    def fails(self, data):
        raise ConvergenceWarning("no")

    monkeypatch.setattr(FastICA, "fit_transform", fails)
    points, fell_back = reduced(blobs((50, 0)), "ica", 10, 0)
    assert fell_back
    assert points.shape == (50, 10)
    assert found(blobs((60, 0), (10, 5)), np.zeros(70, int), preset="trojanzoo", scope="label").groups[0, 4] == 1


def test_reduction_never_asks_for_more_dimensions_than_there_are():
    assert reduced(blobs((5, 0)), "pca", 10, 0)[0].shape == (5, 5)
    assert reduced(blobs((50, 0))[:, :4], "pca", 10, 0)[0].shape == (50, 4)
    assert reduced(blobs((50, 0)), "none", 10, 0)[0].shape == (50, DIMS)


def test_the_defense_trains_twice_and_records_what_it_kept(fake_lab, poisoned_class):
    features, labels, poison = poisoned_class
    lab = fake_lab(labels, features=features, losses=np.ones(len(labels)))
    Ac(preset="trojanzoo", scope="label").train(lab)
    first, second = lab.calls
    assert first.settings["kind"] == "feature-model"
    assert first.settings["augment"] == ()
    assert second.settings == {}
    assert second.ids.tolist() == np.flatnonzero(~poison).tolist()
    assert lab.notes["ac"]["kept_per_class"] == [100, 100, 100]
    assert lab.notes["ac"]["removed_per_class"] == [0, 40, 0]
    assert [g["group"] for g in lab.notes["ac"]["groups"]] == [0, 1, 2]
    assert sorted(lab.notes["ac"]["groups"][1]["sizes"]) == [40, 100]
    np.testing.assert_array_equal(lab.flagged, poison)


def test_predicted_scope_clusters_by_what_the_model_says(fake_lab, poisoned_class):
    features, labels, poison = poisoned_class
    logits = np.eye(3)[np.where(poison, 2, labels)]  # the model takes the foreign samples for class 2
    lab = fake_lab(labels, features=features, logits=logits, losses=np.ones(len(labels)))
    Ac(preset="trojanzoo").train(lab)
    sizes = {g["group"]: sorted(g["sizes"]) for g in lab.notes["ac"]["groups"]}
    assert sizes[2] == [40, 100]
    assert lab.notes["ac"]["removed_per_class"] == [0, 40, 0]  # counted by given label


def test_nothing_left_is_a_failure(fake_lab):
    # Two classes with each other's features: every cluster lies nearer to the other class's mean.
    features = blobs((50, 0), (10, 3), (50, 0), (10, 3), spread=0.01)
    features[60:] += 0.5
    labels = np.repeat([0, 1], 60)
    lab = fake_lab(labels, features=features, losses=np.ones(len(labels)))
    with pytest.raises(Diverged, match="none is left"):
        Ac(preset="per-class", analysis="relative-size", max_share=1.0).train(lab)


@pytest.mark.parametrize(
    "given", [{"scope": "all", "analysis": "distance"}, {"dims": 0}, {"max_share": 0.0}, {"min_silhouette": 1.5}]
)
def test_settings_that_mean_nothing_are_refused(given):
    with pytest.raises(UsageError, match="ac"):
        Ac(**given)


def test_predicted_sharing():
    assert [t.kind for t in Ac().trainings(None)] == ["feature-model", "full"]
    assert Ac(preset="per-class").trainings(None)[0] == Ac().trainings(None)[0]
    assert Ac(preset="per-class").trainings(None)[1] != Ac().trainings(None)[1]
    same = Ac(preset="global", scope="label", reduce="pca")
    assert same.trainings(None) == Ac(preset="per-class").trainings(None)
