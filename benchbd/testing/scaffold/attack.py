"""my-plugin: an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import Attack, DatasetInfo, Impossible, StampContext, attack

if TYPE_CHECKING:
    import torch


@attack("my-plugin", version=1)
class MyPlugin(Attack):
    """A bright square in the top-left corner, relabelled to the target class."""

    # Fields are parameters, each with a line of help below it. rate, target and others come with every attack.
    side: int = 3
    """Side of the square in pixels."""

    def check(self, info: DatasetInfo) -> None:
        """Refuse, with the numbers, what cannot be done on such images."""
        if not 1 <= self.side <= info.size:
            raise Impossible(f"a square of {self.side} pixels does not fit into {info.size}x{info.size} images")
        self.budget(info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the trigger into a copy of images, uint8 (N, 3, H, W); draw per image by how.seed and how.indices."""
        out = images.clone()
        out[:, :, : self.side, : self.side] = 255
        return out
