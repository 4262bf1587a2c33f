"""Folders in ImageNet's layout: subsets by class list, Imagenette, what is missing; real Imagenette where it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from benchbd import DatasetInfo
from benchbd.errors import UsageError
from benchbd.plugins import registry
from benchbd.plugins.input_files import input_files_digest

ROOT = os.environ.get("BENCHBD_DATA", "")
real = pytest.mark.skipif(
    not ROOT or not (Path(ROOT) / "imagenette2-128" / "train").is_dir(),
    reason="BENCHBD_DATA names no folder with imagenette2-128",
)
SUBSET = "imagenet-subset(classes=['dog', 'ant', 'cat'], size=16, train=9, test=6)"


def make(spec: str) -> Any:
    return registry.make("datasets", spec)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five training and three test pictures of each class; colour (class, number, 0 for train or 1 for val)."""
    for part, each in (("train", 5), ("val", 3)):
        for c, label in enumerate(("ant", "cat", "dog", "elk")):
            folder = tmp_path / "root" / "imagenet" / part / label
            folder.mkdir(parents=True)
            (folder / "notes.txt").write_text("no picture")
            (folder / ".hidden.png").write_text("no picture")
            for n in range(each):
                Image.new("RGB", (20, 17 + n), (c, n, part == "val")).save(folder / f"{n}.{'PNG' if n else 'png'}")
    return tmp_path / "root"


def message(spec: str, root: Path | None, split: str = "train") -> str:
    with pytest.raises(UsageError) as caught:
        make(spec).load(split, str(root) if root else None)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_classes_are_numbered_as_listed(pictures: Path) -> None:
    train, test = make(SUBSET).load("train", str(pictures)), make(SUBSET).load("test", str(pictures))
    assert make(SUBSET).info() == DatasetInfo(3, 16, 9, 6, (3, 3, 3), 0)
    assert train.images.shape == (9, 3, 16, 16)
    assert train.images.dtype == torch.uint8
    assert torch.bincount(train.labels).tolist() == [3, 3, 3]
    colours = torch.tensor([2, 0, 1])
    for part, flag in ((train, 0), (test, 1)):
        assert torch.equal(part.images[:, 0, 8, 8].long(), colours[part.labels])
        assert (part.images[:, 2] == flag).all()
        assert len({(int(i[0, 0, 0]), int(i[1, 0, 0])) for i in part.images}) == len(part.labels), "no picture twice"
    assert make(SUBSET).missing(str(pictures)) is None


def test_seed_decides_which_images(pictures: Path) -> None:
    specs = [SUBSET.replace(")", f", subset_seed={seed})") for seed in (0, 0, 1)]
    loads = [make(spec).load("train", str(pictures)).images[:, 1, 0, 0] for spec in specs]
    assert torch.equal(loads[0], loads[1])
    assert not torch.equal(loads[0], loads[2])


def test_root_and_folder_may_be_given_in_either_way(pictures: Path) -> None:
    whole = make(SUBSET).load("test", str(pictures))
    assert torch.equal(make(SUBSET).load("test", str(pictures / "imagenet")).images, whole.images)
    (pictures / "imagenet").rename(pictures / "mine")
    assert torch.equal(make(SUBSET.replace(")", ", folder='mine')")).load("test", str(pictures)).images, whole.images)


def test_default_is_twelve_classes_of_a_thousand() -> None:
    info = make("imagenet-subset").info()
    assert info == DatasetInfo(12, 224, 12_000, 600, (1000,) * 12, 0)
    assert make("imagenet-subset(classes=['a', 'b'])").info().train == 2000


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("classes=[]", "two class folders or more"),
        ("classes=['a']", "two class folders or more"),
        ("classes=['a', 'a']", "each once"),
        ("classes=['a', '../b']", "'../b' is not the name of a class folder"),
        ("classes=['a', '']", "'' is not the name"),
        ("folder='/etc'", "must lie below the data folder"),
        ("folder='../x'", "must lie below the data folder"),
        ("size=4", "size must be between 8 and 1024 pixels, not 4"),
        ("size=5000", "size must be between 8 and 1024"),
    ],
)
def test_bad_parameters_are_refused(arguments: str, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        make(f"imagenet-subset({arguments})")


def test_too_few_images_are_counted(pictures: Path) -> None:
    text = message(SUBSET.replace("train=9", "train=18"), pictures)
    assert "train/dog holds 5 images but 6 are wanted of each class; lower train or add images (.bmp, .jpeg," in text
    assert make(SUBSET.replace("train=9", "train=18")).missing(str(pictures)) == text
    with pytest.raises(UsageError, match="imagenet-subset: train must be at least 3"):
        make(SUBSET.replace("train=9", "train=2")).info()


def test_missing_folders_are_named(pictures: Path, tmp_path: Path) -> None:
    assert f"imagenet-subset is not in {tmp_path}/root/nothing: put ILSVRC 2012 images there" in message(
        SUBSET.replace(")", ", folder='nothing')"), pictures
    )
    assert "cache/benchbd/data/imagenet: put" in message(SUBSET, None)
    assert "does not exist; --data" in message(SUBSET, tmp_path / "nowhere")
    assert make(SUBSET).missing(str(tmp_path / "nowhere")) == message(SUBSET, tmp_path / "nowhere")
    shutil.rmtree(pictures / "imagenet" / "val" / "cat")
    assert "val/cat cannot be read: No such file" in message(SUBSET, pictures, "test")
    assert f"{pictures}/imagenet/val/cat is missing" in make(SUBSET).missing(str(pictures))


def test_folders_and_hidden_files_are_no_pictures(pictures: Path) -> None:
    before = make(SUBSET).load("train", str(pictures)).images
    for label in ("ant", "dog"):
        folder = pictures / "imagenet" / "train" / label
        (folder / "crops.jpg").mkdir()
        for name in ("._0.png", ".hidden.jpg", "Thumbs.db", "desktop.ini"):
            (folder / name).write_text("no picture")
    (pictures / "imagenet" / "train" / "__MACOSX").mkdir()
    assert make(SUBSET).missing(str(pictures)) is None
    assert torch.equal(make(SUBSET).load("train", str(pictures)).images, before)


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a link to a file that does not exist"])
def test_what_is_no_file_is_named(pictures: Path, kind: str) -> None:
    path = pictures / "imagenet" / "train" / "ant" / "x.JPG"
    if kind == "a FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else "nothing")
    assert message(SUBSET, pictures) == f"imagenet-subset: {path} is {kind}, not an image file; take it out"
    assert make(SUBSET).missing(str(pictures)) == message(SUBSET, pictures)


@pytest.mark.parametrize("link", ["hard", "symbolic", "symbolic folder"])
def test_a_file_that_is_there_twice_is_named(pictures: Path, link: str) -> None:
    train, val = (pictures / "imagenet" / part / "dog" for part in ("train", "val"))
    if link == "symbolic folder":
        shutil.rmtree(val)
        val.symlink_to(train)
    elif link == "hard":
        os.link(train / "2.PNG", val / "9.png")
    else:
        (val / "9.png").symlink_to(train / "2.PNG")
    text = message(SUBSET, pictures)
    assert text.startswith(f"imagenet-subset: {train}/")
    assert text.endswith("are the same file; take one out")
    assert str(val) in text
    assert make(SUBSET).missing(str(pictures)) == message(SUBSET, pictures, "test") == text


def test_a_damaged_picture_is_named(pictures: Path) -> None:
    (pictures / "imagenet" / "val" / "dog" / "1.PNG").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "val/dog/1.PNG cannot be decoded" in message(SUBSET.replace("test=6", "test=9"), pictures, "test")


def test_imagenette_is_known_without_files() -> None:
    info = make("imagenette").info()
    assert info == DatasetInfo(10, 128, 9469, 3925, (963, 955, 993, 858, 941, 956, 961, 931, 951, 960), 0)
    assert sum(make("imagenette(train=1000)").info().class_counts) == 1000


def test_imagenette_with_other_counts_is_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for label in make("imagenette").labels():
            (tmp_path / "imagenette2-160" / part / label).mkdir(parents=True)
    assert "edition 160 is there: say imagenette(edition=160)" in message("imagenette", tmp_path)
    assert make("imagenette(edition=160)").missing(str(tmp_path)) == message("imagenette(edition=160)", tmp_path)
    assert "train/n01440764 holds 0 images instead of 963" in message("imagenette(edition=160)", tmp_path)
    assert "say imagenette(edition" not in message("imagenette", None)


@real
def test_real_imagenette() -> None:
    some = make("imagenette(train=60, test=40)")
    for split, number in (("train", 60), ("test", 40)):
        read = some.load(split, ROOT)
        assert read.images.shape == (number, 3, 128, 128)
        assert tuple(torch.bincount(read.labels, minlength=10).tolist()) == some.sizes().of(split)
        assert 90 < float(read.images.float().mean()) < 150
        assert float(read.images.float().std()) > 50


def test_input_files_are_the_chosen_images(pictures: Path) -> None:
    spec = "imagenet-subset(classes=['cat', 'dog'], train=4, test=2, size=8)"
    named = make(spec).input_files(str(pictures))
    assert len(set(named)) == 6
    assert {Path(path).parent.name for path in named} == {"cat", "dog"}
    first = input_files_digest(make(spec), str(pictures))
    Image.new("RGB", (20, 17), (9, 9, 9)).save(next(path for path in named if path.endswith("PNG")))
    second = input_files_digest(make(spec), str(pictures))
    assert second != first
    Image.new("RGB", (20, 17), (9, 9, 9)).save(pictures / "imagenet" / "train" / "ant" / "0.png")
    assert input_files_digest(make(spec), str(pictures)) == second, "no image of these classes"
