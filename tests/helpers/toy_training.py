"""A small network and a small set that the tests of the engine and of CUDA share."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from benchbd.core.images import Normalisation
from benchbd.core.recipe import Recipe
from benchbd.engine import Classifier, Precision, build
from benchbd.plugins.contract import Model

SIMPLE = Recipe(epochs=3, batch_size=32, lr=0.01)
"""A short training of the small network."""
EVERYTHING = Recipe(
    epochs=3,
    batch_size=32,
    optimizer="sgdw",
    lr=0.05,
    momentum=0.85,
    nesterov=True,
    weight_decay=1e-2,
    schedule="onecycle",
    bias_lr=4.0,
    label_smoothing=0.2,
    ema=0.8,
    clip_norm=0.5,
    augment=("translate2", "flip_alternate", "cutout"),
)
"""A recipe that uses whatever a recipe can ask for: a graph must read each step's own learning rate."""
NORMALISATION = Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


class ToyNet(nn.Module):
    """Two convolutions with batch norm, a residual sum, dropout on demand."""

    def __init__(self, classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, classes)

    def features(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        x = (self.norm2(self.second(x)) + x).relu()
        return self.drop(x.mean((2, 3)))


class Toy(Model):
    def build(self, classes: int, size: int) -> nn.Module:
        return ToyNet(classes)


class ToyDropout(Model):
    def build(self, classes: int, size: int) -> nn.Module:
        return ToyNet(classes, dropout=0.3)


class ToySet(NamedTuple):
    images: Tensor
    labels: Tensor


@pytest.fixture
def toy_set() -> ToySet:
    """150 images of 12 pixels, 3 classes told apart by their brightest channel."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.randint(0, 3, (150,), generator=generator)
    images = torch.randint(0, 180, (150, 3, 12, 12), generator=generator).to(torch.uint8)
    images[torch.arange(150), labels] += 60
    return ToySet(images, labels)


@pytest.fixture
def make_net():
    """A function of (seed, dropout) that builds the same toy network again and again."""

    def make(seed: int = 5, dropout: bool = False) -> Classifier:
        return build(ToyDropout() if dropout else Toy(), 3, 12, NORMALISATION, seed)

    return make


@pytest.fixture
def plain() -> Precision:
    """float32 in torch's default layout."""
    return Precision("cpu-fp32", channels_last=False, graph=False)
