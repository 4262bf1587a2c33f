"""A data set without code: a folder of images with a CSV of labels."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from benchbd import Dataset, DatasetInfo, Images, UsageError, dataset
from benchbd.core.paths import data_folder, name_in_data
from benchbd.datasets._labels import SPLITS, Table, faults, read_table
from benchbd.datasets._marks import MarkedRows, marked_rows
from benchbd.datasets._places import base
from benchbd.datasets._subset import choose


class _Part(NamedTuple):
    """One split: files and their classes, in the order of the CSV."""

    files: list[str]
    labels: list[int]


@dataset("csv-folder", version=1)
class CsvFolder(Dataset):
    """A folder of images and a CSV with the columns file, label and optionally split (train or test).

    Of a CSV with the columns true_label, poisoned and triggered, the data set holds the clean rows; ``benchbd import
    --format csv`` reads all of them as a poisoned set.

    Read from ``DIR/FOLDER/labels.csv``, where DIR is the folder of ``--data`` or ``BENCHBD_DATA``. File names are
    relative to the CSV; a file that is there twice, under whatever names, is refused. Classes are numbered in sorted
    order: by value if all labels are numbers such as 2, -1, 10.0 or 1e3, else as text. Without a split column, a share
    of each class is drawn for testing. Every plan reads the CSV again; a changed file makes its cells stale.

    Images are read upright, as 8-bit RGB: EXIF orientation is applied, transparency is composed on white, 16-bit grey
    and floats in [0, 1] are scaled, and colour profiles are ignored. Animations and other kinds are refused by name.
    """

    source: ClassVar[str] = "your own images"

    folder: str = "images"
    """Folder below the data folder that contains the CSV and the images."""
    labels: str = "labels.csv"
    """Name of the CSV in that folder."""
    size: int = 32
    """Height and width in pixels: the shorter side is resized to it, and the centre is cropped."""
    test_share: float = 0.2
    """Share of each class that is drawn for testing if the CSV has no split column."""
    split_seed: int = 0
    """Seed for drawing the test images."""
    target: int = 0
    """Default target class of attacks."""

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 1024:
            raise UsageError(f"{self.name}: size must be between 8 and 1024 pixels, not {self.size}")
        if not 0.0 < self.test_share < 1.0:
            raise UsageError(f"{self.name}: test_share is a share in (0, 1), such as 0.2, not {self.test_share:g}")
        for name in ("folder", "labels"):
            object.__setattr__(self, name, name_in_data(getattr(self, name), f"{self.name}: {name}"))

    def info(self) -> DatasetInfo:
        """Sizes and classes, counted in the CSV. Raises UsageError if the CSV is missing or invalid."""
        table = self._table(data_folder(None))
        train, test = (self._part(table, split) for split in SPLITS)
        counts = [0] * len(table.classes)
        for label in train.labels:
            counts[label] += 1
        if not 0 <= self.target < len(counts):
            raise UsageError(
                f"{self.name}: target {self.target} is none of the {len(counts)} classes 0..{len(counts) - 1}"
            )
        return DatasetInfo(len(counts), self.size, len(train.files), len(test.files), tuple(counts), self.target)

    def missing(self, root: str | None) -> str | None:
        """Say what is wrong with the CSV, or which of its images is missing, else None."""
        try:
            table = self._table(root)
        except UsageError as error:
            return str(error)
        return next(faults(table), None)

    def input_files(self, root: str | None) -> list[str]:
        """The CSV and every image in it."""
        csv_file = self._csv(root)
        table = self._table(root)
        return [str(csv_file), *(f"{csv_file.parent}/{row.file}" for row in table.rows)]

    def poisoned_rows(self, root: str | None) -> tuple[MarkedRows, MarkedRows, MarkedRows, tuple[str, ...]]:
        """All rows of a CSV that describes a poisoned set: training, triggered test and clean test rows, class names.

        Raises:
            UsageError: the CSV or an image is missing or invalid.
        """
        from benchbd.datasets._decoded import Source, decoded

        table = self._table(root, whole=True)
        for fault in faults(table):
            raise UsageError(fault)
        everything = sorted((*table.rows, *table.marked), key=lambda row: row.line)
        images = decoded(Source(self.name, table.path.parent, [row.file for row in everything], self.size, crop=True))
        number = {name: n for n, name in enumerate(table.classes)}
        parts = ["triggered" if row.mark == "triggered" else row.split or "train" for row in everything]
        train, shown, test = (
            marked_rows(images, everything, [n for n, own in enumerate(parts) if own == part], number)
            for part in ("train", "triggered", "test")
        )
        return train, shown, test, table.classes

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split. Images are decoded once, kept in the cache folder and mapped into memory."""
        import torch

        from benchbd.datasets._decoded import Source, decoded

        table = self._table(root)
        for fault in faults(table):
            raise UsageError(fault)
        part = self._part(table, split)
        images = decoded(Source(self.name, table.path.parent, part.files, self.size, crop=True))
        return Images(torch.from_numpy(images), torch.tensor(part.labels, dtype=torch.int64))

    def _csv(self, root: str | None) -> Path:
        return base(root) / self.folder / self.labels

    def _table(self, root: str | None, whole: bool = False) -> Table:
        return read_table(self._csv(root), whole=whole)

    def _part(self, table: Table, split: str) -> _Part:
        number = {name: n for n, name in enumerate(table.classes)}
        labels = [number[row.label] for row in table.rows]
        if table.rows[0].split:
            mine = [n for n, row in enumerate(table.rows) if row.split == split]
        else:
            mine = self._drawn(labels, len(table.classes), split)
        return _Part([table.rows[n].file for n in mine], [labels[n] for n in mine])

    def _drawn(self, labels: list[int], classes: int, split: str) -> list[int]:
        """Rows of one split. A share of each class is drawn for testing; each split gets an image per class or more."""
        import numpy as np

        counts = np.bincount(labels, minlength=classes)
        shares = [min(max(1, round(self.test_share * count)), count - 1) for count in counts.tolist()]
        testing = choose(np.asarray(labels), shares, self.split_seed)
        here = testing if split == "test" else np.setdiff1d(np.arange(len(labels)), testing)
        return [int(n) for n in here]
