"""Splitting groups of samples into two clusters each and choosing which to drop, for activation clustering."""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np

Scope = Literal["label", "predicted", "all"]
Reduction = Literal["pca", "ica", "none"]
Analysis = Literal["size", "relative-size", "silhouette", "distance"]
SILHOUETTE_SAMPLE = 10_000
"""Largest number of a group's samples for a silhouette, which needs the distance of every pair."""


class Settings(NamedTuple):
    """How samples are clustered and which clusters are dropped; see the parameters of the defense."""

    scope: Scope
    reduce: Reduction
    analysis: Analysis
    dims: int = 10
    max_share: float = 0.35
    min_silhouette: float = 0.1


class Clusters(NamedTuple):
    """The result of clustering.

    Attributes:
        removed: bool (N,), samples to drop.
        scores: float64 (N,), see :func:`cluster`; higher is more suspicious.
        groups: float64 (G, 5), a row for each group: its number, the sizes of both clusters, the silhouette (NaN if not
            computed), and 1 if FastICA failed and PCA replaced it, else 0.
    """

    removed: np.ndarray
    scores: np.ndarray
    groups: np.ndarray


def reduced(features: np.ndarray, how: Reduction, dims: int, seed: int) -> tuple[np.ndarray, bool]:
    """Features (M, D) reduced to at most ``dims`` dimensions, and whether FastICA failed and PCA replaced it.

    FastICA whitens the principal components first. The features of a converged network have collapsed to a few
    directions, so FastICA gets only those components, since whitening would amplify rounding errors in the others. It
    may still fail to converge.
    """
    from sklearn.decomposition import PCA, FastICA
    from sklearn.exceptions import ConvergenceWarning

    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    if how == "none":
        return centred, False
    pca = PCA(n_components=min(dims, *centred.shape), random_state=seed)
    points = pca.fit_transform(centred)
    if how == "pca":
        return points, False
    alive = points[:, pca.singular_values_ > 1e-6 * pca.singular_values_[0]]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            found = FastICA(whiten="unit-variance", max_iter=1000, tol=1e-3, random_state=seed).fit_transform(alive)
    except (ConvergenceWarning, np.linalg.LinAlgError, ValueError):
        return points, True
    return (found, False) if np.isfinite(found).all() else (points, True)


def cluster(features: np.ndarray, groups: np.ndarray, settings: Settings, seed: int) -> Clusters:
    """Split every group in two and decide which clusters to drop.

    The score of a sample is its silhouette with respect to the cluster centres, scaled to [0, 1]: (1 + s) / 2 with
    s = (a - b) / max(a, b). Here b is its distance to the centre of the suspected cluster (the dropped one, else the
    smaller one) and a its distance to the other centre. Dropped samples get 1 more, so they rank above all kept ones.

    Args:
        features: float32 (N, D).
        groups: int64 (N,), the group of each sample; each group is clustered alone.
        settings: how to cluster, and which clusters to drop.
        seed: seed of the reduction and of K-means.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    names = np.unique(groups)
    means = np.stack([features[groups == name].mean(0, dtype=np.float64) for name in names])
    removed, scores = np.zeros(len(groups), dtype=bool), np.zeros(len(groups))
    table = np.full((len(names), 5), np.nan)
    for row, name in enumerate(names):
        members = np.flatnonzero(groups == name)
        table[row] = (name, len(members), 0, np.nan, 0)
        if len(members) < 3 or np.ptp(features[members], axis=0).max() == 0:
            continue  # nothing to split
        points, fell_back = reduced(features[members], settings.reduce, settings.dims, seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
            halves = KMeans(n_clusters=2, n_init=10, random_state=seed).fit(points)
        which = halves.labels_
        sizes = np.bincount(which, minlength=2)
        if sizes.min() == 0:
            continue
        silhouette = _silhouette(points, which, seed) if settings.analysis == "silhouette" else np.nan
        dropped = _judge(features[members], which, sizes, silhouette, means, row, settings)
        suspect = int(dropped.argmax()) if dropped.sum() == 1 else int(sizes.argmin())
        far = halves.transform(points)
        a, b = far[:, 1 - suspect], far[:, suspect]
        removed[members] = dropped[which]
        scores[members] = 0.5 + 0.5 * (a - b) / np.maximum(np.maximum(a, b), 1e-30) + dropped[which]
        table[row] = (name, *sizes, silhouette, fell_back)
    return Clusters(removed, scores, table)


def _silhouette(points: np.ndarray, which: np.ndarray, seed: int) -> float:
    from sklearn.metrics import silhouette_score

    if len(points) > SILHOUETTE_SAMPLE:
        picks = np.random.default_rng(seed).choice(len(points), SILHOUETTE_SAMPLE, replace=False)
        points, which = points[picks], which[picks]
    return float(silhouette_score(points, which)) if len(np.unique(which)) == 2 else 0.0


def _judge(
    features: np.ndarray,
    which: np.ndarray,
    sizes: np.ndarray,
    silhouette: float,
    means: np.ndarray,
    own: int,
    settings: Settings,
) -> np.ndarray:
    """Which of a group's two clusters to drop, bool (2,).

    ``means`` (G, D) are the mean features of all groups, and ``own`` is the row of this group.
    """
    dropped: np.ndarray = sizes / sizes.sum() < settings.max_share
    if settings.analysis == "size":
        dropped = np.arange(2) == sizes.argmin()
    elif settings.analysis == "silhouette":
        dropped &= silhouette > settings.min_silhouette
    elif settings.analysis == "distance":
        centres = np.stack([features[which == half].mean(0, dtype=np.float64) for half in (0, 1)])
        far = np.linalg.norm(centres[:, None] - means[None], axis=2)
        dropped = np.delete(far, own, axis=1).min(1, initial=np.inf) < far[:, own]
    return dropped
