"""A set of training images, identified by a key of its content."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchbd.core.hashing import digest, sha_of
from benchbd.errors import UsageError, one_line

_CHECKED_IMAGES = 16
"""Number of images hashed to detect a change in place. Labels are all hashed."""


def as_array(given: Any, name: str, dtype: Any = None) -> np.ndarray:
    """Convert what a plugin hands over to an array: a list, an array, or a tensor on any device.

    Args:
        given: anything array-like.
        name: the argument's name, for error messages.
        dtype: the wanted type; None keeps it.

    Raises:
        UsageError: it is not an array of numbers.
    """
    try:
        if isinstance(given, torch.Tensor):
            given = given.detach().cpu()
            given = given.float() if given.dtype == torch.bfloat16 else given
        return np.asarray(given, dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError, NotImplementedError) as error:
        raise UsageError(f"{name}: {type(given).__name__} is not an array of numbers ({one_line(error)})") from error


def positions(given: Any, count: int, name: str, *, distinct: bool = False) -> np.ndarray:
    """Convert a plugin's selection to positions.

    Args:
        given: positions, int (M,), or a mask, bool (N,); a list, an array, or a tensor on any device.
        count: N, the number of items to select from.
        name: the argument's name, for error messages.
        distinct: refuse a position that is named twice.

    Returns:
        int64 (M,), in the order given; a mask gives ascending positions.

    Raises:
        UsageError: the selection has neither form, the mask has another length or is a mask of integers, a position is
            not in 0..N-1, or one is named twice where they must be distinct.
    """
    selected = as_array(given, name)
    if selected.ndim == 1 and selected.dtype == bool:
        if len(selected) != count:
            raise UsageError(f"{name}: the mask has {len(selected)} entries, expected {count}")
        return np.flatnonzero(selected)
    if selected.ndim != 1 or (selected.size and selected.dtype.kind not in "iu"):
        found = f"{selected.dtype} {selected.shape}"
        mend = "; write mask.astype(bool)" if selected.shape == (count,) and _holds_only_0_and_1(selected) else ""
        raise UsageError(f"{name}: must be one-dimensional positions or a bool mask, not {found}{mend}")
    repeated = len(np.unique(selected)) != len(selected)
    if repeated and len(selected) == count and _holds_only_0_and_1(selected):
        raise UsageError(
            f"{name}: {count} integers that are all 0 or 1 are a mask, not positions; write mask.astype(bool)"
        )
    selected = selected.astype(np.int64)
    if selected.size and (selected.min() < 0 or selected.max() >= count):
        found = f"from {selected.min()} to {selected.max()}"
        raise UsageError(f"{name}: positions range {found}, but there are only {count} items")
    if repeated and distinct:
        raise UsageError(f"{name} names a position twice; a mask must be of type bool")
    return selected


def _holds_only_0_and_1(values: np.ndarray) -> bool:
    return values.dtype.kind in "iuf" and bool(((values == 0) | (values == 1)).all())


class TrainSet:
    """Labelled training images with the key of their content.

    A set must not be changed in place, since results are stored under its key.

    Attributes:
        images: uint8 (N, 3, H, W), CPU.
        labels: int64 (N,), CPU, as the defender sees them.
        key: hash of everything that determines them.
    """

    __slots__ = ("_fingerprint", "images", "key", "labels")

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, key: str) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64 or len(images) != len(labels):
            raise UsageError(
                "a training set needs images uint8 (N, 3, H, W) and labels int64 (N,), "
                f"not {images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
        self.images, self.labels, self.key = images, labels, key
        self._fingerprint = self._compute_fingerprint()

    def __len__(self) -> int:
        return len(self.labels)

    def _compute_fingerprint(self) -> str:
        sample = self.images[:: max(1, len(self) // _CHECKED_IMAGES)][:_CHECKED_IMAGES]
        return digest([sha_of(self.labels.numpy()), sha_of(sample.numpy())])

    def check(self) -> None:
        """Raise UsageError if labels or images were changed in place, since their key would then name wrong results."""
        if self._compute_fingerprint() != self._fingerprint:
            raise UsageError("a training set was changed in place; use replace(images=..., labels=...) instead")

    def subset(self, indices: Any) -> TrainSet:
        """The samples at ``indices`` (int (M,) positions or bool (N,) mask), in the order given."""
        selected = positions(indices, len(self), "subset")
        if len(selected) == len(self) and np.array_equal(selected, np.arange(len(self))):
            return self
        index = torch.from_numpy(selected)
        return TrainSet(self.images[index], self.labels[index], digest(["subset", self.key, sha_of(selected)]))

    def replace(self, *, images: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> TrainSet:
        """A copy with other images or labels (same types as the attributes), under the key of its content."""
        new = [self.images if images is None else images, self.labels if labels is None else labels]
        for given in new:
            if not isinstance(given, torch.Tensor) or given.device.type != "cpu":
                found = f"on {given.device}" if isinstance(given, torch.Tensor) else type(given).__name__
                raise UsageError(f"a training set needs images and labels as CPU tensors, not {found}")
        return TrainSet(new[0], new[1], digest(["replaced", *(sha_of(t.numpy()) for t in new)]))
