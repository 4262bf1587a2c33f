"""Choice of the input stem of a network. Torch-free, so that plugin files can use it while planning."""

from __future__ import annotations

from typing import Literal

from benchbd import Impossible

StemKind = Literal["auto", "cifar", "imagenet"]
LARGE = 96
"""Image size in pixels from which ``auto`` means the ImageNet stem."""


def imagenet_stem(kind: StemKind, size: int) -> bool:
    """Whether images of ``size`` pixels get the ImageNet stem, which divides their side by four."""
    return kind == "imagenet" or (kind == "auto" and size >= LARGE)


def at_least(name: str, size: int, smallest: int) -> None:
    """Raise :class:`Impossible` if images are smaller than ``smallest`` pixels."""
    if size < smallest:
        raise Impossible(f"{name} needs images of at least {smallest}x{smallest} pixels, not {size}x{size}")
