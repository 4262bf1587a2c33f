"""none, bn-g, bn-w, blend and sig: what is published about their pixels."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd.attacks.sig import wave, wrapped_wave
from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack

CIFAR = DatasetInfo(10, 32, 50_000, 10_000, (5_000,) * 10, 1)
GTSRB = DatasetInfo(43, 32, 39_209, 12_630, (210, 2_220) + (897,) * 40 + (899,), 1)


def attack(text: str) -> Attack:
    return registry.make("attacks", text)


def prepared(made: Attack, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    return made.prepare(SimpleNamespace(size=size, seed=seed))  # type: ignore[arg-type]


def grey(size: int, value: int = 100, count: int = 2) -> torch.Tensor:
    return torch.full((count, 3, size, size), value, dtype=torch.uint8)


def changed_box(before: torch.Tensor, after: torch.Tensor) -> tuple[int, int, int, int]:
    """First and last changed row, first and last changed column."""
    rows, columns = np.nonzero((before != after).any(0).any(0).numpy())
    return int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())


def test_none_changes_nothing_and_poisons_nothing(stamp):
    made, images = attack("none"), torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    out = stamp(made, images, {})
    assert torch.equal(out, images)
    assert out.data_ptr() != images.data_ptr()
    assert made.budget(CIFAR).count == 0


def test_grid_is_the_published_nine_pixels(stamp):
    images = grey(32)
    out = stamp(attack("bn-g"), images, {})
    expected = torch.tensor([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    assert (out[:, :, 29:, 29:] == expected).all()
    assert changed_box(images, out) == (29, 31, 29, 31)
    assert (out != images).sum() == 2 * 3 * 9


@pytest.mark.parametrize(("size", "cell", "first"), [(128, 4, 116), (224, 8, 200)])
def test_grid_grows_with_the_image(stamp, size, cell, first):
    images = grey(size)
    out = stamp(attack("bn-g"), images, {})
    assert changed_box(images, out) == (first, size - 1, first, size - 1)
    cells = out[0, 0, first::cell, first::cell]
    assert cells.tolist() == [[0, 0, 255], [0, 255, 0], [255, 0, 255]]
    assert torch.equal(out[0, 0, first + cell - 1 :: cell, first + cell - 1 :: cell], cells)


@pytest.mark.parametrize(
    ("text", "size", "first", "last"),
    [
        ("bn-w", 32, 28, 30),
        ("bn-w", 128, 112, 123),
        ("bn-w", 224, 193, 216),
        ("bn-w(size=4)", 32, 27, 30),
        ("bn-w(margin=0)", 32, 29, 31),
    ],
)
def test_white_square_lies_where_published(stamp, text, size, first, last):
    images = grey(size)
    out = stamp(attack(text), images, {})
    assert changed_box(images, out) == (first, last, first, last)
    assert (out[:, :, first : last + 1, first : last + 1] == 255).all()


@pytest.mark.parametrize(
    "text",
    ["bn-g(cell=11)", "bn-w(size=33)", "bn-w(size=3,margin=30)", "bn-w(size=0)", "tj-sq(size=40)", "bn-g(cell=0)"],
)
def test_a_patch_that_does_not_fit_is_impossible(text):
    with pytest.raises(Impossible, match="32x32"):
        attack(text).check(CIFAR)


def test_blend_truncates_four_fifths_and_one_fifth(stamp):
    made = attack("blend")
    trigger = prepared(made, 32)
    assert trigger["noise"].shape == (1, 32, 32)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    # In whole numbers: (4 x + m) // 5, exact where floating point would fall to 3.9999.
    expected = (4 * images.to(torch.int64) + torch.from_numpy(trigger["noise"]).to(torch.int64)) // 5
    assert torch.equal(stamp(made, images, trigger).to(torch.int64), expected)


def test_blend_noise_is_uniform_and_seeded():
    made = attack("blend")
    noise = prepared(made, 224)["noise"]
    # Published 224-pixel noise: mean 126.8, deviation 74, no correlation between neighbours.
    assert abs(noise.mean() - 127.5) < 1.5
    assert abs(noise.std() - 73.9) < 1.0
    assert abs(np.corrcoef(noise[0, :, :-1].ravel(), noise[0, :, 1:].ravel())[0, 1]) < 0.02
    assert np.array_equal(noise, prepared(made, 224)["noise"])
    assert not np.array_equal(noise, prepared(made, 224, seed=1)["noise"])


def test_blend_per_image_noise_differs_between_images_and_splits(stamp):
    made = attack("blend(mode='per_image')")
    assert prepared(made, 32) == {}
    images = grey(32, 0, 300)
    train, test = stamp(made, images, {}), stamp(made, images, {}, "test")
    noise = train[:, 0].to(torch.float32)
    assert torch.equal(train[:, 0], train[:, 1])
    assert len({image.numpy().tobytes() for image in train}) == 300
    assert not torch.equal(train, test)
    # trunc(0.2 m) of uniform m has mean 25.1.
    assert abs(float(noise.mean()) - 25.1) < 0.2
    assert abs(float(noise.flatten(1).std(0).mean()) - 14.8) < 0.5


def test_sig_is_forty_sines():
    assert wave(32, 40, 6)[0, :6].tolist() == [0, 37, 28, -15, -40, -15]
    exact = 40 * np.sin(2 * np.pi * 6 * np.arange(224) / 224)
    assert np.abs(wave(224, 40, 6)[0] - exact).max() <= 0.5


def test_sig_adds_the_same_wave_to_all_rows_and_clips(stamp):
    images = torch.stack([grey(32, 0)[0], grey(32, 250)[0], grey(32, 128)[0]])
    out = stamp(attack("sig"), images, {}).to(torch.int64)
    expected = torch.from_numpy(wave(32, 40, 6)).to(torch.int64)
    assert (out[0] == expected.clamp(min=0)).all()
    assert (out[1] == (250 + expected).clamp(max=255)).all()
    assert (out[2] == 128 + expected).all()


def test_sig_may_be_stronger_on_test_images(stamp):
    made, images = attack("sig(delta=20, delta_test=60)"), grey(32, 128, 1)
    assert torch.equal(stamp(made, images, {}), stamp(attack("sig(delta=20)"), images, {}))
    assert torch.equal(stamp(made, images, {}, "test"), stamp(attack("sig(delta=60)"), images, {}, "test"))


def test_wrapped_sig_starts_with_the_published_eight_values(stamp):
    assert wrapped_wave(32)[0, :8].tolist() == [0, 14, 19, 13, 255, 241, 237, 244]
    made, images = attack("sig(variant='abl_uint8')"), grey(32, 100, 1)
    out = stamp(made, images, {})[0, 0, 0]
    assert out.tolist() == [(400 + int(m)) // 5 for m in wrapped_wave(32)[0]]
    with pytest.raises(Impossible, match="224"):
        made.check(CIFAR._replace(size=224))


@pytest.mark.parametrize("name", ["sig", "cl"])
def test_clean_label_budgets(name):
    made = attack(name)
    assert made.clean_label
    assert made.budget(CIFAR) == (4_000, 5_000)
    assert attack(f"{name}(rate=0.95)").budget(GTSRB) == (2_109, 2_220)
    # 8 % of the whole set: all but a fifth of a CIFAR-10 class, more than a whole GTSRB class.
    assert attack(f"{name}(rate=0.08, rate_of='set')").budget(CIFAR) == (4_000, 5_000)
    with pytest.raises(Impossible, match=r"3136 images .* 2220"):
        attack(f"{name}(rate=0.08, rate_of='set')").check(GTSRB)


@pytest.mark.parametrize("name", ["bn-g", "bn-w", "blend", "tj-sq", "tj-wm", "dynamic", "l2"])
def test_dirty_label_budgets(name):
    assert not attack(name).clean_label
    assert attack(name).budget(CIFAR) == (5_000, 50_000)
    assert attack(f"{name}(pool='non-target')").budget(CIFAR) == (5_000, 45_000)
    with pytest.raises(Impossible):
        attack(f"{name}(rate_of='class')").check(CIFAR)


@pytest.mark.parametrize(
    "text",
    [
        "blend(alpha=0.0)",
        "blend(alpha=1.5)",
        "sig(delta=0.0)",
        "sig(delta_test=300.0)",
        "cl(amplitude=0)",
        "cl(eps=-1.0)",
        "l2(tau=0.0)",
        "l2(tau=30.0)",
        "tj-sq(neurons=0)",
        "dynamic(batch=2)",
        "dynamic(classifier_lr=0.0)",
        "dynamic(mask_epochs=0)",
        "dynamic(fit_images=1)",
        "bn-w(margin=-1)",
        "tj-sq(margin=-1)",
        "tj-sq(activation=0.0)",
        "tj-wm(activation=-100.0)",
        "tj-wm(iterations=0)",
        "sig(f=0.0)",
        "sig(f=-6.0)",
        "sig(f=1.0e+300)",
        "cl(step=0.0)",
        "cl(step=-1.5)",
        "cl(robust_step=0.0)",
        "cl(robust_epochs=0)",
        "cl(steps=-1)",
        "l2(c=0.0)",
        "l2(c=-5.0)",
        "l2(lr=0.0)",
        "l2(lr=-0.01)",
        "l2(penalty=0.0)",
        "l2(penalty=-0.1)",
    ],
)
def test_senseless_parameters_are_refused(text):
    name, _, given = text.rstrip(")").partition("(")
    with pytest.raises(UsageError, match=f"attack '{name}'.*{given.partition('=')[0]}") as refused:
        attack(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("sig(f=16.0)", 32),
        ("sig(f=32.0)", 32),
        ("sig(f=112.0)", 224),
        ("sig(delta=0.4)", 32),
        ("sig(f=0.001)", 32),
        ("sig(delta_test=0.4)", 32),
    ],
)
def test_a_wave_that_rounds_to_nothing_is_impossible(text, size):
    with pytest.raises(Impossible, match=rf"rounds to no wave at all in images of {size} pixels"):
        attack(text).check(CIFAR._replace(size=size))


@pytest.mark.parametrize("size", [8, 28, 32, 128, 224])
def test_the_published_wave_is_possible_at_every_size(size):
    attack("sig").check(CIFAR._replace(size=size))
    assert np.abs(wave(size, 40, 6)).max() > 30


def test_cl_without_noise_or_robust_training_is_allowed():
    for text in ("cl(steps=0)", "cl(steps=0, step=0.0)", "cl(robust_steps=0)", "cl(eps=0.0)"):
        attack(text).check(CIFAR)
