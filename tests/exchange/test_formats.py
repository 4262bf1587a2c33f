"""Poisoned sets of other programs, written here in their layouts without benchbd's writers."""

from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
import torch
from PIL import Image
from poisoned_sets import POISON, clean_data, poisoned_set

from benchbd.core.poisoned_set_file import PoisonedSetFile, facts_of_set, write_set
from benchbd.errors import UsageError
from benchbd.exchange import formats
from benchbd.exchange.found_set import Wishes


def same(one, two, *without):
    first, second = one.arrays(), two.arrays()
    assert set(first) - set(without) == set(second) - set(without)
    for name in set(first) - set(without):
        assert first[name].dtype == second[name].dtype, name
        np.testing.assert_array_equal(first[name], second[name], name)


@pytest.mark.parametrize("name", formats.WRITTEN)
@pytest.mark.parametrize("with_dataset", [False, True])
def test_what_is_written_reads_back_with_the_same_hashes(name, with_dataset, tmp_path):
    if name == "hf":
        pytest.importorskip("pyarrow")
    given = poisoned_set()
    formats.write(given, tmp_path / "out", name)
    wishes = Wishes(clean_data() if with_dataset else None, size=8)
    back = formats.read(tmp_path / "out", "csv" if name == "imagefolder" else name, wishes)
    # A folder of pictures holds no originals; the data set has them.
    without = ("originals",) if name == "imagefolder" and not with_dataset else ()
    same(given, back, *without)
    mine, theirs = facts_of_set(given).sha256, facts_of_set(back).sha256
    assert {k: v for k, v in mine.items() if k not in without} == theirs
    assert back.targets == (1, 1, 1, 1)


def test_parquet_without_the_originals_that_it_promises_is_one_line(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    formats.write(poisoned_set(), tmp_path / "out", "hf")
    (path,) = (tmp_path / "out" / "data").glob("train-*")
    parquet.write_table(parquet.read_table(path).drop_columns(["original"]), path)
    with pytest.raises(UsageError, match="there is no column 'original'"):
        formats.read(tmp_path / "out", "hf", Wishes())


def test_the_file_is_the_same_every_time_and_numpy_reads_it(tmp_path):
    given = poisoned_set()
    for name in ("a.npz", "b.npz"):
        write_set(given, tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["images"], given.images)
        np.testing.assert_array_equal(np.flatnonzero(arrays["poison"]), POISON)
    same(given, PoisonedSetFile(tmp_path / "a.npz").load())


def test_a_changed_byte_is_noticed(tmp_path):
    write_set(poisoned_set(), tmp_path / "a.npz")
    body = bytearray((tmp_path / "a.npz").read_bytes())
    at = body.index(poisoned_set().images[5].tobytes())
    body[at] ^= 1
    (tmp_path / "a.npz").write_bytes(body)
    with pytest.raises(UsageError, match="damaged: images"):
        PoisonedSetFile(tmp_path / "a.npz").load()


def toolbox(folder, images, **files):
    given = poisoned_set()
    folder.mkdir()
    files = {
        "imgs": images,
        "labels": torch.from_numpy(given.labels),
        "poison_indices": list(POISON),
        "cover_indices": [4, 30],
        **files,
    }
    for name, value in files.items():
        torch.save(value, folder / name)


def test_a_set_of_backdoor_toolbox(tmp_path):
    given = poisoned_set()
    toolbox(tmp_path / "set", torch.from_numpy(given.images).float().div(255))
    back = formats.read(tmp_path / "set", "backdoor-toolbox", Wishes())
    for name in ("images", "labels", "poison", "cover"):
        np.testing.assert_array_equal(getattr(back, name), getattr(given, name))
    assert (back.triggered, back.test, back.originals) == (None, None, None)
    assert (back.true_labels[list(POISON)] == -1).all()
    assert (np.delete(back.true_labels, POISON) >= 0).all()
    assert back.source["rounding"].startswith("exact")
    same(
        formats.read(tmp_path / "set", "backdoor-toolbox", Wishes(clean_data())),
        dataclasses.replace(given, triggered=None),
    )


def test_floats_between_levels_are_rounded_only_on_request(tmp_path):
    images = torch.from_numpy(poisoned_set().images).float().div(255)
    images[2, 0, 0, 0] = 100.3 / 255
    toolbox(tmp_path / "set", images)
    with pytest.raises(UsageError, match=r"whole numbers of 1/255 \(off by up to 0\.3/255\); --round"):
        formats.read(tmp_path / "set", "backdoor-toolbox", Wishes())
    back = formats.read(tmp_path / "set", "backdoor-toolbox", Wishes(rounding=True))
    assert back.images[2, 0, 0, 0] == 100
    assert back.source["rounding"] == "rounded to 1/255, which moved values by up to 0.3/255"


def test_a_set_of_nab(tmp_path):
    given = poisoned_set()
    for name, part in (
        ("train", (given.images, given.labels, given.true_labels, given.poison)),
        ("test", (given.triggered.images, given.triggered.targets, given.triggered.true_labels, np.ones(16, bool))),
    ):
        images, labels, true, mask = map(torch.from_numpy, part)
        whole = {"data": images.float(), "labels": labels, "true_labels": true, "backdoor": mask, "target": 1}
        torch.save(whole, tmp_path / name)
    back = formats.read(tmp_path, "nab", Wishes())
    for name in ("images", "labels", "poison", "true_labels"):
        np.testing.assert_array_equal(getattr(back, name), getattr(given, name))
    np.testing.assert_array_equal(back.triggered.images, given.triggered.images)
    np.testing.assert_array_equal(back.triggered.targets, 1)
    # NAB does not mark covers, so they look like images of another data set.
    with pytest.raises(UsageError, match="2 images that are not marked as poison differ"):
        formats.read(tmp_path, "nab", Wishes(clean_data()))


def test_a_set_of_madrylab(tmp_path):
    given, clean = poisoned_set(), clean_data()
    images = clean.images.copy()
    where = np.array([1, 5, 9])
    images[where] = 255 - images[where]
    files = {
        "train_images": images.transpose(0, 2, 3, 1).astype(np.float32),
        "train_labels": clean.labels,
        "poisoned_train_indices": where,
        "test_images": given.triggered.images.transpose(0, 2, 3, 1).astype(np.float32),
        "test_labels": given.triggered.true_labels,
    }
    for name, array in files.items():
        np.save(tmp_path / f"{name}.npy", array)
    back = formats.read(tmp_path, "madrylab", Wishes(clean))
    np.testing.assert_array_equal(np.flatnonzero(back.poison), where)
    np.testing.assert_array_equal(back.images, images)
    np.testing.assert_array_equal(back.triggered.places, np.arange(16))
    assert back.targets == (1, 1, 1, 1)


def test_plain_arrays_with_one_hot_labels_and_channels_last(tmp_path):
    given = poisoned_set()
    arrays = {
        "images": given.images.transpose(0, 2, 3, 1) / 255,
        "labels": np.eye(4)[given.labels],
        "poison": np.array(POISON),
        "cover": given.cover,
        "triggered_images": given.triggered.images,
        "triggered_true_labels": given.triggered.true_labels,
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    same(formats.read(tmp_path / "mine.npz", "npz", Wishes(clean_data())), given)


class Record:
    """A record of BackdoorBench, written as bd_dataset_v2.py does."""

    def __init__(self, folder, attack="badnet"):
        self.folder, self.given = folder, poisoned_set()
        given = self.given
        parts = {
            "bd_train": (np.flatnonzero(given.touched), given.images, given.labels, given.true_labels),
            "bd_test": self.test(),
        }
        result = {"model_name": "x", "num_classes": 4, "model": {"w": torch.zeros(2)}}
        for part, (where, images, labels, true) in parts.items():
            listed = {}
            for place in where:
                path = folder / f"{part}_dataset" / str(true[place]) / f"{place}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[place].transpose(1, 2, 0)).save(path)
                listed[np.int64(place)] = {"path": "/etc/passwd", "other_info": [int(labels[place]), int(true[place])]}
            result[part] = {
                "bd_data_container": {"data_dict": listed, "save_file_format": ".png"},
                "poison_indicator": np.isin(np.arange(len(images)), where).astype(np.float64),
                "original_index_array": np.arange(len(images)),
            }
        torch.save(result, folder / "attack_result.pt")
        torch.save({"attack": attack, "attack_target": 1, "attack_label_trans": "all2one"}, folder / "info.pickle")

    def test(self):
        shown = self.given.triggered
        return np.flatnonzero(shown.true_labels != 1), shown.images, shown.targets, shown.true_labels


def test_a_record_of_backdoorbench_whose_attack_has_covers(tmp_path):
    record = Record(tmp_path, "wanet")
    back = formats.read(tmp_path, "backdoorbench", Wishes(clean_data()))
    same(back, record.given, *(f"triggered_{name}" for name in ("images", "true_labels", "targets", "places")))
    others = record.test()[0]
    np.testing.assert_array_equal(back.triggered.places, others)
    np.testing.assert_array_equal(back.triggered.images, record.given.triggered.images[others])
    assert (back.source["attack"], back.source["covers"]) == ("wanet", 2)


def test_changed_samples_with_their_own_label_are_poison_in_other_attacks(tmp_path):
    record = Record(tmp_path, "badnet")
    back = formats.read(tmp_path, "backdoorbench", Wishes(clean_data()))
    np.testing.assert_array_equal(back.poison, record.given.touched)
    assert not back.cover.any()
    (tmp_path / "info.pickle").unlink()
    with pytest.raises(UsageError, match="--same-label"):
        formats.read(tmp_path, "backdoorbench", Wishes(clean_data()))
    told = formats.read(tmp_path, "backdoorbench", Wishes(clean_data(), same_label="cover"))
    np.testing.assert_array_equal(told.poison, record.given.poison)


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, capsys):
    Record(tmp_path)
    torch.save(Evil(), tmp_path / "attack_result.pt")
    with pytest.raises(UsageError, match=r"attack_result\.pt is refused"):
        formats.read(tmp_path, "backdoorbench", Wishes(clean_data()))
    np.savez(tmp_path / "evil.npz", images=np.array([Evil()], object))
    with pytest.raises(UsageError, match=r"evil\.npz is refused"):
        formats.read(tmp_path / "evil.npz", "npz", Wishes())
    toolbox(tmp_path / "set", Evil())
    with pytest.raises(UsageError, match="imgs is refused"):
        formats.read(tmp_path / "set", "backdoor-toolbox", Wishes())
    np.save(tmp_path / "train_images.npy", np.array([Evil()], object))
    with pytest.raises(UsageError, match=r"train_images\.npy is refused"):
        formats.read(tmp_path, "madrylab", Wishes())
    assert "unpickled" not in capsys.readouterr().out


BAD = {
    "short labels": ({"labels": np.zeros(3, np.int64)}, r"there are labels \(3,\) for 40 images"),
    "short mask": ({"poison": np.zeros(39, bool)}, "has 39 entries for 40 images"),
    "position out of range": ({"poison": np.array([40])}, "positions go from 40 to 40"),
    "position twice": ({"poison": np.array([4, 4])}, "named twice"),
    "negative label": ({"labels": np.r_[-1, poisoned_set().labels[1:]]}, "training labels go from -1 to 3"),
    "not finite": ({"images": np.full((40, 3, 8, 8), np.nan)}, "not finite"),
    "normalised": ({"images": np.full((40, 3, 8, 8), -1.5)}, "not normalised"),
    "not square": ({"images": np.zeros((40, 3, 8, 9), np.uint8)}, "must be square"),
    "flat": ({"images": np.zeros((40, 192), np.uint8)}, r"must be \(N, 3, S, S\)"),
    "no poison": ({"poison": np.zeros(40, bool)}, "none of the 40 training samples"),
    "poison and cover": ({"cover": np.array(POISON)}, "4 samples are marked as poison and as cover"),
    "other size of test": (
        {"triggered_images": np.zeros((2, 3, 9, 9), np.uint8), "triggered_true_labels": np.zeros(2, int)},
        "triggered test images must be uint8",
    ),
    "no true labels of test": ({"triggered_images": np.zeros((2, 3, 8, 8), np.uint8)}, "no triggered_true_labels"),
    "two targets": ({"labels": np.where(poisoned_set().poison, np.arange(40) % 3, 0)}, "--target"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_get_one_line(case, tmp_path):
    arrays, line = BAD[case]
    given = poisoned_set()
    np.savez(tmp_path / "x.npz", **{"images": given.images, "labels": given.labels, "poison": given.poison, **arrays})
    with pytest.raises(UsageError, match=line) as caught:
        formats.read(tmp_path / "x.npz", "npz", Wishes())
    assert "\n" not in str(caught.value)
    assert "x.npz" in str(caught.value)


def test_another_data_set_is_refused(tmp_path):
    formats.write(poisoned_set(), tmp_path / "out", "backdoor-toolbox")
    clean = clean_data()
    other = clean._replace(images=255 - clean.images)
    with pytest.raises(UsageError, match="34 images that are not marked as poison differ from those of small"):
        formats.read(tmp_path / "out", "backdoor-toolbox", Wishes(other))
    with pytest.raises(UsageError, match="labels differ from those of small"):
        formats.read(tmp_path / "out", "backdoor-toolbox", Wishes(clean._replace(labels=clean.labels[::-1].copy())))


def test_the_commands_name_the_formats_that_there_are():
    reader, writer = (importlib.import_module(f"benchbd.cli.{name}") for name in ("import", "export_poison"))
    assert set(reader.FORMATS) == set(formats.READ)
    assert set(writer.FORMATS) == set(formats.WRITTEN)


def test_a_set_in_parquet_files(tmp_path):
    """Others' files need image, label, poisoned, and cover if there are covers; ours hold everything."""
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    given = poisoned_set()
    formats.write(given, tmp_path / "ours", "hf")
    table = pq.read_table(tmp_path / "ours" / "data" / "train-00000-of-00001.parquet")
    assert table["poisoned"].to_pylist() == given.poison.tolist()
    (tmp_path / "theirs" / "data").mkdir(parents=True)
    small = table.select(["image", "label", "poisoned", "cover"]).replace_schema_metadata(None)
    pq.write_table(small, tmp_path / "theirs" / "data" / "train-0.parquet")
    back = formats.read(tmp_path / "theirs", "hf", Wishes(clean_data(), target=1))
    np.testing.assert_array_equal(back.images, given.images)
    np.testing.assert_array_equal(back.poison, given.poison)
    for place in ("flat", "flat/train.parquet"):  # as Dataset.to_parquet() writes one part
        (tmp_path / "flat").mkdir(exist_ok=True)
        pq.write_table(small, tmp_path / "flat" / "train.parquet")
        alone = formats.read(tmp_path / place, "hf", Wishes(clean_data(), target=1))
        np.testing.assert_array_equal(alone.images, given.images)
    for spoilt, line in (
        (small.drop(["poisoned"]), "no column 'poisoned'"),
        (small.drop(["image"]), "no column 'image'"),
        (small.set_column(1, "label", pyarrow.array(["a"] * len(small))), "'label' must hold whole numbers"),
        (small.set_column(2, "poisoned", pyarrow.array([7] * len(small))), "'poisoned' must hold true and false"),
    ):
        pq.write_table(spoilt, tmp_path / "theirs" / "data" / "train-0.parquet")
        with pytest.raises(UsageError, match=line):
            formats.read(tmp_path / "theirs", "hf", Wishes())
    (tmp_path / "theirs" / "data" / "train-0.parquet").write_bytes(b"junk")
    with pytest.raises(UsageError, match="cannot be read as Parquet"):
        formats.read(tmp_path / "theirs", "hf", Wishes())
