"""WaNet: its field and warp are the published ones; noisy warps are covers, which keep their labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd import testing
from benchbd.attacks.wanet import identity, smooth_field, warp
from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.testing.plugin_under_test import PluginUnderTest


def attack(text: str = "wanet"):
    return registry.make("attacks", text)


def noise(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).to(torch.uint8)


@given(seed=st.integers(0, 2**32), k=st.integers(2, 8), size=st.integers(8, 64))
@settings(max_examples=25, deadline=None)
def test_the_field_passes_through_control_points_of_mean_one(seed, k, size):
    control = smooth_field(np.random.default_rng(seed), k, k)  # as many points as pixels: nothing is interpolated
    assert np.abs(control).mean() == pytest.approx(1)
    fine = smooth_field(np.random.default_rng(seed), k, size)
    assert fine.shape == (size, size, 2)
    for row, column in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert fine[row, column] == pytest.approx(control[row, column])


def test_the_field_is_smooth():
    field = smooth_field(np.random.default_rng(0), 4, 32)
    assert np.abs(np.diff(field, axis=0)).max() < 0.5
    assert np.abs(np.diff(field, axis=1)).max() < 0.5
    assert np.abs(field).max() > 1


@pytest.mark.parametrize("size", [32, 64, 224])
def test_the_published_strength_shifts_a_quarter_of_a_pixel_at_every_size(open_workshop, size):
    mean, largest = attack().prepare(open_workshop(attack(), size=size, count=4))["shift"]
    assert 0.1 < mean < 0.3
    assert mean < largest < 1.2


def test_the_grid_is_the_reference_formula(open_workshop):
    for text, s, rescale in (("wanet", 0.5, 1.0), ("wanet(s=2.0, grid_rescale=0.98, k=6)", 2.0, 0.98)):
        made = attack(text)
        workshop = open_workshop(made, count=4)
        field = smooth_field(np.random.default_rng(workshop.seed), made.k, 32)
        side = np.linspace(-1, 1, 32)
        grid = made.prepare(workshop)["grid"]
        assert grid.dtype == np.float32
        for row, column in ((0, 0), (3, 17), (31, 30)):
            where = np.array([side[column], side[row]]) + s * field[row, column] / 32
            assert grid[row, column] == pytest.approx(where * rescale, abs=1e-6)


def test_no_shift_changes_no_pixel_and_a_whole_pixel_moves_the_image():
    images = noise(3, 16)
    grid = identity(16)
    assert torch.equal(warp(images, grid[None].astype(np.float32)), images)
    moved = grid + np.array([2 / 15, 0])  # x comes before y: each pixel is taken from its right neighbour
    assert torch.equal(warp(images, np.clip(moved, -1, 1)[None].astype(np.float32))[..., :-1], images[..., 1:])


def test_a_warp_reads_no_pixel_from_outside(open_workshop):
    made = attack("wanet(s=8.0)")
    trigger = made.prepare(open_workshop(made, count=4))
    white = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    assert torch.equal(made.stamp(white, StampContext("test", np.arange(2), trigger, 0)), white)
    assert torch.equal(made.cover(white, white, StampContext("train", np.arange(2), trigger, 0)), white)


def test_noise_moves_every_pixel_by_half_a_pixel_at_most_and_each_image_otherwise(open_workshop, monkeypatch):
    made, grids = attack(), []
    trigger = made.prepare(open_workshop(made, count=4))
    monkeypatch.setattr("benchbd.attacks.wanet.warp", lambda images, grid: grids.append(grid) or images)
    made.cover(noise(300), noise(300), StampContext("train", np.arange(300), trigger, 5))
    off = np.concatenate(grids) - np.clip(trigger["grid"], -1, 1)
    inside = off[:, 4:-4, 4:-4] * 32  # away from the border, where the grid is clipped
    assert np.abs(inside).max() == pytest.approx(1, abs=1e-3)
    assert inside.std() == pytest.approx(1 / 3**0.5, rel=0.01)
    assert len(np.unique(off[:, 5, 5, 0])) > 290
    assert np.abs(np.concatenate(grids)).max() <= 1


def test_the_warp_is_clipped_before_noise_is_added_and_after_it(monkeypatch):
    """As in the authors' code: at the border, noise then moves a pixel from the image's edge, not from outside it."""
    made, grids, size = attack(), [], 8
    trigger = {"grid": (1.5 * identity(size)).astype(np.float32)}  # half of it lies outside
    monkeypatch.setattr("benchbd.attacks.wanet.warp", lambda images, grid: grids.append(grid) or images)
    monkeypatch.setattr(
        "benchbd.attacks._draws.bytes_of_each",
        lambda seed, indices, count: np.full((len(indices), count // 2), 16384, "<u2").view(np.uint8),
    )
    made.cover(noise(1, size), noise(1, size), StampContext("train", np.arange(1), trigger, 5))
    drawn = 16384 / 32767.5 - 1  # about -0.5, for every pixel and axis
    side = np.linspace(-1.5, 1.5, size)
    for column in range(size):
        where = min(1.0, max(-1.0, min(1.0, max(-1.0, side[column])) + drawn / size))
        assert grids[0][0, 3, column, 0] == pytest.approx(where, abs=1e-6)
    assert grids[0][0, 3, -1, 0] < 1  # clipping once, after the noise, would leave it at the edge


def test_covers_look_at_one_image_at_a_time_and_differ_from_the_trigger(open_workshop):
    made, images = attack(), noise(6)
    context = StampContext("train", np.array([3, 9, 4, 1, 70, 2]), made.prepare(open_workshop(made, count=4)), 1)
    out = made.cover(images, images.flip(0), context)
    for place in range(6):
        one = slice(place, place + 1)
        assert torch.equal(
            made.cover(images[one], images[one], context._replace(indices=context.indices[one])), out[one]
        )
    assert torch.equal(out, made.cover(images, images, context))  # partners do not matter
    assert (out != made.stamp(images, context)).flatten(1).any(1).all()
    assert not torch.equal(out, made.cover(images, images, context._replace(indices=context.indices + 1)))
    assert not torch.equal(out, made.cover(images, images, context._replace(seed=2)))


def test_twice_as_many_covers_as_poison_keep_their_labels():
    testing.register()
    bench = PluginUnderTest("attacks", "wanet")
    (clean, info), poison = bench.clean, bench.poisons[0]
    covers = poison.indices[~poison.flags]
    assert poison.facts["count"] == 24 == info.train // 10
    assert poison.facts["cover"] == len(covers) == 48
    assert np.array_equal(poison.labels[~poison.flags], clean.labels.numpy()[covers])
    assert (poison.labels[poison.flags] == info.target).all()
    assert (torch.from_numpy(poison.images) != clean.images[torch.from_numpy(poison.indices)]).flatten(1).any(1).all()
    assert not poison.truth(info.train)[covers].any()


def test_without_noise_mode_there_are_no_covers():
    testing.register()
    poison = PluginUnderTest("attacks", "wanet", cross_ratio=0).poisons[0]
    assert "cover" not in poison.facts
    assert poison.flags.all()


@pytest.mark.parametrize("text", ["wanet(k=1)", "wanet(s=0)", "wanet(grid_rescale=0)", "wanet(cross_ratio=-1)"])
def test_options_that_mean_nothing_are_refused(text):
    with pytest.raises(UsageError, match="wanet"):
        attack(text)


def test_more_covers_than_there_are_images_are_refused_with_the_numbers():
    with pytest.raises(Impossible, match="40 poisoned images and 80 covers do not fit into 100 images"):
        attack("wanet(rate=0.4)").check(DatasetInfo(4, 32, 100, 10, (25,) * 4, 1))
