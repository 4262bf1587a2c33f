"""Batched crops and flips against a loop over single images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.core.recipe import AUGMENTATIONS, Recipe
from benchbd.engine.augment import GREY, PAD, alternating, batch_of, draw_epoch, draw_views, unit_range


def one_by_one(images: np.ndarray, rows: np.ndarray, augment: tuple[str, ...]) -> np.ndarray:
    """The same in numpy, an image at a time."""
    made = []
    for position, top, left, flip in rows[:, :4]:
        image = images[position]
        height, width = image.shape[1:]
        for name, pad, mode in (
            ("crop4", 4, "constant"),
            ("crop4_reflect", 4, "reflect"),
            ("translate2", 2, "reflect"),
        ):
            if name in augment:
                padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode=mode)
                image = padded[:, top : top + height, left : left + width]
        if ("hflip" in augment or "flip_alternate" in augment) and flip:
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


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**60),
    epoch=st.integers(0, 3),
    count=st.integers(1, 20),
    height=st.integers(5, 9),
    width=st.integers(5, 9),
    channels_last=st.booleans(),
    crop=st.sampled_from([None, "crop4", "crop4_reflect", "translate2"]),
    flip=st.sampled_from([None, "hflip", "flip_alternate"]),
)
def test_crops_that_reflect_and_flips_that_alternate(seed, epoch, count, height, width, channels_last, crop, flip):
    augment = tuple(name for name in (crop, flip) if name)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    rows = draw_epoch(seed, epoch, count, augment)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    made = batch_of(images.to(memory_format=layout), rows, augment)
    np.testing.assert_array_equal(made.numpy(), one_by_one(images.numpy(), rows.numpy(), augment))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_rows_of_the_first_augmentations_are_those_they_always_were():
    for augment in ((), ("crop4",), ("hflip",), ("crop4", "hflip"), ("crop4_reflect", "hflip")):
        assert torch.equal(draw_epoch(3, 1, 40, augment), draw_epoch(3, 1, 40))
        assert torch.equal(draw_views(3, torch.arange(9), augment), draw_views(3, torch.arange(9)))
    translated = draw_epoch(3, 1, 400, ("translate2",))
    assert torch.equal(translated[:, 0], draw_epoch(3, 1, 400)[:, 0])
    assert set(translated[:, 1].tolist()) == set(translated[:, 2].tolist()) == {0, 1, 2, 3, 4}


def test_an_alternating_flip_shows_each_image_both_ways_in_any_two_epochs():
    def flipped(epoch: int) -> torch.Tensor:
        rows = draw_epoch(5, epoch, 1000, ("flip_alternate",))
        return rows[rows[:, 0].argsort(), 3]

    first = flipped(0)
    assert 400 < int(first.sum()) < 600
    for epoch in range(1, 5):
        assert torch.equal(flipped(epoch), (first + epoch) % 2)
    assert not torch.equal(first, draw_epoch(6, 0, 1000, ("flip_alternate",))[:, 3])
    given = draw_epoch(9, 0, 1000, ("flip_alternate",), alternating(5, 3, 1000))
    assert torch.equal(given[given[:, 0].argsort(), 3], flipped(3))


def test_cutout_greys_a_square_of_half_the_side_around_any_pixel():
    images = torch.full((1, 3, 8, 12), 7, dtype=torch.uint8)
    for down, right, rows, columns in [(4, 6, range(2, 6), range(4, 8)), (0, 11, range(2), range(9, 12))]:
        place = [int((at + 0.5) / side * 2**31) for at, side in ((down, 8), (right, 12))]
        made = batch_of(images, torch.tensor([[0, 0, 0, 0, *place]]), ("cutout",))
        expected = np.full((8, 12), 7)
        expected[np.ix_([*rows], [*columns])] = GREY
        np.testing.assert_array_equal(made[0, 1].numpy(), expected)


def test_rotations_turn_by_at_most_15_degrees_about_the_middle():
    images = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    images[0, :, 16, :] = 255  # a horizontal line through the middle
    slopes = []
    for share in (0, 0.25, 0.5, 0.75, 1 - 2**-31):
        made = batch_of(images, torch.tensor([[0, 0, 0, 0, int(share * 2**31)]]), ("rotate15",))
        assert made[0, 0, 16, 16] == 255
        left, right = (int(made[0, 0, :, at].argmax()) for at in (4, 28))
        slopes.append((right - left) / 24)
    assert slopes[2] == 0
    degrees = np.degrees(np.arctan(slopes))
    assert np.abs(degrees) == pytest.approx([15, 7.5, 0, 7.5, 15], abs=2)
    assert np.sign(degrees).sum() == 0


def test_a_resized_crop_of_the_whole_image_is_the_image_and_a_part_is_enlarged():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=generator)
    whole, middle = 2**31 - 1, 2**30
    made = batch_of(images, torch.tensor([[0, 0, 0, 0, whole, middle, 5, 5]]), ("resized_crop",))
    assert (made.int() - images.int()).abs().max() <= 1
    ramp = torch.arange(4, 256, 8, dtype=torch.uint8).expand(1, 3, 32, 32).contiguous()
    quarter = int((0.25 - 0.08) / 0.92 * 2**31)
    for right, first in ((0, 0), (2**31 - 1, 128)):
        made = batch_of(ramp, torch.tensor([[0, 0, 0, 0, quarter, middle, 7, right]]), ("resized_crop",))
        row = made[0, 0, 3].float()
        assert row[0] == pytest.approx(first, abs=5)
        assert row[-1] - row[0] == pytest.approx(124, abs=5)


def test_all_augmentations_together_keep_shape_and_layout_and_are_drawn_by_the_epoch():
    images = torch.randint(0, 256, (50, 3, 12, 12), dtype=torch.uint8)
    augment = Recipe(augment=("cutout", "translate2", "rotate15", "flip_alternate")).augment
    made = [batch_of(images, draw_epoch(4, epoch, 50, augment), augment) for epoch in (0, 0, 1)]
    assert made[0].shape == images.shape
    assert made[0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    rows = draw_epoch(4, 0, 50, augment)
    assert rows.shape == (50, 7)
    single = torch.cat([batch_of(images, row.unsqueeze(0), augment) for row in rows])
    assert torch.equal(single, made[0])  # whatever batch an image is in


def test_every_augmentation_of_a_recipe_changes_a_batch():
    images = torch.randint(0, 256, (20, 3, 12, 12), dtype=torch.uint8)
    for name in AUGMENTATIONS:
        rows = draw_epoch(4, 0, 20, (name,))
        assert not torch.equal(batch_of(images, rows, (name,)), batch_of(images, rows, ())), name


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
