"""A frame around the image, as an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import Attack, DatasetInfo, Impossible, StampContext, attack

if TYPE_CHECKING:
    import torch


@attack("example-frame", version=1)
class Frame(Attack):
    """A white frame around the whole image, relabelled to the target class."""

    width: int = 2
    """Width of the frame in pixels."""

    def check(self, info: DatasetInfo) -> None:
        """The frame must leave something of the image."""
        if not 1 <= self.width < info.size / 2:
            raise Impossible(f"a frame of {self.width} pixels leaves nothing of {info.size}x{info.size} images")
        self.budget(info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the frame over the pixels."""
        import torch

        out = torch.full_like(images, 255)
        inside = slice(self.width, -self.width)
        out[:, :, inside, inside] = images[:, :, inside, inside]
        return out
