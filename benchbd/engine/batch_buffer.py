"""A training set that a GPU cannot hold stays on the host, perhaps memory-mapped; the GPU gets one batch at a time."""

from __future__ import annotations

import torch
from torch import Tensor

SHARE = 0.6
"""Share of a GPU's free memory that a training set may take: activations, weights and optimiser need the rest."""


def too_large(images: Tensor, device: torch.device) -> bool:
    """Whether a set must stay on the host. False on a CPU, which already holds it."""
    if device.type != "cuda" or images.device == device:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() > SHARE * free


class BatchBuffer:
    """The images of the current batch, at a fixed address on the device that a captured graph can read.

    Args:
        images: uint8 (N, 3, H, W), the whole set, on the host.
        size: number of images in the largest batch.
        device: where to train.

    Attributes:
        images: uint8 (size, 3, H, W) on the device.
    """

    def __init__(self, images: Tensor, size: int, device: torch.device) -> None:
        self._source = images
        # Zeros, not uninitialised memory: a graph is warmed up before the first batch arrives.
        self.images = torch.zeros(size, *images.shape[1:], dtype=torch.uint8, device=device)
        self.images = self.images.contiguous(memory_format=torch.channels_last)
        self._places = torch.arange(size, device=device).unsqueeze(1)

    def load(self, picks: Tensor) -> None:
        """Copy the images at ``picks`` int64 (B,), on the host, to the device without waiting for it."""
        batch = self._source.index_select(0, picks)
        if self.images.is_cuda:
            batch = batch.pin_memory()
        self.images[: len(picks)].copy_(batch, non_blocking=True)

    def rows(self, rows: Tensor) -> Tensor:
        """Return an epoch's rows int64 (B, 4), on the device, with positions in this buffer instead of the set."""
        return torch.cat([self._places[: len(rows)], rows[:, 1:]], 1)
