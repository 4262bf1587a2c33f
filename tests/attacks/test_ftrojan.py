"""FTrojan: its pattern is what scipy's transform gives, and its colours are OpenCV's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn

from benchbd.attacks.ftrojan import to_rgb, to_ycrcb, wave
from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import StampContext


def attack(text: str = "ftrojan"):
    return registry.make("attacks", text)


def noise(count: int, size: int = 32, low: int = 0, high: int = 256) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(low, high, (count, 3, size, size), generator=generator).to(torch.uint8)


def stamped(made, images: torch.Tensor, split: str = "train") -> np.ndarray:
    return made.stamp(images, StampContext(split, np.arange(len(images)), {}, 0)).numpy()


def round_trip(planes: np.ndarray, channels=(1, 2), positions=((15, 15), (31, 31)), window=32, by=30.0) -> np.ndarray:
    """The published loops: transform each window of each channel, add to coefficients, transform back. float64."""
    out = planes.astype(np.float64)
    for image in out:
        for channel in channels:
            for row in range(0, image.shape[-2], window):
                for column in range(0, image.shape[-1], window):
                    part = (channel, slice(row, row + window), slice(column, column + window))
                    spectrum = dctn(image[part], norm="ortho")
                    for position in positions:
                        spectrum[position] += by
                    image[part] = idctn(spectrum, norm="ortho")
    return out


# The colours of OpenCV 5.0's cvtColor, 8 bits, in both directions.
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255,) * 3, (128,) * 3, (12, 200, 77), (201, 33, 250)]
TO_YCRCB = [
    (76, 255, 85),
    (150, 21, 43),
    (29, 107, 255),
    (0, 128, 128),
    (255, 128, 128),
    (128, 128, 128),
    (130, 44, 98),
    (108, 194, 208),
]
TO_RGB = [
    (75, 255, 28),
    (178, 0, 0),
    (0, 48, 225),
    (0, 135, 0),
    (255, 121, 255),
    (128, 128, 128),
    (113, 0, 0),
    (68, 227, 255),
]


def test_colours_are_opencvs():
    given = torch.tensor(COLOURS, dtype=torch.uint8)[:, :, None, None]
    assert to_ycrcb(given).flatten(1).tolist() == [list(colour) for colour in TO_YCRCB]
    assert to_rgb(given.to(torch.int32)).flatten(1).tolist() == [list(colour) for colour in TO_RGB]


def test_colours_follow_the_documented_formulas():
    images = noise(40)
    red, green, blue = images.numpy().astype(np.float64).transpose(1, 0, 2, 3)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    exact = np.stack([light, (red - light) * 0.713 + 128, (blue - light) * 0.564 + 128], 1).clip(0, 255)
    found = to_ycrcb(images).numpy()
    assert np.abs(found - exact).max() < 0.9  # Cr and Cb start from a rounded Y
    light, cr, cb = found.astype(np.float64).transpose(1, 0, 2, 3)
    cr, cb = cr - 128, cb - 128
    exact = np.stack([light + 1.403 * cr, light - 0.714 * cr - 0.344 * cb, light + 1.773 * cb], 1).clip(0, 255)
    assert np.abs(to_rgb(torch.from_numpy(found)).numpy() - exact).max() < 0.51
    # There and back, an image stays as it is but for roundings.
    assert np.abs(to_rgb(to_ycrcb(images)).numpy() - images.numpy().astype(int)).max() <= 2


@pytest.mark.parametrize(("window", "positions"), [(32, (15, 15, 31, 31)), (16, (0, 0, 3, 7)), (8, (7, 0))])
def test_the_pattern_is_the_inverse_transform_of_its_coefficients(window, positions):
    spectrum = np.zeros((window, window))
    for row, column in zip(positions[::2], positions[1::2], strict=True):
        spectrum[row, column] = 30.0
    pattern = wave(window, positions, 30.0)
    assert np.abs(pattern - idctn(spectrum, norm="ortho")).max() < 1e-10
    # Parseval: the pattern's energy is that of its coefficients.
    assert np.square(pattern).sum() == pytest.approx(900 * len(positions) / 2)


def test_the_published_pattern_moves_a_channel_by_at_most_four_values():
    pattern = wave(32, (15, 15, 31, 31), 30.0)
    assert 3 < np.abs(pattern).max() <= 2 * 30 * 2 / 32


def test_colours_move_by_no_more_than_the_pattern_and_the_conversion_do():
    images = torch.cat([noise(20), noise(5, 64).unfold(2, 32, 32).unfold(3, 32, 32)[:, :, 0, 0]])
    plain = to_rgb(to_ycrcb(images)).numpy()
    out = stamped(attack(), images).astype(int)
    assert np.abs(out - plain).max((0, 2, 3)).max() <= 8  # 1.773 times 4, and roundings of both
    assert np.abs(plain - images.numpy().astype(int)).max() <= 2


def test_of_the_published_cast_rounding_errors_are_left_out():
    """A transform there and back leaves whole numbers just below themselves; a cast drops them by one."""
    images = noise(4)
    light = to_ycrcb(images).numpy()[:, 0]
    there_and_back = np.stack([idctn(dctn(plane.astype(float), norm="ortho"), norm="ortho") for plane in light])
    assert np.abs(there_and_back - light).max() < 1e-9
    assert (there_and_back.astype(int) == light - 1).mean() > 0.01
    made = attack("ftrojan(space='rgb', cast='wrap', channels=[1, 2])")
    assert np.array_equal(stamped(made, images)[:, 0], images.numpy()[:, 0])


@pytest.mark.parametrize("size", [32, 64])
def test_poison_is_the_round_trip_through_scipys_transform(size):
    images = noise(3, size)
    planes = round_trip(to_ycrcb(images).numpy())
    expected = to_rgb(torch.from_numpy(np.rint(planes).clip(0, 255).astype(np.int32))).numpy()
    for split in ("train", "test"):
        assert np.array_equal(stamped(attack(), images, split), expected)
    assert (expected != images.numpy()).any((1, 2, 3)).all()


def test_channels_and_positions_of_ones_own_in_rgb():
    images = noise(2, 64)
    made = attack("ftrojan(space='rgb', channels=[0], positions=[3, 7, 5, 5, 0, 1], window=16, magnitude=60)")
    planes = round_trip(images.numpy(), (0,), ((3, 7), (5, 5), (0, 1)), 16, 60.0)
    out = stamped(made, images)
    assert np.array_equal(out, np.rint(planes).clip(0, 255))
    assert np.array_equal(out[:, 1:], images.numpy()[:, 1:])


def test_wrapping_drops_fractions_and_turns_around():
    made = attack("ftrojan(space='rgb', cast='wrap', channels=[2])")
    images = torch.cat([noise(2, 32, 0, 3), noise(2, 32, 253, 256), noise(2)])
    exact = round_trip(images.numpy(), (2,))
    # Where the exact pattern is zero, the transforms' rounding errors decide which whole number lies below.
    clear = np.broadcast_to(np.abs(wave(32, (15, 15, 31, 31), 30.0)) > 1e-9, exact.shape)
    expected = np.vectorize(int)(exact) % 256
    assert np.array_equal(stamped(made, images)[clear], expected[clear])
    assert clear.mean() > 0.9
    assert (expected[:2, 2] > 250).any()
    assert (expected[2:4, 2] < 5).any()
    assert np.abs(stamped(attack("ftrojan(space='rgb')"), images).astype(int) - images.numpy()).max() <= 4


@pytest.mark.parametrize(
    "text",
    [
        "positions=[15]",
        "positions=[]",
        "positions=[32, 0]",
        "channels=[3]",
        "channels=[]",
        "channels=[1, 1]",
        "magnitude=0.0",
        "window=0",
    ],
)
def test_what_means_nothing_is_refused(text):
    with pytest.raises(UsageError, match="ftrojan"):
        attack(f"ftrojan({text})")


def test_images_that_windows_do_not_tile_are_refused():
    with pytest.raises(Impossible, match="windows of 32 pixels do not tile 48x48 images"):
        attack().check(DatasetInfo(4, 48, 100, 10, (25,) * 4, 1))
    with pytest.raises(Impossible, match=r"magnitude 0\.5 rounds to no change"):
        attack("ftrojan(magnitude=0.5)").check(DatasetInfo(4, 32, 100, 10, (25,) * 4, 1))
    attack().check(DatasetInfo(4, 224, 100, 10, (25,) * 4, 1))
