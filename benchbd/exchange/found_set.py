"""What a reader finds in a foreign folder, and its completion to a poisoned set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from benchbd.core.poisoned_set import MOST_CLASSES, UNKNOWN, CleanTest, PoisonedSet, TriggeredTest
from benchbd.errors import UsageError, agrees, counted
from benchbd.exchange.pixels import EXACT


class CleanData(NamedTuple):
    """The data set that a poisoned set was made from.

    Attributes:
        name: its spec.
        images: uint8 (N, 3, S, S), training images.
        labels: int64 (N,).
        test: its test images.
        classes: number of classes.
        class_names: names of the classes; may be empty.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    test: CleanTest
    classes: int
    class_names: tuple[str, ...] = ()


class Wishes(NamedTuple):
    """What a user says about a foreign set.

    Attributes:
        clean: the data set that it was made from, or None.
        target: the target class, or None.
        rounding: round images that are not whole numbers of 1/255.
        same_label: what changed samples with their true label are, ``poison`` or ``cover``; None if the files say it.
        size: height and width to which photos are resized.
    """

    clean: CleanData | None = None
    target: int | None = None
    rounding: bool = False
    same_label: str | None = None
    size: int = 32


@dataclasses.dataclass(eq=False)
class FoundSet:
    """The arrays of a foreign folder; None where it lacks them. Shapes are those of :class:`PoisonedSet`.

    Attributes:
        images: training images.
        labels: their labels.
        poison: which samples are poisoned.
        cover: which samples are covers.
        true_labels: labels before poisoning; UNKNOWN where not known.
        originals: clean images of poison and covers.
        triggered: images, true labels, and targets and places or None.
        test: clean test images.
        classes: number of classes.
        class_names: names of the classes.
        targets: the target of each class, where the files state it apart from the labels.
        moved: largest distance by which rounding moved a value, in 1/255.
        notes: facts for the source.
    """

    images: np.ndarray
    labels: np.ndarray
    poison: np.ndarray
    cover: np.ndarray | None = None
    true_labels: np.ndarray | None = None
    originals: np.ndarray | None = None
    triggered: tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None] | None = None
    test: CleanTest | None = None
    classes: int | None = None
    class_names: tuple[str, ...] = ()
    targets: tuple[int, ...] | None = None
    moved: float = 0.0
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)


def complete(found: FoundSet, wishes: Wishes, source: dict[str, Any]) -> PoisonedSet:
    """The poisoned set of what was found, completed by the data set that it was made from.

    Args:
        found: the arrays of the folder.
        wishes: the data set and the target.
        source: where the set comes from.

    Raises:
        UsageError: the arrays do not fit each other or the data set, or the target is not known.
    """
    clean, count = wishes.clean, len(found.images)
    if not found.poison.any():
        raise UsageError(f"none of the {counted(count, 'training sample')} is marked as poison, so there is no attack")
    cover = np.zeros(count, bool) if found.cover is None else found.cover
    if clean is not None and clean.images.shape != found.images.shape:
        raise UsageError(f"training images are {found.images.shape}, those of {clean.name} are {clean.images.shape}")
    true = _true_labels(found, cover, clean)
    classes = clean.classes if clean else found.classes or _classes(found, true)
    _check_ranges(found, true, classes, clean.test if clean else found.test)
    if wishes.target is not None and not 0 <= wishes.target < classes:
        raise UsageError(f"--target {wishes.target}: classes are 0..{classes - 1}")
    targets = _targets(found, true, classes, wishes.target)
    touched = found.poison | cover
    test = clean.test if clean else found.test
    rounding = EXACT if not found.moved else f"rounded to 1/255, which moved values by up to {found.moved:.3g}/255"
    made = PoisonedSet(
        images=found.images,
        labels=found.labels,
        poison=found.poison,
        cover=cover,
        true_labels=true,
        classes=classes,
        targets=targets,
        originals=found.originals if clean is None else clean.images[touched],
        triggered=_triggered(found, targets, test),
        test=test,
        class_names=(clean.class_names if clean else ()) or found.class_names,
        source={**source, "rounding": rounding, "dataset": clean.name if clean else None, **found.notes},
    )
    made._check()
    _check_aims(made)
    if clean is not None:
        other = (clean.images != found.images).reshape(count, -1).any(1) & ~touched
        if other.any():
            number = int(other.sum())
            them = f"{counted(number, 'image')} that {agrees(number, 'is', 'are')} not marked as poison"
            raise UsageError(
                f"{them} {agrees(number, 'differs', 'differ')} from those of {clean.name}, the first "
                f"at position {int(np.flatnonzero(other)[0])}; is it the data set that the set was made from?"
            )
    return made


def _true_labels(found: FoundSet, cover: np.ndarray, clean: CleanData | None) -> np.ndarray:
    known = np.where(found.poison, UNKNOWN, found.labels) if found.true_labels is None else found.true_labels
    if clean is None:
        return np.asarray(known, np.int64)
    wrong = (known != UNKNOWN) & (known != clean.labels)
    if wrong.any():
        first, number = int(np.flatnonzero(wrong)[0]), int(wrong.sum())
        raise UsageError(
            f"{counted(number, 'label')} {agrees(number, 'differs', 'differ')} from those of {clean.name}, "
            f"the first at position {first} ({known[first]}, not {clean.labels[first]}); "
            "is it the data set that the set was made from?"
        )
    return clean.labels


def _classes(found: FoundSet, true: np.ndarray) -> int:
    parts = [found.labels, true, *(found.triggered[1:3] if found.triggered else ())]
    parts += [found.test.labels] if found.test else []
    return 1 + max(int(part.max(initial=0)) for part in parts if part is not None)


def _targets(found: FoundSet, true: np.ndarray, classes: int, given: int | None) -> tuple[int, ...]:
    """The target of each class: as the files state it, else as given, else as the poison's labels say."""
    stated = _stated(found, true, classes)
    if stated is not None:
        if given is not None and set(stated) != {given}:
            raise UsageError(f"--target {given}: the files state {_listed(stated)}; leave --target out")
        return stated
    before, after = true[found.poison], found.labels[found.poison]
    if given is None:
        by_class = _by_class(before, after, classes)
        if by_class is None:
            count = len(set(after.tolist()))
            raise UsageError(f"poison has {counted(count, 'label')}, so the target is not known; name it with --target")
        return by_class
    if given not in after:
        raise UsageError(f"--target {given}: poison has other labels only ({_listed(after.tolist())}); leave it out")
    return (given,) * classes


def _stated(found: FoundSet, true: np.ndarray, classes: int) -> tuple[int, ...] | None:
    """The targets that the files state; None if they leave them open."""
    if found.targets is not None:
        return found.targets
    before, aims = (None, None) if found.triggered is None else found.triggered[1:3]
    if before is None or aims is None or not len(aims):
        return None
    by_class = _by_class(before, aims, classes)
    if by_class is None:
        known = found.poison & (true != UNKNOWN)
        by_class = _by_class(np.r_[before, true[known]], np.r_[aims, found.labels[known]], classes)
    if by_class is None:
        raise UsageError(f"triggered test images have the targets {_listed(aims.tolist())}, not one for each class")
    return by_class


def _by_class(before: np.ndarray, after: np.ndarray, classes: int) -> tuple[int, ...] | None:
    """The target of each class, if all have the same one, or all have one and no class lacks it."""
    pairs = {(int(b), int(a)) for b, a in zip(before, after, strict=True)}
    aims = {a for _, a in pairs}
    if len(aims) == 1:
        return (aims.pop(),) * classes
    by_class = dict(pairs)
    if len(pairs) == len(by_class) == classes and set(by_class) == set(range(classes)):
        return tuple(by_class[label] for label in range(classes))
    return None


def _listed(classes: Iterable[int]) -> str:
    known = sorted(set(classes))
    return ", ".join(map(str, known[:5])) + (", ..." if len(known) > 5 else "")


def _check_ranges(found: FoundSet, true: np.ndarray, classes: int, test: CleanTest | None) -> None:
    """Refuse labels beyond the classes before they number anything."""
    if not 2 <= classes <= MOST_CLASSES:
        raise UsageError(f"there are {classes} classes; there must be 2 to {MOST_CLASSES:,}")
    shown = found.triggered or (None, None, None, None)
    for what, labels, least in (
        ("training labels", found.labels, 0),
        ("true labels", true, UNKNOWN),
        ("true labels of triggered test images", shown[1], 0),
        ("targets of triggered test images", shown[2], 0),
        ("labels of the clean test images", test.labels if test else None, 0),
    ):
        if labels is not None and len(labels) and not least <= labels.min() <= labels.max() < classes:
            raise UsageError(f"{what} go from {labels.min()} to {labels.max()}; classes are 0..{classes - 1}")


def _check_aims(made: PoisonedSet) -> None:
    """Refuse triggered images whose targets the poison does not teach: no poison has such a label."""
    if made.triggered is None:
        return
    taught, aims = made.labels[made.poison], set(made.triggered.targets.tolist())
    before = made.true_labels[made.poison]
    # With a target for each class, little poison may leave out some classes, but must not contradict the others.
    agrees = len(aims) > 1 and (before != UNKNOWN).all() and (np.array(made.targets)[before] == taught).all()
    if (alien := aims - set(taught.tolist())) and not agrees:
        labels = _listed(taught.tolist())
        raise UsageError(f"triggered test images have the target {min(alien)}, but poison has other labels ({labels})")


def _triggered(found: FoundSet, targets: tuple[int, ...], test: CleanTest | None) -> TriggeredTest | None:
    if found.triggered is None or not len(found.triggered[0]):
        return None
    images, true, aims, places = found.triggered
    aims = np.array(targets, np.int64)[true] if aims is None else aims
    if places is None:
        places = _places(true, np.array(targets, np.int64), test)
    return TriggeredTest(images, true, aims, places)


def _places(true: np.ndarray, targets: np.ndarray, test: CleanTest | None) -> np.ndarray:
    """Positions of the originals, if the labels leave one reading: all test images, or all of other classes."""
    if test is not None:
        everything = np.arange(len(test.labels), dtype=np.int64)
        others = np.flatnonzero(test.labels != targets[test.labels]).astype(np.int64)
        for places in (everything, others):
            if np.array_equal(test.labels[places], true):
                return places
    return np.full(len(true), UNKNOWN, np.int64)
