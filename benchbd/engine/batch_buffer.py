"""Training sets that a GPU cannot hold stay on the host (memory-mapped, perhaps); one batch at a time comes over."""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 0.6
"""Of a GPU's free memory, what a training set may take: the rest is for activations, weights and optimiser."""


def too_large(images: Tensor, device: torch.device) -> bool:
    """Whether a set must stay on the host. Never on a CPU, where it is already."""
    if device.type != "cuda" or images.device == device:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() > SHARE * free


class BatchBuffer:
    """The images of the current batch, at one address of the device, which a captured graph may read.

    Args:
        images: uint8 (N, 3, H, W) on the host.
        size: images of the largest batch.
        device: where to train.

    Attributes:
        images: uint8 (size, 3, H, W) on the device.
    """

    def __init__(self, images: Tensor, size: int, device: torch.device) -> None:
        self._source = images
        # Zeros, not whatever memory held: a graph is warmed up before the first batch has come.
        self.images = torch.zeros(size, *images.shape[1:], dtype=torch.uint8, device=device)
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self._places = torch.arange(size, device=device).unsqueeze(1)

    def load(self, picks: Tensor) -> None:
        """Bring over the images at ``picks`` int64 (B,), on the host. Nothing waits for the device."""
        batch = self._source.index_select(0, picks)
        if self.images.is_cuda:
            batch = batch.pin_memory()
        self.images[: len(picks)].copy_(batch, non_blocking=True)

    def rows(self, rows: Tensor) -> Tensor:
        """Rows int64 (B, 4) of an epoch, on the device, as rows of the window."""
        return torch.cat([self._places[: len(rows)], rows[:, 1:]], 1)
