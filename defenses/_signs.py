"""Signs, visible to a defender, that a network has learnt something that few samples share.

These rules are benchbd's own. Their thresholds are plain choices, not fitted to any data set or attack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

FLOOR = 1e-6
"""Losses below count as this loss, so that their logarithms are finite."""
DEPTH = 0.5
"""A valley's density is at most 1 - DEPTH of that of the lower of its two peaks."""
FEWEST, SMALLEST = 20, 0.01
"""A group on one side of a valley has at least FEWEST samples and this share of all."""
PLACES = 512
"""Places at which the density of log losses is computed."""
LOWEST = 0.01
"""Share of the training set whose labels are compared: the samples with the lowest losses, at least FEWEST."""
EXCESS = 0.5
"""A label is over-represented if it has this much of the way from its share in the set to all of the lowest losses."""
MOST = 0.5
"""Largest share of the set that a valley may set apart; poison is a minority."""


class Valley(NamedTuple):
    """A gap between two groups of losses.

    Attributes:
        loss: the loss at which the smoothed density of log losses is lowest.
        depth: 1 - that density / the density of the lower peak; 1 is an empty gap.
        below: number of samples with a loss up to ``loss``.
    """

    loss: float
    depth: float
    below: int


class Crowd(NamedTuple):
    """The most frequent label among the samples with the lowest losses.

    Attributes:
        label: the class.
        share: its share of these samples, in [0, 1].
        expected: its share of the whole set.
    """

    label: int
    share: float
    expected: float

    @property
    def excess(self) -> float:
        """Where ``share`` lies between ``expected`` (0) and all samples (1); 0 if the set has one label."""
        return (self.share - self.expected) / (1 - self.expected) if self.expected < 1 else 0.0


class Sign(NamedTuple):
    """What a teacher's losses show: a crowded label, and the valley in the losses of that label's samples, if any."""

    crowd: Crowd
    valley: Valley | None

    @property
    def shown(self) -> bool:
        """Whether the teacher has learnt something that few samples share."""
        return self.valley is not None and self.crowd.excess >= EXCESS

    def as_json(self) -> dict[str, Any]:
        """For the record."""
        valley = None if self.valley is None else self.valley._asdict()
        return {**self.crowd._asdict(), "excess": self.crowd.excess, "valley": valley, "sign": self.shown}


def density(values: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A Gaussian kernel density estimate with Silverman's bandwidth (1986, equation 3.31), of binned values.

    Args:
        values: float64 (M,), finite.

    Returns:
        The places float64 (PLACES,), ascending, and the density there; None if all values are equal.
    """
    quarter, three_quarters = np.percentile(values, [25, 75])
    spread = min(values.std(), (three_quarters - quarter) / 1.34)
    width = 0.9 * (spread or values.std()) * len(values) ** -0.2
    if width <= 0:
        return None
    counts, edges = np.histogram(values, PLACES, (values.min() - 3 * width, values.max() + 3 * width))
    places = (edges[:-1] + edges[1:]) / 2
    kernel = np.exp(-0.5 * ((places - places[0]) / width) ** 2)
    smooth = np.convolve(counts, np.concatenate([kernel[:0:-1], kernel]), "valid")
    return places, smooth / (len(values) * width * math.sqrt(2 * math.pi))


def valley_of(losses: np.ndarray) -> Valley | None:
    """The deepest valley of the log losses float64 (M,) between two groups.

    None if there is no valley, or if a loss is not finite.
    """
    if not np.isfinite(losses).all():
        return None
    logs = np.log(np.maximum(losses, FLOOR))
    found = density(logs) if len(logs) >= 2 * FEWEST else None
    if found is None:
        return None
    places, heights = found
    peaks = np.minimum(np.maximum.accumulate(heights), np.maximum.accumulate(heights[::-1])[::-1])
    below = np.searchsorted(np.sort(logs), places, side="right")
    fewest = max(FEWEST, SMALLEST * len(logs))
    depths = np.where((below >= fewest) & (len(logs) - below >= fewest), 1 - heights / peaks, 0.0)
    lowest = np.flatnonzero(depths == depths.max())
    middle = int(lowest[len(lowest) // 2])  # an empty gap is as low all along
    if depths[middle] < DEPTH:
        return None
    return Valley(float(np.exp(places[middle])), float(depths[middle]), int(below[middle]))


def crowd_of(losses: np.ndarray, labels: np.ndarray) -> Crowd:
    """The label that is most frequent among the lowest losses.

    Args:
        losses: float64 (N,); ties go by position.
        labels: int64 (N,).
    """
    count = min(len(losses), max(FEWEST, round(LOWEST * len(losses))))
    nearest = np.bincount(labels[np.argsort(losses, kind="stable")[:count]])
    label = int(nearest.argmax())
    return Crowd(label, float(nearest[label] / count), float((labels == label).mean()))


def sign_of(losses: np.ndarray, labels: np.ndarray) -> Sign:
    """The sign in a teacher's losses float64 (N,) on samples with labels int64 (N,)."""
    crowd = crowd_of(losses, labels)
    return Sign(crowd, valley_of(losses[labels == crowd.label]))


def choose(signs: Sequence[Sequence[Sign]], means: Sequence[Sequence[float]]) -> tuple[int, int]:
    """The rung and the teacher in it to use.

    The smallest network that has learnt something that few samples share is the best filter, since it has learnt little
    else. Therefore the first rung with a teacher that shows the sign counts; if no teacher does, the first rung. Within
    it, of the teachers that show the sign (of all, if none does), the one with the lowest mean loss is used.

    Args:
        signs: by rung and teacher, rungs from the smallest network to the largest.
        means: mean losses by rung and teacher.
    """
    rung = next((place for place, row in enumerate(signs) if any(sign.shown for sign in row)), 0)
    able = [sign.shown for sign in signs[rung]]
    usable = np.isfinite(means[rung]) & (able if any(able) else np.ones(len(able), bool))
    return rung, int(np.argmin(np.where(usable, means[rung], np.inf)))


def alpha_from(losses: np.ndarray, sign: Sign) -> float | None:
    """The share of samples that the valley sets apart, as LfD's alpha.

    Entry floor(N alpha) of the ascending losses, counted from 0, is the last loss up to the valley's.

    Args:
        losses: float64 (N,), of the whole set.
        sign: the teacher's.

    Returns:
        alpha in (0, 1); None if the sign is not shown, or if the valley sets apart more than :data:`MOST` of the set.
    """
    if sign.valley is None or not sign.shown:
        return None
    count = int((losses <= sign.valley.loss).sum())
    return (count - 0.5) / len(losses) if count <= MOST * len(losses) else None
