"""my-plugin: an attack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import Attack, DatasetInfo, Impossible, StampContext, attack

if TYPE_CHECKING:
    import torch


@attack("my-plugin", version=1)
class MyPlugin(Attack):
    """Draws a bright square into the top-left corner and changes the label to the target class."""

    # Every field is a parameter. The docstring below it is its help. rate, target and others come with the base class.
    side: int = 3
    """Side of the square in pixels."""

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible, with the numbers, if the attack does not fit these images."""
        if not 1 <= self.side <= info.size:
            raise Impossible(f"a square of {self.side} pixels does not fit into {info.size}x{info.size} images")
        self.budget(info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the trigger into a copy of images, uint8 (N, 3, H, W); draw by context.seed and context.indices."""
        out = images.clone()
        out[:, :, : self.side, : self.side] = 255
        return out
