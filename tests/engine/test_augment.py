"""Batched crops and flips against a loop over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.engine.augment import PAD, batch_of, draw_epoch, unit_range


def one_by_one(images: np.ndarray, rows: np.ndarray, augment: tuple[str, ...]) -> np.ndarray:
    """The same in numpy, an image at a time."""
    made = []
    for position, top, left, flip in rows:
        image = images[position]
        height, width = image.shape[1:]
        if "crop4" in augment:
            padded = np.zeros((3, height + 2 * PAD, width + 2 * PAD), np.uint8)
            padded[:, PAD : PAD + height, PAD : PAD + width] = image
            image = padded[:, top : top + height, left : left + width]
        if "hflip" in augment and flip:
            image = image[:, :, ::-1]
        made.append(image)
    return np.stack(made)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**60),
    count=st.integers(1, 20),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels_last=st.booleans(),
    augment=st.sampled_from([(), ("crop4",), ("hflip",), ("crop4", "hflip")]),
)
def test_a_batch_equals_a_loop_over_images(seed, count, height, width, channels_last, augment):
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    rows = draw_epoch(seed, 0, count)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    made = batch_of(images.to(memory_format=layout), rows, augment)
    assert made.dtype == torch.uint8
    np.testing.assert_array_equal(made.numpy(), one_by_one(images.numpy(), rows.numpy(), augment))


def test_every_corner_of_the_crop_is_reached():
    images = torch.randint(1, 256, (1, 3, 6, 6), dtype=torch.uint8)
    for top, left, flip in [(0, 0, 0), (0, 8, 1), (8, 0, 0), (8, 8, 1), (4, 4, 0)]:
        rows = torch.tensor([[0, top, left, flip]])
        expected = one_by_one(images.numpy(), rows.numpy(), ("crop4", "hflip"))
        np.testing.assert_array_equal(batch_of(images, rows, ("crop4", "hflip")).numpy(), expected)
    assert torch.equal(batch_of(images, torch.tensor([[0, 4, 4, 0]]), ("crop4", "hflip")), images)


def test_images_are_not_changed_in_place():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8).to(memory_format=torch.channels_last)
    before = images.clone()
    for augment in ((), ("crop4",), ("hflip",), ("crop4", "hflip")):
        unit_range(batch_of(images, draw_epoch(1, 1, 4), augment), channels_last=True).mul_(2)
    assert torch.equal(images, before)


def test_an_epoch_is_a_permutation_with_offsets_in_range():
    rows = draw_epoch(7, 3, 500)
    assert sorted(rows[:, 0].tolist()) == list(range(500))
    assert set(rows[:, 1].tolist()) == set(rows[:, 2].tolist()) == set(range(2 * PAD + 1))
    assert 200 < int(rows[:, 3].sum()) < 300
    assert rows[:, 3].unique().tolist() == [0, 1]


def test_an_epoch_depends_on_seed_and_epoch_alone():
    assert torch.equal(draw_epoch(7, 3, 50), draw_epoch(7, 3, 50))
    assert not torch.equal(draw_epoch(7, 3, 50), draw_epoch(7, 4, 50))
    assert not torch.equal(draw_epoch(7, 3, 50), draw_epoch(8, 3, 50))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    draw_epoch(7, 3, 50)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("channels_last", [True, False])
def test_unit_range_is_what_to_tensor_computes(channels_last):
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    made = unit_range(every, channels_last)
    np.testing.assert_array_equal(made.numpy(), every.numpy().astype(np.float32) / np.float32(255))
    assert made.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
