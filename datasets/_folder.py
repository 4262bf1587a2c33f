"""Data sets in folders with ImageNet's layout: ``train/CLASS/*`` and ``val/CLASS/*``."""

from __future__ import annotations

import dataclasses
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
        folder = where / PARTS[split]
        names: list[str] = []
        counts: list[int] = []
        for label in self.labels():
            own = self._images(folder, label)
            names += own
            counts.append(len(own))
        shares = self.sizes().of(split)
        self._enough(folder, counts, shares, split)
        classes = np.repeat(np.arange(len(counts)), counts)
        keep = choose(classes, shares, self.subset_seed)
        return folder, [names[i] for i in keep], classes[keep].tolist()

    def _absent(self, root: str | None) -> str:
        return f"{self.name} is not in {base(root) / self.folders()[0]}: {self.advice()}{self.hint(root)}"

    def _images(self, folder: Path, label: str) -> list[str]:
        """Image files of one class, sorted by name."""
        try:
            found = sorted(p.name for p in (folder / label).iterdir() if p.suffix.lower() in SUFFIXES)
        except OSError as error:
            where = folder / label
            raise UsageError(f"{self.name}: {where} cannot be read: {reason(error)}; {self.advice()}") from error
        return [f"{label}/{name}" for name in found if not name.startswith(".")]

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
                    f"lower {split} or add images"
                )

    def _whole(self) -> Sizes:
        """Images per class in the complete data set."""
        raise NotImplementedError
