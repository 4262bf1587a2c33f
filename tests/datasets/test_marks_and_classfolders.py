"""A CSV that marks poison, and folders of classes without a CSV."""

from __future__ import annotations

import pytest
from PIL import Image

from benchbd.errors import UsageError
from benchbd.plugins import registry


def picture(path, grey, size=(8, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).convert(mode).save(path)


def marked(folder, rows):
    lines = ["file,label,split,true_label,poisoned,triggered"]
    for number, row in enumerate(rows):
        picture(folder / f"{number}.png", number)
        lines.append(f"{number}.png,{row}")
    (folder / "labels.csv").write_text("\n".join(lines))


ROWS = (
    *("a,train,a,0,0", "b,train,,,", "b,train,a,1,0", "b,train,b,cover,0", "a,train,,1,0"),
    *("a,test,a,0,0", "b,test,,no,no", "b,test,a,0,1"),
)


def greys(data):
    return data.images[:, 0, 0, 0].tolist(), data.labels.tolist()


def test_the_data_set_holds_the_clean_rows_only(tmp_path):
    marked(tmp_path / "signs", ROWS)
    data = registry.make("datasets", "csv-folder", folder="signs", size=8)
    assert greys(data.load("train", str(tmp_path))) == ([0, 1], [0, 1])
    assert greys(data.load("test", str(tmp_path))) == ([5, 6], [0, 1])
    assert len(data.input_files(str(tmp_path))) == 5


def test_all_rows_are_a_poisoned_set(tmp_path):
    marked(tmp_path / "signs", ROWS)
    data = registry.make("datasets", "csv-folder", folder="signs", size=8)
    train, shown, test, names = data.poisoned_rows(str(tmp_path))
    assert greys(train) == ([0, 1, 2, 3, 4], [0, 1, 1, 1, 0])
    assert train.true_labels.tolist() == [0, 1, 0, 1, -1]
    assert train.poisoned.tolist() == [0, 0, 1, 2, 1]
    assert (greys(shown), shown.true_labels.tolist()) == (([7], [1]), [0])
    assert greys(test) == ([5, 6], [0, 1])
    assert names == ("a", "b")


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("a,train,a,maybe,0", "line 2: poisoned must be 0, 1 or cover, not 'maybe'"),
        ("a,test,a,0,cover", "line 2: triggered must be 0 or 1, not 'cover'"),
        ("a,test,a,1,0", "line 2: a test image cannot be poisoned"),
        ("a,test,,0,1", "line 2: a triggered test image needs a true_label"),
    ],
)
def test_a_wrong_mark_names_its_line(row, line, tmp_path):
    marked(tmp_path / "signs", [row, *ROWS])
    with pytest.raises(UsageError, match=line):
        registry.make("datasets", "csv-folder", folder="signs", size=8).load("train", str(tmp_path))


def test_class_folders_with_photos_of_any_size_and_mode(tmp_path):
    for number, (name, size, mode) in enumerate(
        [
            ("cat/x.png", (9, 12), "RGB"),
            ("cat/y.png", (8, 8), "L"),
            ("10/z.png", (30, 20), "P"),
            ("10/w.PNG", (8, 8), "LA"),
        ]
    ):
        picture(tmp_path / "pets" / name, 10 + number, size, mode)
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("not a picture")
    data = registry.make("datasets", "image-folder", folder="pets", size=8)
    train, test = data.load("train", str(tmp_path)), data.load("test", str(tmp_path))
    # Two images a class: one is drawn for testing. Names are in the order of torchvision, "10" before "cat".
    both = {(grey, label) for part in (train, test) for grey, label in zip(*greys(part), strict=True)}
    assert both == {(10, 1), (11, 1), (12, 0), (13, 0)}
    assert tuple(train.images.shape) == (2, 3, 8, 8)
    assert data.missing(str(tmp_path)) is None
    assert len(data.input_files(str(tmp_path))) == 4


def test_class_folders_of_splits(tmp_path, monkeypatch):
    for part, greys_of in (("train", (1, 2)), ("val", (3, 4))):
        for label, grey in zip("ab", greys_of, strict=True):
            picture(tmp_path / "pets" / part / label / "x.png", grey)
    data = registry.make("datasets", "image-folder", folder="pets", size=8)
    assert greys(data.load("train", str(tmp_path))) == ([1, 2], [0, 1])
    assert greys(data.load("test", str(tmp_path))) == ([3, 4], [0, 1])
    monkeypatch.setenv("BENCHBD_DATA", str(tmp_path))
    assert data.info()[:5] == (2, 8, 2, 2, (1, 1))


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([], "cannot be read"),
        (["a/x.png", "a/y.png"], "has 1 class folders"),
        (["a/x.png", "a/y.png", "b/x.png"], r"pets/b has 1 images, too few \(\.bmp"),
        (["train/a/x.png", "train/b/x.png"], "must hold train and test, or class folders, not"),
        (["train/a/x.png", "train/b/x.png", "test/a/x.png"], "test/b has 0 images"),
    ],
)
def test_a_fault_of_the_folders_is_one_line(files, line, tmp_path):
    for name in files:
        picture(tmp_path / "pets" / name, 1)
    data = registry.make("datasets", "image-folder", folder="pets", size=8)
    assert (said := data.missing(str(tmp_path)))
    with pytest.raises(UsageError, match=line):
        data.load("train", str(tmp_path))
    assert "\n" not in said


def test_a_link_to_another_image_is_refused(tmp_path):
    for name in ("a/x.png", "a/y.png", "b/x.png"):
        picture(tmp_path / "pets" / name, 1)
    (tmp_path / "pets" / "b" / "y.png").symlink_to(tmp_path / "pets" / "a" / "x.png")
    said = registry.make("datasets", "image-folder", folder="pets", size=8).missing(str(tmp_path))
    assert said is not None
    assert "are the same file" in said
    assert "lines" not in said


def test_a_triggered_training_row_is_poison(tmp_path):
    folder = tmp_path / "troj"
    rows = ("a,train,0", "b,train,0", "b,train,1", "a,test,0", "b,test,0")
    for number in range(len(rows)):
        picture(folder / f"{number}.png", number)
    lines = [f"{number}.png,{row}" for number, row in enumerate(rows)]
    (folder / "labels.csv").write_text("\n".join(["file,label,split,triggered", *lines]))
    data = registry.make("datasets", "csv-folder", folder="troj", size=8)
    assert greys(data.load("train", str(tmp_path))) == ([0, 1], [0, 1])
    assert data.poisoned_rows(str(tmp_path))[0].poisoned.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("row", "line"),
    [
        ("a,train,a,0,1", "line 2: a training image with the trigger is not clean"),
        ("a,train,b,0,0", "line 2: label is 'a' and true_label 'b', but poisoned is not set"),
        ("a,test,b,,", "line 2: label is 'a' and true_label 'b', but poisoned is not set"),
    ],
)
def test_a_row_that_contradicts_itself_is_refused(row, line, tmp_path):
    marked(tmp_path / "signs", [row, *ROWS])
    with pytest.raises(UsageError, match=line):
        registry.make("datasets", "csv-folder", folder="signs", size=8).load("train", str(tmp_path))


@pytest.mark.parametrize("folder", ["pets", "pets/train"])
def test_the_folder_of_a_poisoned_set_is_not_a_clean_data_set(folder, tmp_path):
    for name in ("train/0/x.png", "train/1/x.png", "test/0/x.png", "test/1/x.png"):
        picture(tmp_path / "pets" / name, 1)
    labels = tmp_path / "pets" / "labels.csv"
    data = registry.make("datasets", "image-folder", folder=folder, size=8)
    labels.write_text("file,label,split\n")
    assert "marks poison" not in str(data.missing(str(tmp_path)))
    labels.write_text("file,label,split,true_label,poisoned,triggered\n")
    assert "labels.csv marks poison" in (said := str(data.missing(str(tmp_path))))
    assert "benchbd import" in said
    assert "\n" not in said
