"""Bars on noise, as a data set."""

from __future__ import annotations

from typing import ClassVar, Literal

from benchbd import Dataset, DatasetInfo, Images, dataset


@dataset("example-bars", version=1)
class Bars(Dataset):
    """A bright row or column on noise: eight classes, one for each place."""

    source: ClassVar[str] = "drawn by this package"

    train: int = 320
    """Training images, a multiple of 8."""
    test: int = 80
    """Test images, a multiple of 8."""

    def info(self) -> DatasetInfo:
        """Sizes and classes."""
        return DatasetInfo(8, 32, self.train, self.test, (self.train // 8,) * 8, 0)

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Draw one part."""
        import numpy as np
        import torch

        draw = np.random.RandomState(3 if split == "train" else 4)
        labels = np.arange(self.train if split == "train" else self.test) % 8
        images = draw.randint(0, 120, (len(labels), 3, 32, 32), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            across, place = divmod(int(label), 4)
            bar = slice(8 * place, 8 * place + 8)
            image[(slice(None), slice(None), bar) if across else (slice(None), bar)] += 120
        return Images(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))
