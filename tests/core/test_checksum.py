"""A checksum notices every changed byte, wherever it lies, and a change of order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.core.checksum import checksum

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 3, 32, 32), dtype=np.uint8)


@given(st.lists(st.tuples(st.integers(0, IMAGES.size - 1), st.integers(1, 255)), min_size=1, max_size=5))
@settings(max_examples=80, deadline=None)
def test_changed_bytes_are_noticed(changes):
    other = IMAGES.copy()
    for place, by in changes:
        other.reshape(-1)[place] ^= by
    assert (checksum(other) == checksum(IMAGES)) == np.array_equal(other, IMAGES)


def test_two_images_in_each_others_place_are_noticed():
    order = np.arange(30)
    order[[3, 17]] = order[[17, 3]]
    assert checksum(IMAGES[order]) != checksum(IMAGES)
    words = IMAGES.reshape(-1).view(np.uint64).copy()
    words[[0, 4096]] = words[[4096, 0]]
    assert checksum(words) != checksum(IMAGES.reshape(-1).view(np.uint64))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0, np.int64),
        np.zeros((0, 3, 8, 8), np.uint8),
        np.array(3.5),
        np.array([True, False]),
        np.arange(7, dtype=np.int64),
        IMAGES.transpose(0, 2, 3, 1),
        IMAGES[:, :, ::2],
        np.frombuffer(b"x" + bytes(80000), np.uint8)[1:],
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_every_layout_has_one(array):
    assert checksum(array) == checksum(array)
    assert len(checksum(array)) == 32
    if array.size:
        other = np.array(array, order="K")
        other.flat[-1] = not other.flat[-1]
        assert checksum(other) != checksum(np.array(array, order="K"))


def test_type_and_shape_belong_to_it():
    assert checksum(np.zeros(8, np.int64)) != checksum(np.zeros(8, np.float64))
    assert checksum(np.zeros((2, 4), np.int64)) != checksum(np.zeros(8, np.int64))
