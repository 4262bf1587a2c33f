"""GTSRB: both layouts, the full set or another one refused, annotations, damage; real files where they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchbd.datasets import gtsrb
from benchbd.datasets._decoded import Source, decoded
from benchbd.errors import Impossible, UsageError
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack
from benchbd.plugins.input_files import input_files_digest

ROOT = os.environ.get("BENCHBD_DATA", "")
real = pytest.mark.skipif(
    not ROOT or not (Path(ROOT) / "gtsrb" / "GTSRB" / "Training").is_dir(),
    reason="BENCHBD_DATA names no folder with GTSRB",
)
SMALL = (3, 4, *(1,) * 41)
SMALL_TEST = (*(1,) * 42, 2)


def make(arguments: str = "") -> gtsrb.Gtsrb:
    made: gtsrb.Gtsrb = registry.make("datasets", f"gtsrb({arguments})" if arguments else "gtsrb")
    return made


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny data set of this layout; each image's colour is (class, number in class, 0 for train or 1 for test)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(gtsrb, "COUNTS", SMALL)
    monkeypatch.setattr(gtsrb, "TEST_COUNTS", SMALL_TEST)
    base = tmp_path / "root" / "gtsrb"
    for c, count in enumerate(SMALL):
        folder = base / "GTSRB" / "Training" / f"{c:05d}"
        folder.mkdir(parents=True)
        (folder / f"GT-{c:05d}.csv").write_text("Filename;ClassId\n")
        (folder / "._hidden.ppm").write_text("not an image")
        for n in range(count):
            Image.new("RGB", (20 + c, 31), (c, n, 0)).save(folder / f"00000_{n:05d}.ppm")
    images = base / "GTSRB" / "Final_Test" / "Images"
    images.mkdir(parents=True)
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for at, c in enumerate(reversed([c for c, count in enumerate(SMALL_TEST) for _ in range(count)])):
        Image.new("RGB", (32, 32), (c, 0, 1)).save(images / f"{at:05d}.ppm")
        rows.append(f"{at:05d}.ppm;32;32;1;1;30;30;{c}")
    (base / "GT-final_test.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "root"


def message(root: Path | None, arguments: str = "", split: str = "train") -> str:
    with pytest.raises(UsageError) as caught:
        make(arguments).load(split, str(root) if root else None)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_info_is_the_published_set() -> None:
    info = make().info()
    assert (info.classes, info.size, info.train, info.test, info.target) == (43, 32, 39_209, 12_630, 1)
    assert info.class_counts is not None
    assert (min(info.class_counts), max(info.class_counts), info.class_counts[1]) == (210, 2250, 2220)
    tests = gtsrb.TEST_COUNTS
    assert (sum(tests), len(tests), min(tests), max(tests)) == (12_630, 43, 60, 750)
    assert len(set(gtsrb.Gtsrb.class_names)) == 43
    assert gtsrb.Gtsrb.class_names[14] == "stop"


def test_clean_label_budget_is_checked_at_plan_time() -> None:
    """The target class is 5.7 % of the set: 9.5 % of the set cannot be poisoned, 95 % of the class can."""

    class Clean(Attack):
        clean_label = True

    info = make().info()
    with pytest.raises(Impossible, match=r"3724 images to poison \(9.50% .* but only 2220 .* \(5.66%"):
        Clean(rate=0.095).budget(info)
    budget = Clean(rate=0.95, rate_of="class").budget(info)
    assert budget is not None
    assert budget.count == 2109


def test_subset_info_keeps_the_proportions() -> None:
    info = make("train=5000, test=1000").info()
    assert info.class_counts is not None
    assert (info.train, info.test, sum(info.class_counts)) == (5000, 1000, 5000)
    assert all(abs(n - 5000 * whole / 39_209) < 1 for n, whole in zip(info.class_counts, gtsrb.COUNTS, strict=True))


def test_the_smaller_release_counts_its_classes_when_read() -> None:
    info = make("release='torchvision'").info()
    assert (info.train, info.class_counts) == (26_640, None)
    with pytest.raises(UsageError, match="train must be between 43 and 26640, not 30000"):
        make("release='torchvision', train=30000").info()


@pytest.mark.parametrize("layout", ["torchvision", "original"])
def test_both_layouts_are_read(small: Path, layout: str) -> None:
    if layout == "original":
        base = small / "gtsrb" / "GTSRB"
        (base / "Final_Training").mkdir()
        (base / "Training").rename(base / "Final_Training" / "Images")
        shutil.move(small / "gtsrb" / "GT-final_test.csv", base / "Final_Test" / "Images")
    train, test = make().load("train", str(small)), make().load("test", str(small))
    assert make().missing(str(small)) is None
    assert train.images.shape == (48, 3, 32, 32)
    assert torch.bincount(train.labels, minlength=43).tolist() == list(SMALL)
    assert torch.equal(train.images[:, 0, 0, 0].long(), train.labels)
    assert train.images[:7, 1, 5, 5].tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert torch.bincount(test.labels, minlength=43).tolist() == list(SMALL_TEST)
    assert torch.equal(test.images[:, 0, 9, 9].long(), test.labels)
    assert (test.images[:, 2] == 1).all()


def test_the_root_may_be_the_folder_itself(small: Path) -> None:
    assert len(make().load("test", str(small / "gtsrb")).labels) == 44


def test_subset_of_a_read_set(small: Path) -> None:
    some = make("train=45").load("train", str(small))
    assert tuple(torch.bincount(some.labels, minlength=43).tolist()) == make("train=45").info().class_counts
    assert torch.equal(some.images[:, 0, 0, 0].long(), some.labels)


def test_another_release_is_refused_and_named(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gtsrb, "SMALLER", 48)
    monkeypatch.setattr(gtsrb, "COUNTS", (9, *SMALL[1:]))
    assert "holds torchvision's training set of 48 images, not the full 54" in message(small)
    assert "or say gtsrb(release=torchvision)" in message(small)
    read = make("release='torchvision'").load("train", str(small))
    assert len(read.labels) == 48
    monkeypatch.setattr(gtsrb, "SMALLER", 47)
    monkeypatch.setattr(gtsrb, "COUNTS", SMALL)
    text = message(small, "release='torchvision'")
    assert "holds 48 images, not the 47 of torchvision's set; say gtsrb(release=full)" in text


def test_a_lost_image_or_class_is_named(small: Path) -> None:
    folder = small / "gtsrb" / "GTSRB" / "Training"
    (folder / "00001" / "00000_00002.ppm").unlink()
    assert f"{folder}/00001 holds 3 .ppm images instead of 4 (47 instead of 48 in all)" in message(small)
    shutil.rmtree(folder / "00007")
    assert f"{folder}/00007 cannot be read: No such file or directory" in message(small)


def test_a_damaged_image_is_named(small: Path) -> None:
    (small / "gtsrb" / "GTSRB" / "Training" / "00002" / "00000_00000.ppm").write_bytes(b"P6\n9 9\n255\nshort")
    assert "00002/00000_00000.ppm cannot be decoded" in message(small)


def test_missing_parts_are_named(small: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    text = message(tmp_path / "empty")
    assert f"gtsrb is not in {tmp_path}/empty/gtsrb: unpack GTSRB_Final_Training_Images.zip, " in text
    assert "cache/benchbd/data/gtsrb: unpack" in message(None)
    annotations = small / "gtsrb" / "GT-final_test.csv"
    annotations.unlink()
    assert f"gtsrb: {annotations} is missing; unpack GTSRB_Final_Test_GT.zip" in message(small, split="test")
    assert make().missing(str(small)) == message(small, split="test")
    shutil.rmtree(small / "gtsrb" / "GTSRB" / "Training")
    assert "GTSRB/Final_Training/Images is missing; unpack GTSRB_Final_Training_Images.zip" in message(small)
    assert make().missing(str(small)) == message(small)
    assert "GTSRB/Training is missing" in message(small, "release='torchvision'")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"a;b\n1;2\n",
        b"Filename;ClassId\n",
        b"Filename;ClassId\nx.ppm\n",
        b"Filename;ClassId\nx.ppm;-1\n",
        b"Filename;ClassId\nx.ppm;99\n",
        b"Filename;ClassId\nx.ppm;seven\n",
    ],
)
def test_unreadable_annotations_are_one_line(small: Path, content: bytes) -> None:
    (small / "gtsrb" / "GT-final_test.csv").write_bytes(content)
    text = message(small, split="test")
    assert "GT-final_test.csv" in text
    assert "unpack GTSRB_Final_Test_GT.zip again" in text


@real
def test_real_files_are_the_full_set_and_equal_torchvisions_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchbd.datasets._torchvision import torchvision

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    where = Path(ROOT) / "gtsrb"
    train = gtsrb._train_files(where, "full")
    test = gtsrb._test_files(where / "GT-final_test.csv")
    assert len(train[0]) == len(set(train[0])) == 39_209
    assert len(test[0]) == len(set(test[0])) == 12_630
    for split, folder, (files, labels) in (("train", "Training", train), ("test", "Final_Test/Images", test)):
        reference = torchvision().datasets.GTSRB(ROOT, split=split)
        at = np.linspace(0, len(files) - 1, 15).astype(int)
        images = decoded(Source("gtsrb", where / "GTSRB" / folder, [files[i] for i in at], 32, crop=False))
        for i, image in zip(at, images, strict=True):
            picture, label = reference[int(i)]
            assert label == labels[i]
            resized = picture.resize((32, 32), Image.Resampling.BILINEAR)
            assert np.array_equal(np.asarray(resized).transpose(2, 0, 1), image)


def test_input_files_are_all_that_is_read(small: Path) -> None:
    root = str(small)
    named = {Path(path).relative_to(small / "gtsrb").as_posix() for path in make().input_files(root)}
    images = {p.relative_to(small / "gtsrb").as_posix() for p in (small / "gtsrb").rglob("0*.ppm")}
    assert named == {"GT-final_test.csv", *images}
    first = input_files_digest(make(), root)
    assert first is not None
    image = small / "gtsrb" / "GTSRB" / "Training" / "00001" / "00000_00002.ppm"
    body = image.read_bytes()
    image.write_bytes(body[:-1] + b"x")
    assert input_files_digest(make(), root) != first
    image.write_bytes(body)
    assert input_files_digest(make(), root) == first
    table = small / "gtsrb" / "GT-final_test.csv"
    table.write_text(table.read_text() + "\n")
    assert input_files_digest(make(), root) != first
    shutil.rmtree(small / "gtsrb")
    with pytest.raises(UsageError, match="is not in"):
        input_files_digest(make(), root)
