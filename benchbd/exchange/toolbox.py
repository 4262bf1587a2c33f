"""The layout of vtu81/backdoor-toolbox: torch archives ``imgs``, ``labels``, ``poison_indices`` and ``cover_indices``.

The toolbox keeps neither true labels nor test images; its triggers are code. The writer adds them in files of our own,
which the toolbox ignores and the reader takes if they are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchbd.core.archive import read_torch
from benchbd.core.poisoned_set import CleanTest, PoisonedSet
from benchbd.errors import UsageError
from benchbd.exchange.found_set import FoundSet, Wishes
from benchbd.exchange.pixels import Pixels, as_array, to_labels, to_mask
from benchbd.exchange.png import numbered, read_pngs


def read(folder: Path, wishes: Wishes) -> FoundSet:
    """Read ``poisoned_train_set/<data set>/<attack>_<rate>_.../``; ``data/<i>.png`` may stand in for ``imgs``.

    Raises:
        UsageError: a file is missing or does not fit.
    """
    pixels = Pixels(wishes.rounding)
    if (folder / "imgs").exists() or not (folder / "data").is_dir():
        images = _pixels(folder / "imgs", pixels)
    else:
        files = numbered(folder / "data")
        if [number for number, _ in files] != list(range(len(files))):
            raise UsageError(f"{folder / 'data'}: pictures must be numbered from 0 without gaps")
        images = read_pngs([path for _, path in files], None)
    count = len(images)
    found = FoundSet(
        images=images,
        labels=to_labels(_tensor(folder / "labels"), count, str(folder / "labels")),
        poison=to_mask(_tensor(folder / "poison_indices"), count, str(folder / "poison_indices")),
    )
    if (folder / "cover_indices").exists():
        found.cover = to_mask(_tensor(folder / "cover_indices"), count, str(folder / "cover_indices"))
    _read_ours(folder, found, pixels)
    found.moved = pixels.moved
    return found


def _read_ours(folder: Path, found: FoundSet, pixels: Pixels) -> None:
    """Read the files that the writer adds."""
    if (folder / "true_labels").exists():
        found.true_labels = to_labels(_tensor(folder / "true_labels"), len(found.images), str(folder / "true_labels"))
    if (folder / "original_imgs").exists():
        found.originals = _pixels(folder / "original_imgs", pixels)
    if (folder / "triggered_imgs").exists():
        images = _pixels(folder / "triggered_imgs", pixels)
        true, targets, places = (
            to_labels(_tensor(folder / name), len(images), str(folder / name))
            for name in ("triggered_true_labels", "triggered_targets", "triggered_places")
        )
        found.triggered = (images, true, targets, places)
    if (folder / "clean_test_imgs").exists():
        images = _pixels(folder / "clean_test_imgs", pixels)
        labels = to_labels(_tensor(folder / "clean_test_labels"), len(images), str(folder / "clean_test_labels"))
        found.test = CleanTest(images, labels)


def _pixels(path: Path, pixels: Pixels) -> np.ndarray:
    return pixels.read(_tensor(path), str(path))


def _tensor(path: Path) -> np.ndarray:
    """A tensor or a list of numbers, as an array."""
    import torch

    given: Any = read_torch(path)
    if not isinstance(given, (torch.Tensor, list, tuple)):
        raise UsageError(f"{path} must hold a tensor or a list of whole numbers, not {type(given).__name__}")
    return as_array(given, str(path))


def write(given: PoisonedSet, folder: Path) -> None:
    """Write a set in this layout, with true labels and test images in files of our own."""
    import torch

    def imgs(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).float() / 255

    files: dict[str, Any] = {
        "imgs": imgs(given.images),
        "labels": torch.from_numpy(given.labels),
        "poison_indices": np.flatnonzero(given.poison).tolist(),
        "cover_indices": np.flatnonzero(given.cover).tolist(),
        "true_labels": torch.from_numpy(given.true_labels),
    }
    if given.originals is not None:
        files["original_imgs"] = imgs(given.originals)
    if given.triggered is not None:
        files["triggered_imgs"] = imgs(given.triggered.images)
        for name in ("true_labels", "targets", "places"):
            files[f"triggered_{name}"] = torch.from_numpy(getattr(given.triggered, name))
    if given.test is not None:
        files["clean_test_imgs"] = imgs(given.test.images)
        files["clean_test_labels"] = torch.from_numpy(given.test.labels)
    for name, value in files.items():
        torch.save(value, folder / name)
