"""Data sets in folders with ImageNet's layout: ``train/CLASS/*`` and ``val/CLASS/*``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, Normalisation, UsageError
from benchbd.datasets._places import base, find, reason
from benchbd.datasets._subset import Sizes, choose

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp", ".bmp", ".ppm"})
PARTS = {"train": "train", "test": "val"}
LARGEST = 1024
"""Largest allowed image size in pixels; a larger one is probably a mistake."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folder(Dataset):
    """Base of data sets in such a folder. Sizes are known before a file is read, so that plans can compute budgets."""

    normalisation = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    exact: ClassVar[bool] = False
    """Whether the number of images per class folder is fixed: a folder with another number is then refused."""

    size: int = 224
    """Height and width in pixels: the shorter side is resized to it, and the centre is cropped."""
    train: int | None = None
    """Training images (default: all)."""
    test: int | None = None
    """Test images, taken from val (default: all)."""
    subset_seed: int = 0
    """Seed for drawing a subset."""

    def __post_init__(self) -> None:
        if not 8 <= self.size <= LARGEST:
            raise UsageError(f"{self.name}: size must be between 8 and {LARGEST} pixels, not {self.size}")

    def folders(self) -> tuple[str, ...]:
        """Folders below the data folder to search, in this order."""
        raise NotImplementedError

    def labels(self) -> tuple[str, ...]:
        """Names of the class folders; the index in this list is the class number."""
        raise NotImplementedError

    def sizes(self) -> Sizes:
        """Images per class in the two splits."""
        raise NotImplementedError

    def advice(self) -> str:
        """Tell the user which files to put into the folder."""
        raise NotImplementedError

    def hint(self, root: str | None) -> str:
        """Text to add to the advice if the folder is missing; may be empty."""
        return ""

    def info(self) -> DatasetInfo:
        """Sizes and classes."""
        train, test = self.sizes()
        return DatasetInfo(
            classes=len(train), size=self.size, train=sum(train), test=sum(test), class_counts=train, target=0
        )

    def missing(self, root: str | None) -> str | None:
        """Say which files to put where if a class folder is missing, else None."""
        try:
            where = find(root, self.folders(), "train")
        except UsageError as error:
            return str(error)
        if where is None:
            return self._absent(root)
        for part in PARTS.values():
            for label in self.labels():
                if not (where / part / label).is_dir():
                    return f"{self.name}: {where / part / label} is missing; {self.advice()}"
        try:
            for split in PARTS:
                self._listed(where, split)
            self._each_once(where)
        except UsageError as error:
            return str(error)
        return None

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split. Its images are decoded once, kept in the cache folder and mapped into memory."""
        import numpy as np
        import torch

        from benchbd.datasets._decoded import Source, decoded

        folder, names, classes = self._chosen(split, root)
        images = decoded(Source(self.name, folder, names, self.size, crop=True))
        return Images(torch.from_numpy(images), torch.from_numpy(np.asarray(classes, np.int64)))

    def input_files(self, root: str | None) -> list[str]:
        """The images of both splits."""
        chosen = (self._chosen(split, root) for split in PARTS)
        return [f"{folder}/{name}" for folder, names, _ in chosen for name in names]

    def _chosen(self, split: str, root: str | None) -> tuple[Path, list[str], list[int]]:
        """The folder of a split, the images chosen from it (names relative to the folder), and their classes."""
        import numpy as np

        where = find(root, self.folders(), "train")
        if where is None:
            raise UsageError(self._absent(root))
        self._each_once(where)
        names, counts, shares = self._listed(where, split)
        classes = np.repeat(np.arange(len(counts)), counts)
        keep = choose(classes, shares, self.subset_seed)
        return where / PARTS[split], [names[i] for i in keep], classes[keep].tolist()

    def _absent(self, root: str | None) -> str:
        return f"{self.name} is not in {base(root) / self.folders()[0]}: {self.advice()}{self.hint(root)}"

    def _listed(self, where: Path, split: str) -> tuple[list[str], list[int], tuple[int, ...]]:
        """The image files of one split, sorted by class and name, how many each class has, and how many are wanted.

        Raises:
            UsageError: a folder cannot be read, a class has too few images, or an image is not a regular file.
        """
        folder, shares = where / PARTS[split], self.sizes().of(split)
        names: list[str] = []
        counts: list[int] = []
        for label in self.labels():
            own = self._images(folder, label)
            names += own
            counts.append(len(own))
        self._enough(folder, counts, shares, split)
        return names, counts, shares

    def _images(self, folder: Path, label: str) -> list[str]:
        """Image files of one class, sorted by name."""
        return [f"{label}/{entry.name}" for entry in self._entries(folder / label)]

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        """The image files in a class folder, sorted by name. Hidden files and folders are left out."""
        try:
            with os.scandir(folder) as found:
                entries = [entry for entry in found if Path(entry.name).suffix.lower() in SUFFIXES]
            entries = [entry for entry in entries if not entry.name.startswith(".") and not entry.is_dir()]
            special = next((entry for entry in entries if not entry.is_file()), None)
        except OSError as error:
            raise UsageError(f"{self.name}: {folder} cannot be read: {reason(error)}; {self.advice()}") from error
        if special is not None:
            raise UsageError(f"{self.name}: {special.path} is {_kind(special)}, not an image file; take it out")
        return sorted(entries, key=lambda entry: entry.name)

    def _each_once(self, where: Path) -> None:
        """Raise UsageError if a file is there twice, through a link, in one class or two, in one split or both."""
        if self.exact:
            return
        seen: dict[tuple[int, int], str] = {}
        for part in PARTS.values():
            for label in self.labels():
                folder = where / part / label
                entries = self._entries(folder)
                try:
                    device = folder.stat().st_dev
                    for entry in entries:
                        state = entry.stat() if entry.is_symlink() else None
                        number = (state.st_dev, state.st_ino) if state else (device, entry.inode())
                        first = seen.setdefault(number, entry.path)
                        # Layered file systems can list two files under one number; their states tell them apart.
                        if first != entry.path and os.path.samefile(first, entry.path):  # noqa: PTH121
                            raise UsageError(f"{self.name}: {first} and {entry.path} are the same file; take one out")
                except OSError as error:
                    raise UsageError(f"{self.name}: {folder} cannot be read: {reason(error)}") from error

    def _enough(self, folder: Path, counts: list[int], shares: tuple[int, ...], split: str) -> None:
        expected = self._whole().of(split) if self.exact else shares
        for label, count, wanted in zip(self.labels(), counts, expected, strict=True):
            if self.exact and count != wanted:
                raise UsageError(
                    f"{self.name}: {folder / label} holds {count} images instead of {wanted}; {self.advice()}"
                )
            if count < wanted:
                raise UsageError(
                    f"{self.name}: {folder / label} holds {count} images but {wanted} are wanted of each class; "
                    f"lower {split} or add images ({', '.join(sorted(SUFFIXES))})"
                )

    def _whole(self) -> Sizes:
        """Images per class in the complete data set."""
        raise NotImplementedError


def _kind(entry: os.DirEntry[str]) -> str:
    """What a folder's entry is instead of a file."""
    from benchbd.datasets._picture import not_a_file

    try:
        return not_a_file(entry.stat().st_mode) or "a file"
    except OSError:
        return "a link to a file that does not exist"
