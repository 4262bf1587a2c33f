"""Sets that contradict themselves or that cannot be read: one line each, and never another meaning in silence."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from poisoned_sets import POISON, clean_data, poisoned_set

from benchbd.core.poisoned_set import TriggeredTest
from benchbd.core.poisoned_set_file import PoisonedSetFile, write_set
from benchbd.errors import UsageError
from benchbd.exchange import formats
from benchbd.exchange.found_set import Wishes
from benchbd.exchange.pixels import Pixels, as_array, to_labels


def saved(folder: Path, **changes: Any) -> Path:
    given = poisoned_set()
    arrays = {"images": given.images, "labels": given.labels, "poison": given.poison, **changes}
    np.savez(folder / "x.npz", **arrays)
    return folder / "x.npz"


def read(path: Path, **wishes: Any) -> Any:
    return formats.read(path, "npz", Wishes(**wishes))


def refused(path: Path, line: str, name: str = "npz", **wishes: Any) -> None:
    with pytest.raises(UsageError, match=line) as caught:
        formats.read(path, name, Wishes(**wishes))
    said = str(caught.value)
    assert path.name in said
    assert "\n" not in said
    assert "weights_only" not in said
    assert "allow_pickle" not in said
    assert "\x1b" not in said


@pytest.mark.parametrize("above", [0.0, 1.2e-7, 9e-4])
@pytest.mark.parametrize("rounding", [False, True])
def test_a_float_just_above_one_leaves_the_images_as_they_are(above, rounding):
    images = poisoned_set().images.copy()
    images[0, 0, 0, 0] = 255
    floats = images.astype(np.float64) / 255
    floats[0, 0, 0, 0] += above
    np.testing.assert_array_equal(Pixels(rounding).read(floats, "x"), images)


@pytest.mark.parametrize("kind", ["float32", "uint8", "int64"])
def test_a_scale_that_is_not_clear_is_refused(kind):
    images = np.zeros((2, 3, 8, 8), kind)
    images[1] = 2 if kind == "float32" else 1
    with pytest.raises(UsageError, match="not clear whether white is 1 or 255"):
        Pixels(True).read(images, "x")


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 1, 28, 28), (4, 28, 28, 1)])
def test_grey_images_are_refused_with_what_to_do(shape):
    with pytest.raises(UsageError, match=r"images must be \(N, 3, S, S\) .*repeat grey images for the three colours"):
        Pixels(False).read(np.full(shape, 9, np.uint8), "x")


def test_one_set_has_one_scale():
    images = poisoned_set().images
    pixels = Pixels(False)
    pixels.read(images / np.float32(255), "imgs")
    dark = np.full((1, 3, 8, 8), 3, np.uint8)
    np.testing.assert_array_equal(pixels.read(dark / np.float32(255), "dark"), dark)
    np.testing.assert_array_equal(pixels.read(images, "bytes"), images)
    with pytest.raises(UsageError, match="values go to 255, but in imgs white is 1"):
        pixels.read(images.astype(np.float32), "others")


def test_arrays_with_other_names_are_not_left_out(tmp_path):
    given = poisoned_set()
    back = read(saved(tmp_path, cover=given.cover, originals=given.originals))
    np.testing.assert_array_equal(back.originals, given.originals)
    refused(saved(tmp_path, orginals=given.originals), "'orginals' .*did you mean 'originals'")
    refused(saved(tmp_path, covers=given.cover), "'covers'.*covers is our cover")
    np.savez(tmp_path / "x.npz", data=given.images, labels=given.labels, poisoned_set=given.poison)
    refused(tmp_path / "x.npz", r"rename it \(data is our images, poisoned_set is our poison\)")
    refused(saved(tmp_path, test_labels=given.labels), "test_labels but no test_images")


def triggered(**changes: Any) -> dict[str, np.ndarray]:
    return {f"triggered_{k}": v for k, v in {**poisoned_set().triggered._asdict(), **changes}.items()}


def test_target_must_not_contradict_the_file(tmp_path):
    path = saved(tmp_path, **triggered())
    assert read(path, target=1).targets == (1, 1, 1, 1)
    refused(path, "--target 2: the files state 1", target=2)
    refused(saved(tmp_path), r"--target 2: poison has other labels only \(1\)", target=2)
    refused(saved(tmp_path, **triggered(targets=np.full(16, 3))), "target 3, but poison has other labels")
    refused(saved(tmp_path, **triggered(targets=np.full(16, 9))), "poison has other labels|classes are")
    write_set(poisoned_set(), tmp_path / "own.npz")
    refused(tmp_path / "own.npz", "--target 0: the files state 1", target=0)


def test_a_target_for_each_class_may_lack_poison_of_a_class():
    given = poisoned_set()
    labels = given.true_labels.copy()
    where = np.array([0, 5, 6])  # of the classes 0, 1 and 2, so none has the label 0
    labels[where] = (labels[where] + 1) % 4
    poison = np.isin(np.arange(40), where)
    shown = given.triggered._replace(targets=(given.triggered.true_labels + 1) % 4)
    from benchbd.exchange.found_set import FoundSet, complete

    found = FoundSet(given.images, labels, poison, true_labels=given.true_labels, triggered=(*shown[:3], None))
    assert complete(found, Wishes(), {}).targets == (1, 2, 3, 0)


def test_places_must_agree_with_the_test_labels(tmp_path):
    given = poisoned_set()
    test = {"test_images": given.test.images, "test_labels": given.test.labels}
    read(saved(tmp_path, **triggered(), **test))
    wrong = triggered(places=np.arange(16)[::-1].copy())
    refused(saved(tmp_path, **wrong, **test), "16 triggered test images have another true label")
    refused(saved(tmp_path, **triggered(places=np.full(16, 99)), **test), "places .* go from 99 to 99")
    refused(saved(tmp_path, **triggered(), test_images=given.test.images, test_labels=np.full(16, -100)), "-100")


ODD = {
    "bf16": lambda x: x.to(torch.bfloat16),
    "sparse": lambda x: x.to_sparse(),
    "meta": lambda x: x.to("meta"),
    "complex": lambda x: torch.complex(x, x).conj(),
    "ragged": lambda x: [[1], [2, 3]],
    "huge": lambda x: [10**30] * 40,
    "infinite": lambda x: torch.full_like(x, float("inf")),
    "far": lambda x: torch.full_like(x, 1e18),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_arrays_name_file_and_entry(kind):
    value = ODD[kind](torch.arange(40.0) % 4)
    with pytest.raises(UsageError, match=r"^train labels: ") as caught:
        to_labels(value, 40, "train labels")
    assert "\n" not in str(caught.value)


def test_a_tensor_that_wants_its_gradient_is_an_array():
    assert as_array(torch.ones(2, requires_grad=True), "x").tolist() == [1, 1]


class Odd:
    pass


def test_torchs_and_numpys_advice_does_not_reach_the_user(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    torch.save(Odd(), folder / "train")
    refused(folder, "objects that are not plain arrays", "nab")
    refused(saved(tmp_path, labels=np.array([Odd()] * 40, object)), "objects that are not plain arrays")
    np.save(folder / "train_images.npy", np.array([Odd()], object))
    refused(folder, "objects that are not plain arrays", "madrylab")


@pytest.mark.timeout(20)
def test_a_pipe_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="it is a pipe, not a file"):
        PoisonedSetFile(tmp_path / "pipe")
    refused(tmp_path / "pipe", "it is a pipe, not a file")
    for name, file in (("nab", "train"), ("madrylab", "train_images.npy"), ("backdoor-toolbox", "imgs")):
        (tmp_path / name).mkdir()
        os.mkfifo(tmp_path / name / file)
        refused(tmp_path / name, "it is a pipe, not a file", name)


def test_links_to_files_are_followed(tmp_path):
    (tmp_path / "link.npz").symlink_to(saved(tmp_path))
    assert read(tmp_path / "link.npz").classes == 4
    write_set(poisoned_set(), tmp_path / "own")
    (tmp_path / "own.npz").symlink_to("own")
    assert PoisonedSetFile(tmp_path / "own.npz").load().classes == 4


@pytest.mark.parametrize("value", [99, 10**40, -1, float("inf"), 1.7, True])
def test_labels_of_backdoorbench_are_whole_numbers_in_range(value, tmp_path):
    clean, given = clean_data(), poisoned_set()
    place = POISON[0]
    path = tmp_path / "bd_train_dataset" / str(clean.labels[place]) / f"{place}.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(given.images[place].transpose(1, 2, 0)).save(path)
    part = {"bd_data_container": {"data_dict": {place: {"other_info": [value, int(clean.labels[place])]}}}}
    torch.save({"bd_train": part}, tmp_path / "attack_result.pt")
    refused(tmp_path, rf"other_info of image {place} has .*whole numbers, 0\.\.3", "backdoorbench", clean=clean)


def test_the_name_of_the_source_is_not_in_the_file(tmp_path):
    for name in ("one", "two"):
        formats.write(poisoned_set(), tmp_path / name, "backdoor-toolbox")
        write_set(formats.read(tmp_path / name, "backdoor-toolbox", Wishes()), tmp_path / f"{name}.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    other = saved(tmp_path).rename(tmp_path / "y.npz")
    assert read(saved(tmp_path)).source == read(other).source


def test_class_folders_of_an_export_are_numbered_by_their_class(tmp_path):
    given = poisoned_set()
    shown = TriggeredTest(*(array[4:] for array in given.triggered))
    formats.write(
        dataclasses.replace(given, classes=12, targets=(1,) * 12, triggered=shown), tmp_path / "e", "imagefolder"
    )
    for part, labels in (("train", given.labels), ("triggered", shown.true_labels), ("test", given.test.labels)):
        folders = sorted(path.name for path in (tmp_path / "e" / part).iterdir())
        assert [int(name) for name in folders] == list(range(12))
        for number, name in enumerate(folders):
            found = sorted(int(path.stem) for path in (tmp_path / "e" / part / name).iterdir())
            assert found == np.flatnonzero(labels == number).tolist()
    rows = (tmp_path / "e" / "labels.csv").read_text().splitlines()
    assert "triggered/02/2.png,01,test,02,0,1" in rows


def test_a_true_label_of_no_row_is_a_mistake(tmp_path):
    (tmp_path / "mine").mkdir()
    lines = ["file,label,split,true_label,poisoned"]
    for number in range(8):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "mine" / f"{number}.png")
        lines.append(f"{number}.png,{'ab'[number % 2]},train,{'b' if number == 2 else ''},{int(number == 2)}")
    table = tmp_path / "mine" / "labels.csv"
    table.write_text("\n".join(lines))
    assert formats.read(tmp_path / "mine", "csv", Wishes(size=8)).classes == 2
    table.write_text("\n".join(lines).replace("train,b", "train,bee"))
    with pytest.raises(UsageError, match="the true_label 'bee' is the label of no row; correct it, or name"):
        formats.read(tmp_path / "mine", "csv", Wishes(size=8))
