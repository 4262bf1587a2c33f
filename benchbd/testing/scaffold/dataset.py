"""my-plugin: a data set."""

from __future__ import annotations

from typing import ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, Normalisation, dataset


@dataset("my-plugin", version=1)
class MyPlugin(Dataset):
    """Bars in four directions on noise, drawn by this file. Read your own files in load instead."""

    class_names: ClassVar[tuple[str, ...]] = ("flat", "upright", "falling", "rising")
    normalisation: ClassVar[Normalisation] = Normalisation((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    source: ClassVar[str] = "drawn by this file"

    # Every field is a parameter. The docstring below it is its help.
    train: int = 800
    """Training images, a multiple of 4."""
    test: int = 200
    """Test images, a multiple of 4."""

    def info(self) -> DatasetInfo:
        """Sizes and classes, without reading an image; the last number is the default target class of attacks."""
        return DatasetInfo(4, 32, self.train, self.test, (self.train // 4,) * 4, 1)

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Images uint8 (N, 3, H, W) and labels int64 (N,), the same every time; root is the --data folder."""
        import numpy as np
        import torch

        rng = np.random.RandomState(1 if split == "train" else 2)
        labels = np.arange(self.train if split == "train" else self.test) % 4
        pixels = rng.randint(0, 100, (len(labels), 3, 32, 32))
        row, column = np.mgrid[:32, :32] - 16
        distances = np.stack([row, column, row - column, row + column])
        bars = np.abs(distances[labels] + rng.randint(-4, 5, (len(labels), 1, 1))) < 3
        pixels[np.broadcast_to(bars[:, None], pixels.shape)] += 120
        return Images(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels.astype(np.int64)))
