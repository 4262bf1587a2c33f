"""Which input stem a network gets: torch-free, so that plugin files may ask while planning."""

from __future__ import annotations

from typing import Literal

from benchbd import Impossible

StemKind = Literal["auto", "cifar", "imagenet"]
LARGE = 96
"""Images from this size on (pixels) get the ImageNet stem where the kind is ``auto``."""


def imagenet_stem(kind: StemKind, size: int) -> bool:
    """Whether images of ``size`` pixels go through the ImageNet stem (which divides them by four) or the CIFAR one."""
    return kind == "imagenet" or (kind == "auto" and size >= LARGE)


def at_least(name: str, size: int, smallest: int) -> None:
    """Raise :class:`Impossible` where images are smaller than ``smallest`` pixels."""
    if size < smallest:
        raise Impossible(f"{name} needs images of at least {smallest}x{smallest} pixels, not {size}x{size}")
