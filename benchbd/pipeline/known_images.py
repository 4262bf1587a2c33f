"""Training sets remembered by the positions of their images in another set, which takes far less memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np
import torch

from benchbd.plugins.train_set import TrainSet


class KnownImages:
    """The images of a set that is in memory anyway.

    Args:
        data: the set.
    """

    def __init__(self, data: TrainSet) -> None:
        self._data = data
        self._places: dict[bytes, int] = {}

    def remembered(self, data: TrainSet) -> Callable[[], TrainSet]:
        """What gives a set once more, with equal images, labels and key.

        Only positions and labels are kept of a set whose images are all known, and the set itself of any other.
        """
        if data is self._data:
            return lambda: data
        if not self._places:
            self._places = {image: place for place, image in enumerate(_digests(self._data))}
        places = [self._places.get(image) for image in _digests(data)]
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            return lambda: data
        index, labels, key, whole = torch.tensor(known, dtype=torch.int64), data.labels, data.key, self._data
        return lambda: TrainSet.keyed(whole.images[index], labels, key)


def _digests(data: TrainSet) -> Iterator[bytes]:
    """A digest of each image. Equal images have equal digests."""
    for image in data.images.numpy():
        yield hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
