"""Stamps at 128 and 224 pixels: where they lie and what they write, as at 32."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd.attacks._generator import arrays_of, fresh
from benchbd.attacks._patterns import norm_of
from benchbd.core.images import DatasetInfo
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, StampContext

SIZES = [128, 224]
GRID = [[0, 0, 255], [0, 255, 0], [255, 0, 255]]


def attack(text: str) -> Attack:
    return registry.make("attacks", text)


def noise(size: int, count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


def info(size: int) -> DatasetInfo:
    return DatasetInfo(10, size, 1_000, 100, (100,) * 10, 1)


# CL


@pytest.mark.parametrize(("size", "cell"), [(128, 4), (224, 8)])
def test_cl_puts_nine_cells_into_the_corner(stamp, size, cell):
    made, images = attack("cl"), noise(size)
    made.check(info(size))
    out = stamp(made, images, {}, "test")
    first = size - 3 * cell
    expected = torch.tensor(GRID, dtype=torch.uint8).repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    assert (out[:, :, first:, first:] == expected).all()
    out[:, :, first:, first:] = images[:, :, first:, first:]
    assert torch.equal(out, images)


@pytest.mark.parametrize(("size", "cell"), [(128, 4), (224, 8)])
def test_cl_four_corners_survive_flips(stamp, size, cell):
    made = attack("cl(trigger='four-corners')")
    made.check(info(size))
    out = stamp(made, torch.full((1, 3, size, size), 100, dtype=torch.uint8), {}, "test")
    assert int((out != 100).sum()) == 4 * 9 * cell**2 * 3
    assert torch.equal(out, out.flip(-1))
    assert torch.equal(out, out.flip(-2))


def test_cl_noise_of_large_images_stays_within_eps_outside_the_grid(open_workshop):
    made = attack("cl(steps=3, step=4.0, surrogate='standard')")
    workshop = open_workshop(made, size=128, count=8, indices=np.array([1, 5]))
    trigger = made.prepare(workshop)
    before = workshop.clean.images[[1, 5]]
    out = made.stamp(before, StampContext("train", np.array([1, 5]), trigger, 0))
    change = (out.to(torch.int64) - before.to(torch.int64)).abs()
    change[:, :, 116:, 116:] = 0
    assert change.max() == 8
    assert torch.equal(out[0, 0, 116::4, 116::4], torch.tensor(GRID, dtype=torch.uint8))


# Blend


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_blend_truncates_four_fifths_and_one_fifth(stamp, size, channels):
    made, images = attack(f"blend(channels={channels})"), noise(size)
    trigger = made.prepare(SimpleNamespace(size=size, seed=0))
    assert trigger["noise"].shape == (channels, size, size)
    expected = (4 * images.to(torch.int64) + torch.from_numpy(trigger["noise"]).to(torch.int64)) // 5
    assert torch.equal(stamp(made, images, trigger).to(torch.int64), expected)


@pytest.mark.parametrize("size", SIZES)
def test_blend_per_image_noise_fills_the_image(stamp, size):
    out = stamp(attack("blend(mode='per_image')"), torch.zeros(2, 3, size, size, dtype=torch.uint8), {})
    assert not torch.equal(out[0], out[1])
    # trunc(m / 5) of uniform m has mean 25.1 and deviation 14.8: rows, columns and images are all alike.
    lines = torch.cat([out.float().mean((1, 2)).flatten(), out.float().mean((1, 3)).flatten()])
    assert (lines - 25.1).abs().max() < 6 * 14.8 / size**0.5


# SIG


@pytest.mark.parametrize("size", SIZES)
def test_sig_adds_six_waves_and_clips(stamp, size):
    images = noise(size)
    exact = 40 * np.sin(2 * np.pi * 6 * np.arange(size) / size)
    expected = (images.to(torch.int64) + torch.from_numpy(np.rint(exact)).to(torch.int64)).clamp(0, 255)
    assert torch.equal(stamp(attack("sig"), images, {}).to(torch.int64), expected)


# Dynamic


@pytest.mark.parametrize("size", SIZES)
def test_dynamic_writes_where_its_mask_opens(size):
    made = attack("dynamic(width=2)")
    made.check(info(size))
    pattern, mask = fresh(3, 2, 3, 0).eval(), fresh(1, 2, 3, 1).eval()
    mask[-1].bias.data.fill_(0.5)  # masks of untrained networks are closed
    trigger = {**arrays_of(pattern, "pattern"), **arrays_of(mask, "mask")}
    images, context = noise(size), StampContext("test", np.arange(3), trigger, 0)
    out = made.stamp(images, context)
    # The published formulas, written out here in double precision.
    with torch.no_grad():
        x01 = images.double() / 255
        drawn = pattern.double()(x01).tanh() / (2 + 1e-7) + 0.5
        soft = (20 * mask.double()(x01) - 10).tanh() / (2 + 1e-7) + 0.5
    assert drawn.shape == (3, 3, size, size)
    assert soft.shape == (3, 1, size, size)
    expected = 255 * (x01 + (drawn - x01) * soft)
    assert float((out.double() - expected).abs().max()) < 0.51
    assert (out != images).flatten(1).any(1).all()


# Inverted triggers and optimised noise


@pytest.mark.parametrize(("size", "box"), [(128, (83, 116)), (224, (145, 203))])
def test_inverted_square_lies_in_its_box_and_is_added(open_workshop, size, box):
    made = attack("tj-sq(iterations=4)")
    made.check(info(size))
    trigger = made.prepare(open_workshop(made, size=size, count=8))
    rows, columns = np.nonzero(trigger["trigger"].any(0))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (*box, *box)
    images = noise(size)
    expected = (images.to(torch.int64) + torch.from_numpy(trigger["trigger"]).to(torch.int64)).clamp(0, 255)
    out = made.stamp(images, StampContext("test", np.arange(3), trigger, 0))
    assert torch.equal(out.to(torch.int64), expected)


@pytest.mark.parametrize("size", SIZES)
def test_inverted_watermark_covers_text_and_sign_only(open_workshop, size):
    made = attack("tj-wm(iterations=4)")
    made.check(info(size))
    trigger = made.prepare(open_workshop(made, size=size, count=8))["trigger"]
    shape = made.coverage(size)
    assert not trigger[:, shape == 0].any()
    # A colour is at most as bright as its pixel is covered.
    assert (trigger <= np.rint(255 * shape) + 1).all()
    lit = trigger.any(0)
    assert lit[shape > 0.5].mean() > 0.95
    # The sign's centre, (21.5, 21.5) of 32, is dark; its ring is lit.
    middle = round(21.5 * size / 32)
    assert not lit[middle, middle]
    assert lit[middle, round((21.5 + 5.8) * size / 32)]


def test_optimised_l2_of_large_images_keeps_norm_and_cap(open_workshop):
    made = attack("l2(steps=3, batch=4, k=4)")
    pattern = made.prepare(open_workshop(made, size=128, count=8))["pattern"]
    assert pattern.shape == (3, 128, 128)
    assert norm_of(pattern) == pytest.approx(12.88, rel=0.002)
    assert pattern.min() == 0
    assert pattern.max() <= 68
