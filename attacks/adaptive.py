"""An attack on a defense by teachers, such as LfD: its poison has no lower loss on them than clean images have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, StampContext, Training, UsageError, Work, attack, registry, share_of
from benchbd.attacks._covers import check_room, covers_of
from benchbd.attacks._gap import Gap, gap_between
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch

    from benchbd import Recipe, TrainSet, Workshop

CLOSED = 0.9
"""Share of the gap that must be closed on the second surrogates; less is a warning."""
REPEATS = {"trial": 1000, "second": 2000}
"""First ``repeat`` of the surrogate teachers of a poisoning: no defense's teachers have these initial weights."""


class Trial(NamedTuple):
    """A trial poisoning, on which surrogates of the target's teachers are trained.

    Attributes:
        alpha: share of the noise; None in the plan if it is not known yet.
        cover_ratio: covers for each poisoned image.
        draw: which images are poisoned, and how the surrogates are initialised: ``trial`` or ``second``.
    """

    alpha: float | None
    cover_ratio: float
    draw: str


@attack("lfd-adaptive", version=2)
class LfdAdaptive(Attack):
    """Grey noise blended in as in blend, but too weakly for LfD's teachers to learn it, or together with covers.

    LfD (2024) leaves such attacks to future work (end of section 5.4). None is published, so this one is benchbd's own.
    It hides the poison in two ways, which can be used alone or together:

    - It blends the noise in as strongly as possible, as long as the poison's mean loss is no lower than that of clean
      images. Surrogates of the target's teachers measure these losses on trial poisonings: the target itself trains
      and chooses them, with its models, steps and recipe. The attacker knows the defense and the data, but neither the
      initial weights of its teachers nor its batch order.
    - It adds covers, which are stamped images that keep their labels. The trigger then predicts the target only some
      of the time.

    Second surrogates, which chose nothing, then measure the losses that are left, and further ones those of the trigger
    at full strength without covers. The record has both and says how much of the gap is closed.

    Covers, and a trigger that is stronger in test images than in training images, come from Qi et al. (ICLR 2023,
    "latent separability").

    The cost is that of the target's teachers for each share in alphas, and twice more.
    """

    prepared_from_budget = True
    smoke: ClassVar[dict[str, Any]] = {"of": "lfd(teachers=1, teacher_epochs=1, teacher_tries=1)"}

    of: str = "lfd"
    """The target: a defense with teachers, and its parameters (``lfd(teachers=1, teacher_epochs=20)``)."""
    trigger_seed: int | None = None
    alpha: float | None = None
    """Share of the noise in training images, in (0, 1]; by default, surrogates choose it from alphas."""
    alphas: tuple[float, ...] = (0.2, 0.1, 0.07, 0.05, 0.03)
    """Shares to choose from; if all are too easy to learn, the weakest is used."""
    alpha_test: float = 0.2
    """Share of the noise in triggered test images; 0.2 is blend's."""
    cover_ratio: float = 0.0
    """Covers for each poisoned image; Qi et al. use 1."""
    verify: bool = True
    """Whether further surrogates measure how much of the gap is closed. With alpha given and without this, nothing is
    trained."""

    def __post_init__(self) -> None:
        shares = (*self.alphas, self.alpha_test, *([] if self.alpha is None else [self.alpha]))
        if not self.alphas or len(set(self.alphas)) < len(self.alphas) or not all(0 < share <= 1 for share in shares):
            raise UsageError("attack 'lfd-adaptive': alpha, alpha_test and all alphas, no two alike, must be in (0, 1]")
        if self.cover_ratio < 0:
            raise UsageError("attack 'lfd-adaptive': cover_ratio must be 0 or more")
        target = self._target()
        if type(target).teacher_losses is Defense.teacher_losses:
            raise UsageError(f"attack 'lfd-adaptive': of: {target.name} has no teachers; name lfd or lfd-ensemble")

    def _target(self) -> Defense:
        target: Defense = registry.make("defenses", self.of)
        return target

    def check(self, info: DatasetInfo) -> None:
        """Check that the set has enough images for the poison and its covers, and that the target applies to it."""
        check_room(self.budget(info), self.cover_count(info), info)
        self._target().check(info, self)

    def consults(self) -> tuple[Defense, ...]:
        """The target, whose code trains the surrogates."""
        return (self._target(),)

    def trials(self) -> list[Trial]:
        """The trial poisonings in the order in which they are needed, each once."""
        plain, shares = Trial(self.alpha_test, 0.0, "trial"), () if self.alpha is not None else self.strongest_first()
        wanted = [Trial(share, self.cover_ratio, "trial") for share in shares]
        if self.verify:
            wanted += [Trial(self.alpha, self.cover_ratio, "second"), plain]
        return list(dict.fromkeys(wanted))

    def strongest_first(self) -> tuple[float, ...]:
        """The shares to choose from, descending."""
        return tuple(sorted(self.alphas, reverse=True))

    def trainings(self) -> tuple[Training, ...]:
        """The target's teachers, once for each trial."""
        teachers = [training for training in self._target().trainings(self) if training.kind == "teacher"]
        me = repr(self)
        return tuple(
            Training("teacher", ("lfd-adaptive", *trial, me, *one.shared))
            for trial in self.trials()
            for one in teachers
        )

    def training_work(self, recipe: Recipe, info: DatasetInfo) -> tuple[Work | None, ...]:
        """The work of the target's teachers, once for each trial."""
        target = self._target()
        trainings, work = target.trainings(self), target.training_work(self, recipe, info)
        teachers = [one for training, one in zip(trainings, work, strict=True) if training.kind == "teacher"]
        return tuple(one for _ in self.trials() for one in teachers)

    def retries(self) -> dict[str, int]:
        """The target's retries of its teachers."""
        return {"teacher": self._target().retries().get("teacher", 0)}

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw the noise, choose how strongly to blend it in, and verify the choice.

        Returns:
            ``noise`` uint8 (1, H, W) and ``alpha`` float64 (1,). If alpha was chosen, also three arrays (len(alphas),):
            ``alphas``, descending, and the surrogates' mean losses ``poison_loss`` and ``clean_loss``. With verify,
            ``left`` and ``plain`` float64 (3,): mean losses of poison and of clean images, and AUROC.
        """
        noise = np.random.default_rng(workshop.seed).integers(0, 256, (1, workshop.size, workshop.size), dtype=np.uint8)
        alpha = self.alpha
        chosen: dict[str, np.ndarray] = {}
        if alpha is None:
            alpha, chosen = self._choose(workshop, noise)
        trigger = {"noise": noise, "alpha": np.array([alpha]), **chosen}
        if self.verify:
            left = self._gap(workshop, noise, Trial(alpha, self.cover_ratio, "second"))
            plain = self._gap(workshop, noise, Trial(self.alpha_test, 0.0, "trial"))
            trigger |= {"left": np.array(left), "plain": np.array(plain)}
            self._judge(workshop, left, plain)
        return trigger

    def _choose(self, workshop: Workshop, noise: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The strongest share whose poison is no easier than clean images, with the losses for each share."""
        alphas = self.strongest_first()
        gaps = [self._gap(workshop, noise, Trial(alpha, self.cover_ratio, "trial")) for alpha in alphas]
        unlearnt = [alpha for alpha, gap in zip(alphas, gaps, strict=True) if gap.size <= 0]
        if not unlearnt:
            line = f"lfd-adaptive: the teacher finds poison easier than clean images even at alpha {alphas[-1]:g}"
            workshop.progress("surrogate teachers", len(alphas), len(alphas), warning=line)
        return unlearnt[0] if unlearnt else alphas[-1], {
            "alphas": np.array(alphas),
            "poison_loss": np.array([gap.poison for gap in gaps]),
            "clean_loss": np.array([gap.clean for gap in gaps]),
        }

    def _judge(self, workshop: Workshop, left: Gap, plain: Gap) -> None:
        """Warn if the second surrogates contradict the choice, or if they could not have shown anything."""
        line = ""
        if plain.size <= 0:
            line = "lfd-adaptive: the target's teacher does not learn the plain trigger, so there is no gap to close"
        elif left.size > (1 - CLOSED) * plain.size:
            line = (
                f"lfd-adaptive: the gap is not closed: on a second surrogate, poison has a mean loss of "
                f"{left.poison:.2f} and clean images {left.clean:.2f} (plain trigger: {plain.poison:.2f} and "
                f"{plain.clean:.2f})"
            )
        if line:
            workshop.progress("surrogate teachers", 1, 1, warning=line)

    def poison_facts(self, trigger: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The gap between the mean losses of clean images and poison, for this poison and for the plain trigger.

        ``closed`` is the share of the plain gap that is closed, above 1 if poison is harder than clean images, and
        missing if there was no gap. ``auroc`` is that of low losses as a sign of poison.
        """
        if "left" not in trigger:
            return {}
        left, plain = Gap(*trigger["left"].tolist()), Gap(*trigger["plain"].tolist())
        facts = {"poison_loss": left.poison, "clean_loss": left.clean, "gap": left.size, "auroc": left.auroc}
        facts |= {"plain_gap": plain.size, "plain_auroc": plain.auroc}
        return {**facts, "closed": 1 - left.size / plain.size} if plain.size > 0 else facts

    def _gap(self, workshop: Workshop, noise: np.ndarray, trial: Trial) -> Gap:
        """The gap that the target's teachers show on a trial poisoning."""
        data, poison, covers = self._poisoned(workshop, noise, trial)
        losses = self._target().teacher_losses(workshop, data, REPEATS[trial.draw])
        assert losses is not None  # __post_init__
        return gap_between(losses, poison, covers)

    def _poisoned(self, workshop: Workshop, noise: np.ndarray, trial: Trial) -> tuple[TrainSet, np.ndarray, np.ndarray]:
        """A set like the final one but with other images poisoned, and positions of its poison and its covers."""
        import torch

        from benchbd.attacks._pixels import mix

        assert trial.alpha is not None  # only in the plan
        labels = workshop.clean.labels.clone()
        order = np.random.default_rng(seed_for(workshop.seed, trial.draw)).permutation(len(labels))
        first = order if self.pool == "all" else order[labels.numpy()[order] != workshop.target]
        poison = first[: share_of(self.rate, len(labels))]
        rest = order[~np.isin(order, poison)]
        covers = rest[: covers_of(trial.cover_ratio, self.rate, workshop.info)]
        images, stamped = workshop.clean.images.clone(), torch.from_numpy(np.concatenate([poison, covers]))
        images[stamped] = mix(images[stamped], noise, trial.alpha)
        labels[torch.from_numpy(poison)] = workshop.target
        return workshop.clean.replace(images=images, labels=labels), poison, covers

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Mix the noise in: with the prepared alpha in training images, with ``alpha_test`` in test images."""
        from benchbd.attacks._pixels import mix

        alpha = self.alpha_test if context.split == "test" else float(context.trigger["alpha"][0])
        return mix(images, context.trigger["noise"], alpha)

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of further training images that carry the trigger and keep their label."""
        return covers_of(self.cover_ratio, self.rate, info)
