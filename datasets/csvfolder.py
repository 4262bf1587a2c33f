"""A data set without code: a folder of images with a CSV of labels."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal, NamedTuple

from benchbd import Dataset, DatasetInfo, Images, UsageError, dataset
from benchbd.core.paths import data_folder
from benchbd.datasets._places import base, reason
from benchbd.datasets._subset import choose
from benchbd.errors import shown

COLUMNS = ("file", "label", "split")
SPLITS = ("train", "test")
MOST_CLASSES = 10_000


class _Row(NamedTuple):
    file: str
    label: str
    split: str


class _Table(NamedTuple):
    """The content of a CSV: rows in file order, and class names by class number."""

    rows: tuple[_Row, ...]
    classes: tuple[str, ...]


class _Part(NamedTuple):
    """One split: files and their classes, in the order of the CSV."""

    files: list[str]
    labels: list[int]


@dataset("csv-folder", version=1)
class CsvFolder(Dataset):
    """A folder of images and a CSV with the columns file, label and optionally split (train or test).

    Read from ``DIR/FOLDER/labels.csv``, where DIR is the folder of ``--data`` or ``BENCHBD_DATA``. File names are
    relative to the CSV. Labels are words or numbers. Classes are numbered in sorted order (numbers by value). Without a
    split column, a share of each class is drawn for testing. Every plan reads the CSV again, and compares it and the
    images with those that records were made from.
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
            raise UsageError(f"csv-folder: size must be between 8 and 1024 pixels, not {self.size}")
        if not 0.0 < self.test_share < 1.0:
            raise UsageError(f"csv-folder: test_share is a share in (0, 1), such as 0.2, not {self.test_share:g}")
        for name in ("folder", "labels"):
            path = PurePosixPath(getattr(self, name))
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise UsageError(f"csv-folder: {name} must lie below the data folder (--data), not at {str(path)!r}")

    def info(self) -> DatasetInfo:
        """Sizes and classes, counted in the CSV. Raises UsageError if the CSV is missing or invalid."""
        table = self._table(data_folder(None))
        train, test = (self._part(table, split) for split in SPLITS)
        counts = [0] * len(table.classes)
        for label in train.labels:
            counts[label] += 1
        if not 0 <= self.target < len(counts):
            raise UsageError(
                f"csv-folder: target {self.target} is none of the {len(counts)} classes 0..{len(counts) - 1}"
            )
        return DatasetInfo(len(counts), self.size, len(train.files), len(test.files), tuple(counts), self.target)

    def missing(self, root: str | None) -> str | None:
        """Say what is wrong with the CSV, or which of its images is missing, else None."""
        try:
            table = self._table(root)
        except UsageError as error:
            return str(error)
        folder = self._csv(root).parent
        for line, row in enumerate(table.rows, 2):
            if not (folder / row.file).is_file():
                return f"{self._csv(root)}, line {line}: there is no image {folder / row.file}"
        return None

    def input_files(self, root: str | None) -> list[str]:
        """The CSV and every image in it."""
        csv_file = self._csv(root)
        return [str(csv_file), *(f"{csv_file.parent}/{row.file}" for row in self._table(root).rows)]

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split. Images are decoded once, kept in the cache folder and mapped into memory."""
        import torch

        from benchbd.datasets._decoded import Source, decoded

        part = self._part(self._table(root), split)
        images = decoded(Source(self.name, self._csv(root).parent, part.files, self.size, crop=True))
        return Images(torch.from_numpy(images), torch.tensor(part.labels, dtype=torch.int64))

    def _csv(self, root: str | None) -> Path:
        return base(root) / self.folder / self.labels

    def _table(self, root: str | None) -> _Table:
        path = self._csv(root)
        try:
            state = path.stat()
        except OSError as error:
            raise UsageError(
                f"csv-folder: {path} cannot be read: {reason(error)}; put the images there with a CSV of the columns "
                "file and label, and name the folder above it with --data or BENCHBD_DATA"
            ) from error
        return _read(path, state.st_mtime_ns, state.st_size)

    def _part(self, table: _Table, split: str) -> _Part:
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


@functools.lru_cache(maxsize=16)
def _read(path: Path, changed: int, size: int) -> _Table:
    """Read and check a CSV. The date and size are part of the cache key, so a changed file is read again."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            head = [name.strip().lower() for name in next(reader, [])]
            _check_head(path, head)
            rows = tuple(_row(path, reader.line_num, head, values) for values in reader if any(values))
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    except OSError as error:
        raise UsageError(f"csv-folder: {path} cannot be read: {reason(error)}") from error
    return _checked(path, rows)


def _check_head(path: Path, head: list[str]) -> None:
    known = ", ".join(COLUMNS)
    for name in ("file", "label"):
        if head.count(name) != 1:
            raise UsageError(f"{path}, line 1: needs one column called {name} (known: {known}), not {shown(head)}")
    if head.count("split") > 1:
        raise UsageError(f"{path}, line 1: has the column split twice")


def _row(path: Path, line: int, head: list[str], values: list[str]) -> _Row:
    where = f"{path}, line {line}"
    if len(values) != len(head):
        raise UsageError(f"{where}: has {len(values)} values for {len(head)} columns")
    told = {name: value.strip() for name, value in zip(head, values, strict=True)}
    file, label, split = told["file"], told["label"], told.get("split", "")
    inside = PurePosixPath(file)
    if not file or inside.is_absolute() or ".." in inside.parts or not file.isprintable():
        raise UsageError(f"{where}: file must be the name of an image below the CSV's folder, not {shown(file)}")
    if not label:
        raise UsageError(f"{where}: label is empty")
    if "split" in told and split not in SPLITS:
        raise UsageError(f"{where}: split must be train or test, not {shown(split)}")
    return _Row(file, label, split)


def _checked(path: Path, rows: tuple[_Row, ...]) -> _Table:
    """Check the table as a whole: no file twice, and images of every class in both splits."""
    seen: set[str] = set()
    for row in rows:
        if row.file in seen:
            raise UsageError(f"{path}: {shown(row.file)} is there twice; an image has one label and one split")
        seen.add(row.file)
    classes = _in_order({row.label for row in rows})
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise UsageError(f"{path}: has {len(classes)} classes; there must be 2 to {MOST_CLASSES:,}")
    for label in classes:
        mine = [row.split for row in rows if row.label == label]
        lacking = [s for s in SPLITS if s not in mine] if mine[0] else SPLITS if len(mine) < 2 else []
        if lacking:
            raise UsageError(f"{path}: class {shown(label)} has too few images, none for {lacking[-1]}")
    return _Table(rows, classes)


def _in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Class names in order: by value if all are whole numbers, else alphabetically."""
    names = sorted(labels)
    return tuple(sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else names)
