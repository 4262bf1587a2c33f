"""The digits: sizes as stated, a true split, pixels that any machine computes alike."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch

from benchbd.datasets.digits import enlarge
from benchbd.errors import UsageError
from benchbd.plugins import registry


def rows(images: torch.Tensor, labels: torch.Tensor) -> Counter[tuple[bytes, int]]:
    return Counter((image.numpy().tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_parts_have_the_stated_sizes() -> None:
    digits = registry.make("datasets", "digits")
    info = digits.info()
    train, test = digits.load("train", None), digits.load("test", None)
    assert (info.train, info.test, info.classes, info.size, info.target) == (1437, 360, 10, 32, 1)
    assert train.images.shape == (1437, 3, 32, 32)
    assert test.images.shape == (360, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert tuple(torch.bincount(train.labels).tolist()) == info.class_counts
    assert torch.bincount(test.labels).tolist() == [36] * 10


def test_both_parts_together_are_the_whole_set() -> None:
    from sklearn.datasets import load_digits

    digits = registry.make("datasets", "digits")
    bunch = load_digits()
    whole = rows(torch.from_numpy(enlarge(bunch.images)), torch.from_numpy(bunch.target))
    assert rows(*digits.load("train", None)) + rows(*digits.load("test", None)) == whole


def test_pixels_are_pinned() -> None:
    """A change here changes every result on digits."""
    train = registry.make("datasets", "digits").load("train", None)
    assert hashlib.sha256(train.images.numpy().tobytes()).hexdigest()[:16] == "3a70a1a17c6cd7e2"
    assert train.labels[:10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]


def test_enlargement_is_bilinear() -> None:
    small = np.random.RandomState(0).randint(0, 17, (20, 8, 8))
    exact = torch.nn.functional.interpolate(torch.tensor(small)[:, None].double(), scale_factor=4, mode="bilinear")
    assert np.abs(enlarge(small)[:, 0] - exact[:, 0].numpy() * 255 / 16).max() <= 0.5 + 1e-9
    assert (enlarge(np.full((1, 8, 8), 16)) == 255).all()
    assert (enlarge(np.zeros((1, 8, 8), dtype=int)) == 0).all()


def test_subset_is_part_of_the_whole() -> None:
    whole, some = registry.make("datasets", "digits"), registry.make("datasets", "digits(train=200, test=50)")
    info = some.info()
    train = some.load("train", None)
    assert (info.train, info.test) == (200, 50)
    assert tuple(torch.bincount(train.labels).tolist()) == info.class_counts
    assert not rows(*train) - rows(*whole.load("train", None))
    assert not rows(*some.load("test", None)) - rows(*whole.load("test", None))
    other = registry.make("datasets", "digits(train=200, subset_seed=1)").load("train", None)
    assert not torch.equal(train.images, other.images)


def test_too_large_a_subset_is_refused() -> None:
    with pytest.raises(UsageError, match="digits: train is 2000 but there are only 1437 images"):
        registry.make("datasets", "digits(train=2000)").info()


def test_nothing_is_ever_missing() -> None:
    assert registry.make("datasets", "digits").missing("/no/such/folder") is None
