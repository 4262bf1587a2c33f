"""tj-sq, tj-wm and l2: shapes, norms and statistics of drawn triggers, and how they are written."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd.attacks._patterns import norm_of, to_norm
from benchbd.attacks._watermark import canvas, coverage
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack

DRAWN = ["tj-sq(mode='random')", "tj-wm(mode='random')", "l2(mode='noise')"]
SEEDS = range(5)


def attack(text: str) -> Attack:
    return registry.make("attacks", text)


def draw(text: str, size: int = 32, seed: int = 0) -> np.ndarray:
    """The one array that a drawn trigger consists of."""
    (trigger,) = attack(text).prepare(SimpleNamespace(size=size, seed=seed)).values()  # type: ignore[arg-type]
    return trigger


def touched(trigger: np.ndarray) -> tuple[int, int, int, int, int]:
    """Pixels that are not zero in some channel, and the first and last such row and column."""
    rows, columns = np.nonzero(trigger.any(0))
    return len(rows), int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


@pytest.mark.parametrize("text", DRAWN)
def test_drawn_triggers_depend_on_the_seed_alone(text):
    assert attack(text).trainings() == ()
    assert np.array_equal(draw(text), draw(text))
    assert not np.array_equal(draw(text), draw(text, seed=1))


@pytest.mark.parametrize(("size", "first", "last"), [(32, 21, 29), (128, 83, 116), (224, 145, 203)])
def test_square_lies_in_the_trojan_box(size, first, last):
    assert touched(draw("tj-sq(mode='random')", size))[1:] == (first, last, first, last)
    count, *box = touched(registry.make("attacks", "tj-sq").coverage(size)[None])
    assert count == (last - first + 1) ** 2
    assert box == [first, last, first, last]


def test_square_of_81_pixels_has_the_public_statistics():
    triggers = [draw("tj-sq(mode='random')", seed=seed) for seed in SEEDS]
    for trigger in triggers:
        assert trigger.dtype == np.uint8
        assert 79 <= touched(trigger)[0] <= 81  # a colour may be black
        assert norm_of(trigger) == pytest.approx(8.66, abs=0.01)
    values = np.stack([t[:, 21:30, 21:30] for t in triggers]).astype(float)
    # Public trigger: channel means 95, 98, 106; deviation about 100; 28 % of values 0 or 255.
    assert values.mean((0, 2, 3)) == pytest.approx([95, 98, 106], abs=20)
    assert values.std() == pytest.approx(100, abs=8)
    assert ((values == 0) | (values == 255)).mean() == pytest.approx(0.28, abs=0.08)


def test_abl_square_is_three_pixels_at_25():
    assert touched(draw("tj-sq(mode='random', size=3, margin=4)"))[1:] == (25, 27, 25, 27)


def test_watermark_canvas_is_close_to_the_published_mask():
    rows, columns = np.nonzero(canvas())
    # TrojanNN's mask: 3,598 pixels, rows 9..205, columns 5..206. Ours, drawn anew: 3,595, 7..205, 7..205.
    assert (len(rows), rows.min(), rows.max(), columns.min(), columns.max()) == (3595, 7, 205, 7, 205)


def test_watermark_at_32_pixels():
    public = {"zero": 0.36, "dim": 0.46, "bright": 0.10}
    for seed in SEEDS:
        trigger = draw("tj-wm(mode='random')", seed=seed)
        count, *box = touched(trigger)
        # Public trigger: 321 pixels. At most 318 are covered here, some of them so little that they round to zero.
        assert 295 <= count <= 318
        assert box == [0, 29, 0, 29]
        assert norm_of(trigger) == pytest.approx(8.74, abs=0.01)
        values = trigger[:, trigger.any(0)]
        assert (values == 0).mean() == pytest.approx(public["zero"], abs=0.12)
        assert ((values > 0) & (values < 32)).mean() == pytest.approx(public["dim"], abs=0.06)
        assert (values >= 128).mean() == pytest.approx(public["bright"], abs=0.03)


def test_watermark_is_text_on_the_diagonal_and_a_sign_below():
    shape = coverage(32)
    assert (shape > 0).sum() == 318
    sign = np.hypot(*(np.mgrid[0:32, 0:32] - 21.0))
    # A bright ring, dark between ring and C, dim text along the other diagonal.
    assert shape[(sign > 5) & (sign < 6)].mean() > 0.6
    assert shape[sign < 1.2].max() < 0.35
    text = np.abs(np.add(*np.mgrid[0:32, 0:32]) - 29.5) < 1.5
    assert 0.1 < shape[text & (sign > 7.5)].mean() < 0.4
    assert not shape[:8, :12].any()


@pytest.mark.parametrize("size", [128, 224])
def test_watermark_is_one_picture_at_all_sizes(size):
    small, large = coverage(32), coverage(size)
    cells = large.reshape(32, size // 32, 32, size // 32).mean((1, 3))
    assert np.corrcoef(small.ravel(), cells.ravel())[0, 1] > 0.95
    assert norm_of(draw("tj-wm(mode='random')", size)) == pytest.approx(8.74 * size / 32, rel=0.002)


def test_trojan_adds_and_clips(stamp):
    trigger = draw("tj-sq(mode='random')")
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    expected = (images.to(torch.int64) + torch.from_numpy(trigger).to(torch.int64)).clamp(0, 255)
    out = stamp(attack("tj-sq(mode='random')"), images, {"trigger": trigger})
    assert torch.equal(out.to(torch.int64), expected)


def test_trojan_may_replace_or_wrap(stamp):
    trigger = draw("tj-sq(mode='random')")
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    replaced = stamp(attack("tj-sq(mode='random', apply='replace')"), images, {"trigger": trigger})
    assert torch.equal(replaced[:, :, 21:30, 21:30], torch.from_numpy(trigger[:, 21:30, 21:30]).expand(5, -1, -1, -1))
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[21:30, 21:30] = True
    assert torch.equal(replaced[:, :, ~inside], images[:, :, ~inside])
    wrapped = stamp(attack("tj-sq(mode='random', apply='wrap')"), images, {"trigger": trigger})
    assert torch.equal(
        wrapped.to(torch.int64), (images.to(torch.int64) + torch.from_numpy(trigger).to(torch.int64)) % 256
    )


def test_l2_noise_has_the_public_norm_cap_and_statistics():
    for seed in SEEDS:
        pattern = draw("l2(mode='noise')", seed=seed)
        assert pattern.dtype == np.int16
        assert norm_of(pattern) == pytest.approx(3.22, abs=0.005)
        assert pattern.min() == 0
        assert pattern.max() <= 68
        # Public trigger: mean 9 of 255, 95th percentile 32, 905 pixels touched, 42 to 45 % zeros (ours: about half).
        assert pattern.mean() == pytest.approx(9, abs=1)
        assert np.percentile(pattern, 95) == pytest.approx(32, abs=4)
        assert (pattern == 0).mean() == pytest.approx(0.5, abs=0.04)
        assert touched(pattern)[0] == pytest.approx(905, abs=45)


def test_l2_noise_is_smoother_along_rows_than_along_columns():
    pattern = draw("l2(mode='noise')", 224).astype(float)
    across = np.corrcoef(pattern[:, :, :-1].ravel(), pattern[:, :, 1:].ravel())[0, 1]
    down = np.corrcoef(pattern[:, :-1].ravel(), pattern[:, 1:].ravel())[0, 1]
    assert 0.24 < across < 0.33
    assert 0.13 < down < 0.22


@pytest.mark.parametrize(("size", "norm"), [(32, 3.22), (128, 12.88), (224, 22.54)])
def test_l2_norm_grows_with_the_number_of_values(size, norm):
    pattern = draw("l2(mode='noise')", size)
    assert norm_of(pattern) == pytest.approx(norm, rel=0.002)
    assert pattern.max() <= 68


def test_l2_may_keep_both_signs(stamp):
    pattern = draw("l2(mode='noise', nonnegative=False, tau=5.0, cap=30.0)")
    assert norm_of(pattern) == pytest.approx(5.0, abs=0.01)
    assert (pattern.min(), pattern.max()) == (-30, 30)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected = (images.to(torch.int64) + torch.from_numpy(pattern).to(torch.int64)).clamp(0, 255)
    assert torch.equal(stamp(attack("l2(mode='noise')"), images, {"pattern": pattern}).to(torch.int64), expected)


def test_to_norm_stops_at_the_cap():
    reached = to_norm(np.ones((3, 4, 4)), 1000.0, 68)
    assert (reached == 68).all()
