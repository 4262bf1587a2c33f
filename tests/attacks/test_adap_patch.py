"""Adap-Patch: where its triggers lie, which quarter carries which, and that test images carry others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchbd.attacks.adap_patch import quarters, shapes
from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext
from benchbd.testing.plugin_under_test import PluginUnderTest

ALPHAS = {"corner": 0.5, "disc": 0.2, "grid": 0.5, "square": 0.3}


def attack(text: str = "adap-patch"):
    return registry.make("attacks", text)


def prepared(open_workshop, text: str = "adap-patch", size: int = 32, where: str = "a"):
    made = attack(text)
    return made, made.prepare(open_workshop(made, size=size, count=40, indices=np.arange(1, 40, 5), where=where))


@pytest.mark.parametrize(
    ("name", "pixels", "rows", "columns"),
    [
        ("corner", 25, (27, 31), (27, 31)),
        ("corners", 50, (27, 31), (0, 31)),
        ("disc", 137, (1, 13), (18, 30)),
        ("grid", 36, (0, 31), (0, 31)),
        ("square", 64, (21, 28), (21, 28)),
    ],
)
def test_triggers_lie_where_the_published_ones_do(name, pixels, rows, columns):
    shape = shapes()[name]
    found = np.nonzero(shape)
    assert (shape.shape, shape.sum()) == ((32, 32), pixels)
    assert [(int(axis.min()), int(axis.max())) for axis in found] == [rows, columns]


def test_shapes_by_hand():
    rows, columns = np.nonzero(shapes()["grid"])
    assert set(rows) == set(columns) == {0, 1, 2, 29, 30, 31}
    for row in range(32):
        for column in range(32):
            inside = (row - 7) ** 2 + (column - 24) ** 2 <= 6.7**2
            assert shapes()["disc"][row, column] == inside
            assert shapes()["corners"][row, column] == (row >= 27 and (column >= 27 or column < 5))


def published_quarter(number: int, count: int) -> int:
    """The loop of the authors' code: the first j with number < (j + 1) count / 4."""
    return next(j for j in range(4) if number < (j + 1) * (count / 4))


@pytest.mark.parametrize("count", [1, 3, 4, 24, 150, 303])
def test_quarters_are_those_of_the_published_loop(count):
    found = quarters(np.arange(count), count, 4)
    assert found.tolist() == [published_quarter(number, count) for number in range(count)]
    if count == 150:
        assert np.bincount(found).tolist() == [38, 37, 38, 37]


def test_each_quarter_of_poison_and_of_covers_carries_its_own_trigger():
    bench = PluginUnderTest("attacks", "adap-patch", rate=0.1)
    (clean, info), poison = bench.clean, bench.poisons[0]
    hit, cover = poison.indices[poison.flags], poison.indices[~poison.flags]
    assert (len(hit), len(cover)) == (24, 48) == (poison.facts["count"], poison.facts["cover"])
    assert not set(hit) & set(cover)
    assert (poison.labels[poison.flags] == info.target).all()
    assert np.array_equal(poison.labels[~poison.flags], clean.labels.numpy()[cover])
    before = clean.images.numpy()
    for flag, each in ((True, 6), (False, 12)):
        changed = poison.indices[poison.flags == flag]
        for number, (index, image) in enumerate(zip(changed, poison.images[poison.flags == flag], strict=True)):
            name = list(ALPHAS)[number // each]
            share = ALPHAS[name] * shapes()[name]
            exact = before[index] + share * (poison.trigger[name].astype(float) - before[index])
            assert np.abs(image - exact).max() <= 0.5 + 1e-6
            assert np.array_equal(image[:, ~shapes()[name]], before[index][:, ~shapes()[name]])
            assert (image != before[index]).any()


def test_test_images_carry_two_other_triggers_at_full_strength(open_workshop):
    made, trigger = prepared(open_workshop)
    images = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    context = StampContext("test", np.arange(2), trigger, 0)
    out, parts = made.stamp(images, context).numpy(), shapes()
    grid, patch = parts["grid"], parts["corners"] & ~parts["grid"]
    assert grid.sum() == 36
    assert patch.sum() == 50 - 18  # a grid of nine pixels lies on each of the two patches
    for image in out:
        assert np.array_equal(image[:, grid], trigger["grid"][:, grid])
        assert np.array_equal(image[:, patch], trigger["corners"][:, patch])
        assert (image[:, ~(grid | patch)] == 90).all()
        assert np.array_equal(image[0, 29:, 29:], [[0, 0, 255], [0, 255, 0], [255, 0, 255]])
        assert np.array_equal(image[0, :3, :3], [[255, 0, 255], [0, 255, 0], [255, 0, 0]])
    train = made.stamp(images, context._replace(split="train", indices=np.array([1, 36])))
    assert not np.array_equal(train.numpy(), out)
    assert (train.numpy()[0] != 90).any(0).sum() <= 25


def test_the_test_triggers_of_gtsrb_are_disc_and_square(open_workshop):
    made, trigger = prepared(open_workshop, "adap-patch(tested='disc+square', alpha_test=0.5)")
    images = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    out = made.stamp(images, StampContext("test", np.arange(1), trigger, 0)).numpy()[0]
    for name in ("disc", "square"):
        where = shapes()[name]
        assert np.abs(out[:, where] - (50 + trigger[name][:, where] / 2)).max() <= 0.5
    assert (out[:, ~(shapes()["disc"] | shapes()["square"])] == 100).all()


def test_pictures_are_drawn_from_the_trigger_seed(open_workshop):
    (_, first), (_, again), (_, other) = (
        prepared(open_workshop, text, where=where)
        for text, where in (("adap-patch", "a"), ("adap-patch", "b"), ("adap-patch(trigger_seed=1)", "c"))
    )
    for name, shape in shapes().items():
        assert np.array_equal(first[name], again[name])
        assert np.array_equal(first[f"{name}-shape"], shape)
        assert np.array_equal(first[name], other[name]) == (name == "grid")
    assert first["poison"].tolist() == list(range(1, 40, 5))
    patch = first["corners"]
    assert np.array_equal(patch[:, 27:, 27:], first["corner"][:, 27:, 27:])
    assert np.array_equal(patch[:, 27:, :5], first["corner"][:, 27:, 27:][:, :, ::-1])


def test_triggers_grow_with_the_image(open_workshop):
    made, trigger = prepared(open_workshop, size=64)
    assert [int(trigger[f"{name}-shape"].sum()) for name in ALPHAS] == [100, 548, 144, 256]
    out = made.stamp(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), StampContext("train", np.array([1]), trigger, 0))
    rows, columns = np.nonzero(out.numpy()[0].any(0))
    assert min(rows) == min(columns) == 54


@pytest.mark.parametrize("size", [8, 16, 31])
def test_images_with_fewer_pixels_than_the_triggers_have_cells_are_refused(size):
    with pytest.raises(Impossible, match=f"^adap-patch: .* 32x32 pixels or more, not {size}x{size}$"):
        attack("adap-patch(rate=0.1)").check(DatasetInfo(4, size, 100, 10, (25,) * 4, 1))


@pytest.mark.parametrize("size", [32, 33, 48, 64])
def test_no_cell_of_a_trigger_gets_lost(open_workshop, size):
    made, trigger = prepared(open_workshop, size=size)
    made.check(DatasetInfo(4, size, 1000, 10, (250,) * 4, 1))
    first = [next(pixel for pixel in range(size) if pixel * 32 // size == cell) for cell in range(32)]
    for name, shape in shapes().items():
        assert np.array_equal(trigger[f"{name}-shape"][np.ix_(first, first)], shape)


def test_the_published_rates_on_cifar10_are_150_poisoned_images_and_300_covers():
    info = DatasetInfo(10, 32, 50_000, 10_000, (5_000,) * 10, 0)
    assert (attack().budget(info).count, attack().cover_count(info)) == (150, 300)


def test_what_means_nothing_or_does_not_fit_is_refused():
    for text in ("alphas=[0.5, 0.2]", "alphas=[0.5, 0.2, 0.0, 0.3]", "alpha_test=2.0", "cover_ratio=-1"):
        with pytest.raises(UsageError, match="adap-patch"):
            attack(f"adap-patch({text})")
    with pytest.raises(Impossible, match="40 poisoned images and 80 covers do not fit into 100 images"):
        attack("adap-patch(rate=0.4)").check(DatasetInfo(4, 32, 100, 10, (25,) * 4, 1))
