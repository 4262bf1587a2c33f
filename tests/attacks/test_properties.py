"""What holds for every attack, whatever the images: the promises of ``Attack.stamp`` and of a poisoned set."""

from __future__ import annotations

import functools
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchbd.core.images import DatasetInfo, Images
from benchbd.core.recipe import Recipe
from benchbd.pipeline.poison import Poison, Poisoner, apply
from benchbd.plan.cell import Cell, Components
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, Dataset, StampContext, dataset
from benchbd.plugins.identity import part_of
from benchbd.storage.artifacts import Store

DYNAMIC = "mask_epochs=1, joint_epochs=1, width=2, stages=1, batch=12"
ATTACKS = {
    "none": "none",
    "bn-g": "bn-g",
    "bn-w": "bn-w",
    "blend": "blend",
    "blend per image": "blend(mode='per_image', channels=3)",
    "tj-sq": "tj-sq(iterations=2)",
    "tj-sq random": "tj-sq(mode='random')",
    "tj-sq replace": "tj-sq(mode='random', apply='replace')",
    "tj-sq wrap": "tj-sq(mode='random', apply='wrap')",
    "tj-wm": "tj-wm(iterations=2)",
    "tj-wm random": "tj-wm(mode='random')",
    "dynamic": f"dynamic({DYNAMIC})",
    "cl": "cl(steps=1, robust_steps=1, robust_epochs=1)",
    "cl standard": "cl(steps=1, surrogate='standard', trigger='four-corners', amplitude=64)",
    "sig": "sig",
    "sig wrapped": "sig(variant='abl_uint8')",
    "l2": "l2(steps=2, batch=8)",
    "l2 noise": "l2(mode='noise', nonnegative=False)",
    "wanet": "wanet(cross_ratio=0)",
    "adap-blend": "adap-blend(rate=0.1, cover_ratio=0)",
    "adap-patch": "adap-patch(rate=0.1, cover_ratio=0)",
    "ftrojan": "ftrojan",
    "bpp": "bpp(negative_ratio=0)",
    "bpp dithered": "bpp(dithering=True, negative_ratio=0)",
    "lfd-adaptive": "lfd-adaptive(of='lfd(teachers=1, teacher_epochs=1, teacher_tries=1)', alphas=[0.2, 0.1])",
    "lfd-adaptive given": "lfd-adaptive(alpha=0.1, verify=False)",
}
FIXED = ["none", "bn-g", "bn-w", "sig", "sig wrapped", "ftrojan", "bpp", "bpp dithered"]
"""Attacks whose trigger is the same whatever trigger_seed is; cl's noise follows it by the surrogate's seed."""
LARGE = [(name, 128) for name in ATTACKS if name != "sig wrapped"] + [
    (name, 224)
    for name in ("bn-g", "bn-w", "blend", "tj-sq random", "tj-sq replace", "tj-wm random", "sig", "l2 noise", "wanet")
]
"""Attacks at the sizes of larger images; those that train something at 128 only, for time."""
COUNT, CLASSES, TARGET = 60, 3, 1


@dataset("blocks", version=1)
class Blocks(Dataset):
    """60 noisy images of 3 classes, bright in one channel; 30 to test."""

    size: int = 32

    def info(self) -> DatasetInfo:
        return DatasetInfo(CLASSES, self.size, COUNT, 30, (COUNT // CLASSES,) * CLASSES, TARGET)

    def load(self, split: str, root: str | None) -> Images:
        count = COUNT if split == "train" else 30
        generator = torch.Generator().manual_seed(count)
        labels = torch.arange(count) % CLASSES
        images = torch.randint(0, 200, (count, 3, self.size, self.size), generator=generator)
        images[torch.arange(count), labels] += 55
        return Images(images.to(torch.uint8), labels)


def poisoner(text: str, folder: Path, seed: int = 0, size: int = 32) -> Poisoner:
    torch.set_num_threads(1)
    made = Components(
        Blocks(size=size),
        registry.make("models", "resnet18(width=2)"),
        registry.make("attacks", text),
        registry.make("defenses", "none"),
        Recipe(epochs=1, batch_size=20),
    )
    parts = [part_of(p) for p in made[:4]]
    cell = Cell(parts[0], parts[1], parts[2], parts[3], made.recipe.spec(), seed)
    return Poisoner(cell, made, Store(folder), torch.device("cpu"), lambda event: None, None)


@functools.cache
def row(name: str, seed: int = 0, extra: str = "", again: int = 0, size: int = 32) -> tuple[Poisoner, Poison]:
    """The poison of one attack, made from nothing in a folder of its own."""
    text = ATTACKS[name]
    if extra:
        text = f"{text[:-1]}, {extra})" if text.endswith(")") else f"{text}({extra})"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        made = poisoner(text, Path(folder), seed, size)
        clean, info = made.train_set()
        return made, made.poison(clean, info)


def how_of(name: str, indices: np.ndarray, split: str = "train", size: int = 32) -> tuple[Attack, StampContext]:
    made, poison = row(name, size=size)
    return made.components.attack, StampContext(split, indices, poison.trigger, 7)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "size"), [*((name, 32) for name in ATTACKS), *LARGE])
def test_only_the_chosen_images_change(name, size):
    made, poison = row(name, size=size)
    clean, info = made.train_set()
    attack, before = made.components.attack, clean.images.clone()
    poisoned = apply(clean, poison)
    budget = attack.budget(info, info.class_counts)
    rest = np.setdiff1d(np.arange(COUNT), poison.indices)
    assert len(poison.indices) == budget.count
    assert poisoned.images.shape == clean.images.shape
    assert poisoned.images.shape[1:] == (3, size, size)
    assert torch.equal(clean.images, before)
    assert torch.equal(poisoned.images[rest], clean.images[rest])
    assert torch.equal(poisoned.labels[rest], clean.labels[rest])
    # Masks that two epochs leave closed write nothing: dynamic is looked at in test_attacks_trained.
    if attack.poisons and name != "dynamic":
        changed = (poisoned.images[poison.indices] != clean.images[poison.indices]).flatten(1).any(1)
        assert changed.all()


@pytest.mark.parametrize("name", ATTACKS)
def test_labels_change_only_where_the_attack_says_so(name):
    made, poison = row(name)
    clean, _ = made.train_set()
    poisoned, attack = apply(clean, poison), made.components.attack
    if attack.clean_label or not attack.poisons:
        assert torch.equal(poisoned.labels, clean.labels)
        assert (clean.labels[poison.indices] == TARGET).all()
    else:
        assert (poisoned.labels[poison.indices] == TARGET).all()


@pytest.mark.parametrize("name", [n for n in ATTACKS if n != "none"])
def test_triggered_test_images_are_of_other_classes(name):
    made, poison = row(name)
    data, info = made.components.dataset.load("test", None), made.components.dataset.info()
    images, labels = made.triggered(data, info, poison)
    assert (labels != TARGET).all()
    assert len(images) == len(labels) == int((data.labels != TARGET).sum()) == 20


@pytest.mark.parametrize("name", ATTACKS)
def test_two_runs_with_one_seed_are_byte_identical(name):
    (_, first), (_, second) = row(name), row(name, again=1)
    assert first.images.tobytes() == second.images.tobytes()
    assert first.indices.tobytes() == second.indices.tobytes()
    assert first.trigger_sha256 == second.trigger_sha256
    assert first.key == second.key


@pytest.mark.parametrize("name", ["bn-g", "blend", "sig", "cl standard"])
def test_another_seed_poisons_other_images_and_draws_another_trigger(name):
    (_, first), (_, second) = row(name), row(name, seed=1)
    assert not np.array_equal(first.indices, second.indices)
    if name != "cl standard":
        same = all(np.array_equal(first.trigger[k], second.trigger[k]) for k in first.trigger)
        assert same is (name in FIXED)
    (_, first), (_, second) = (row(name, seed=seed, extra="trigger_seed=3") for seed in (0, 1))
    if name != "cl standard":  # its perturbations are of the images that are poisoned
        assert all(np.array_equal(first.trigger[k], second.trigger[k]) for k in first.trigger)


@pytest.mark.parametrize(("name", "size"), LARGE)
def test_large_images_are_stamped_one_at_a_time_into_a_copy(name, size):
    for split in ("train", "test"):
        known = row(name, size=size)[1].indices if ATTACKS[name].startswith("cl") and split == "train" else np.arange(9)
        indices = known[:3]
        images = _images(1, len(indices), "noise", size)
        before = images.clone()
        attack, context = how_of(name, indices, split, size)
        out = attack.stamp(images, context)
        assert (out.dtype, out.shape) == (torch.uint8, images.shape)
        assert torch.equal(images, before)
        assert torch.equal(attack.stamp(images[1:2], context._replace(indices=indices[1:2])), out[1:2])


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in FIXED])
def test_another_trigger_seed_makes_another_trigger_for_the_same_images(name):
    (_, first), (_, second) = row(name), row(name, extra="trigger_seed=1")
    assert np.array_equal(first.indices, second.indices)
    if name == "dynamic":
        assert first.trigger_sha256 != second.trigger_sha256
    else:
        assert not np.array_equal(first.images, second.images)


def _images(seed: int, count: int, kind: str, size: int = 32) -> torch.Tensor:
    shape = (count, 3, size, size)
    if kind != "noise":
        return torch.full(shape, {"black": 0, "white": 255}[kind], dtype=torch.uint8)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.mark.parametrize("name", ATTACKS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["noise", "black", "white"]))
def test_stamping_keeps_type_shape_and_input_and_looks_at_one_image_at_a_time(name, data, kind):
    split = data.draw(st.sampled_from(["train", "test"]))
    known = row(name)[1].indices if ATTACKS[name].startswith("cl") and split == "train" else np.arange(COUNT)
    indices = np.array(data.draw(st.lists(st.sampled_from(known.tolist()), min_size=1, max_size=6, unique=True)))
    images = _images(int(indices[0]), len(indices), kind)
    before = images.clone()
    attack, context = how_of(name, indices, split)
    out = attack.stamp(images, context)
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    assert torch.equal(images, before)
    assert out.data_ptr() != images.data_ptr()
    assert torch.equal(attack.stamp(images, context), out)
    for place in range(len(indices)):
        one = slice(place, place + 1)
        assert torch.equal(attack.stamp(images[one], context._replace(indices=indices[one])), out[one])


@pytest.mark.parametrize("name", ATTACKS)
def test_no_images_are_no_trouble(name):
    attack, context = how_of(name, np.zeros(0, np.int64))
    assert attack.stamp(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), context).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(
    "name",
    [
        "bn-g",
        "bn-w",
        "sig",
        "sig wrapped",
        "blend",
        "tj-sq random",
        "tj-wm random",
        "l2 noise",
        "wanet",
        "ftrojan",
        "bpp",
    ],
)
def test_train_and_test_images_are_stamped_alike(name):
    attack, context = how_of(name, np.arange(4))
    images = _images(3, 4, "noise")
    assert torch.equal(attack.stamp(images, context), attack.stamp(images, context._replace(split="test")))


@given(
    seed=st.integers(0, 2**63 - 1),
    indices=st.lists(st.integers(0, 10**6), min_size=1, max_size=8),
    count=st.integers(1, 40),
)
def test_bytes_of_each_index_stand_alone(seed, indices, count):
    from benchbd.attacks._draws import bytes_of_each

    drawn = bytes_of_each(seed, np.array(indices), count)
    assert drawn.shape == (len(indices), count)
    for place, index in enumerate(indices):
        assert np.array_equal(bytes_of_each(seed, np.array([index]), count)[0], drawn[place])
    assert np.array_equal(bytes_of_each(seed, np.array(indices), count + 9)[:, :count], drawn)


def test_bytes_are_uniform_and_uncorrelated():
    from benchbd.attacks._draws import bytes_of_each

    drawn = bytes_of_each(0, np.arange(4000), 64)
    counts = np.bincount(drawn.ravel(), minlength=256)
    expected = drawn.size / 256
    # Chi-squared of 255 degrees of freedom: mean 255, deviation 22.6.
    assert 180 < ((counts - expected) ** 2 / expected).sum() < 340
    # 63 correlations of 4,000 (or more) pairs each: one in ten million would exceed 0.085.
    assert np.abs(np.corrcoef(drawn.T) - np.eye(64)).max() < 0.085
    assert abs(np.corrcoef(drawn[:-1].ravel(), drawn[1:].ravel())[0, 1]) < 0.01
    assert not np.array_equal(drawn, bytes_of_each(1, np.arange(4000), 64))


def test_bytes_are_those_of_splitmix64():
    """Against whole-number arithmetic: a change here changes every per-image blend, so raise the attack's version."""
    from benchbd.attacks._draws import bytes_of_each

    golden, word = 0x9E3779B97F4A7C15, 2**64

    def scramble(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % word
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % word
        return z ^ (z >> 31)

    for seed, index in ((5, 0), (2**63 - 1, 49_999)):
        stream = scramble((scramble((seed + golden) % word) + golden * (index + 1)) % word)
        expected = b"".join(scramble((stream + golden * step) % word).to_bytes(8, "little") for step in (1, 2))
        assert bytes_of_each(seed, np.array([index]), 16).tobytes() == expected


def test_dynamic_cross_samples_keep_their_labels_and_carry_another_trigger():
    made, poison = row("dynamic", extra="cross_in_train=True")
    clean, _ = made.train_set()
    poisoned = apply(clean, poison)
    cover = poison.indices[~poison.flags]
    assert len(poison.indices) == 12
    assert len(cover) == poison.facts["cover"] == poison.facts["count"] == 6
    assert torch.equal(poisoned.labels[cover], clean.labels[cover])
    assert (poisoned.labels[poison.indices[poison.flags]] == TARGET).all()
    rest = np.setdiff1d(np.arange(COUNT), poison.indices)
    assert torch.equal(poisoned.images[rest], clean.images[rest])
