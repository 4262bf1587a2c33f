"""A training set is remembered by positions: the same set comes back, and its images need not stay in memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from benchbd.pipeline.known_images import KnownImages
from benchbd.plugins.train_set import TrainSet


@pytest.fixture
def whole() -> TrainSet:
    images = torch.randint(0, 256, (12, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[7] = images[2]  # the same picture twice, under two labels
    return TrainSet(images, torch.arange(12), "whole")


@pytest.mark.parametrize("chosen", [[3, 1, 2], [2, 7], [7, 7], list(range(11, -1, -1)), []])
@pytest.mark.parametrize("labels", ["its own", "others"])
def test_the_same_set_comes_back_and_its_images_go(whole: TrainSet, chosen: list[int], labels: str) -> None:
    some = whole.subset(chosen)
    some = some if labels == "its own" else some.replace(labels=some.labels + 20)
    expected = some.images.clone(), some.labels.clone(), some.key
    again, images = KnownImages(whole).remembered(some), weakref.ref(some.images)
    del some
    gc.collect()
    assert images() is None
    found = again()
    assert torch.equal(found.images, expected[0])
    assert torch.equal(found.labels, expected[1])
    assert found.key == expected[2]
    found.check()


def test_a_set_with_another_image_is_kept_itself(whole: TrainSet) -> None:
    known = KnownImages(whole)
    images = whole.images.clone()
    images[4, 0, 0, 0] ^= 1
    other = whole.replace(images=images)
    assert known.remembered(other)() is other
    assert known.remembered(whole)() is whole
