"""An attack on LfD itself: poison whose loss on a low-capacity teacher is no lower than that of clean images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, StampContext, Training, UsageError, attack, registry, share_of
from benchbd.attacks._covers import check_room, covers_of
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch

    from benchbd import TrainSet, Workshop

HORIZON = 80
"""Epochs in which the surrogate teacher's cosine would reach zero, as LfD's own teacher's."""


@attack("lfd-adaptive", version=1)
class LfdAdaptive(Attack):
    """Grey noise blended in as in blend, but so weakly that a tiny teacher does not learn it, or beside covers.

    LfD (2024) leaves such attacks open (end of section 5.4), and none is published: this one is benchbd's own. Two
    means, alone or together. The strongest blend whose poison has, on a surrogate teacher and a trial poisoning, a mean
    loss no lower than clean images'; the attacker knows the defense and his own poison, nothing of the victim. And
    covers, stamped images that keep their labels, so that the trigger foretells the target only now and then; covers,
    and a trigger stronger in test than in training, are Qi et al.'s (ICLR 2023, "latent separability").
    """

    prepared_from_budget = True
    smoke: ClassVar[dict[str, Any]] = {"teacher_epochs": 1}

    alpha: float | None = None
    """Share of the noise in training images, in (0, 1]; chosen on surrogate teachers where not given."""
    alphas: tuple[float, ...] = (0.1, 0.07, 0.05, 0.03)
    """Shares to choose from; the weakest where the teachers find each one too easy. One teacher is trained for each."""
    alpha_test: float = 0.2
    """Share of the noise in triggered test images; 0.2 is blend's."""
    cover_ratio: float = 0.0
    """Covers for each poisoned image; 1 is Qi et al.'s."""
    teacher: str = "resnet-s"
    """Model of the surrogate teachers: LfD's."""
    teacher_epochs: int = 20
    """Epochs of a surrogate teacher, as many as LfD's own has."""

    def __post_init__(self) -> None:
        shares = (*self.alphas, self.alpha_test, *([] if self.alpha is None else [self.alpha]))
        if not self.alphas or len(set(self.alphas)) < len(self.alphas) or not all(0 < share <= 1 for share in shares):
            raise UsageError("attack 'lfd-adaptive': alpha, alpha_test and all alphas, no two alike, must be in (0, 1]")
        if self.cover_ratio < 0 or self.teacher_epochs < 1:
            raise UsageError("attack 'lfd-adaptive': cover_ratio must be 0 or more, teacher_epochs 1 or more")

    def check(self, info: DatasetInfo) -> None:
        """The budget must be possible, with covers too, and the teacher fit."""
        check_room(self.budget(info), self.cover_count(info), info)
        registry.make("models", self.teacher).check(info)

    def trainings(self) -> tuple[Training, ...]:
        """A teacher for each share to choose from."""
        shares = () if self.alpha is not None else self.alphas
        return tuple(Training("teacher", ("lfd-adaptive", alpha, repr(self))) for alpha in shares)

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw the noise, and choose how strongly to blend it in.

        Returns:
            ``noise`` uint8 (1, H, W) and ``alpha`` float64 (1,). Where there was a choice, (len(alphas),) each:
            ``alphas``, descending, and the surrogate teachers' mean losses ``poison_loss`` and ``clean_loss``.
        """
        noise = np.random.default_rng(workshop.seed).integers(0, 256, (1, workshop.size, workshop.size), dtype=np.uint8)
        if self.alpha is not None:
            return {"noise": noise, "alpha": np.array([self.alpha])}
        alphas = sorted(self.alphas, reverse=True)
        found = np.array([self._losses(workshop, noise, alpha) for alpha in alphas])
        unlearnt = np.flatnonzero(found[:, 0] >= found[:, 1])
        if not len(unlearnt):
            line = f"lfd-adaptive: the teacher finds poison easier than clean images even at alpha {alphas[-1]:g}"
            workshop.progress("surrogate teachers", len(alphas), len(alphas), warning=line)
        chosen = alphas[unlearnt[0] if len(unlearnt) else -1]
        return {
            "noise": noise,
            "alpha": np.array([chosen]),
            "alphas": np.array(alphas),
            "poison_loss": found[:, 0],
            "clean_loss": found[:, 1],
        }

    def _losses(self, workshop: Workshop, noise: np.ndarray, alpha: float) -> tuple[float, float]:
        """Mean losses of poison and of clean images on a teacher trained as LfD trains its own."""
        data, poison, covers = self._trial(workshop, noise, alpha)
        teacher = workshop.train(
            data,
            kind="teacher",
            name=f"{alpha:g}-teacher",
            model=self.teacher,
            epochs=self.teacher_epochs,
            schedule="cosine",
            horizon=max(HORIZON, self.teacher_epochs),
            augment=(),
        )
        losses = workshop.losses(teacher, data)
        clean = np.delete(losses, np.concatenate([poison, covers]))
        return float(losses[poison].mean()), float(clean.mean())

    def _trial(self, workshop: Workshop, noise: np.ndarray, alpha: float) -> tuple[TrainSet, np.ndarray, np.ndarray]:
        """A poisoned set like the one to be made, of other images; the positions of its poison and of its covers."""
        import torch

        from benchbd.attacks._pixels import mix

        labels = workshop.clean.labels.clone()
        order = np.random.default_rng(seed_for(workshop.seed, "trial")).permutation(len(labels))
        first = order if self.pool == "all" else order[labels.numpy()[order] != workshop.target]
        poison = first[: share_of(self.rate, len(labels))]
        rest = order[~np.isin(order, poison)]
        covers = rest[: self.cover_count(workshop.info)]
        images, stamped = workshop.clean.images.clone(), torch.from_numpy(np.concatenate([poison, covers]))
        images[stamped] = mix(images[stamped], noise, alpha)
        labels[torch.from_numpy(poison)] = workshop.target
        return workshop.clean.replace(images=images, labels=labels), poison, covers

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Mix the noise in: training images as prepared, test images with ``alpha_test``."""
        from benchbd.attacks._pixels import mix

        alpha = self.alpha_test if context.split == "test" else float(context.trigger["alpha"][0])
        return mix(images, context.trigger["noise"], alpha)

    def cover_count(self, info: DatasetInfo) -> int:
        """Training images, beside the poisoned ones, that carry the trigger and keep their label."""
        return covers_of(self.cover_ratio, self.rate, info)
