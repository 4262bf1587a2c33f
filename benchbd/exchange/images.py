"""A folder of PNG files with a CSV of the columns file, label, split, true_label, poisoned and triggered.

The data set ``csv-folder`` reads the same CSV and takes its clean rows.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from benchbd.core.png import write_png
from benchbd.core.poisoned_set import UNKNOWN, CleanTest, PoisonedSet
from benchbd.errors import UsageError
from benchbd.exchange.found_set import FoundSet, Wishes
from benchbd.plugins import registry

FILE = "labels.csv"
READER = "csv-folder"
"""The data set that knows this CSV."""
HEAD = ("file", "label", "split", "true_label", "poisoned", "triggered")


def read(folder: Path, wishes: Wishes) -> FoundSet:
    """Read a folder with ``labels.csv``. Photos of any size become ``wishes.size`` pixels, as in ``csv-folder``.

    Raises:
        UsageError: the CSV or an image is missing or invalid.
    """
    dataset: Any = registry.make("datasets", READER, folder=folder.resolve().name, size=wishes.size)
    train, shown, test, names = dataset.poisoned_rows(str(folder.resolve().parent))
    found = FoundSet(
        images=train.images,
        labels=train.labels,
        poison=train.poisoned == 1,
        cover=train.poisoned == 2,
        true_labels=train.true_labels,
        classes=len(names),
        class_names=names,
    )
    if wishes.clean is None:
        known = {UNKNOWN, *(int(label) for part in (train, shown, test) for label in part.labels)}
        for label in (*train.true_labels, *shown.true_labels):
            if int(label) not in known:
                which = f"the true_label {names[int(label)]!r} is the label of no row"
                raise UsageError(f"{folder / FILE}: {which}; correct it, or name the data set with --dataset")
    if len(shown.images):
        if (shown.true_labels == UNKNOWN).any():
            raise UsageError(f"{folder / FILE}: triggered test images need a true_label")
        found.triggered = (shown.images, shown.true_labels, shown.labels, None)
    if len(test.images):
        found.test = CleanTest(test.images, test.labels)
    return found


def write(given: PoisonedSet, folder: Path) -> None:
    """Write ``train/``, ``triggered/`` and ``test/`` with a folder for each class, and the CSV.

    Names of the folders have leading zeros and each part has all of them, also empty ones, so that torchvision's
    ImageFolder, which numbers the names in sorted order, gives each class its own number. Triggered images lie in the
    folder of their true class; the CSV has their target as the label.
    """
    width = len(str(given.classes - 1))
    names = [str(label).zfill(width) for label in range(given.classes)]
    rows: list[tuple[object, ...]] = []
    parts = {"train": True, "triggered": given.triggered is not None, "test": given.test is not None}
    for part, own in ((part, own) for part, there in parts.items() if there for own in names):
        (folder / part / own).mkdir(parents=True, exist_ok=True)

    def put(part: str, place: int, image: np.ndarray, label: int, *rest: object, inside: int | None = None) -> None:
        name = f"{part}/{names[label if inside is None else inside]}/{place}.png"
        write_png(folder / name, image)
        rows.append((name, names[label], "train" if part == "train" else "test", *rest))

    for place, image in enumerate(given.images):
        true = int(given.true_labels[place])
        marked = "cover" if given.cover[place] else int(given.poison[place])
        put("train", place, image, int(given.labels[place]), "" if true == UNKNOWN else names[true], marked, 0)
    if given.triggered is not None:
        shown = given.triggered
        for place, image in enumerate(shown.images):
            true = int(shown.true_labels[place])
            put("triggered", place, image, int(shown.targets[place]), names[true], 0, 1, inside=true)
    if given.test is not None:
        for place, image in enumerate(given.test.images):
            label = int(given.test.labels[place])
            put("test", place, image, label, names[label], 0, 0)
    with (folder / FILE).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *rows])
