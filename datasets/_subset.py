"""Seeded, class-stratified subsets: ``cifar10(train=10000)`` means the same images on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchbd import UsageError

if TYPE_CHECKING:
    import numpy as np

    from benchbd import Images


def share_out(counts: Sequence[int], wanted: int | None, what: str) -> tuple[int, ...]:
    """Distribute ``wanted`` images among the classes, in proportion to ``counts`` (largest remainder method).

    The shares of equally large classes differ by one image at most; the lower class index gets the extra one. Every
    class that has images gets at least one.

    Args:
        counts: available images of each class.
        wanted: size of the subset; None for all images.
        what: data set and parameter, for the message (``cifar10: train``).

    Returns:
        Images of each class in the subset.

    Raises:
        UsageError: ``wanted`` is smaller than the number of classes, or larger than the number of images.
    """
    total = sum(counts)
    if wanted is None:
        return tuple(counts)
    if wanted > total:
        raise UsageError(f"{what} is {wanted} but there are only {total} images")
    classes = sum(count > 0 for count in counts)
    if wanted < classes:
        raise UsageError(f"{what} must be at least {classes}, one image of each class, not {wanted}")
    # Integer arithmetic throughout: the shares must not depend on rounding.
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

    Subsets are nested: with the same seed, a smaller share is contained in every larger one. numpy's legacy MT19937
    generator is used because numpy promises never to change its stream.

    Args:
        labels: (N,) class of each image.
        shares: images to draw of each class, at most as many as it has.
        seed: seed of the draw; each class has its own stream.

    Returns:
        int64, ascending: the subset keeps the order of the data set.
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
    """A subset of ``images`` (N, 3, H, W) and ``labels`` (N,) as tensors. Images are not copied if all are kept."""
    import numpy as np
    import torch

    from benchbd import Images

    if sum(shares) < len(labels):
        keep = choose(labels, shares, seed)
        images, labels = images[keep], labels[keep]
    return Images(torch.from_numpy(images), torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64)))


class Sizes(NamedTuple):
    """Images per class in the two splits of a set or subset."""

    train: tuple[int, ...]
    test: tuple[int, ...]

    def of(self, split: str) -> tuple[int, ...]:
        """The counts of the split ``train`` or ``test``."""
        return self.train if split == "train" else self.test
