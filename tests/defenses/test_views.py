"""SimCLR's views against an image at a time, by PIL and colorsys where these do the same."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchbd.defenses._views import (
    TRIES,
    ViewSettings,
    blurring,
    both_ways,
    boxes,
    brightened,
    contrasted,
    grey,
    hue_shifted,
    random_views,
    resizing,
    saturated,
)

SIZE = 16


def noise(count=6, size=SIZE, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, SIZE), st.integers(1, SIZE), st.integers(0, 15), st.integers(0, 15))
@settings(max_examples=40, deadline=None)
def test_a_crop_is_stretched_as_pil_does(height, width, top, left):
    top, left = min(top, SIZE - height), min(left, SIZE - width)
    pixels = (90 + noise(1)[0] * 75).to(torch.uint8)  # PIL clips what overshoots in between
    rows, columns = (resizing(torch.tensor([a]), torch.tensor([b]), SIZE) for a, b in ((top, height), (left, width)))
    found = both_ways(pixels[None].float(), rows, columns).clamp(0, 255)[0]
    crop = Image.fromarray(pixels.permute(1, 2, 0).numpy()).crop((left, top, left + width, top + height))
    wanted = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    # PIL rounds to whole values after each direction.
    np.testing.assert_allclose(found.permute(1, 2, 0), wanted, atol=2.5)


def one_area(rng, size, least):
    """The share of one crop, a try after the other."""
    for _ in range(TRIES):
        area = rng.uniform(least, 1) * size * size
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if width <= size and height <= size:
            return width * height / size**2
    return 1.0


def test_boxes_fit_keep_enough_and_are_not_too_flat():
    u = torch.rand(3000, 2 * TRIES + 2, generator=torch.Generator().manual_seed(1))
    top, left, height, width = boxes(u, 32, 0.2)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 32).all()
    assert (left + width <= 32).all()
    area = height * width / 32**2
    assert area.min() > 0.17
    assert area.max() > 0.93
    assert abs(float(area.mean()) - np.mean([one_area(np.random.default_rng(n), 32, 0.2) for n in range(3000)])) < 0.02
    ratio = width / height
    assert 0.68 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.47
    assert len(set(top.tolist())) > 15


def test_a_box_that_never_fits_is_the_whole_image():
    u = torch.zeros(2, 2 * TRIES + 2)
    u[:, :TRIES] = 0.999  # nearly all of the area at a ratio of 3 / 4: too high
    assert [edge.tolist() for edge in boxes(u, 32, 0.2)] == [[0, 0], [0, 0], [32, 32], [32, 32]]


@given(st.floats(-0.5, 0.5), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_hue_turns_as_colorsys_says(by, seed):
    x = noise(1, 3, seed)
    x[0, :, 0, 0] = 0.4  # grey has no hue
    x[0, :, 0, 1] = torch.tensor([1.0, 1.0, 0.0])  # two greatest
    found = hue_shifted(x, torch.full((1, 1, 1, 1), by))[0]
    for row in range(3):
        for column in range(3):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, row, column].tolist())
            wanted = colorsys.hsv_to_rgb((h + by) % 1, s, v)
            np.testing.assert_allclose(found[:, row, column], wanted, atol=2e-5)


def test_brightness_contrast_and_saturation_are_pils():
    from PIL import ImageEnhance

    pixels = (noise(1)[0] * 255).to(torch.uint8)
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    x = pixels[None] / 255
    for ours, theirs in (
        (brightened, ImageEnhance.Brightness),
        (contrasted, ImageEnhance.Contrast),
        (saturated, ImageEnhance.Color),
    ):
        for by in (-0.4, 0.0, 0.3):
            found = ours(x, torch.full((1, 1, 1, 1), by))[0] * 255
            wanted = np.asarray(theirs(image).enhance(1 + by), np.float32)
            np.testing.assert_allclose(found.permute(1, 2, 0), wanted, atol=1.6)


def test_a_blur_is_a_gaussian_and_keeps_flat_images_flat():
    weights = blurring(torch.tensor([0.1, 1.0]), 9)
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 9))
    torch.testing.assert_close(weights[0], torch.eye(9))
    torch.testing.assert_close(weights[1, 4, 5] / weights[1, 4, 4], torch.tensor(-0.5).exp())
    flat = torch.full((2, 3, 9, 9), 0.3)
    torch.testing.assert_close(both_ways(flat, weights, weights), flat)


@pytest.mark.parametrize("how", [ViewSettings(), ViewSettings(blur=0.0), ViewSettings(1.0, 0.0, 1.0)], ids=str)
def test_views_are_images_and_decided_by_the_seed(how):
    x = noise()
    before = torch.get_rng_state()
    one, two, other = (random_views(x, how, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == x.shape
    assert one.dtype == torch.float32
    assert one.min() >= 0
    assert one.max() <= 1


def test_an_images_view_does_not_depend_on_its_neighbours():
    x = noise()
    changed = x.clone()
    changed[3] = 0.5
    one, other = random_views(x, ViewSettings(), 8), random_views(changed, ViewSettings(), 8)
    kept = [0, 1, 2, 4, 5]
    torch.testing.assert_close(one[kept], other[kept])


def test_with_all_strengths_at_nothing_half_are_mirrored_and_nothing_else():
    x = noise(64)
    x[x == 0] = 0.5
    found = random_views(x, ViewSettings(1.0, 0.0, 0.0), 3)
    greyed = torch.isclose(found, grey(found).expand_as(found), atol=1e-4).all((1, 2, 3))
    assert 4 <= greyed.sum() <= 24  # a fifth
    same = torch.isclose(found, x, atol=1e-4).all((1, 2, 3))
    mirrored = torch.isclose(found, x.flip(3), atol=1e-4).all((1, 2, 3))
    assert (same | mirrored | greyed).all()
    assert 12 <= mirrored.sum() <= 44
    assert (same & mirrored).sum() == 0
