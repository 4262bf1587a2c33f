"""The base class of attacks, and what an attack is handed and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.plugins.component import Component
from benchbd.plugins.training import Training

if TYPE_CHECKING:
    import numpy as np
    import torch

    from benchbd.plugins.handles import Workshop


class Budget(NamedTuple):
    """How many training images an attack poisons, and of how many it may choose."""

    count: int  # type: ignore[assignment]
    pool: int


class StampContext(NamedTuple):
    """What ``Attack.stamp`` is told beside the images.

    Attributes:
        split: ``train`` (poisoned training images) or ``test`` (triggered test images).
        indices: int64 (N,), each image's position in its split. For drawing anything per image.
        trigger: the arrays that ``prepare`` returned, by name.
        seed: seed of everything drawn for the trigger.
    """

    split: Literal["train", "test"]
    indices: np.ndarray
    trigger: Mapping[str, np.ndarray]
    seed: int


BUDGET = ("rate", "rate_of", "pool")
"""Parameters of an attack that say how many images are poisoned, and of which; triggers are stored without them."""


def share_of(rate: float, count: int) -> int:
    """The whole number of images in a share of ``count``, rounded down.

    0.29 of 50,000 is 14,500, although the product of the two floats is a hair less.
    """
    return int(rate * count + 1e-9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(Component):
    """A poisoning attack: which training images, what is written into them, which label they carry.

    Sources of conventions: target class and ratios, LfD (2024) section 5.1 and Table 1.

    Required:
        stamp(images, context): write the trigger into images.

    Optional:
        prepare(workshop): draw or train the trigger first. Default: there is nothing to prepare.
        trainings(): what ``prepare`` trains. Default: nothing.
        check(info): raise ``Impossible`` where the attack does not apply. Default: where :meth:`budget` does.
        budget(info, class_counts): how many images are poisoned, out of how many. Default: from rate, rate_of and pool.
        resolved_target(info): the target class. Default: the parameter, or the data set's usual one.
        target_of(label, info): the target of one class, for attacks with several. Default: ``resolved_target``.
        relabel(labels, targets, context): labels of poisoned images. Default: their targets; their own if clean-label.
        cover_count(info): how many further images are changed and keep their labels. Default: none.
        cover(images, partners, context): change these. Default: ``stamp``.
        clean_label: only images of the target class are poisoned, and no label changes. Default: False.
        poisons: the attack poisons something. Default: True.
        prepared_from_poison: ``prepare`` looks at which images are poisoned. Default: False.
        prepared_from_budget: ``prepare`` looks at how many images are poisoned. Default: False.
        smoke: parameters under which the attack takes seconds. Default: the usual ones.
    """

    kind: ClassVar[str] = "attacks"
    clean_label: ClassVar[bool] = False
    """Clean-label attacks poison images of the target class only and never change a label."""
    poisons: ClassVar[bool] = True
    """False for the ``none`` row alone."""
    prepared_from_poison: ClassVar[bool] = False
    """True when ``prepare`` looks at which images are poisoned (then it cannot be shared between seeds)."""
    prepared_from_budget: ClassVar[bool] = False
    """True when ``prepare`` looks at how many images are poisoned (then it cannot be shared between rates)."""

    target: int | None = None
    """Class that triggered images are to be taken for; the data set's usual one where not given."""
    rate: float = 0.1
    """Share of images poisoned: of the whole training set, or of the target class (see rate_of)."""
    rate_of: Literal["set", "class"] = "set"
    """What rate is a share of. Clean-label attacks may use either, the others the set."""
    pool: Literal["all", "non-target"] = "all"
    """Images a dirty-label attack draws from: all of them (ABL's convention), or only other classes."""
    trigger_seed: int = 0
    """Seed of what is drawn or trained for the trigger; one trigger serves all seeds of a matrix, as in papers."""

    def resolved_target(self, info: DatasetInfo) -> int:
        """The target class on this data set."""
        return info.target if self.target is None else self.target

    def target_of(self, label: int, info: DatasetInfo) -> int:
        """The class that images of class ``label`` are to be taken for once they carry the trigger.

        All-to-all attacks override it. Success is measured on images that are to be taken for another than their own.
        """
        return self.resolved_target(info)

    def relabel(self, labels: np.ndarray, targets: np.ndarray, context: StampContext) -> np.ndarray:
        """The labels that poisoned training images carry, int64 (N,): their targets, or their own if clean-label.

        Args:
            labels: int64 (N,), their true ones.
            targets: int64 (classes,), what :meth:`target_of` says of each class.
            context: as for :meth:`stamp`.
        """
        return labels if self.clean_label else targets[labels]

    def budget(self, info: DatasetInfo, class_counts: tuple[int, ...] | None = None) -> Budget | None:
        """Number of images to poison, or None where class counts are needed and not yet known.

        Raises:
            Impossible: the numbers cannot be met; the message carries them.
            UsageError: a number means nothing on any data set.
        """
        if not self.poisons:
            return Budget(0, info.train)
        target = self.resolved_target(info)
        if target < 0:
            raise UsageError(f"attack {self.name!r}: target is a class, from 0 on, not {target}")
        if not 0.0 < self.rate <= 1.0:
            raise UsageError(f"attack {self.name!r}: rate is a share in (0, 1], such as 0.1, not {self.rate:g}")
        if target >= info.classes:
            raise Impossible(f"target class {target} does not exist: classes are 0..{info.classes - 1}")
        counts = class_counts or info.class_counts
        own = sum(n for label, n in enumerate(counts or ()) if self.target_of(label, info) == label)
        if not self.clean_label:
            if self.rate_of == "class":
                raise Impossible("rate_of=class is for clean-label attacks; this one relabels images of every class")
            count = share_of(self.rate, info.train)
            if self.pool == "all":
                pool = info.train
            elif counts is None:
                return None
            else:
                pool = info.train - own
        elif counts is None:
            return None
        else:
            pool = own
            count = share_of(self.rate, info.train if self.rate_of == "set" else pool)
        if count < 1:
            raise Impossible(f"rate {self.rate} poisons no image ({pool} to choose from)")
        if count > pool:
            share = pool / info.train
            raise Impossible(
                f"{count} images to poison ({self.rate:.2%} of {info.train}) but only {pool} to choose from "
                f"({share:.2%} of the set); lower rate or say rate_of=class"
            )
        return Budget(count, pool)

    def check(self, info: DatasetInfo) -> None:
        """Raise :class:`Impossible` where this attack cannot be carried out on such a data set."""
        self.budget(info)

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Make what must be drawn or trained first (trigger patterns, generators). Memoised by the harness.

        Returns:
            Arrays by name; stored with their sha256 and handed to :meth:`stamp`.
        """
        return {}

    def trainings(self) -> tuple[Training, ...]:
        """The trainings that :meth:`prepare` needs, for the plan's counts and for the order of cells.

        They use the clean set and ``trigger_seed``: :data:`UNDEFENDED` is the clean row's undefended model.
        """
        return ()

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the trigger into images.

        Args:
            images: uint8 (N, 3, H, W), not to be changed in place.
            context: split, positions, prepared arrays and seed.

        Returns:
            uint8 (N, 3, H, W).
        """
        raise NotImplementedError

    def cover_count(self, info: DatasetInfo) -> int:
        """How many training images, beside the poisoned ones, :meth:`cover` changes; they keep their labels."""
        return 0

    def cover(self, images: torch.Tensor, partners: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Change training images that keep their labels. Default: stamp them like poison.

        Args:
            images: uint8 (N, 3, H, W), not to be changed in place.
            partners: uint8 (N, 3, H, W), for each image another one of the set, whose trigger it may carry.
            context: as for :meth:`stamp`.

        Returns:
            uint8 (N, 3, H, W).
        """
        return self.stamp(images, context)
