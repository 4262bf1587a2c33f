"""Learning from Distinction: a low-capacity teacher's losses weight the student's training samples."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Diverged, Impossible, Training, UsageError, Work, defense, registry
from benchbd.defenses._teachers import at_chance, best, compared, epochs_of, train_teachers, unready

if TYPE_CHECKING:
    import torch

    from benchbd import Lab, Recipe, TrainedModel, TrainSet, Workbench


class Threshold(NamedTuple):
    """Equation 4: the loss ``gamma`` that splits the samples, and the mask (N,) of candidates for poison."""

    gamma: float
    candidates: np.ndarray


def threshold(losses: np.ndarray, alpha: float, rule: Literal["threshold", "rank"] = "threshold") -> Threshold:
    """Split samples by their teacher loss (LfD equation 4).

    Args:
        losses: float64 (N,), finite.
        alpha: share of the samples to suspect, in (0, 1).
        rule: ``threshold``: gamma is entry floor(N alpha), counted from 0, of the ascending losses. Candidates are all
            samples with a loss up to gamma: floor(N alpha) + 1 samples, and those tied with the last. ``rank``: exactly
            floor(N alpha) candidates, ties by position; gamma is the loss of the last one.
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
    """:func:`threshold` of losses float64 (N,); raises Diverged if they are not finite or none exceeds gamma."""
    if not np.isfinite(losses).all():
        raise Diverged("lfd: the teacher's losses are not finite")
    split = threshold(losses, alpha, rule)
    if split.candidates.all():
        raise Diverged(f"lfd: the teacher tells no sample from another, no loss exceeds gamma = {split.gamma:g}")
    return split


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
        split: the result of :func:`threshold` for these losses.
        beta: strength of the ascent on candidates.
        neg_norm: divisor of the candidates' ``loss - gamma``: ``max - gamma`` (as printed) or gamma.
        max_rule: the largest loss, or the 99.9th percentile with weights clipped at 1, so that an outlier counts less.

    Returns:
        float64 (N,): in (0, 1] above gamma, in [-beta gamma / (max - gamma), 0] for candidates.
    """
    gamma, candidates = split
    top = float(losses.max() if max_rule == "max" else np.percentile(losses, 99.9))
    divisor = top - gamma if neg_norm == "range" else gamma
    # The divisor is zero only if all candidates' losses equal gamma; their weight is 0 in the limit too.
    down = np.minimum(losses / top, 1.0) if top > 0 else np.zeros_like(losses)
    up = beta * (losses - gamma) / divisor if divisor > 0 else np.zeros_like(losses)
    return np.where(candidates, up, down)


def ascent_weights(candidates: np.ndarray, scale: Literal["signs", "two-means", "beta"], beta: float) -> np.ndarray:
    """Weights of unweighted gradient ascent (LfD equation 5, the GA of Figure 5).

    Args:
        candidates: bool (N,).
        scale: ``signs``: +1 and -1. ``two-means``: the literal equation, where the expected batch mean is the mean over
            the other samples minus the mean over the candidates. ``beta``: +1 and -beta.

    Returns:
        float64 (N,).
    """
    n, found = len(candidates), int(candidates.sum())
    down, up = {"signs": (1.0, 1.0), "two-means": (n / (n - found), n / max(found, 1)), "beta": (1.0, beta)}[scale]
    return np.where(candidates, -up, down)


@dataclasses.dataclass(frozen=True)
class Weighing:
    """Computes the student's weights from the teacher's losses: equations 4 to 6 with the options of :class:`Lfd`.

    The losses may be those of the images without augmentation, or those of the views that the student sees next.
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
        """Losses float (N,) -> weights float32 (N,). Raises Diverged if the losses give no valid weights."""
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
    """Weighted batch mean in which ascent on a sample stops once its loss exceeds ``cap``.

    The logit gradient of -CE does not vanish as the loss grows, so ascent without a cap never ends.
    """

    cap: float

    def __call__(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """``losses`` and ``weights`` (B,) -> scalar."""
        return (weights * losses.where(weights > 0, losses.clamp(max=self.cap))).mean()


class Teaching(NamedTuple):
    """The teacher that weighs the samples.

    Attributes:
        teacher: the network.
        losses: float64 (N,), its cross-entropies on images without augmentation.
        alpha: share of the samples to suspect.
        facts: what the record says of it.
        notes: further notes for the record, by name.
        warnings: one line for each.
    """

    teacher: TrainedModel
    losses: np.ndarray
    alpha: float
    facts: dict[str, Any]
    notes: dict[str, Any]
    warnings: tuple[str, ...]


@defense("lfd", version=2)
class Lfd(Defense):
    """LfD (2024): ascend on samples that a tiny teacher learns at once, weight the rest by the teacher's losses.

    By default, eight teachers train as one network and the one with the lowest mean loss is used, because a single one
    is a lottery. ``teachers=1, teacher_epochs=20`` is the paper's single teacher of "a few epochs". The cost is one
    full training and that of the teachers.
    """

    smoke: ClassVar[dict[str, Any]] = {"teacher_epochs": 1, "teacher_tries": 1}

    alpha: float = 0.15
    """Share of the training set that counts as poison candidates, in (0, 1). GTSRB: 0.20."""
    beta: float = 1e-3
    """Strength of the ascent on candidates; 0 ignores them. GTSRB: 3e-3."""
    teacher: str = "resnet-s"
    """Model of the teachers, with its parameters (``resnet-s(stem=64)``)."""
    teachers: int = 8
    """Number of teachers; the one with the lowest mean loss on the training set is used. The paper has 1."""
    teacher_steps: int | None = 4000
    """Fewest optimisation steps of a teacher, rounded up to whole epochs. Steps decide, not epochs: ResNet-S needs
    about 3,000 until BadNets poison separates."""
    teacher_epochs: int | None = None
    """Epochs of a teacher, instead of teacher_steps. The paper says a few."""
    teacher_schedule: Literal["stopped-cosine", "cosine", "constant"] = "stopped-cosine"
    """Teacher's learning rate: a cosine over teacher_horizon epochs, stopped early; a cosine over its own; constant."""
    teacher_horizon: int = 80
    """Epochs after which the stopped cosine would reach zero, or the teacher's own epochs if these are more."""
    teacher_tries: int = 3
    """Largest number of initialisations that a single teacher tries while it stays at chance level. Narrow networks can
    start with dead ReLUs. With several teachers, the other teachers are the other tries."""
    mode: Literal["weighted", "unweighted", "none", "drop"] = "weighted"
    """weighted: equation 6; unweighted: equation 5 (plain ascent); none: candidates have weight 0, the others 1; drop:
    candidates are removed."""
    index_rule: Literal["threshold", "rank"] = "threshold"
    """Candidates: losses up to the entry floor(N alpha) of the sorted ones, or exactly floor(N alpha) samples."""
    neg_norm: Literal["range", "gamma"] = "range"
    """Divisor of candidates' loss - gamma: max - gamma as printed (tiny weights), or gamma (weights down to -beta)."""
    max_rule: Literal["max", "p99.9"] = "max"
    """Loss with weight 1: the largest loss, or the 99.9th percentile (larger weights are clipped)."""
    normalise: Literal["batch", "weights"] = "batch"
    """Divisor of the weighted loss: the batch size, or the sum of weights (weights then have mean 1)."""
    recompute: Literal["never", "epoch"] = "never"
    """epoch: the frozen teacher weights the student's augmented views in each epoch. never: it weights the images once,
    without augmentation. Reported candidates always come from images without augmentation."""
    ga_scale: Literal["signs", "two-means", "beta"] = "signs"
    """Mode unweighted: weights +1 and -1, weights of two separate means, or +1 and -beta."""
    ga_cap: float = 10.0
    """Mode unweighted: loss of a candidate above which ascent on it stops."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha < 1.0:
            raise UsageError(f"lfd: alpha is a share in (0, 1), such as 0.15, not {self.alpha:g}")
        if self.beta < 0.0 or self.ga_cap <= 0.0:
            raise UsageError(f"lfd: beta must be >= 0 and ga_cap > 0, not {self.beta:g} and {self.ga_cap:g}")
        if self.teacher_steps is None and self.teacher_epochs is None:
            raise UsageError("lfd: give teacher_steps or teacher_epochs")
        counts = ("teachers", "teacher_steps", "teacher_epochs", "teacher_horizon", "teacher_tries")
        for name in counts:
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"lfd: {name} must be 1 or more, not {value}")
        if self.recompute != "never" and self.mode == "drop":
            raise UsageError("lfd: mode drop leaves samples out for good, so recompute must be never")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that there will be candidates and other samples, and that the teacher fits the images."""
        if not 1 <= math.floor(info.train * self.alpha) < info.train - 1:
            raise Impossible(f"lfd: alpha {self.alpha:g} of {info.train} images leaves one side of the threshold empty")
        registry.make("models", self.teacher).check(info)

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The teachers, which count as one and are shared by variants with the same teachers, and the student.

        Several teachers whose model cannot be packed, and a single one that is trained again after a bad start, come on
        top.
        """
        teacher = self._teachers_of(self.teacher)
        return teacher, self._student_of((*teacher.shared, self.teacher_tries if self.teachers == 1 else None))

    def _teachers_of(self, model: str) -> Training:
        """The training of the teachers of one model."""
        long: dict[str, Any]
        if self.teacher_epochs is None:
            long = {"steps": self.teacher_steps, "of": self.teacher_schedule, **self._schedule(0)}
        else:
            long = {"epochs": self.teacher_epochs, **self._schedule(self.teacher_epochs)}
        name = repr(registry.make("models", model))
        return Training("teacher", ("lfd", name, self.teachers, *sorted(long.items())))

    def _student_of(self, teachers: tuple[Any, ...]) -> Training:
        """The training of the student, given what determines its teacher."""
        student: dict[str, tuple[Any, ...]] = {
            "weighted": (self.beta, self.neg_norm, self.max_rule, self.normalise),
            "unweighted": (self.ga_scale, self.ga_cap, self.beta if self.ga_scale == "beta" else None),
            "none": (),
            "drop": (),
        }
        split = (self.alpha, self.index_rule)
        return Training("full", (*teachers, *split, self.mode, self.recompute, *student[self.mode]))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """The teachers' few epochs and the student's."""
        epochs = self.teacher_recipe(recipe, info.train)["epochs"]
        return (Work(self.teachers * epochs * info.train, model=self.teacher), Work(recipe.epochs * info.train))

    def retries(self) -> dict[str, int]:
        """A single teacher that stays at chance level is trained again, with another initialisation."""
        return {"teacher": self.teacher_tries - 1 if self.teachers == 1 else 0}

    def train(self, lab: Lab) -> TrainedModel:
        """Algorithm 1: teacher, threshold, weights, student.

        Raises:
            Diverged: the teacher's losses are not finite, or do not separate any samples.
        """
        labels = lab.poisoned.labels.numpy()
        taught = self._teach(lab, lab.poisoned)
        for line in taught.warnings:
            lab.warn(line)
        for name, value in taught.notes.items():
            lab.note(name, value)
        losses = taught.losses
        split = checked_threshold(losses, taught.alpha, self.index_rule)
        lab.suspect(-losses, split.candidates, losses)
        facts: dict[str, Any] = {
            "gamma": split.gamma,
            "candidates": int(split.candidates.sum()),
            "candidates_per_class": np.bincount(labels[split.candidates], minlength=lab.classes).tolist(),
            "teacher_loss_mean": float(losses.mean()),
            "teacher_loss_max": float(losses.max()),
            "teacher_at_chance": at_chance(losses, labels),
            **taught.facts,
        }
        if self.mode == "drop":
            student = lab.train(lab.poisoned.subset(np.flatnonzero(~split.candidates)))
        else:
            student = self._student(lab, taught, facts)
        if self.mode == "unweighted":
            reached = lab.losses(student, lab.poisoned.subset(np.flatnonzero(split.candidates)))
            facts["candidates_beyond_cap"] = float((reached > self.ga_cap).mean())
        lab.note("lfd", facts)
        return student

    def teacher_losses(self, bench: Workbench, data: TrainSet, first: int = 0) -> np.ndarray:
        """The losses of the teacher that this defense would use on this set; see the base class."""
        return self._teach(bench, data, first).losses

    def _teach(self, bench: Workbench, data: TrainSet, first: int = 0) -> Teaching:
        """Train the teachers and choose one by its mean loss; warn if even that one looks unready."""
        labels, recipe = data.labels.numpy(), self.teacher_recipe(bench.recipe, len(data))
        if self.teachers == 1:
            found = self._tries(bench, data, first, recipe)
        else:
            nets = train_teachers(bench, data, self.teacher, range(first, first + self.teachers), recipe)
            found = [(net, bench.losses(net, data).astype(np.float64)) for net in nets]
        means = [float(losses.mean()) for _, losses in found]
        warning = unready("lfd", means, labels)
        facts = {
            "teacher_epochs": recipe["epochs"],
            "teacher_tries": len(found) if self.teachers == 1 else 1,
            "teachers": compared(means, labels),
        }
        return Teaching(*found[best(means)], self.alpha, facts, {}, (warning,) if warning else ())

    def _tries(
        self, bench: Workbench, data: TrainSet, first: int, recipe: dict[str, Any]
    ) -> list[tuple[TrainedModel, np.ndarray]]:
        """Single teachers, each with its losses, until one leaves chance level or none is left to try."""
        found: list[tuple[TrainedModel, np.ndarray]] = []
        for repeat in range(first, first + self.teacher_tries):
            teacher = bench.train(data, kind="teacher", name="teacher", model=self.teacher, repeat=repeat, **recipe)
            losses = bench.losses(teacher, data).astype(np.float64)
            found.append((teacher, losses))
            if not at_chance(losses, data.labels.numpy()):
                break
        return found

    def _student(self, lab: Lab, taught: Teaching, facts: dict[str, Any]) -> TrainedModel:
        assert self.mode != "drop"
        weight_fn = Weighing(
            taught.alpha, self.beta, self.mode, self.index_rule, self.neg_norm, self.max_rule, self.normalise,
            self.ga_scale,
        )  # fmt: skip
        weights = weight_fn(taught.losses)
        facts |= {"weight_min": float(weights.min()), "weight_mean": float(weights.mean(dtype=np.float64))}
        how: dict[str, Any] = {"loss": CappedAscent(self.ga_cap)} if self.mode == "unweighted" else {}
        if self.recompute == "never":
            return lab.train(lab.poisoned, weights=weights, **how)
        return lab.train(lab.poisoned, scorer=taught.teacher, weight_fn=weight_fn, **how)

    def teacher_recipe(self, recipe: Recipe, samples: int) -> dict[str, Any]:
        """Changes of the recipe for a teacher: no augmentation, and a few epochs with an almost constant learning rate.

        Args:
            recipe: the base recipe.
            samples: size of the training set.
        """
        length: dict[str, Any] = {"epochs": self.teacher_epochs}
        if self.teacher_epochs is None:
            assert self.teacher_steps is not None
            batch = recipe.for_another_model().batch_size
            length = {"epochs": epochs_of(self.teacher_steps, samples, batch), "batch_size": batch}
        return {**length, **self._schedule(length["epochs"]), "augment": ()}

    def _schedule(self, epochs: int) -> dict[str, Any]:
        horizon = max(epochs, self.teacher_horizon) if self.teacher_schedule == "stopped-cosine" else epochs
        return {"schedule": "constant" if self.teacher_schedule == "constant" else "cosine", "horizon": horizon}


def mean_one(weights: np.ndarray) -> np.ndarray:
    """Weights (N,) scaled to a mean of 1. Raises Diverged if their sum is not positive."""
    mean = float(weights.mean())
    if mean <= 0.0:
        raise Diverged("lfd: the weights sum to nothing positive, so nothing can be divided by it; lower beta")
    scaled: np.ndarray = weights / mean
    return scaled
