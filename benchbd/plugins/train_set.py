"""A set of training images, identified by a key of its content."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchbd.core.checksum import checksum
from benchbd.core.hashing import digest, sha_of
from benchbd.errors import Misused, UsageError, counted, one_line

_MEND = "use replace(images=..., labels=...) instead"


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
        raise UsageError(f"{name}: positions range {found}, but there are only {counted(count, 'item')}")
    if repeated and distinct:
        raise UsageError(f"{name} names a position twice; a mask must be of type bool")
    return selected


def _holds_only_0_and_1(values: np.ndarray) -> bool:
    return values.dtype.kind in "iuf" and bool(((values == 0) | (values == 1)).all())


class TrainSet:
    """Labelled training images with the key of their content.

    A set must not be changed, since results are stored under its key. The harness compares a checksum of every image
    and label before a result is computed and before it is stored.

    Attributes:
        images: uint8 (N, 3, H, W), CPU.
        labels: int64 (N,), CPU, as the defender sees them.
        key: hash of everything that determines them.

    Args:
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
        key: any text; the set's key hashes it together with images and labels.

    Raises:
        UsageError: images or labels have another type or shape.
    """

    __slots__ = ("_sums", "_versions", "images", "key", "labels")
    images: torch.Tensor
    labels: torch.Tensor
    key: str
    _sums: tuple[str, str]
    _versions: tuple[int | None, int | None]

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, key: str) -> None:
        self._fill(images, labels, "")
        # A plugin that gives two sets one key must not get the results of one for the other.
        object.__setattr__(self, "key", digest(["given", key, sha_of(images.numpy()), sha_of(labels.numpy())]))

    @classmethod
    def keyed(cls, images: torch.Tensor, labels: torch.Tensor, key: str) -> TrainSet:
        """A set under exactly this key. Only for the harness: the key must determine images and labels."""
        made = cls.__new__(cls)
        made._fill(images, labels, key)
        return made

    def _fill(self, images: torch.Tensor, labels: torch.Tensor, key: str) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or labels.dtype != torch.int64 or len(images) != len(labels):
            raise UsageError(
                "a training set needs images uint8 (N, 3, H, W) and labels int64 (N,), "
                f"not {images.dtype} {tuple(images.shape)} and {labels.dtype} {tuple(labels.shape)}"
            )
        sums = (checksum(images.numpy()), checksum(labels.numpy()))
        content = {"images": images, "labels": labels, "key": key, "_sums": sums}
        for name, value in {**content, "_versions": (_version(images), _version(labels))}.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise Misused(f"a training set's {name} cannot be assigned; {_MEND}")

    def __delattr__(self, name: str) -> None:
        raise Misused(f"a training set's {name} cannot be deleted; {_MEND}")

    def __reduce__(self) -> tuple[Any, ...]:
        self.check()
        return TrainSet.keyed, (self.images, self.labels, self.key)

    def __len__(self) -> int:
        return len(self.labels)

    def check(self) -> None:
        """Raise :class:`Misused` if images or labels were changed in place: their key would name wrong results.

        The checksum finds a change by any means. Torch's version counters also find one that was taken back.
        """
        for name, before, version in zip(("images", "labels"), self._sums, self._versions, strict=True):
            tensor = getattr(self, name)
            if _version(tensor) != version or checksum(tensor.numpy()) != before:
                raise Misused(f"a training set was changed in place (its {name}); {_MEND}")

    def subset(self, indices: Any) -> TrainSet:
        """The samples at ``indices`` (int (M,) positions or bool (N,) mask), in the order given."""
        selected = positions(indices, len(self), "subset")
        if len(selected) == len(self) and np.array_equal(selected, np.arange(len(self))):
            return self
        index = torch.from_numpy(selected)
        images, labels = self.images[index], self.labels[index]
        self.check()  # after the copy: the key promises the content of the unchanged set
        return TrainSet.keyed(images, labels, digest(["subset", self.key, sha_of(selected)]))

    def replace(self, *, images: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> TrainSet:
        """A copy with other images or labels (same types as the attributes), under the key of its content."""
        new = [self.images if images is None else images, self.labels if labels is None else labels]
        for given in new:
            if not isinstance(given, torch.Tensor) or given.device.type != "cpu":
                found = f"on {given.device}" if isinstance(given, torch.Tensor) else type(given).__name__
                raise UsageError(f"a training set needs images and labels as CPU tensors, not {found}")
        return TrainSet.keyed(new[0], new[1], digest(["replaced", *(sha_of(t.numpy()) for t in new)]))


def _version(tensor: torch.Tensor) -> int | None:
    """How often torch has changed a tensor's memory in place; None for tensors that do not count it."""
    return None if tensor.is_inference() else tensor._version
