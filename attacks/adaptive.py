"""An attack on LfD itself: its poison has no lower loss on a low-capacity teacher than clean images have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, StampContext, Training, UsageError, Work, attack, registry, share_of
from benchbd.attacks._covers import check_room, covers_of
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch

    from benchbd import Recipe, TrainSet, Workshop

HORIZON = 80
"""Epochs after which the cosine schedule of the surrogate teacher would reach zero, as for LfD's own teacher."""


@attack("lfd-adaptive", version=2)
class LfdAdaptive(Attack):
    """Grey noise blended in as in blend, but too weakly for a tiny teacher to learn it, or together with covers.

    LfD (2024) leaves such attacks to future work (end of section 5.4). None is published, so this one is benchbd's own.
    It hides the poison in two ways, which can be used alone or together:

    - It blends the noise in as strongly as possible, as long as the poison's mean loss is no lower than that of clean
      images. A surrogate teacher on a trial poisoning measures these losses. The attacker knows the defense and the
      poison, but nothing about the victim's training.
    - It adds covers, which are stamped images that keep their labels. The trigger then predicts the target only some
      of the time.

    Covers, and a trigger that is stronger in test images than in training images, come from Qi et al. (ICLR 2023,
    "latent separability").
    """

    prepared_from_budget = True
    smoke: ClassVar[dict[str, Any]] = {"teacher_epochs": 1}

    trigger_seed: int | None = None
    alpha: float | None = None
    """Share of the noise in training images, in (0, 1]; by default, surrogate teachers choose it from alphas."""
    alphas: tuple[float, ...] = (0.1, 0.07, 0.05, 0.03)
    """Shares to choose from, with one teacher trained for each; if all are too easy to learn, the weakest is used."""
    alpha_test: float = 0.2
    """Share of the noise in triggered test images; 0.2 is blend's."""
    cover_ratio: float = 0.0
    """Covers for each poisoned image; Qi et al. use 1."""
    teacher: str = "resnet-s"
    """Model of the surrogate teachers; the default is LfD's."""
    teacher_epochs: int = 20
    """Epochs of a surrogate teacher; the default is LfD's."""

    def __post_init__(self) -> None:
        shares = (*self.alphas, self.alpha_test, *([] if self.alpha is None else [self.alpha]))
        if not self.alphas or len(set(self.alphas)) < len(self.alphas) or not all(0 < share <= 1 for share in shares):
            raise UsageError("attack 'lfd-adaptive': alpha, alpha_test and all alphas, no two alike, must be in (0, 1]")
        if self.cover_ratio < 0 or self.teacher_epochs < 1:
            raise UsageError("attack 'lfd-adaptive': cover_ratio must be 0 or more, teacher_epochs 1 or more")

    def check(self, info: DatasetInfo) -> None:
        """Check that the set has enough images for the poison and its covers, and that the teacher fits the images."""
        check_room(self.budget(info), self.cover_count(info), info)
        registry.make("models", self.teacher).check(info)

    def trainings(self) -> tuple[Training, ...]:
        """One teacher for each share to choose from."""
        shares = () if self.alpha is not None else self.alphas
        return tuple(Training("teacher", ("lfd-adaptive", alpha, repr(self))) for alpha in shares)

    def training_work(self, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """The epochs of each teacher."""
        return tuple(Work(self.teacher_epochs * info.train, model=self.teacher) for _ in self.trainings())

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw the noise, and choose how strongly to blend it in.

        Returns:
            ``noise`` uint8 (1, H, W) and ``alpha`` float64 (1,). If alpha was chosen, also three arrays (len(alphas),):
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
        """A trial set like the final one but with other images poisoned, and positions of its poison and its covers."""
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
        """Mix the noise in: with the prepared alpha in training images, with ``alpha_test`` in test images."""
        from benchbd.attacks._pixels import mix

        alpha = self.alpha_test if context.split == "test" else float(context.trigger["alpha"][0])
        return mix(images, context.trigger["noise"], alpha)

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of further training images that carry the trigger and keep their label."""
        return covers_of(self.cover_ratio, self.rate, info)
