"""Adap-Blend: how many pieces an image keeps, what is blended in, and who carries it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchbd import testing
from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.testing.plugin_under_test import PluginUnderTest


def attack(text: str = "adap-blend"):
    return registry.make("attacks", text)


def noise(count: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


def blocks_kept(out: torch.Tensor, before: int, after: int, across: int) -> np.ndarray:
    """Which blocks of each image changed from one grey to another, bool (N, across**2); a block changes as a whole."""
    side = out.shape[-1] // across
    found = np.zeros((len(out), across * across), bool)
    for number, image in enumerate(out.numpy()):
        for block in range(across * across):
            row, column = divmod(block, across)
            part = image[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            assert np.unique(part).tolist() in ([before], [after])
            found[number, block] = part[0, 0, 0] == after
    return found


@pytest.mark.parametrize(
    ("text", "size", "across", "kept", "after"),
    [
        ("adap-blend", 32, 4, 8, 115),
        ("adap-blend(mask_rate=0.25, alpha=0.5)", 32, 4, 12, 150),
        ("adap-blend(pieces=9, mask_rate=0.33)", 30, 3, 6, 115),  # round(0.33 * 9) = 3 pieces are masked
        ("adap-blend(mask_rate=0)", 64, 4, 16, 115),
    ],
)
def test_every_training_image_keeps_the_same_number_of_pieces_and_others(text, size, across, kept, after):
    images = torch.full((60, 3, size, size), 100, dtype=torch.uint8)
    trigger = {"picture": np.full((3, size, size), 200, np.uint8)}
    found = blocks_kept(
        attack(text).stamp(images, StampContext("train", np.arange(60), trigger, 3)), 100, after, across
    )
    assert set(found.sum(1)) == {kept}
    assert len(np.unique(found, axis=0)) > (30 if kept < across**2 else 0)


def test_every_piece_and_every_pair_is_kept_as_often():
    from benchbd.attacks.adap_blend import kept_pieces

    kept = kept_pieces(5, np.arange(8000), 16, 8).astype(float)
    assert (kept.sum(1) == 8).all()
    assert np.abs(kept.mean(0) - 1 / 2).max() < 0.03  # five deviations
    together = kept.T @ kept / 8000
    assert np.abs(together[~np.eye(16, dtype=bool)] - 8 / 16 * 7 / 15).max() < 0.027
    assert not np.array_equal(kept, kept_pieces(6, np.arange(8000), 16, 8))


def test_pixels_are_the_exact_mix_rounded_to_the_nearest():
    every = np.arange(256, dtype=np.uint8)
    images = torch.from_numpy(np.broadcast_to(every[:, None], (1, 3, 256, 256)).copy())
    trigger = {"picture": np.broadcast_to(every, (3, 256, 256)).copy()}
    before, over = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    for hundredths in (15, 20, 50, 100):
        made = attack(f"adap-blend(alpha={hundredths / 100}, mask_rate=0, alpha_test=0.3)")
        out = made.stamp(images, StampContext("train", np.zeros(1, np.int64), trigger, 0))[0, 1]
        expected = ((100 - hundredths) * before + hundredths * over + 50) // 100  # whole numbers: no rounding errors
        assert np.array_equal(out.numpy(), expected)


def test_test_images_carry_the_whole_picture_at_their_own_strength(open_workshop):
    made, images = attack(), noise(5)
    trigger = made.prepare(open_workshop(made, count=4))
    out = made.stamp(images, StampContext("test", np.arange(5), trigger, 0))
    exact = 0.8 * images.numpy() + 0.2 * trigger["picture"]
    assert np.abs(out.numpy() - exact).max() <= 0.5 + 1e-6
    assert np.abs(out.numpy() - (0.85 * images.numpy() + 0.15 * trigger["picture"])).max() > 5


def test_the_picture_is_a_board_of_colours(open_workshop):
    for text, size, side in (("adap-blend", 32, 4), ("adap-blend", 64, 8), ("adap-blend(cells=32)", 32, 1)):
        made = attack(text)
        picture = made.prepare(open_workshop(made, count=4, size=size))["picture"]
        assert (picture.shape, picture.dtype) == ((3, size, size), np.uint8)
        corners = picture[:, ::side, ::side]
        assert np.array_equal(picture, corners.repeat(side, 1).repeat(side, 2))
        assert 100 < corners.mean() < 155
        assert 60 < corners.std() < 90  # uniform values: 127.5 and 73.9
    other = attack("adap-blend(trigger_seed=1)")
    assert not np.array_equal(picture, other.prepare(open_workshop(other, count=4))["picture"])


def test_pieces_depend_on_the_image_and_not_on_its_batch(open_workshop):
    made, images = attack(), noise(300)
    where = np.random.default_rng(0).permutation(5000)[:300]
    context = StampContext("train", where, made.prepare(open_workshop(made, count=4)), 1)
    out = made.stamp(images, context)
    for place in (0, 7, 299):
        one = slice(place, place + 1)
        assert torch.equal(made.stamp(images[one], context._replace(indices=where[one])), out[one])
    assert not torch.equal(made.stamp(images, context._replace(indices=where + 1)), out)
    assert not torch.equal(made.stamp(images, context._replace(seed=2)), out)


@pytest.mark.parametrize(("ratio", "covers"), [(1.0, 24), (0.5, 12)])
def test_covers_are_other_images_that_carry_pieces_and_keep_their_labels(ratio, covers):
    bench = PluginUnderTest("attacks", "adap-blend", rate=0.1, cover_ratio=ratio)
    (clean, info), poison = bench.clean, bench.poisons[0]
    assert info.train == 240
    hit, cover = poison.indices[poison.flags], poison.indices[~poison.flags]
    assert (len(hit), len(cover)) == (24, covers) == (poison.facts["count"], poison.facts["cover"])
    assert not set(hit) & set(cover)
    assert (poison.labels[poison.flags] == info.target).all()
    assert np.array_equal(poison.labels[~poison.flags], clean.labels.numpy()[cover])
    before, picture = clean.images.numpy()[poison.indices], poison.trigger["picture"]
    mixed = np.floor(0.85 * before + 0.15 * picture + 0.5 + 1e-9)
    for image, old, new in zip(poison.images, before, mixed, strict=True):
        cells = [(slice(8 * r, 8 * r + 8), slice(8 * c, 8 * c + 8)) for r in range(4) for c in range(4)]
        carries = [np.array_equal(image[:, r, c], new[:, r, c]) for r, c in cells]
        lacks = [np.array_equal(image[:, r, c], old[:, r, c]) for r, c in cells]
        assert sum(carries) == sum(lacks) == 8
        assert all(a != b for a, b in zip(carries, lacks, strict=True))


def test_the_published_rates_on_cifar10_are_150_poisoned_images_and_150_covers():
    info = DatasetInfo(10, 32, 50_000, 10_000, (5_000,) * 10, 0)
    assert (attack().budget(info).count, attack().cover_count(info)) == (150, 150)


@pytest.mark.parametrize(
    "text", ["alpha=0", "alpha_test=1.5", "pieces=15", "pieces=0", "mask_rate=1", "mask_rate=0.98", "cells=0"]
)
def test_what_means_nothing_is_refused(text):
    with pytest.raises(UsageError, match="adap-blend"):
        attack(f"adap-blend({text})")


def test_what_does_not_fit_is_refused_with_the_numbers():
    info = DatasetInfo(4, 32, 100, 10, (25,) * 4, 1)
    with pytest.raises(Impossible, match="60 poisoned images and 60 covers do not fit into 100 images"):
        attack("adap-blend(rate=0.6)").check(info)
    with pytest.raises(Impossible, match="33x33 pieces do not fit into 32x32"):
        attack("adap-blend(pieces=1089, rate=0.1)").check(info)


def test_an_attack_of_low_rate_is_checked_on_enough_images():
    """The tiny set has 240 images; 0.3 % of them are none."""
    testing.register()
    assert PluginUnderTest("attacks", "adap-blend").made.rate == 0.1
    assert PluginUnderTest("attacks", "adap-blend", rate=0.01).made.rate == 0.01
    assert PluginUnderTest("attacks", "wanet").made == attack("wanet")
    assert PluginUnderTest("attacks", "none").made == attack("none")
