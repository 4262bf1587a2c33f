"""The plugin interface: a plugin is a decorated Dataset, Attack, Defense or Model class in a file of its own.

A plugin's annotated fields are its parameters (see :mod:`benchbd.core.params`). The decorator turns the class into a
frozen keyword-only dataclass and sets its name and version. This module and all built-in plugin files import torch only
inside methods, so that planning and listing stay instant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from benchbd import deprecated
from benchbd.core.images import DatasetInfo, Images, Normalisation
from benchbd.errors import Impossible, UsageError
from benchbd.plugins.attack import BUDGET, Attack, Budget, StampContext, share_of
from benchbd.plugins.component import KINDS, Component
from benchbd.plugins.training import UNDEFENDED, Training, Work, usual_work

if TYPE_CHECKING:
    import os

    import numpy as np
    from torch import nn

    from benchbd.core.recipe import Recipe
    from benchbd.engine import TrainingLoop
    from benchbd.plugins.handles import Lab, Workbench
    from benchbd.plugins.train_set import TrainSet
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
    "Work",
    "attack",
    "dataset",
    "defense",
    "model",
    "share_of",
]

NO_ATTACK = "none"
"""Name of the attack that poisons nothing. Its row is the clean row."""
NO_DEFENSE = "none"
"""Name of the defense that only trains the undefended model on the poisoned set."""

T = TypeVar("T", bound="type[Component]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset(Component):
    """A labelled image data set with a training and a test part.

    Required:
        info(): sizes and classes of the data set, without reading images.
        load(split, root): read the training or the test part.

    Optional:
        missing(root): one line that says which files to put where, or None. Default: None.
        input_files(root): the files that load reads, to notice that they changed. Default: unknown.
        normalisation: mean and standard deviation of each channel. Default: 0.5 and 0.5.
        class_names: names of the classes. Default: their numbers.
        source: origin, licence and citation. Default: empty.
        smoke: parameters with which the data set is small. Default: no changes.
        spellings: other names of parameters, by what users write. Default: none.
        younger: parameters that were added without a new version, for stable IDs. Default: none.
    """

    kind: ClassVar[str] = "datasets"
    normalisation: ClassVar[Normalisation] = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """Mean and standard deviation of each channel, applied as the first layer of every model."""
    class_names: ClassVar[tuple[str, ...]] = ()
    """Names of the classes, in the order of their labels."""
    source: ClassVar[str] = ""
    """Origin, licence and citation of the images."""

    def info(self) -> DatasetInfo:
        """Sizes and classes of the data set, without reading images. Must be cheap and must not import torch."""
        raise NotImplementedError

    def missing(self, root: str | None) -> str | None:
        """One line that says which files to put where, or None if the data is there or :meth:`load` can get it."""
        return None

    def input_files(self, root: str | None) -> Sequence[str | os.PathLike[str]]:
        """Paths of all files that decide what :meth:`load` returns for both parts; empty if they are unknown.

        A record keeps a digest of their contents. Plans compare it with the files without reading images, so this must
        not import torch. May raise :class:`UsageError` if files are missing.
        """
        return ()

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Read one part. ``root`` is the folder from ``--data`` or ``BENCHBD_DATA`` (None: the user's cache).

        Raises:
            UsageError: files are missing or unreadable; the message says which and where to put them.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defense(Component):
    """A training-time defense: it uses the lab to train a model on a poisoned training set.

    Required:
        train(lab): run the defense and return the model to evaluate.

    Optional:
        trainings(attack): trainings of one cell, for the plan. Default: one full training of its own.
        training_work(attack, recipe, info): how much each of the trainings computes, for estimates of time.
            Default: the recipe on the whole set for full trainings and feature models, unknown for others.
        timed_loop(): the training loop whose speed a plan measures for ``Work(loop=...)``. Default: none.
        retries(): how often a training may be repeated, by kind, for the plan. Default: never.
        packed_models(): specs of the models that the defense packs, to refuse unfit ones early. Default: none.
        check(info, attack): raise ``Impossible`` if the defense does not apply. Default: it always applies.
        missing(): one line that says which file of the user's is missing, or None. Default: None.
        input_files(): the user's files that train reads, to notice that they changed. Default: none.
        needs: what the lab provides besides the poisoned set, ``clean`` or ``truth``. Default: nothing.
        clean_share: share of the clean training set that ``needs = ("clean",)`` provides. Default: 0.05.
        clean_fraction(): the same share, if it depends on a parameter. Default: ``clean_share``.
        control: whether the defense is a control, shown below the line in the leaderboard. Default: False.
        other_architecture: whether the returned model may be another than the row's. Default: False.
        test_transform: whether the returned model may change test images and the meaning of outputs. Default: False.
        runs_program: whether train runs a program that a parameter names; benchbd verify runs no such cell. Default:
            False.
        teacher_losses(bench, data, first): losses by which the defense tells poison from clean samples, for attacks
            on it. Default: it has no teacher.
        among(defenses): this defense, completed with what it takes from its matrix block. Default: itself.
        smoke: parameters with which the defense runs in seconds. Default: no changes.
        spellings: other names of parameters, by what users write. Default: none.
        younger: parameters that were added without a new version, for stable IDs. Default: none.
    """

    kind: ClassVar[str] = "defenses"
    needs: ClassVar[tuple[str, ...]] = ()
    """``clean`` (a share of clean training images) or ``truth`` (which samples are poisoned; controls only).

    The leaderboard prints it.
    """
    control: ClassVar[bool] = False
    """Whether the defense is a control, which sees the truth or imitates a defense at random.

    The leaderboard shows controls below the line.
    """
    other_architecture: ClassVar[bool] = False
    """Whether :meth:`train` may return a model of another architecture than the row's, as a distillation does.

    The record's notes name that architecture, and the tables show it.
    """
    test_transform: ClassVar[bool] = False
    """Whether :meth:`train` may return a model with a test transform (:meth:`benchbd.Lab.with_test_transform`).

    It is applied to every test image, with the trigger and without it. The record keeps it, and the tables mark it.
    """
    runs_program: ClassVar[bool] = False
    """Whether :meth:`train` runs a program that a parameter names.

    ``benchbd verify`` never runs such a cell of a stranger's record.
    """
    clean_share: ClassVar[float] = 0.05
    """Share of the clean training set that the lab provides if ``needs`` includes ``clean``."""

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Raise :class:`Impossible` if this defense cannot run on this data set or against this attack."""

    def missing(self) -> str | None:
        """One line that says which file of the user's, or which package, is missing; None if nothing is."""
        return None

    def input_files(self) -> Sequence[str | os.PathLike[str]]:
        """Paths of all files of the user's that :meth:`train` reads; empty if there are none.

        A record keeps a digest of their contents, which plans compare with the files. This must not import torch. May
        raise :class:`UsageError` if files are missing.
        """
        return ()

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The trainings of one cell with this attack, which the plan counts. Default: one full training of its own."""
        return (Training("full", (self.name, *sorted((k, str(v)) for k, v in self.params().items()))),)

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work | None, ...]:
        """The work of each training in :meth:`trainings`, in their order; None where it is unknown.

        Estimates of time use it. It is not part of the defense's source digest.
        """
        return tuple(usual_work(training, recipe, info) for training in self.trainings(attack))

    def timed_loop(self) -> tuple[TrainingLoop, Mapping[str, Any]] | None:
        """The training loop that :class:`Work` names as ``loop``, and the changes of the recipe that it trains with.

        A plan measures its speed in a process of its own, for a few seconds and on noise. Needed only for a loop whose
        images take clearly more or less time than those of the usual training. It is not part of the defense's source
        digest unless :meth:`train` calls it.
        """
        return None

    def retries(self) -> dict[str, int]:
        """Largest number of repeats of each training in :meth:`trainings`, by kind, for the plan.

        Override it if the defense repeats a failed training with another initialisation.
        """
        return {}

    def packed_models(self) -> tuple[str, ...]:
        """Specs of the models that :meth:`train` gives to ``lab.train_packed``.

        ``plan``, ``validate`` and ``run`` refuse a model that cannot be packed before anything trains, and so does the
        cell. Leave out a model that :meth:`train` can do without packing. It is not part of the defense's source
        digest.
        """
        return ()

    def clean_fraction(self) -> float:
        """Share of the clean training set, in (0, 1], that the lab provides if ``needs`` includes ``clean``."""
        return self.clean_share

    def teacher_losses(self, bench: Workbench, data: TrainSet, first: int = 0) -> np.ndarray | None:
        """The losses by which this defense tells poison from clean samples, from its teachers on another set.

        An attack on this defense calls it in its workshop. It trains what :meth:`trainings` declares as ``teacher``.

        Args:
            bench: the workshop of the attack, or the lab.
            data: the samples, such as a trial poisoning.
            first: ``repeat`` of the first teacher in ``bench.train``; the others follow.

        Returns:
            float64 (N,), in the order of ``data``; None if the defense has no teacher.
        """
        return None

    def among(self, defenses: Sequence[Defense]) -> Defense:
        """This defense, with parameters set that depend on the other defenses of its matrix block.

        Afterwards, the cell's identity no longer depends on the rest of the matrix.

        Args:
            defenses: all defenses of the block, including this one.

        Raises:
            UsageError: the block does not determine a parameter.
        """
        return self

    def train(self, lab: Lab) -> TrainedModel:
        """Run the defense and return the model to evaluate."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model(Component):
    """A network architecture.

    Required:
        build(classes, size): build a freshly initialised network.

    Optional:
        check(info): raise ``Impossible`` if the network does not fit the images. Default: it fits all.
        missing(): one line that says which file of weights, or which package, is missing, or None. Default: None.
        input_files(): the files of weights that build reads, to notice that they changed. Default: unknown.
        build_to_load(classes, size): build a network whose whole state is loaded afterwards. Default: ``build``.
        normalisation(): mean and standard deviation that the network's images need. Default: those of the data set.
        packages: packages that the network's code comes from, whose versions enter keys of trainings. Default: none.
        smoke: parameters with which the model runs in seconds. Default: no changes.
        spellings: other names of parameters, by what users write. Default: none.
        younger: parameters that were added without a new version, for stable IDs. Default: none.

    Required of the network that ``build`` returns:
        features(x): penultimate features (B, D) of images float (B, 3, H, W), which the harness has normalised.
        head: the final linear layer, from D features to the logits.

    Optional for the network that ``build`` returns:
        last_convolution(): the convolution whose filters correspond one to one to the features, and the batch norm
            after it or None. Default: unknown, so filters cannot be pruned.
        library_names(): the network's own names of weights by those that a library gives them. Default: none.
        unused_names: how names of the library's weights begin that the network does without. Default: none.
        initialise_from(x): set weights from some of the training images, float (M, 3, H, W), which the harness has
            normalised; called on a fresh network before its training, on the CPU. The key of the training's data covers
            them. Default: nothing.
    """

    kind: ClassVar[str] = "models"
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages that the network's code comes from. A training is not used again with another version of them."""

    def check(self, info: DatasetInfo) -> None:
        """Raise :class:`Impossible` if the network does not fit the images of this data set.

        May raise :class:`UsageError` if a file of weights does not fit the network.
        """

    def missing(self) -> str | None:
        """One line that says which file of weights, or which package, is missing; None if nothing is."""
        return None

    def input_files(self) -> Sequence[str | os.PathLike[str]]:
        """Paths of all files, such as pretrained weights, that :meth:`build` reads; empty if there are none.

        A record keeps a digest of their contents, which plans compare with the files. This must not import torch.
        """
        return ()

    def build(self, classes: int, size: int) -> nn.Module:
        """Build a freshly initialised network. The caller has seeded torch's global generator.

        Args:
            classes: number of classes.
            size: image height and width in pixels.
        """
        raise NotImplementedError

    def build_to_load(self, classes: int, size: int) -> nn.Module:
        """Build a network whose whole state is loaded afterwards, so that no file of weights need be read.

        Args:
            classes: number of classes.
            size: image height and width in pixels.
        """
        return self.build(classes, size)

    def normalisation(self) -> Normalisation | None:
        """Mean and standard deviation that the network's images need, as pretrained weights may do.

        None: those of the data set.
        """
        return None


def _decorator(base: type[Component], name: str, version: int) -> Callable[[T], T]:
    def wrap(cls: T) -> T:
        if not (isinstance(cls, type) and issubclass(cls, base)):
            raise TypeError(f"@{base.__name__.lower()}({name!r}) needs a subclass of {base.__name__}, not {cls!r}")
        if version < 1:
            raise TypeError(f"{name!r}: version must be 1 or more")
        plugin: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        theirs = {field.name for field in dataclasses.fields(base)}
        taken = [f.name for f in dataclasses.fields(plugin) if hasattr(base, f.name) and f.name not in theirs]
        if taken:
            raise TypeError(
                f"{name!r}: {taken[0]!r} cannot be a parameter: it is an attribute of every plugin; rename it"
            )
        plugin.name, plugin.version = name, version
        if base is Attack and plugin.trainings is Attack.trainings:
            deprecated.adapt_attack(plugin, Training)
        if base is Defense and plugin.clean_fraction is Defense.clean_fraction:
            deprecated.adapt_defense(plugin)
        return cast("T", plugin)

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
