"""Labelled images, and the facts about a data set that are known before any image is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch


class DatasetInfo(NamedTuple):
    """Facts about a data set that are known before any image is read.

    Attributes:
        classes: number of classes.
        size: height and width of the (square) images in pixels.
        train: number of training images.
        test: number of test images.
        class_counts: training images per class, or None if they are unknown until the data is read.
        target: the attacks' default target class.
        poisoned: whether the training images are poisoned already, so that only the attack that they carry applies.
    """

    classes: int
    size: int
    train: int
    test: int
    class_counts: tuple[int, ...] | None
    target: int
    poisoned: bool = False


class Images(NamedTuple):
    """Labelled images. ``images`` uint8 (N, 3, H, W), ``labels`` int64 (N,); CPU tensors."""

    images: torch.Tensor
    labels: torch.Tensor


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation of images in [0, 1]. The first layer of the model applies them."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Of the training images of ImageNet, as the pretrained weights of torchvision and most of timm's take images."""
