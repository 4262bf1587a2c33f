"""A data set without code: a folder for each class, without a CSV."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from benchbd import UsageError, dataset
from benchbd.core.files import open_plain
from benchbd.datasets._folder import SUFFIXES
from benchbd.datasets._labels import MOST_CLASSES, Row, Table
from benchbd.datasets._places import base, reason
from benchbd.datasets.csvfolder import CsvFolder
from benchbd.errors import shown

SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "test"}
"""Folders that may hold the class folders of a split."""


@dataset("image-folder", version=1)
class ImageFolder(CsvFolder):
    """A folder for each class with photos of any size and kind, as torchvision's ImageFolder reads it.

    Read from ``DIR/FOLDER/CLASS/*`` or ``DIR/FOLDER/{train,test}/CLASS/*`` (``val`` also is the test part), where DIR
    is the folder of ``--data`` or ``BENCHBD_DATA``. Classes are numbered in the order of their names as text. Without
    folders for the splits, a share of each class is drawn for testing. Every plan lists the folders again; a changed
    file makes its cells stale. Images become 8-bit RGB as in ``csv-folder``.
    """

    labels: ClassVar[str] = "labels.csv"  # type: ignore[misc]

    def _csv(self, root: str | None) -> Path:
        return base(root) / self.folder

    def input_files(self, root: str | None) -> list[str]:
        """Every image."""
        table = self._table(root)
        return [f"{table.path.parent}/{row.file}" for row in table.rows]

    def _table(self, root: str | None) -> Table:
        """The images as the table of a CSV in that folder, which does not exist."""
        place = self._csv(root)
        _refuse_marked(place)
        inside = _folders(place)
        splits = {name: SPLIT_FOLDERS[name] for name in inside if name in SPLIT_FOLDERS}
        if (splits and set(splits.values()) != {"train", "test"}) or len(splits) > 2:
            raise UsageError(f"image-folder: {place} must hold train and test, or class folders, not {shown(inside)}")
        parts = [(f"{name}/", split) for name, split in splits.items()] or [("", "")]
        rows: list[Row] = []
        for start, split in parts:
            for label in _folders(place / start):
                rows += [Row(f"{start}{label}/{name}", label, split, 0) for name in _pictures(place / start / label)]
        classes = tuple(sorted({label for start, _ in parts for label in _folders(place / start)}))
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise UsageError(
                f"image-folder: {place} has {len(classes)} class folders; there must be 2 to {MOST_CLASSES:,}"
            )
        for start, split in parts:
            for label in classes:
                count = sum(row.label == label and row.split == split for row in rows)
                if count < (1 if split else 2):
                    where = place / start / label
                    raise UsageError(
                        f"image-folder: {where} has {count} images, too few ({', '.join(sorted(SUFFIXES))})"
                    )
        return Table(place / "images", tuple(rows), classes)


def _refuse_marked(place: Path) -> None:
    """Refuse the folder of a poisoned set, whose images this data set would present as clean."""
    above = [place.parent] if place.name in ("train", "test", "triggered") else []
    for folder in (place, *above):
        try:
            with open(open_plain(os.path.realpath(folder / "labels.csv")), "rb") as file:  # noqa: PTH123 - a descriptor
                head = file.readline(1000).decode("utf-8-sig", "replace")
        except OSError:  # usually there is none
            continue
        columns = {name.strip().strip('"').lower() for name in head.split(",")}
        if columns & {"poisoned", "triggered"}:
            raise UsageError(
                f"image-folder: {folder / 'labels.csv'} marks poison, so this is not a clean data set; read it "
                f"with benchbd import {folder} --format csv, or take its clean rows with csv-folder"
            )


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
    except OSError as error:
        raise UsageError(
            f"image-folder: {folder} cannot be read: {reason(error)}; put a folder for each class there, and name the "
            "folder above with --data or BENCHBD_DATA"
        ) from error
    return sorted(entries, key=lambda entry: entry.name)


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return [entry.name for entry in _listed(folder) if entry.is_dir()]


def _pictures(folder: Path) -> list[str]:
    """Names of the image files in a folder, sorted."""
    return [e.name for e in _listed(folder) if Path(e.name).suffix.lower() in SUFFIXES and not e.is_dir()]
