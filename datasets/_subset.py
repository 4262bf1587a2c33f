"""Seeded, class-stratified subsets: which images ``cifar10(train=10000)`` means, on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchbd import UsageError

if TYPE_CHECKING:
    import numpy as np

    from benchbd import Images


def share_out(counts: Sequence[int], wanted: int | None, what: str) -> tuple[int, ...]:
    """Share ``wanted`` images out among the classes, in proportion to ``counts`` (largest remainder).

    Classes of equal size differ by one image at most, the lower class index getting the extra one; every class that has
    images gets at least one.

    Args:
        counts: images there are of each class.
        wanted: size of the subset; None for all of them.
        what: data set and parameter, for the message (``cifar10: train``).

    Raises:
        UsageError: fewer images are wanted than there are classes, or more than there are images.
    """
    total = sum(counts)
    if wanted is None:
        return tuple(counts)
    if wanted > total:
        raise UsageError(f"{what} is {wanted} but there are only {total} images")
    classes = sum(count > 0 for count in counts)
    if wanted < classes:
        raise UsageError(f"{what} must be at least {classes}, one image of each class, not {wanted}")
    # Whole numbers throughout: the shares must not depend on rounding.
    shares = [count * wanted // total for count in counts]
    order = sorted(range(len(counts)), key=lambda c: (-(counts[c] * wanted % total), c))
    for c in order[: wanted - sum(shares)]:
        shares[c] += 1
    for c, count in enumerate(counts):
        if count and not shares[c]:
            largest = max(range(len(counts)), key=lambda k: (shares[k], -k))
            shares[largest] -= 1
            shares[c] = 1
    return tuple(shares)


def choose(labels: np.ndarray, shares: Sequence[int], seed: int) -> np.ndarray:
    """Positions of a subset: ``shares[c]`` images of each class c, drawn without replacement.

    Nested: with the same seed, a smaller share is part of every larger one. Legacy MT19937 draws are used because numpy
    promises never to change them.

    Args:
        labels: (N,) class of each image.
        shares: images wanted of each class, no more than there are.
        seed: seed of the draw; each class has its own stream.

    Returns:
        int64, ascending: the subset keeps the data set's order.
    """
    import numpy as np

    picked = []
    for c, share in enumerate(shares):
        members = np.flatnonzero(labels == c)
        if share > len(members):
            raise ValueError(f"{share} images of class {c} wanted, {len(members)} there")
        draw = np.random.RandomState([seed, c])
        picked.append(members[draw.permutation(len(members))[:share]])
    return np.sort(np.concatenate(picked)).astype(np.int64)


def part(images: np.ndarray, labels: np.ndarray, shares: Sequence[int], seed: int) -> Images:
    """The subset of arrays ``images`` (N, 3, H, W) and ``labels`` (N,) as tensors; all of it is not copied."""
    import numpy as np
    import torch

    from benchbd import Images

    if sum(shares) < len(labels):
        keep = choose(labels, shares, seed)
        images, labels = images[keep], labels[keep]
    return Images(torch.from_numpy(images), torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)))


class Sizes(NamedTuple):
    """Images of each class in a (sub)set's two parts."""

    train: tuple[int, ...]
    test: tuple[int, ...]

    def of(self, split: str) -> tuple[int, ...]:
        """The part called ``train`` or ``test``."""
        return self.train if split == "train" else self.test
