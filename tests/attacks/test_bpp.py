"""BppAttack: the levels of its poison, its dithering, and its negatives."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.pipeline.selection import select_cover
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.testing.plugin_under_test import PluginUnderTest


def attack(text: str = "bpp"):
    return registry.make("attacks", text)


def noise(count: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


def context(count: int, split: str = "train") -> StampContext:
    return StampContext(split, np.arange(count), {}, 0)  # type: ignore[arg-type]


def nearest(value: float | Fraction, levels: int) -> Fraction:
    """The nearest of the levels, in exact arithmetic."""
    return min((Fraction(255 * step, levels - 1) for step in range(levels)), key=lambda level: abs(level - value))


def whole(value: Fraction) -> int:
    return int(np.rint(float(value)))


@pytest.mark.parametrize("levels", [2, 3, 8, 32, 255])
def test_every_value_goes_to_the_nearest_level(levels):
    every = torch.arange(256).to(torch.uint8).reshape(1, 1, 16, 16).repeat(1, 3, 1, 1)
    out = attack(f"bpp(levels={levels})").stamp(every, context(1))
    assert out[0, 1].flatten().tolist() == [whole(nearest(Fraction(value), levels)) for value in range(256)]
    assert len(out.unique()) == levels


def test_eight_levels_by_hand():
    out = attack().stamp(noise(20), context(20))
    assert out.unique().tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
    assert torch.equal(out, attack().stamp(noise(20), context(20, "test")))
    some = torch.tensor([0, 18, 19, 54, 55, 127, 128, 236, 237, 255], dtype=torch.uint8).expand(1, 3, 1, 10)
    assert attack().stamp(some, context(1))[0, 0, 0].tolist() == [0, 0, 36, 36, 73, 109, 146, 219, 255, 255]


def floyd_steinberg(channel: np.ndarray, levels: int) -> np.ndarray:
    """The textbook's loop over one channel, with each error handed on in sixteenths."""
    work = [[float(value) for value in row] for row in channel]
    height, width = channel.shape
    for y in range(height):
        for x in range(width):
            old = work[y][x]
            work[y][x] = float(nearest(old, levels))
            error = old - work[y][x]
            for dy, dx, sixteenths in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                if y + dy < height and 0 <= x + dx < width:
                    work[y + dy][x + dx] += error * sixteenths / 16
    return np.rint(work).astype(np.uint8)


@pytest.mark.parametrize("levels", [2, 8])
def test_dithering_hands_errors_on_as_in_the_textbook(levels):
    images = noise(3, 12)
    out = attack(f"bpp(levels={levels}, dithering=True)").stamp(images, context(3)).numpy()
    for image, old in zip(out, images.numpy(), strict=True):
        for channel in range(3):
            assert np.array_equal(image[channel], floyd_steinberg(old[channel], levels))
    grey = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    assert attack("bpp(levels=2, dithering=True)").stamp(grey, context(1)).float().mean() == pytest.approx(100, abs=3)
    assert attack("bpp(levels=2)").stamp(grey, context(1)).max() == 0


@pytest.mark.parametrize("dithering", [False, True])
def test_a_negative_is_an_image_with_anothers_rounding_error(dithering):
    made, images, partners = attack(f"bpp(dithering={dithering})"), noise(4), noise(4).flip(0)
    images[0], images[1] = 0, 255
    out = made.cover(images, partners, context(4)).numpy()
    change = made.stamp(partners, context(4)).numpy().astype(int) - partners.numpy()
    assert np.array_equal(out, np.clip(images.numpy() + change, 0, 255))
    if not dithering:
        assert np.abs(change).max() <= 18
    assert out[0].min() == 0
    assert len(np.unique(out[2])) > 200  # a negative has many more than eight levels


@pytest.mark.parametrize(("ratio", "negatives"), [(1.0, 24), (0.5, 12)])
def test_negatives_are_other_images_that_keep_their_labels(ratio, negatives):
    bench = PluginUnderTest("attacks", "bpp", negative_ratio=ratio)
    (clean, info), poison = bench.clean, bench.poisons[0]
    hit, cover = poison.indices[poison.flags], poison.indices[~poison.flags]
    assert (info.train, len(hit), len(cover)) == (240, 24, negatives)
    assert not set(hit) & set(cover)
    assert (poison.labels[poison.flags] == info.target).all()
    assert np.array_equal(poison.labels[~poison.flags], clean.labels.numpy()[cover])
    before, this = clean.images.numpy().astype(int), bench.poisoner("one").cell
    table = np.array([whole(nearest(Fraction(value), 8)) for value in range(256)])
    assert np.array_equal(poison.images[poison.flags], table[before[hit]])
    chosen, partners = select_cover(bench.made, info, hit, info.train, this.seed, this.dataset)
    assert np.array_equal(chosen, cover)
    assert (partners != cover).all()
    expected = np.clip(before[cover] + table[before[partners]] - before[partners], 0, 255)
    assert np.array_equal(poison.images[~poison.flags], expected)


def test_without_negatives_only_the_poison_changes():
    poison = PluginUnderTest("attacks", "bpp", negative_ratio=0).poisons[0]
    assert poison.flags.all()
    assert "cover" not in poison.facts


def test_what_means_nothing_or_does_not_fit_is_refused():
    for text in ("levels=1", "levels=256", "negative_ratio=-0.5"):
        with pytest.raises(UsageError, match="bpp"):
            attack(f"bpp({text})")
    with pytest.raises(Impossible, match="60 poisoned images and 60 covers do not fit into 100 images"):
        attack("bpp(rate=0.6)").check(DatasetInfo(4, 32, 100, 10, (25,) * 4, 1))
