"""The tiny plugins for the checks: a learnable data set, a patch, a filter and a network, each fast.

The registry knows them only after :func:`benchbd.testing.plugin_under_test.register`. The benchmark does not use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from benchbd import (
    Attack,
    Dataset,
    DatasetInfo,
    Defense,
    Images,
    Model,
    StampContext,
    Training,
    attack,
    dataset,
    defense,
    model,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchbd import Lab, TrainedModel


@dataset("tiny", version=1)
class Tiny(Dataset):
    """Noise with one bright quarter. Its position is the class: four classes, quickly learnt."""

    class_names: ClassVar[tuple[str, ...]] = ("top left", "top right", "bottom left", "bottom right")

    train: int = 240
    """Training images, a multiple of 4."""
    test: int = 60
    """Test images, a multiple of 4."""
    size: int = 32
    """Height and width in pixels."""

    def info(self) -> DatasetInfo:
        """Sizes and classes."""
        return DatasetInfo(4, self.size, self.train, self.test, (self.train // 4,) * 4, 1)

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Draw one split; ``root`` is not used."""
        import numpy as np
        import torch

        train = split == "train"
        rng = np.random.RandomState(5 if train else 6)
        labels = rng.permutation(np.arange(self.train if train else self.test) % 4)
        images = rng.randint(0, 120, (len(labels), 3, self.size, self.size))
        half = self.size // 2
        for image, label in zip(images, labels, strict=True):
            row, column = divmod(int(label), 2)
            image[:, row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
        return Images(torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels.astype(np.int64)))


@attack("tiny-patch", version=1)
class TinyPatch(Attack):
    """A white square of 6 pixels in the middle."""

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the square over the pixels."""
        out, first = images.clone(), images.shape[-1] // 2 - 3
        out[:, :, first : first + 6, first : first + 6] = 255
        return out


@defense("tiny-filter", version=1)
class TinyFilter(Defense):
    """Drops the samples that a short training finds easiest, and trains on the rest."""

    fraction: float = 0.1
    """Share of the training set to drop."""

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The probe and the final training."""
        return (Training("teacher", ("tiny-probe",)), Training("full", ("tiny-filter", self.fraction)))

    def train(self, lab: Lab) -> TrainedModel:
        """Probe, drop, train."""
        import numpy as np

        probe = lab.train(lab.poisoned, kind="teacher", name="probe", epochs=1, augment=())
        losses = lab.losses(probe, lab.poisoned)
        order = np.argsort(losses, kind="stable")
        cut = int(self.fraction * len(losses))
        lab.suspect(-losses, order[:cut])
        return lab.train(lab.poisoned.subset(np.sort(order[cut:])))


@model("tiny-net", version=1)
class TinyNet(Model):
    """Two strided convolutions with batch norm, pooled."""

    width: int = 8
    """Channels of the first convolution; the second has twice as many."""

    def build(self, classes: int, size: int) -> nn.Module:
        """The network."""
        from torch import nn

        class Net(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.first = nn.Conv2d(3, width, 3, 2, 1, bias=False)
                self.norm = nn.BatchNorm2d(width)
                self.second = nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False)
                self.norm2 = nn.BatchNorm2d(2 * width)
                self.head = nn.Linear(2 * width * 4, classes)

            def features(self, x: torch.Tensor) -> torch.Tensor:
                x = self.norm(self.first(x)).relu()
                x = self.norm2(self.second(x)).relu()
                return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

        return Net(self.width)
