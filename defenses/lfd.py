"""Learning from Distinction: a low-capacity teacher's losses weight the student's training samples."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Diverged, Impossible, Training, UsageError, defense, registry

if TYPE_CHECKING:
    import torch

    from benchbd import Lab, TrainedModel


CHANCE = 0.01
"""Share of the labels' entropy that a teacher must have learnt, or it counts as being at chance level."""


class Threshold(NamedTuple):
    """Equation 4: the loss ``gamma`` that splits the samples, and the mask (N,) of candidates for poison."""

    gamma: float
    candidates: np.ndarray


def threshold(losses: np.ndarray, alpha: float, rule: Literal["threshold", "rank"] = "threshold") -> Threshold:
    """Split samples by their teacher loss (LfD equation 4).

    Args:
        losses: float64 (N,), finite.
        alpha: share of the samples to suspect, in (0, 1).
        rule: ``threshold``: gamma is entry floor(N alpha), counted from 0, of the ascending losses and a candidate is
            what does not exceed it, so floor(N alpha) + 1 samples and those tied with the last. ``rank``: exactly
            floor(N alpha) candidates, ties by position; gamma is the last one's loss.
    """
    index = math.floor(len(losses) * alpha)
    order = np.argsort(losses, kind="stable")
    if rule == "threshold":
        gamma = float(losses[order[index]])
        return Threshold(gamma, losses <= gamma)
    candidates = np.zeros(len(losses), dtype=bool)
    candidates[order[:index]] = True
    return Threshold(float(losses[order[index - 1]]), candidates)


def checked_threshold(losses: np.ndarray, alpha: float, rule: Literal["threshold", "rank"]) -> Threshold:
    """:func:`threshold` of losses float64 (N,); raises Diverged where they are not finite or nothing exceeds gamma."""
    if not np.isfinite(losses).all():
        raise Diverged("lfd: the teacher's losses are not finite")
    split = threshold(losses, alpha, rule)
    if split.candidates.all():
        raise Diverged(f"lfd: the teacher tells no sample from another, no loss exceeds gamma = {split.gamma:g}")
    return split


def at_chance(losses: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a teacher knows no more than how frequent each label is.

    No constant answer has a mean cross-entropy below the entropy of the labels, and a network whose ReLUs have died
    gives constant answers.

    Args:
        losses: float64 (N,), the teacher's cross-entropies.
        labels: int64 (N,).
    """
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    entropy = float(-(shares * np.log(shares)).sum())
    return not losses.mean() < (1 - CHANCE) * entropy


def distinction_weights(
    losses: np.ndarray,
    split: Threshold,
    beta: float,
    neg_norm: Literal["range", "gamma"] = "range",
    max_rule: Literal["max", "p99.9"] = "max",
) -> np.ndarray:
    """Weight each sample by its teacher loss (LfD equation 6, Algorithm 1 line 4).

    Args:
        losses: float64 (N,).
        split: what :func:`threshold` made of them.
        beta: strength of the ascent on candidates.
        neg_norm: candidates' ``loss - gamma`` is divided by ``max - gamma`` (as printed) or by gamma.
        max_rule: the largest loss, or its 99.9th percentile with weights clipped at 1 (one outlier then counts less).

    Returns:
        float64 (N,): in (0, 1] above gamma, in [-beta gamma / (max - gamma), 0] for candidates.
    """
    gamma, candidates = split
    top = float(losses.max() if max_rule == "max" else np.percentile(losses, 99.9))
    divisor = top - gamma if neg_norm == "range" else gamma
    # A divisor of zero comes only with candidates that all sit at gamma: their weight is 0 in the limit too.
    down = np.minimum(losses / top, 1.0) if top > 0 else np.zeros_like(losses)
    up = beta * (losses - gamma) / divisor if divisor > 0 else np.zeros_like(losses)
    return np.where(candidates, up, down)


def ascent_weights(candidates: np.ndarray, scale: Literal["signs", "two-means", "beta"], beta: float) -> np.ndarray:
    """Weights of unweighted gradient ascent (LfD equation 5, the GA of Figure 5).

    Args:
        candidates: bool (N,).
        scale: ``signs``: +1 and -1. ``two-means``: so that the batch mean is, in expectation, the mean over the others
            minus the mean over the candidates, the literal equation. ``beta``: +1 and -beta.

    Returns:
        float64 (N,).
    """
    n, found = len(candidates), int(candidates.sum())
    down, up = {"signs": (1.0, 1.0), "two-means": (n / (n - found), n / max(found, 1)), "beta": (1.0, beta)}[scale]
    return np.where(candidates, -up, down)


@dataclasses.dataclass(frozen=True)
class Weighing:
    """From the teacher's losses to the student's weights: equations 4 to 6 with the options of :class:`Lfd`.

    A sample's loss may be the one on the image as it is, or on the view of it that the student is about to see.
    """

    alpha: float
    beta: float
    mode: Literal["weighted", "unweighted", "none"]
    index_rule: Literal["threshold", "rank"]
    neg_norm: Literal["range", "gamma"]
    max_rule: Literal["max", "p99.9"]
    normalise: Literal["batch", "weights"]
    ga_scale: Literal["signs", "two-means", "beta"]

    def __call__(self, losses: np.ndarray) -> np.ndarray:
        """Losses float (N,) -> weights float32 (N,). Raises Diverged where no weight could be made of them."""
        values = losses.astype(np.float64)
        split = checked_threshold(values, self.alpha, self.index_rule)
        if self.mode == "unweighted":
            weights = ascent_weights(split.candidates, self.ga_scale, self.beta)
        elif self.mode == "none":
            weights = (~split.candidates).astype(np.float64)
        else:
            weights = distinction_weights(values, split, self.beta, self.neg_norm, self.max_rule)
            if self.normalise == "weights":
                weights = mean_one(weights)
        return weights.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class CappedAscent:
    """Weighted batch mean in which a sample stops being pushed up once its loss exceeds ``cap``.

    The logit gradient of -CE does not vanish as the loss grows, so uncapped ascent has no end.
    """

    cap: float

    def __call__(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """``losses`` and ``weights`` (B,) -> scalar."""
        return (weights * losses.where(weights > 0, losses.clamp(max=self.cap))).mean()


@defense("lfd", version=1)
class Lfd(Defense):
    """LfD (2024): ascend on what a tiny teacher learns at once, weight the rest by how hard the teacher finds it."""

    smoke: ClassVar[dict[str, Any]] = {"teacher_epochs": 1, "teacher_tries": 1}

    alpha: float = 0.15
    """Share of the training set taken for poison candidates, in (0, 1). GTSRB: 0.20."""
    beta: float = 1e-3
    """Strength of the ascent on candidates; 0 ignores them. GTSRB: 3e-3."""
    teacher: str = "resnet-s"
    """Model of the teacher, with its parameters (``resnet-s(stem=64)``)."""
    teacher_epochs: int = 20
    """Epochs of the teacher. The paper says a few; ResNet-S needs some 3,000 steps before BadNets separates."""
    teacher_schedule: Literal["stopped-cosine", "cosine", "constant"] = "stopped-cosine"
    """Teacher's learning rate: the cosine of teacher_horizon epochs broken off, one to zero in its own, or none."""
    teacher_horizon: int = 80
    """Epochs in which the broken-off cosine would reach zero; the teacher's own where those are more."""
    teacher_tries: int = 3
    """Initialisations tried in turn while the teacher stays at chance level: narrow networks can start with dead ReLUs.
    Of several, the one with the lowest mean loss counts."""
    mode: Literal["weighted", "unweighted", "none", "drop"] = "weighted"
    """Equation 6; equation 5 (plain ascent); candidates weigh 0, the others 1; candidates are left out."""
    index_rule: Literal["threshold", "rank"] = "threshold"
    """Candidates: losses up to the entry floor(N alpha) of the sorted ones, or exactly floor(N alpha) samples."""
    neg_norm: Literal["range", "gamma"] = "range"
    """What divides loss - gamma of candidates: max - gamma as printed (tiny weights), or gamma (weights to -beta)."""
    max_rule: Literal["max", "p99.9"] = "max"
    """What weight 1 stands for: the largest loss, or the 99.9th percentile (larger ones clipped)."""
    normalise: Literal["batch", "weights"] = "batch"
    """The weighted loss is divided by the batch size, or by the sum of weights (weights then have mean 1)."""
    recompute: Literal["never", "epoch"] = "never"
    """epoch: each epoch, the frozen teacher weighs the augmented views that the student sees in it; never: the images
    as they are, once. What is told of the candidates is always the latter."""
    ga_scale: Literal["signs", "two-means", "beta"] = "signs"
    """Mode unweighted: weights +1 and -1, those of two separate means, or +1 and -beta."""
    ga_cap: float = 10.0
    """Mode unweighted: a candidate whose loss exceeds this is pushed no further."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise UsageError(f"lfd: alpha is a share in (0, 1), such as 0.15, not {self.alpha:g}")
        if self.beta < 0.0 or self.ga_cap <= 0.0:
            raise UsageError(f"lfd: beta must be >= 0 and ga_cap > 0, not {self.beta:g} and {self.ga_cap:g}")
        if min(self.teacher_epochs, self.teacher_horizon, self.teacher_tries) < 1:
            raise UsageError("lfd: teacher_epochs, teacher_horizon and teacher_tries must be 1 or more")
        if self.recompute != "never" and self.mode == "drop":
            raise UsageError("lfd: mode drop leaves samples out for good, so recompute must be never")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Refuse numbers that leave no candidate or nothing but candidates, and a teacher that does not fit."""
        if not 1 <= math.floor(info.train * self.alpha) < info.train - 1:
            raise Impossible(f"lfd: alpha {self.alpha:g} of {info.train} images leaves one side of the threshold empty")
        registry.make("models", self.teacher).check(info)

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The teacher, shared by everything but its own settings, and the student. Teachers drawn anew come on top."""
        model = repr(registry.make("models", self.teacher))
        teacher = ("lfd", model, *sorted(self._teacher_recipe().items()))
        split = (self.alpha, self.index_rule)
        student: dict[str, tuple[Any, ...]] = {
            "weighted": (self.beta, self.neg_norm, self.max_rule, self.normalise),
            "unweighted": (self.ga_scale, self.ga_cap, self.beta if self.ga_scale == "beta" else None),
            "none": (),
            "drop": (),
        }
        return (
            Training("teacher", teacher),
            Training("full", (*teacher, self.teacher_tries, *split, self.mode, self.recompute, *student[self.mode])),
        )

    def retries(self) -> dict[str, int]:
        """Teachers that stay at chance level are trained again."""
        return {"teacher": self.teacher_tries - 1}

    def train(self, lab: Lab) -> TrainedModel:
        """Algorithm 1: teacher, threshold, weights, student.

        Raises:
            Diverged: the teacher's losses are not finite, or tell no sample from another.
        """
        labels = lab.poisoned.labels.numpy()
        teacher, losses, tries = self._teach(lab, labels)
        split = checked_threshold(losses, self.alpha, self.index_rule)
        lab.suspect(-losses, split.candidates)
        facts: dict[str, Any] = {
            "gamma": split.gamma,
            "candidates": int(split.candidates.sum()),
            "candidates_per_class": np.bincount(labels[split.candidates], minlength=lab.classes).tolist(),
            "teacher_loss_mean": float(losses.mean()),
            "teacher_loss_max": float(losses.max()),
            "teacher_tries": tries,
            "teacher_at_chance": at_chance(losses, labels),
        }
        if self.mode == "drop":
            student = lab.train(lab.poisoned.subset(np.flatnonzero(~split.candidates)))
        else:
            student = self._student(lab, teacher, losses, facts)
        if self.mode == "unweighted":
            reached = lab.losses(student, lab.poisoned.subset(np.flatnonzero(split.candidates)))
            facts["candidates_beyond_cap"] = float((reached > self.ga_cap).mean())
        lab.note("lfd", facts)
        return student

    def _teach(self, lab: Lab, labels: np.ndarray) -> tuple[TrainedModel, np.ndarray, int]:
        """The teacher, its losses float64 (N,) on the images as they are, and how many were trained to get it."""
        found: list[tuple[float, TrainedModel, np.ndarray]] = []
        for repeat in range(self.teacher_tries):
            teacher = lab.train(
                lab.poisoned, kind="teacher", name="teacher", model=self.teacher, repeat=repeat,
                **self._teacher_recipe(),
            )  # fmt: skip
            losses = lab.losses(teacher, lab.poisoned).astype(np.float64)
            found.append((float(losses.mean()), teacher, losses))
            if not at_chance(losses, labels):
                break
        _, teacher, losses = min(found, key=lambda one: (not np.isfinite(one[0]), one[0]))
        return teacher, losses, len(found)

    def _student(self, lab: Lab, teacher: TrainedModel, losses: np.ndarray, facts: dict[str, Any]) -> TrainedModel:
        assert self.mode != "drop"
        weight_fn = Weighing(
            self.alpha, self.beta, self.mode, self.index_rule, self.neg_norm, self.max_rule, self.normalise,
            self.ga_scale,
        )  # fmt: skip
        weights = weight_fn(losses)
        facts |= {"weight_min": float(weights.min()), "weight_mean": float(weights.mean(dtype=np.float64))}
        how: dict[str, Any] = {"loss": CappedAscent(self.ga_cap)} if self.mode == "unweighted" else {}
        if self.recompute == "never":
            return lab.train(lab.poisoned, weights=weights, **how)
        return lab.train(lab.poisoned, scorer=teacher, weight_fn=weight_fn, **how)

    def _teacher_recipe(self) -> dict[str, Any]:
        """The base recipe's optimiser, no augmentation, a few epochs of an almost constant learning rate."""
        horizon = self.teacher_epochs
        if self.teacher_schedule == "stopped-cosine":
            horizon = max(horizon, self.teacher_horizon)
        schedule = "constant" if self.teacher_schedule == "constant" else "cosine"
        return {"epochs": self.teacher_epochs, "schedule": schedule, "horizon": horizon, "augment": ()}


def mean_one(weights: np.ndarray) -> np.ndarray:
    """Weights (N,) scaled to a mean of 1. Raises Diverged where they sum to nothing positive."""
    mean = float(weights.mean())
    if mean <= 0.0:
        raise Diverged("lfd: the weights sum to nothing positive, so nothing can be divided by it; lower beta")
    scaled: np.ndarray = weights / mean
    return scaled
