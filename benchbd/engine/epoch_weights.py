"""Per-image weights computed for each epoch: a frozen network scores the very views that the epoch trains on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchbd.engine.augment import batch_of, unit_range
from benchbd.engine.network import Classifier
from benchbd.engine.passes import eval_mode, pass_batch
from benchbd.engine.precision import arithmetic

WeightFunction = Callable[[np.ndarray], np.ndarray]
"""Maps cross-entropies float32 (N,) to weights float32 (N,), both in the order of the set."""


class PerEpochWeights(NamedTuple):
    """Computes a training's weights for each epoch.

    Attributes:
        scorer: the frozen network; it is moved to the device of the labels.
        weight_fn: maps the scorer's losses to weights.
    """

    scorer: Classifier
    weight_fn: WeightFunction

    def __call__(self, images: Tensor, labels: Tensor, rows: Tensor, augment: tuple[str, ...]) -> Tensor:
        """Compute the weights of one epoch.

        Args:
            images: uint8 (N, 3, H, W), the whole set, on the device or, if it is too large, on the host.
            labels: int64 (N,), on the device.
            rows: int64 (N, 4), the epoch's rows from :func:`benchbd.engine.augment.draw_epoch`.
            augment: names from the recipe.

        Returns:
            float32 (N,) on the device, in the order of the set.
        """
        device = labels.device
        scorer = self.scorer.to(device)
        losses = torch.empty(len(images), device=device)
        size = pass_batch(images.shape[-1], device)
        with arithmetic(device, strict=False, search=False), eval_mode(scorer), torch.no_grad():
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                batch = batch_of(images, part.to(images.device), augment).to(device)
                x01 = unit_range(batch, channels_last=True)
                picks = part[:, 0]
                losses[picks] = F.cross_entropy(scorer(x01), labels[picks], reduction="none")
        return torch.from_numpy(self.weight_fn(losses.cpu().numpy())).to(device)
