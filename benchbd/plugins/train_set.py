"""A set of training images, known by a key of its content."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchbd.core.hashing import digest, sha_of
from benchbd.errors import UsageError

_WATCHED = 16
"""Images of a set that are looked at to notice that it was changed in place; labels are all looked at."""


def positions(given: Any, count: int, what: str) -> np.ndarray:
    """int64 positions out of what a plugin names samples by: positions (M,), in the order given, or a mask bool (N,).

    Raises:
        UsageError: it is neither, the mask has another length, or a position is not in 0..count-1.
    """
    where = np.asarray(given)
    if where.ndim == 1 and where.dtype == bool:
        if len(where) != count:
            raise UsageError(f"{what}: a mask of {len(where)} for {count}")
        return np.flatnonzero(where)
    if where.ndim != 1 or (where.size and where.dtype.kind not in "iu"):
        raise UsageError(f"{what}: takes positions or a bool mask, one-dimensional, not {where.dtype} {where.shape}")
    where = where.astype(np.int64)
    if where.size and (where.min() < 0 or where.max() >= count):
        raise UsageError(f"{what}: positions reach from {where.min()} to {where.max()}, there are {count}")
    return where


class TrainSet:
    """Labelled training images with the key of their content. Never changed in place: results are stored by the key.

    Attributes:
        images: uint8 (N, 3, H, W), CPU.
        labels: int64 (N,), CPU; as the defender sees them.
        key: hash of everything that determined them.
    """

    __slots__ = ("_mark", "images", "key", "labels")

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, key: str) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64 or len(images) != len(labels):
            raise UsageError(
                "a training set takes images uint8 (N, 3, H, W) and labels int64 (N,), "
                f"not {images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
        self.images, self.labels, self.key = images, labels, key
        self._mark = self._look()

    def __len__(self) -> int:
        return len(self.labels)

    def _look(self) -> str:
        some = self.images[:: max(1, len(self) // _WATCHED)][:_WATCHED]
        return digest([sha_of(self.labels.numpy()), sha_of(some.numpy())])

    def check(self) -> None:
        """Raise UsageError where labels or images were changed in place: their key would name wrong results."""
        if self._look() != self._mark:
            raise UsageError("a training set was changed in place; make another with replace(images=..., labels=...)")

    def subset(self, indices: Any) -> TrainSet:
        """The samples at ``indices`` (int (M,) positions or bool (N,) mask), in the order given."""
        where = positions(indices, len(self), "subset")
        if len(where) == len(self) and np.array_equal(where, np.arange(len(self))):
            return self
        index = torch.from_numpy(where)
        return TrainSet(self.images[index], self.labels[index], digest(["subset", self.key, sha_of(where)]))

    def replace(self, *, images: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> TrainSet:
        """A set with other images or labels (same types as the attributes), under the key of their content."""
        new = [self.images if images is None else images, self.labels if labels is None else labels]
        return TrainSet(new[0], new[1], digest(["replaced", *(sha_of(t.numpy()) for t in new)]))
