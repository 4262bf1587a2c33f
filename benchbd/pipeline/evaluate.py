"""The evaluator: the only place that sees test data and the truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from benchbd import engine
from benchbd.core.confusion import RATES, Confusion
from benchbd.core.images import Images
from benchbd.core.pools import Pool
from benchbd.lab.lab import Suspicion
from benchbd.pipeline.unchanged import unchanged
from benchbd.plugins.trained import CurvePoint

EMBEDDED = (1e-18, 1e18)
"""Standard deviation of the first principal component, and largest distance, between which t-SNE computes in float32:
their squares and sums of squares are neither 0 nor infinite."""


class Accuracy(NamedTuple):
    """Clean accuracy, attack success rate and robust accuracy, fractions in [0, 1].

    Attributes:
        ca: share of all test images that the model classifies correctly.
        asr: share of the triggered test images that it takes for their target class. Images of the target class itself
            are not among them. None where there is no attack.
        ra: share of the same images that it still classifies correctly. None where there is no attack.
        per_class: clean accuracy of each class; None where the test set has no image of it.
        clean_asr: share of the clean originals of the triggered images that it takes for the same target classes. None
            where there is no attack, or if the originals are unknown.
        triggered: counts over the triggered images: ``images``; ``unchanged``, those that are pixel-identical to their
            originals; ``gained`` and ``lost``, those that reach the target only with and only without the trigger.
            ``asr - clean_asr`` is ``(gained - lost) / images``. None where ``clean_asr`` is. ``target_images`` is the
            number of images that ``asr_all`` has beyond these; missing where ``asr_all`` is None.
        asr_all: as ``asr``, over all test images: those of the target class carry the trigger too, and count as a
            success if the model takes them for their class. None where there is no attack, or if they are not given.
        ca_non_target: clean accuracy over the originals of the triggered images, that is without the target class.
            None where ``clean_asr`` is.
    """

    ca: float
    asr: float | None
    ra: float | None
    per_class: list[float | None]
    clean_asr: float | None = None
    triggered: dict[str, int] | None = None
    asr_all: float | None = None
    ca_non_target: float | None = None


class Measurable(Protocol):
    """A model to measure, such as :class:`benchbd.TrainedModel`."""

    def module(self) -> engine.Classifier:
        """The network in eval mode."""
        ...


def accuracy(
    trained: Measurable,
    test: Images,
    triggered: tuple[torch.Tensor, torch.Tensor] | None,
    target: int | np.ndarray,
    device: torch.device,
    originals: np.ndarray | None = None,
    of_target: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Accuracy:
    """Measure a model, in one pass over the clean images and one over each set of triggered images.

    Args:
        trained: the model.
        test: clean test images, all of them.
        triggered: triggered test images of other classes than their target, uint8 (M, 3, H, W), with true labels (M,);
            None where there is no attack.
        target: the class that the attack wants them taken for; one for all, or int64 (M,).
        device: computes the logits.
        originals: int64 (M,), the place of each triggered image's original in ``test``; None if unknown.
        of_target: triggered test images of the target class, uint8 (T, 3, H, W), with true labels (T,), which are
            their targets; None where ``asr_all`` is not wanted.
    """
    net = trained.module()
    truth = test.labels.numpy()
    predicted = engine.logits_of(net, test.images, device=device).argmax(1)
    right = predicted == truth
    counts = np.bincount(truth)
    per_class = [
        float(hits / count) if count else None for hits, count in zip(np.bincount(truth, right), counts, strict=True)
    ]
    ca = float(right.mean())
    if triggered is None or not len(triggered[1]):
        return Accuracy(ca, None, None, per_class)
    images, labels = triggered
    taken_for = engine.logits_of(net, images, device=device).argmax(1)
    hit = taken_for == target
    asr, ra = float(hit.mean()), float((taken_for == labels.numpy()).mean())
    more = {} if of_target is None else {"target_images": len(of_target[1])}
    asr_all = None
    if of_target is not None:
        kept = _kept(net, of_target, device)
        asr_all = float((int(hit.sum()) + kept) / (len(hit) + len(of_target[1])))
    if originals is None:
        return Accuracy(ca, asr, ra, per_class, asr_all=asr_all)
    before = predicted[originals] == target
    counts_by_name = {
        "images": len(hit),
        "unchanged": int(unchanged(images, test.images, originals).sum()),
        "gained": int((hit & ~before).sum()),
        "lost": int((before & ~hit).sum()),
        **more,
    }
    ca_non_target = float(right[originals].mean())
    return Accuracy(ca, asr, ra, per_class, float(before.mean()), counts_by_name, asr_all, ca_non_target)


def _kept(net: engine.Classifier, of_target: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> int:
    """How many of the triggered images of the target class the model takes for their class."""
    images, labels = of_target
    if not len(labels):
        return 0
    return int((engine.logits_of(net, images, device=device).argmax(1) == labels.numpy()).sum())


def curve(
    points: Sequence[CurvePoint],
    test: Images,
    triggered: tuple[torch.Tensor, torch.Tensor] | None,
    target: int | np.ndarray,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Measure intermediate models: ``name``, ``ca``, ``asr`` and ``ra`` of each, in the order of ``points``.

    Each network takes one pass over the images: its prunings differ only in the head's input.

    Args:
        points: the networks, each with the penultimate channels to mask in it.
        test: clean test images.
        triggered: as for :func:`accuracy`.
        target: as for :func:`accuracy`.
        device: computes the features.
    """
    found: dict[int, dict[str, Any]] = {}
    for key in dict.fromkeys(point.trained.key for point in points):
        same = [(place, point) for place, point in enumerate(points) if point.trained.key == key]
        trained = same[0][1].trained
        net, (weight, bias) = trained.module(), trained.head()
        clean = engine.features_of(net, test.images, device=device)
        marked = None if triggered is None else engine.features_of(net, triggered[0], device=device)
        for place, point in same:
            left = weight.copy()
            left[:, point.channels] = 0
            right = (clean @ left.T + bias).argmax(1) == test.labels.numpy()
            rates: dict[str, Any] = {"name": point.name, "ca": float(right.mean()), "asr": None, "ra": None}
            if triggered is not None and marked is not None and len(marked):
                taken_for = (marked @ left.T + bias).argmax(1)
                rates["asr"] = float((taken_for == target).mean())
                rates["ra"] = float((taken_for == triggered[1].numpy()).mean())
            found[place] = rates
    return [found[place] for place in range(len(points))]


def auroc(scores: np.ndarray, truth: np.ndarray) -> float | None:
    """Probability that a poisoned sample scores above a clean one, ties counting half; None if either kind is missing.

    Args:
        scores: float (N,), higher = more suspicious.
        truth: bool (N,), poisoned.
    """
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return None
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    # Mean rank of each run of equal scores.
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    ends = np.r_[starts[1:], len(ranked)]
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat((starts + ends + 1) / 2, ends - starts)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def detection(
    suspicion: Suspicion | None, truth: np.ndarray, labels: np.ndarray, classes: int
) -> dict[str, Any] | None:
    """How well a defense found the poison.

    Args:
        suspicion: what the defense suspected, or None.
        truth: bool (N,), poisoned.
        labels: int64 (N,), those that the defender saw.
        classes: number of classes.

    Returns:
        auroc, precision, recall, fpr, f1 (null where undefined), flagged, flagged_per_class, the counts behind the
        rates in confusion (null without flags), poison_per_class, and the mean score and mean loss of clean and
        poisoned samples (null without losses). None if the defense suspects nothing.
    """
    if suspicion is None:
        return None
    scores, flagged = suspicion.scores, suspicion.flagged
    found: dict[str, Any] = {"auroc": auroc(scores, truth), **dict.fromkeys(RATES)}
    found |= {"flagged": None, "flagged_per_class": None, "confusion": None}
    if flagged is not None:
        counts = confusion(flagged, truth)
        found |= {**counts.rates(), "confusion": counts._asdict(), "flagged": counts.tp + counts.fp}
        found["flagged_per_class"] = np.bincount(labels[flagged], minlength=classes).tolist()
    return found | {
        "poison_per_class": np.bincount(labels[truth], minlength=classes).tolist(),
        "score_mean_clean": _mean(scores, ~truth),
        "score_mean_poisoned": _mean(scores, truth),
        "loss_mean_clean": _mean(suspicion.losses, ~truth),
        "loss_mean_poisoned": _mean(suspicion.losses, truth),
    }


def confusion(flagged: np.ndarray, truth: np.ndarray) -> Confusion:
    """Count flagged and poisoned samples, both bool (N,)."""
    both = ((flagged, truth), (flagged, ~truth), (~flagged, truth), (~flagged, ~truth))
    return Confusion(*(int((a & b).sum()) for a, b in both))


def pools(reported: Iterable[Pool], truth: np.ndarray) -> list[dict[str, Any]]:
    """Count the poison in the pools that a defense reported: ``name``, ``epoch``, ``size`` and ``poisoned`` of each.

    Args:
        reported: the pools, in the order of the reports.
        truth: bool (N,), poisoned.
    """
    return [
        {"name": pool.name, "epoch": pool.epoch, "size": int(members.sum()), "poisoned": int((members & truth).sum())}
        for pool in reported
        for members in (pool.members(),)
    ]


def losses_by_epoch(losses: Iterable[np.ndarray], truth: np.ndarray, clean_target: np.ndarray | str) -> dict[str, Any]:
    """How well a training has learnt clean and poisoned samples, epoch by epoch (LfD Figures 1, 2 and 6).

    Args:
        losses: after each epoch, the cross-entropies float32 (N,) of all training samples.
        truth: bool (N,), poisoned.
        clean_target: bool (N,), clean with the target's label, at least one; or why there is no such sample.

    Returns:
        Lists of the same length: ``epochs`` (from 1), the means ``clean_mean`` and ``poison_mean`` (null if there is
        no such sample), and ``poison_over_clean_mean``: how many poisoned samples have a loss above the clean mean.
        A dirty-label attack gives the target's label more samples than others have, so that networks learn this label
        first. Hence also ``clean_target_mean``, the mean of the clean samples with the target's label,
        ``poison_over_clean_target_mean``, and their number ``clean_target_count``; or ``no_clean_target``, the reason.
    """
    kinds = {"clean": ~truth} if isinstance(clean_target, str) else {"clean": ~truth, "clean_target": clean_target}
    found: dict[str, Any] = {"epochs": [], "poison_mean": []}
    found |= {f"{start}{kind}_mean": [] for kind in kinds for start in ("", "poison_over_")}
    for epoch, values in enumerate(losses, 1):
        values = values.astype(np.float64)
        found["epochs"].append(epoch)
        found["poison_mean"].append(_rounded(_mean(values, truth)))
        for kind, chosen in kinds.items():
            mean = _mean(values, chosen)
            found[f"{kind}_mean"].append(_rounded(mean))
            found[f"poison_over_{kind}_mean"].append(None if mean is None else int((values[truth] > mean).sum()))
    if isinstance(clean_target, str):
        return {**found, "no_clean_target": clean_target}
    return {**found, "clean_target_count": int(clean_target.sum())}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def embedding(features: np.ndarray) -> list[list[float]] | str:
    """t-SNE of features (n, D): one point in the plane for each sample; deterministic (LfD Figure 7).

    Returns:
        The points (n, 2), or why these features have no such picture.
    """
    if reason := no_embedding(features):
        return reason
    from sklearn.manifold import TSNE

    placed = TSNE(init="pca", perplexity=min(30.0, (len(features) - 1) / 3), random_state=0).fit_transform(features)
    return [[float(f"{v:.4g}") for v in pair] for pair in placed]


def no_embedding(features: np.ndarray) -> str | None:
    """Say why features (n, D) have no t-SNE picture; None if they have one.

    scikit-learn 1.9.1 divides the first principal component by its standard deviation. If that is 0, the points are not
    finite, and its quad tree ends the process without a Python error. Equal features, differences too small for float32
    and constant features that drown the others in rounding lead there. Squared distances beyond float32 end in one
    point for all samples.
    """
    from sklearn.decomposition import PCA

    if features.ndim != 2 or len(features) < 4 or features.shape[1] < 2:
        return f"features of shape {features.shape}: t-SNE needs 4 samples and 2 features or more"
    if not np.isfinite(features).all():
        return "features are not finite"
    centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
    if np.ptp(features, axis=0).max() == 0:
        return "features of all samples are equal"
    furthest = 2 * float(np.sqrt((centred**2).sum(1).max()))
    if furthest > EMBEDDED[1]:
        return f"features differ by up to {furthest:.1g}, too much for squares in float32"
    with np.errstate(all="ignore"):
        start = PCA(n_components=2, random_state=0).fit_transform(features).astype(np.float32)
        spread = float(np.std(start[:, 0]))
    if not (np.isfinite(start).all() and spread > EMBEDDED[0]):
        return "features differ too little: their first principal component is constant in float32"
    return None


def _mean(values: np.ndarray | None, which: np.ndarray) -> float | None:
    """Mean of the values that ``which`` selects; None if it selects none, or the mean is not finite."""
    if values is None or not which.any():
        return None
    mean = float(values[which].mean())
    return mean if math.isfinite(mean) else None


def histogram(suspicion: Suspicion, truth: np.ndarray, bins: int = 30) -> dict[str, list[float] | list[int]]:
    """Histogram of the scores of clean and poisoned samples, for the leaderboard's page.

    Returns:
        ``edges`` (bins + 1), ascending, and the counts ``clean`` and ``poisoned`` (bins each), which sum to N.
    """
    scores = suspicion.scores
    low, high = float(scores.min()), float(scores.max())
    edges = np.linspace(low, high if high > low else low + 1.0, bins + 1)
    return {
        "edges": [float(f"{e:.6g}") for e in edges],
        "clean": np.histogram(scores[~truth], edges)[0].tolist(),
        "poisoned": np.histogram(scores[truth], edges)[0].tolist(),
    }
