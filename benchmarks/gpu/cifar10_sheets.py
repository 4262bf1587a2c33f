"""CIFAR-10 from those of its lossless sheets that are at hand: a plugin for ``make gpu`` where not all of them are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, Normalisation, UsageError, dataset

FOLDER = "cifar10-sheets"


@dataset("cifar10-sheets", version=1)
class Cifar10Sheets(Dataset):
    """A part of CIFAR-10, as many images of each class: the first ones in the sheets of DIR/cifar10-sheets."""

    normalisation = Normalisation((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    source: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/cifar.html, repacked without loss"
    smoke: ClassVar[dict[str, Any]] = {"train": 200, "test": 100}

    train: int = 50_000
    """Training images."""
    test: int = 10_000
    """Test images."""

    def info(self) -> DatasetInfo:
        """Sizes and classes."""
        each = self.train // 10
        return DatasetInfo(
            classes=10, size=32, train=10 * each, test=self.test // 10 * 10, class_counts=(each,) * 10, target=1
        )

    def input_files(self, root: str | None) -> list[str]:
        """The sheets and their labels."""
        return sorted(str(path) for path in (Path(root or ".") / FOLDER).iterdir())

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split."""
        import numpy as np
        import torch

        here = str(Path(__file__).parent)
        if here not in sys.path:
            sys.path.append(here)
        from sheets import SheetError, Sheets

        each = (self.train if split == "train" else self.test) // 10
        try:
            images, labels = Sheets([Path(root or ".") / FOLDER]).images(split)
        except SheetError as error:
            raise UsageError(f"cifar10-sheets: {error}") from error
        picked = [np.flatnonzero(labels == label)[:each] for label in range(10)]
        if any(len(of_class) < each for of_class in picked):
            raise UsageError(f"cifar10-sheets: the sheets hold fewer than {each} {split} images of a class")
        keep = np.sort(np.concatenate(picked))
        return Images(torch.from_numpy(images[keep]), torch.from_numpy(labels[keep]))
