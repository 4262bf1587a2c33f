"""What a plugin may be: a Dataset, an Attack, a Defense or a Model. One decorated class in one file.

A plugin's annotated fields are its parameters (see :mod:`benchbd.core.params`). The decorator turns the class into a
frozen keyword-only dataclass and sets its name and version. This module, and every built-in plugin file, imports torch
only inside methods, so that planning and listing stay instant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar, cast

from benchbd.core.images import DatasetInfo, Images, Normalisation
from benchbd.errors import Impossible, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from benchbd.plugins.handles import Lab, Workshop
    from benchbd.plugins.trained import TrainedModel

T = TypeVar("T", bound="type[Component]")
KINDS = ("datasets", "attacks", "defenses", "models")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """Base of all plugins. ``name`` and ``version`` are set by the decorator.

    ``version`` is part of a cell's identity: raise it when a change alters results.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 0
    kind: ClassVar[str] = ""
    smoke: ClassVar[dict[str, Any]] = {}
    """Parameters under which it runs in seconds, for ``--smoke`` and the contract tests."""

    def params(self) -> dict[str, Any]:
        """Every parameter by name, ready for JSON (tuples become lists)."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Component):
    """A labelled image data set with a training and a test part."""

    kind: ClassVar[str] = "datasets"
    normalisation: ClassVar[Normalisation] = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    class_names: ClassVar[tuple[str, ...]] = ()
    source: ClassVar[str] = ""
    """Where the images come from, how they are licensed and cited."""

    def info(self) -> DatasetInfo:
        """Sizes and classes, without reading images. Must be cheap and must not import torch."""
        raise NotImplementedError

    def missing(self, root: str | None) -> str | None:
        """One line that says which files to put where, or None when the data is there or can be had."""
        return None

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Read one part. ``root`` is the folder given by ``--data`` / ``BENCHBD_DATA`` (None: the user's cache).

        Raises:
            UsageError: files are missing or unreadable; the message says which and where to put them.
        """
        raise NotImplementedError


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

    def trains(self) -> tuple[str, ...]:
        """Names of the trainings that ``prepare`` needs, for the plan (``surrogate`` = the clean undefended model)."""
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


class Training(NamedTuple):
    """One training a defense will ask for, named for the plan.

    Attributes:
        kind: ``full`` (the base recipe on the student), ``feature-model``, ``teacher`` or ``fine-tune``.
        shared: what besides the row and seed determines it; equal tuples are computed once.
    """

    kind: Literal["full", "feature-model", "teacher", "fine-tune"]
    shared: tuple[Any, ...]


UNDEFENDED = Training("full", ("undefended",))
"""The base recipe on the whole poisoned set: the ``none`` cell's model, where fine-pruning starts too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defense(Component):
    """A training-time defense: makes a model out of a poisoned training set at the lab bench.

    ``needs`` declares what the lab hands over beyond the poisoned set: ``clean`` (a share ``clean_share`` of clean
    training images) or ``truth`` (which samples are poisoned; controls only). The leaderboard prints it.
    """

    kind: ClassVar[str] = "defenses"
    needs: ClassVar[tuple[str, ...]] = ()
    control: ClassVar[bool] = False
    """Controls stand below the line in the leaderboard: they see the truth, or imitate a defense at random."""
    clean_share: ClassVar[float] = 0.05
    """Share of the clean training set handed over where ``needs`` names ``clean``."""

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Raise :class:`Impossible` where this defense cannot run on such a data set or attack."""

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The trainings one cell asks for under an attack, for the plan's counts. Default: one full one of its own."""
        return (Training("full", (self.name, *sorted((k, str(v)) for k, v in self.params().items()))),)

    def train(self, lab: Lab) -> TrainedModel:
        """Run the defense and return the model to be measured."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Component):
    """A network family. ``build`` returns a module with ``features(x) -> (B, D)`` and a final linear ``head``.

    Input is float (B, 3, H, W), already normalised by the wrapper the harness puts around every model.
    """

    kind: ClassVar[str] = "models"

    def check(self, info: DatasetInfo) -> None:
        """Raise :class:`Impossible` where the network does not fit such images."""

    def build(self, classes: int, size: int) -> nn.Module:
        """A freshly initialised network (torch's global generator is seeded by the caller)."""
        raise NotImplementedError


def _decorator(base: type[Component], name: str, version: int) -> Callable[[T], T]:
    def wrap(cls: T) -> T:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(f"@{base.__name__.lower()}({name!r}) needs a subclass of {base.__name__}, not {cls!r}")
        if version < 1:
            raise TypeError(f"{name!r}: version must be 1 or more")
        made: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        made.name, made.version = name, version
        return cast("T", made)

    return wrap


def dataset(name: str, *, version: int) -> Callable[[T], T]:
    """Register a :class:`Dataset` under a name."""
    return _decorator(Dataset, name, version)


def attack(name: str, *, version: int) -> Callable[[T], T]:
    """Register an :class:`Attack` under a name."""
    return _decorator(Attack, name, version)


def defense(name: str, *, version: int) -> Callable[[T], T]:
    """Register a :class:`Defense` under a name."""
    return _decorator(Defense, name, version)


def model(name: str, *, version: int) -> Callable[[T], T]:
    """Register a :class:`Model` under a name."""
    return _decorator(Model, name, version)
