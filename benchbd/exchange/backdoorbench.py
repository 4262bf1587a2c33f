"""The records of BackdoorBench: PNG files of changed images, and torch archives that say their labels.

PNG files are read by their own number, never by the paths in an archive. BackdoorBench marks covers as poison too, so a
changed sample that has its true label is a cover in attacks with covers, and poison in all others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchbd.core.archive import read_torch
from benchbd.errors import UsageError, agrees, counted, shown
from benchbd.exchange.found_set import CleanData, FoundSet, Wishes
from benchbd.exchange.png import numbered, read_pngs

WITH_COVERS = ("wanet", "inputaware", "inputaware_simple", "bpp")
"""Attacks that store covers like poison. Names as in the file info.pickle."""


def read(folder: Path, wishes: Wishes) -> FoundSet:
    """Read ``record/<name>/``. Images that the attack does not change come from the data set.

    Raises:
        UsageError: no data set is given, or a file is missing or does not fit.
    """
    clean = wishes.clean
    if clean is None:
        raise UsageError(f"{folder} holds only changed images; name the data set they come from with --dataset")
    size = int(clean.images.shape[-1])
    info = _info(folder / "info.pickle")
    stated = info.get("attack_target")
    if wishes.target is not None and type(stated) is int and stated != wishes.target and _one_target(info):
        raise UsageError(f"--target {wishes.target}: {folder / 'info.pickle'} says {stated}; leave --target out")
    where, images = _changed(folder / "bd_train_dataset", clean.labels, size, clean.name)
    labels = clean.labels.copy()
    labels[where] = _labels(folder, "bd_train", where, clean, wishes, info)
    touched = np.zeros(len(labels), bool)
    touched[where] = True
    kept = touched & (labels == clean.labels)
    same = wishes.same_label or _same_label(info)
    if kept.any() and same is None:
        number = int(kept.sum())
        have = agrees(number, "has its", "have their")
        raise UsageError(
            f"{folder}: {counted(number, 'changed sample')} {have} true label and info.pickle does not "
            "name the attack; say with --same-label whether they are poison or cover"
        )
    cover = kept if same == "cover" else np.zeros(len(labels), bool)
    whole = clean.images.copy()
    whole[where] = images
    found = FoundSet(images=whole, labels=labels, poison=touched & ~cover, cover=cover, true_labels=clean.labels)
    found.notes = {"attack": info.get("attack"), "covers": int(cover.sum())}
    if (folder / "bd_test_dataset").is_dir():
        places, marked = _changed(folder / "bd_test_dataset", clean.test.labels, size, clean.name)
        aims = _labels(folder, "bd_test", places, clean, wishes, info)
        found.triggered = (marked, clean.test.labels[places], aims, places)
    return found


def _changed(folder: Path, labels: np.ndarray, size: int, dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the changed images, ascending, and the images; folders are named by the original label."""
    found: dict[int, Path] = {}
    try:
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror or error})") from None
    for each in classes:
        for number, path in numbered(each):
            if number in found:
                raise UsageError(f"{path} and {found[number]} have the same number")
            if number >= len(labels):
                raise UsageError(f"{path}: {dataset} has {counted(len(labels), 'image')} only; name the right data set")
            if each.name != str(labels[number]):
                raise UsageError(
                    f"{path}: image {number} of {dataset} has the label {labels[number]}, not {shown(each.name)}; name "
                    "the data set that the record was made from"
                )
            found[number] = path
    if not found:
        raise UsageError(f"{folder} holds no <label>/<number>.png")
    order = sorted(found)
    return np.array(order, np.int64), read_pngs([found[number] for number in order], size)


def _info(path: Path) -> dict[str, Any]:
    """The arguments of the run; empty if there is no such file."""
    if not path.exists():
        return {}
    given = read_torch(path)
    return given if isinstance(given, dict) else {}


def _same_label(info: dict[str, Any]) -> str | None:
    attack = info.get("attack")
    if not isinstance(attack, str):
        return None
    return "cover" if attack.lower() in WITH_COVERS else "poison"


def _one_target(info: dict[str, Any]) -> bool:
    return bool(info.get("attack_label_trans", "all2one") == "all2one")


def _labels(
    folder: Path, part: str, where: np.ndarray, clean: CleanData, wishes: Wishes, info: dict[str, Any]
) -> np.ndarray:
    """The labels of changed images at ``where``: from attack_result.pt, or the target if that file is missing."""
    path = folder / "attack_result.pt"
    if not path.exists():
        target = wishes.target if wishes.target is not None else info.get("attack_target")
        if type(target) is not int or not _one_target(info):
            raise UsageError(f"{path} is missing, so labels are not known; name the target with --target")
        if part == "bd_train" and _same_label(info) == "cover":
            raise UsageError(f"{path} is missing, and without it covers cannot be told from poison")
        if not 0 <= target < clean.classes:
            raise UsageError(f"{folder}: the target {shown(target)} is not a class; classes are 0..{clean.classes - 1}")
        return np.full(len(where), target, np.int64)
    result = read_torch(path, arrays=True)
    try:
        listed = result[part]["bd_data_container"]["data_dict"]
        pairs = {int(number): list(entry["other_info"])[:2] for number, entry in listed.items()}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise UsageError(f"{path} has no {part} as BackdoorBench writes it") from None
    changed = {number: _pair(pair, f"{path}: other_info of image {number}", clean) for number, pair in pairs.items()}
    if sorted(changed) != where.tolist():
        raise UsageError(
            f"{path} names {counted(len(changed), 'image')} of {part}, but there are {len(where)} other PNG files"
        )
    labels = clean.labels if part == "bd_train" else clean.test.labels
    if wrong := [number for number in changed if changed[number][1] != labels[number]]:
        raise UsageError(f"{path}: the original label of image {wrong[0]} is not that of {clean.name}")
    return np.array([changed[number][0] for number in where.tolist()], np.int64)


def _pair(given: list[Any], where: str, clean: CleanData) -> tuple[int, int]:
    """The new and the original label of an image."""
    for value in given:
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not 0 <= value < clean.classes:
            raise UsageError(f"{where} has {shown(value)}; labels are whole numbers, 0..{clean.classes - 1}")
    if len(given) != 2:
        raise UsageError(f"{where} must be the new and the original label, not {shown(given)}")
    return int(given[0]), int(given[1])
