"""What a plugin may be: a Dataset, an Attack, a Defense or a Model. One decorated class in one file.

A plugin's annotated fields are its parameters (see :mod:`benchbd.core.params`). The decorator turns the class into a
frozen keyword-only dataclass and sets its name and version. This module, and every built-in plugin file, imports torch
only inside methods, so that planning and listing stay instant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from benchbd import deprecated
from benchbd.core.images import DatasetInfo, Images, Normalisation
from benchbd.errors import Impossible, UsageError
from benchbd.plugins.attack import BUDGET, Attack, Budget, StampContext, share_of
from benchbd.plugins.component import KINDS, Component
from benchbd.plugins.training import UNDEFENDED, Training

if TYPE_CHECKING:
    from torch import nn

    from benchbd.plugins.handles import Lab
    from benchbd.plugins.trained import TrainedModel

__all__ = [
    "BUDGET",
    "KINDS",
    "NO_ATTACK",
    "NO_DEFENSE",
    "UNDEFENDED",
    "Attack",
    "Budget",
    "Component",
    "Dataset",
    "DatasetInfo",
    "Defense",
    "Images",
    "Impossible",
    "Model",
    "Normalisation",
    "StampContext",
    "Training",
    "UsageError",
    "attack",
    "dataset",
    "defense",
    "model",
    "share_of",
]

NO_ATTACK = "none"
"""Name of the attack that poisons nothing: its row is the clean one."""
NO_DEFENSE = "none"
"""Name of the defense that only trains the undefended model."""

T = TypeVar("T", bound="type[Component]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Component):
    """A labelled image data set with a training and a test part.

    Required:
        info(): sizes and classes, without reading images.
        load(split, root): read one part.

    Optional:
        missing(root): which files to put where, in one line. Default: nothing is missing.
        normalisation: mean and deviation of each channel. Default: 0.5 and 0.5.
        class_names: names of the classes. Default: their numbers.
        source: origin, licence and citation. Default: none is given.
        smoke: parameters under which the data set is small. Default: the usual ones.
    """

    kind: ClassVar[str] = "datasets"
    normalisation: ClassVar[Normalisation] = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """Mean and standard deviation of each channel, applied as the first layer of every model."""
    class_names: ClassVar[tuple[str, ...]] = ()
    """Names of the classes, by label."""
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defense(Component):
    """A training-time defense: makes a model out of a poisoned training set in the lab.

    Required:
        train(lab): run the defense and return the model to be measured.

    Optional:
        trainings(attack): what one cell trains, for the plan. Default: one full training of its own.
        retries(): how often a training may be repeated, by kind, for the plan. Default: never.
        check(info, attack): raise ``Impossible`` where the defense does not apply. Default: it applies everywhere.
        needs: what the lab hands over beyond the poisoned set, ``clean`` or ``truth``. Default: nothing.
        clean_share: share of the clean training set that ``needs = ("clean",)`` hands over. Default: 0.05.
        clean_fraction(): the same share, where a parameter says it. Default: ``clean_share``.
        control: the defense is a control, below the line in the leaderboard. Default: False.
        among(defenses): the defense with the parameters that only its matrix block can tell. Default: itself.
        smoke: parameters under which the defense takes seconds. Default: the usual ones.
    """

    kind: ClassVar[str] = "defenses"
    needs: ClassVar[tuple[str, ...]] = ()
    """``clean`` (a share of clean training images) or ``truth`` (which samples are poisoned; controls only).

    The leaderboard prints it.
    """
    control: ClassVar[bool] = False
    """Controls stand below the line in the leaderboard: they see the truth, or imitate a defense at random."""
    clean_share: ClassVar[float] = 0.05
    """Share of the clean training set handed over where ``needs`` names ``clean``."""

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Raise :class:`Impossible` where this defense cannot run on such a data set or attack."""

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The trainings one cell asks for under an attack, for the plan's counts. Default: one full one of its own."""
        return (Training("full", (self.name, *sorted((k, str(v)) for k, v in self.params().items()))),)

    def retries(self) -> dict[str, int]:
        """How many more trainings of a kind each one of :meth:`trainings` may lead to, by kind, for the plan.

        For defenses that repeat a training that goes nowhere, with another initialisation.
        """
        return {}

    def clean_fraction(self) -> float:
        """Share of the clean training set, in (0, 1], that the lab hands over where ``needs`` names ``clean``."""
        return self.clean_share

    def among(self, defenses: Sequence[Defense]) -> Defense:
        """This defense with every parameter spelt out that depends on the other defenses of its matrix block.

        A cell's identity must not depend on what else stands in the matrix.

        Args:
            defenses: all defenses of the block, this one included.

        Raises:
            UsageError: the block leaves it open.
        """
        return self

    def train(self, lab: Lab) -> TrainedModel:
        """Run the defense and return the model to be measured."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Component):
    """A network family.

    Required:
        build(classes, size): a freshly initialised network.

    Optional:
        check(info): raise ``Impossible`` where the network does not fit such images. Default: it fits all.
        smoke: parameters under which the model takes seconds. Default: the usual ones.

    Required of the network that ``build`` returns:
        features(x): penultimate features (B, D) of images float (B, 3, H, W), which the harness has normalised.
        head: the final linear layer, from D features to the logits.

    Optional for the network that ``build`` returns:
        last_convolution(): the convolution whose filters become the features one by one, and the batch norm that
            follows it or None. Default: unknown, and filters cannot be pruned.
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
        if base is Attack and made.trainings is Attack.trainings:
            deprecated.adapt_attack(made, Training)
        if base is Defense and made.clean_fraction is Defense.clean_fraction:
            deprecated.adapt_defense(made)
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
