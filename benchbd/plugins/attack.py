"""The base class of attacks, and the types that it uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError, counted
from benchbd.plugins.component import Component
from benchbd.plugins.training import Training, Work, usual_work

if TYPE_CHECKING:
    import os

    import numpy as np
    import torch

    from benchbd.core.poisoned_set_file import PoisonedSetFile
    from benchbd.core.recipe import Recipe
    from benchbd.plugins.handles import Workshop


class Budget(NamedTuple):
    """Number of training images that an attack poisons, and number of images that it may choose from."""

    count: int  # type: ignore[assignment]
    pool: int


class StampContext(NamedTuple):
    """Information that ``Attack.stamp`` gets in addition to the images.

    Attributes:
        split: ``train`` (poisoned training images) or ``test`` (triggered test images).
        indices: int64 (N,), each image's position in its split. Use it to draw random numbers for each image.
        trigger: the arrays that ``prepare`` returned, by name.
        seed: seed of all random numbers that stamping draws.
    """

    split: Literal["train", "test"]
    indices: np.ndarray
    trigger: Mapping[str, np.ndarray]
    seed: int


BUDGET = ("rate", "rate_of", "pool")
"""Parameters that set the number of poisoned images and the images to choose from. Trigger keys leave them out."""


def share_of(rate: float, count: int) -> int:
    """The number of images in a share of ``count``, rounded down.

    0.29 of 50,000 is 14,500, although the product of the floats is slightly less.
    """
    return int(rate * count + 1e-9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack(Component):
    """A poisoning attack: it defines the images to poison, the trigger to write into them, and their labels.

    Target class and ratios follow LfD (2024), section 5.1 and Table 1.

    Required:
        stamp(images, context): write the trigger into images.

    Optional:
        prepare(workshop): draw or train the trigger. Default: prepares nothing.
        trainings(): trainings of ``prepare``. Default: none.
        training_work(recipe, info): how much each of the trainings computes, for estimates of time. Default: the recipe
            on the whole set for full trainings, unknown for others.
        retries(): how often a training may be repeated, by kind, for the plan. Default: never.
        consults(): other plugins whose code and parameters ``prepare`` depends on. Default: none.
        poison_facts(trigger): numbers about the poison for the record. Default: none.
        check(info): raise ``Impossible`` if the attack does not apply. Default: checks :meth:`budget`.
        budget(info, class_counts): numbers of images to poison and to choose from. Default: by rate, rate_of and pool.
        resolved_target(info): the target class. Default: the parameter ``target``, or the data set's target.
        target_of(label, info): the target of one class, for attacks with several. Default: ``resolved_target``.
        relabel(labels, targets, context): labels of poisoned images. Default: targets; unchanged if clean-label.
        cover_count(info): number of covers, further images that change but keep their labels. Default: 0.
        cover(images, partners, context): change the covers. Default: ``stamp``.
        clean_label: whether only images of the target class are poisoned and labels stay. Default: False.
        poisons: whether the attack poisons any images. Default: True.
        poisoned_set(root): the file of a poisoned set made elsewhere, which replaces ``stamp``. Default: None.
        input_files(root): the files that the attack reads, to notice that they changed. Default: none.
        missing(root): one line that says which file to put where, or None. Default: None.
        prepared_from_poison: whether ``prepare`` depends on which images are poisoned. Default: False.
        prepared_from_budget: whether ``prepare`` depends on how many images are poisoned. Default: False.
        smoke: parameters with which the attack runs in seconds. Default: no changes.
        spellings: other names of parameters, by what users write. Default: none.
        younger: parameters that were added without a new version, for stable IDs. Default: none.
    """

    kind: ClassVar[str] = "attacks"
    clean_label: ClassVar[bool] = False
    """Whether the attack poisons only images of the target class and never changes a label."""
    poisons: ClassVar[bool] = True
    """Whether the attack poisons any images; False only for ``none``."""
    prepared_from_poison: ClassVar[bool] = False
    """Whether ``prepare`` depends on which images are poisoned. If so, seeds cannot share a trigger."""
    prepared_from_budget: ClassVar[bool] = False
    """Whether ``prepare`` depends on how many images are poisoned. If so, rates cannot share a trigger."""

    target: int | None = None
    """Class that the attack wants triggered images to be classified as; by default the data set's target."""
    rate: float = 0.1
    """Share of images to poison: of the whole training set, or of the target class (see rate_of)."""
    rate_of: Literal["set", "class"] = "set"
    """What rate is a share of. Clean-label attacks can use either, other attacks only the set."""
    pool: Literal["all", "non-target"] = "all"
    """Images that a dirty-label attack chooses from: all (ABL's convention), or only those of other classes."""
    trigger_seed: int | None = 0
    """Seed for drawing or training the trigger. A number gives all seeds of a matrix one trigger, as in papers; None
    gives each seed its own, so that intervals hold the variance of triggers."""

    def resolved_target(self, info: DatasetInfo) -> int:
        """The target class on this data set."""
        return info.target if self.target is None else self.target

    def target_of(self, label: int, info: DatasetInfo) -> int:
        """The class that the attack wants triggered images of class ``label`` to be classified as.

        All-to-all attacks override this method. Attack success is measured on images whose target is not their class.
        """
        return self.resolved_target(info)

    def relabel(self, labels: np.ndarray, targets: np.ndarray, context: StampContext) -> np.ndarray:
        """The labels of poisoned training images. Default: their targets, or their true labels if clean-label.

        Args:
            labels: int64 (N,), their true labels.
            targets: int64 (classes,), the target of each class from :meth:`target_of`.
            context: as for :meth:`stamp`.

        Returns:
            int64 (N,).
        """
        return labels if self.clean_label else targets[labels]

    def budget(self, info: DatasetInfo, class_counts: tuple[int, ...] | None = None) -> Budget | None:
        """Number of images to poison, or None if it depends on class counts that are not known yet.

        Raises:
            Impossible: the data set cannot meet the parameters; the message gives the numbers.
            UsageError: a parameter is invalid for every data set.
        """
        if not self.poisons:
            return Budget(0, info.train)
        target = self.resolved_target(info)
        if target < 0:
            raise UsageError(f"attack {self.name!r}: target must be a class number of at least 0, not {target}")
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
                f"{counted(count, 'image')} to poison ({self.rate:.2%} of {info.train}) but only {pool} to choose from "
                f"({share:.2%} of the set); lower rate or use rate_of=class"
            )
        return Budget(count, pool)

    def check(self, info: DatasetInfo) -> None:
        """Raise :class:`Impossible` if this attack does not apply to this data set."""
        self.budget(info)

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw or train what stamping needs, such as trigger patterns or generators. The harness stores the result.

        Returns:
            Arrays by name, which the harness stores with their sha256 and passes to :meth:`stamp`.
        """
        return {}

    def trainings(self) -> tuple[Training, ...]:
        """The trainings that :meth:`prepare` runs. The plan counts them and orders cells by them.

        They use the clean set and a seed that no cell has. :data:`UNDEFENDED` is a model like that of the clean row
        without a defense, but with initial weights and a batch order of its own.
        """
        return ()

    def training_work(self, recipe: Recipe, info: DatasetInfo) -> tuple[Work | None, ...]:
        """The work of each training in :meth:`trainings`, in their order; None where it is unknown.

        Estimates of time use it. It is not part of the attack's source digest.
        """
        return tuple(usual_work(training, recipe, info) for training in self.trainings())

    def retries(self) -> dict[str, int]:
        """Largest number of repeats of each training in :meth:`trainings`, by kind, for the plan."""
        return {}

    def consults(self) -> tuple[Component, ...]:
        """Other plugins, such as a defense, whose code and parameters :meth:`prepare` depends on.

        A trigger that was prepared with other code of theirs is prepared again.
        """
        return ()

    def poison_facts(self, trigger: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Numbers about the poison for the record (``poison.measured``), which ``benchbd show`` prints.

        Args:
            trigger: the arrays that :meth:`prepare` returned, by name.

        Returns:
            Finite numbers by name.
        """
        return {}

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the trigger into images.

        Args:
            images: uint8 (N, 3, H, W). Do not change them in place.
            context: split, positions, prepared arrays and seed.

        Returns:
            uint8 (N, 3, H, W).
        """
        raise NotImplementedError

    def poisoned_set(self, root: str | None) -> PoisonedSetFile | None:
        """The file of a poisoned set made elsewhere; None if :meth:`stamp` makes the poison.

        The harness takes poison, covers and triggered test images from it and does not call :meth:`prepare`,
        :meth:`stamp`, :meth:`relabel` and :meth:`cover`. Only the header is read here; this must not import torch.

        Args:
            root: folder of the data sets.

        Raises:
            UsageError: the file is missing or is not a poisoned set.
        """
        return None

    def input_files(self, root: str | None) -> Sequence[str | os.PathLike[str]]:
        """Paths of all files that the attack reads; empty if there are none.

        A record keeps a digest of their contents, which plans compare with the files. This must not import torch.
        """
        return ()

    def missing(self, root: str | None) -> str | None:
        """One line that says which file to put where, or None if the attack has all files that it needs."""
        return None

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of covers: further training images that :meth:`cover` changes and that keep their labels."""
        return 0

    def cover(self, images: torch.Tensor, partners: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Change the covers, training images that keep their labels. Default: stamp them like poison.

        Args:
            images: uint8 (N, 3, H, W). Do not change them in place.
            partners: uint8 (N, 3, H, W), a different image of the set for each image, which may carry its trigger.
            context: as for :meth:`stamp`.

        Returns:
            uint8 (N, 3, H, W).
        """
        return self.stamp(images, context)


def poisoned_twice(attack: Attack, info: DatasetInfo) -> str | None:
    """Why an attack cannot poison a data set that is poisoned already; None if it can, or if it is that poison."""
    if info.poisoned and type(attack).poisoned_set is Attack.poisoned_set:
        return "the data set is poisoned already and the originals are not known; use the attack imported with its file"
    return None


def trigger_seed_of(attack: Attack, seed: int) -> int:
    """The seed of an attack's trigger in a cell with this seed."""
    return seed if attack.trigger_seed is None else attack.trigger_seed
