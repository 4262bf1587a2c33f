"""The data set parquet: files of the Hugging Face hub, in the layouts and with the faults that they come in."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchbd.errors import UsageError
from benchbd.plugins import registry

pyarrow = pytest.importorskip("pyarrow")
import pyarrow.parquet as pq  # noqa: E402

RNG = np.random.default_rng(0)


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    body = io.BytesIO()
    Image.fromarray(pixels).save(body, form)
    return body.getvalue()


def pixels(count: int, size: int = 16) -> np.ndarray:
    return RNG.integers(0, 256, (count, size, size, 3), np.uint8)


def put(path: Path, images, labels, names=None, column="image", label="label", **more) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"bytes": image, "path": None} for image in images]
    table = pyarrow.table({column: rows, label: labels, **more})
    if names:
        features = {column: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCHBD_DATA", str(tmp_path))
    return tmp_path


def make(text: str = "parquet(folder='set', size=16)"):
    return registry.make("datasets", text)


def test_splits_labels_names_and_exact_pixels(data):
    train, test = pixels(9), pixels(3)
    labels = [0, 1, 2] * 3
    put(data / "set/data/train-00000-of-00002.parquet", map(png, train[:5]), labels[:5], ["cat", "dog", "owl"])
    put(data / "set/data/train-00001-of-00002.parquet", map(png, train[5:]), labels[5:], ["cat", "dog", "owl"])
    put(data / "set/data/test-00000-of-00001.parquet", map(png, test), [2, 1, 0], ["cat", "dog", "owl"])
    put(data / "set/data/validation-00000-of-00001.parquet", map(png, test), [0, 0, 0], ["cat", "dog", "owl"])
    found = make()
    assert found.missing(str(data)) is None
    info = found.info()
    assert (info.classes, info.size, info.train, info.test, info.class_counts) == (3, 16, 9, 3, (3, 3, 3))
    for split, images, wanted in (("train", train, labels), ("test", test, [2, 1, 0])):
        for _ in range(2):  # decoded, then from the cache
            got = found.load(split, str(data))
            np.testing.assert_array_equal(got.images.numpy(), images.transpose(0, 3, 1, 2))
            assert got.labels.tolist() == wanted
    names = [Path(path).name for path in found.input_files(str(data))]
    assert names == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]


@pytest.mark.parametrize(
    ("train", "test"), [("train/0000.parquet", "test/0000.parquet"), ("train.parquet", "val.parquet")]
)
def test_other_layouts_and_columns(data, train, test):
    put(
        data / "set/default" / train,
        map(png, pixels(4)),
        ["owl", "cat", "owl", "cat"],
        column="img",
        label="fine_label",
    )
    put(data / "set/default" / test, map(png, pixels(2)), ["cat", "owl"], column="img", label="fine_label")
    found = make()
    assert (found.info().train, found.info().test) == (4, 2)
    assert found.load("train", str(data)).labels.tolist() == [1, 0, 1, 0]


def test_one_file_is_split_by_class(data):
    put(data / "set/things.parquet", map(png, pixels(20)), [0, 1] * 10)
    found = make("parquet(folder='set', size=16, test_share=0.3)")
    assert (found.info().train, found.info().test, found.info().class_counts) == (14, 6, (7, 7))


def test_photos_are_resized_and_cropped_as_in_other_folders(data):
    wide = RNG.integers(0, 256, (20, 40, 3), np.uint8)
    put(data / "set/train.parquet", [png(wide, "JPEG"), png(wide[:, :, 0])] * 2, [0, 1] * 2)
    put(data / "set/test.parquet", [png(wide)] * 2, [0, 1])
    folder = data / "plain"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(png(wide, "JPEG"))
    (folder / "b.png").write_bytes(png(wide[:, :, 0]))
    rows = [f"{name},{label},{split}" for name, label in (("a.jpg", 0), ("b.png", 1)) for split in ("train",)]
    for name, label in (("a2.jpg", 0), ("b2.png", 1)):
        (folder / name).write_bytes((folder / f"{name[0]}{name[2:]}").read_bytes() + b" ")
        rows.append(f"{name},{label},test")
    (folder / "labels.csv").write_text("\n".join(["file,label,split", *rows]))
    other = make("csv-folder(folder='plain', size=16)").load("train", str(data))
    np.testing.assert_array_equal(make().load("train", str(data)).images.numpy()[:2], other.images.numpy())


def test_changed_files_are_read_again(data):
    put(data / "set/train.parquet", map(png, pixels(4)), [0, 1] * 2)
    put(data / "set/test.parquet", map(png, pixels(2)), [0, 1])
    before = make().load("train", str(data)).images.clone()
    put(data / "set/train.parquet", map(png, pixels(6)), [1, 0] * 3)
    after = make().load("train", str(data))
    assert after.labels.tolist() == [1, 0] * 3
    assert not np.array_equal(before.numpy(), after.images.numpy()[:4])


def _good(data: Path, **train) -> None:
    put(data / "set/train.parquet", map(png, pixels(4)), **{"labels": [0, 1] * 2, **train})
    put(data / "set/test.parquet", map(png, pixels(2)), [0, 1])


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (lambda data: None, "there is no *.parquet file in"),
        (lambda data: _good(data, labels=[0, None, 1, 0]), "the label of row 1 is None"),
        (lambda data: _good(data, labels=[0, -1, 1, 0]), "the label of row 1 is -1"),
        (lambda data: _good(data, labels=["a", "b", "a", "b"]), "numbers and words as labels"),
        (lambda data: _good(data, label="kind"), "name the one to use with label="),
        (lambda data: _good(data, poisoned=[0, 0, 1, 0]), "marks poison, so this is not a clean data set"),
        (
            lambda data: (_good(data), (data / "set/test.parquet").write_bytes(b"PAR1junk")),
            "test.parquet cannot be read",
        ),
        (lambda data: (_good(data), put(data / "set/other.parquet", [], [])), "belongs to no split"),
        (lambda data: (_good(data), put(data / "set/big/train.parquet", [], [])), "holds several data sets"),
        (lambda data: put(data / "set/test.parquet", map(png, pixels(2)), [0, 1]), "but needs train and test"),
        (lambda data: _good(data, labels=[0, 0, 0, 0]), "0 train of class 1, too few"),
        (lambda data: _good(data, labels=[0, 5, 0, 1], names=["a", "b"]), "has the label 5, but names 2 classes"),
    ],
)
def test_faults_are_one_line(data, spoil, line):
    spoil(data)
    said = make().missing(str(data))
    assert said is not None
    assert line in said
    assert "\n" not in said


def test_images_that_are_not_in_the_file(data):
    put(data / "set/test.parquet", map(png, pixels(2)), [0, 1])
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    images = pyarrow.array([{"bytes": None, "path": "a.png"}] * 4, kind)
    pq.write_table(pyarrow.table({"image": images, "label": [0, 1] * 2}), data / "set/train.parquet")
    with pytest.raises(UsageError, match="image of row 0 is not in the file, only its path; embed images"):
        make().load("train", str(data))
    put(data / "set/train.parquet", [b"no picture"] * 4, [0, 1] * 2)
    with pytest.raises(UsageError, match=r"train\.parquet: image of row \d cannot be decoded") as found:
        make().load("train", str(data))
    assert " object at " not in str(found.value)
