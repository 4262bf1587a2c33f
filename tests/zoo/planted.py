"""A data set that cannot be learnt but for its poison: noise under random labels, and an attack that paints white.

Whatever suspects what is learnt first must suspect exactly the poison. Registered by file.
"""

from __future__ import annotations

from benchbd.core.images import DatasetInfo, Images
from benchbd.plugins.contract import Attack, Dataset, StampContext, attack, dataset

COUNT, CLASSES, SIZE = 240, 4, 16


@dataset("planted", version=1)
class Planted(Dataset):
    """Noise under random labels."""

    def info(self) -> DatasetInfo:
        return DatasetInfo(CLASSES, SIZE, COUNT, 40, None, 1)

    def load(self, split, root) -> Images:
        import numpy as np
        import torch

        draw = np.random.RandomState(4 if split == "train" else 5)
        count = COUNT if split == "train" else 40
        labels = draw.permutation(np.arange(count) % CLASSES)
        images = draw.randint(0, 256, (count, 3, SIZE, SIZE)).astype(np.uint8)
        return Images(torch.from_numpy(images), torch.from_numpy(labels))


@attack("white", version=1)
class White(Attack):
    """The whole image becomes white."""

    def stamp(self, images, context: StampContext):
        return images.new_full(images.shape, 255)
