"""Plain ``.npz`` files: our own, and those that users save with our names of the arrays."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchbd.core.archive import opened, plain_arrays
from benchbd.core.poisoned_set import CleanTest, PoisonedSet
from benchbd.core.poisoned_set_file import HEADER, KNOWN, PoisonedSetFile, write_set
from benchbd.errors import UsageError, did_you_mean, shown
from benchbd.exchange.found_set import FoundSet, Wishes
from benchbd.exchange.pixels import Pixels, to_labels, to_mask

_NUMPY = b"\x93NUMPY"
"""How a ``.npy`` file begins."""
FILE = "poison.npz"
"""Name of the file in a folder."""
OTHER_NAMES = {"data": "images", "poisoned_set": "poison", "covers": "cover"}
"""Names that other programs give to arrays of ours."""


def read(place: Path, wishes: Wishes) -> FoundSet:
    """Read an ``.npz`` file, or ``poison.npz`` in a folder: ``images``, ``labels``, ``poison`` and what else it has.

    Raises:
        UsageError: the file is missing, holds objects, or its arrays do not fit.
    """
    path = place / FILE if place.is_dir() else place
    _refuse_others(path)
    with plain_arrays(path, ".npz file"), opened(path) as file, np.load(file, allow_pickle=False) as archive:
        if HEADER in archive.files:
            return _from_ours(PoisonedSetFile(path).load())
        arrays = {name: archive[name] for name in archive.files}
    return _from_arrays(arrays, path, wishes)


def _refuse_others(path: Path) -> None:
    """Refuse a file that is clearly of another kind, with the way to a ``.npz`` file."""
    if not path.is_file():
        return  # missing, or a pipe that must not be waited for: the reader says so
    with opened(path) as file:
        start = file.read(len(_NUMPY))
        names: list[str] = []
        with contextlib.suppress(zipfile.BadZipFile):  # damaged: the reader says so
            names = zipfile.ZipFile(file).namelist()
    kind = None
    if any(name.endswith("data.pkl") for name in names):
        kind = "a file of torch.save"
    elif start == _NUMPY:
        kind = "one .npy array"
    elif start[:1] == b"\x80" and path.suffix != ".npz":
        kind = "a pickle"
    if kind is not None:
        raise UsageError(
            f"{path} is {kind}, not a .npz file; docs/importing.md shows how it becomes one (arrays of Python)"
        )


def _from_ours(given: PoisonedSet) -> FoundSet:
    shown = given.triggered
    return FoundSet(
        images=given.images,
        labels=given.labels,
        poison=given.poison,
        cover=given.cover,
        true_labels=given.true_labels,
        originals=given.originals,
        triggered=None if shown is None else (shown.images, shown.true_labels, shown.targets, shown.places),
        test=given.test,
        classes=given.classes,
        class_names=given.class_names,
        targets=given.targets,
        notes={"made_from": given.source},
    )


def _check_names(arrays: dict[str, Any], path: Path) -> None:
    """Refuse arrays of other names: an array with a misspelt name must not be left out in silence."""
    if unknown := sorted(set(arrays) - KNOWN):
        theirs = [f"{name} is our {ours}" for name, ours in OTHER_NAMES.items() if name in unknown]
        advice = f"; rename it ({', '.join(theirs)})" if theirs else did_you_mean(unknown[0], KNOWN)
        raise UsageError(f"{path}: {shown(unknown[0])} is not the name of an array of a poisoned set{advice}")
    for name in KNOWN & set(arrays):
        if name.startswith(("triggered_", "test_")) and f"{name.partition('_')[0]}_images" not in arrays:
            raise UsageError(f"{path} has {name} but no {name.partition('_')[0]}_images")


def _from_arrays(arrays: dict[str, Any], path: Path, wishes: Wishes) -> FoundSet:
    _check_names(arrays, path)
    if missing := [name for name in ("images", "labels", "poison") if name not in arrays]:
        raise UsageError(f"{path} has no array {missing[0]}; it needs images, labels and poison")
    pixels = Pixels(wishes.rounding)
    images = pixels.read(arrays["images"], f"{path} images")
    count = len(images)
    found = FoundSet(
        images=images,
        labels=to_labels(arrays["labels"], count, f"{path} labels"),
        poison=to_mask(arrays["poison"], count, f"{path} poison"),
        cover=to_mask(arrays["cover"], count, f"{path} cover") if "cover" in arrays else None,
        true_labels=to_labels(arrays["true_labels"], count, f"{path} true_labels") if "true_labels" in arrays else None,
    )

    def pair(prefix: str, label: str) -> tuple[np.ndarray, np.ndarray] | None:
        if f"{prefix}images" not in arrays:
            return None
        if f"{prefix}{label}" not in arrays:
            raise UsageError(f"{path} has {prefix}images but no {prefix}{label}")
        shown = pixels.read(arrays[f"{prefix}images"], f"{path} {prefix}images")
        return shown, to_labels(arrays[f"{prefix}{label}"], len(shown), f"{path} {prefix}{label}")

    if (clean := pair("test_", "labels")) is not None:
        found.test = CleanTest(*clean)
    if (shown := pair("triggered_", "true_labels")) is not None:
        aims, places = (
            to_labels(arrays[name], len(shown[0]), f"{path} {name}") if name in arrays else None
            for name in ("triggered_targets", "triggered_places")
        )
        found.triggered = (*shown, aims, places)
    if "originals" in arrays:
        found.originals = pixels.read(arrays["originals"], f"{path} originals")
    found.moved = pixels.moved
    return found


def write(given: PoisonedSet, folder: Path) -> None:
    """Write a set as ``poison.npz``, which the attack ``imported`` reads."""
    write_set(given, folder / FILE)
