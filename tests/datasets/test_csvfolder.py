"""A folder of images with a CSV of labels is a data set; a CSV that is wrong is refused with its line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchbd import UsageError, testing
from benchbd.datasets._labels import SPLITS
from benchbd.datasets.csvfolder import CsvFolder
from benchbd.plugins import registry


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with 24 pictures of three colours, and a function that writes the CSV."""
    monkeypatch.setenv("BENCHBD_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    rows = []
    for n in range(24):
        colour = ("red", "green", "blue")[n % 3]
        file = f"more/{n}.png" if n % 2 else f"{n}.png"
        pixels = np.zeros((20, 30, 3), np.uint8)
        pixels[..., n % 3] = 200 + n
        Image.fromarray(pixels).save(folder / file)
        rows.append((file, colour))

    def write(text=None, split=True):
        lines = ["file,label,split" if split else "file,label"]
        for n, (file, colour) in enumerate(rows):
            lines.append(f"{file},{colour}" + ("," + ("test" if n >= 15 else "train") if split else ""))
        (folder / "labels.csv").write_text("\n".join(lines) + "\n" if text is None else text, encoding="utf-8")
        return rows

    return write


def root():
    return os.environ["BENCHBD_DATA"]


def made(**given):
    return registry.make("datasets", "csv-folder", **given)


def test_it_is_read_as_the_csv_says(data):
    rows = data()
    info = made().info()
    assert (info.classes, info.train, info.test, info.class_counts, info.target) == (3, 15, 9, (5, 5, 5), 0)
    train = made().load("train", root())
    classes = ("blue", "green", "red")
    assert [classes[k] for k in train.labels.tolist()] == [colour for _, colour in rows[:15]]
    for n in range(15):
        channel = n % 3
        assert (train.images[n, channel] == 200 + n).all()
        assert train.images[n].sum() == (200 + n) * 32 * 32


@pytest.mark.parametrize("split", [True, False])
def test_it_keeps_what_every_data_set_promises(data, split):
    data(split=split)
    assert testing.check("datasets", "csv-folder") == []


@given(counts=st.lists(st.integers(2, 30), min_size=2, max_size=6), share=st.floats(0.01, 0.99), seed=st.integers(0, 9))
def test_a_drawn_test_part_has_some_of_each_class_and_leaves_some(counts, share, seed):
    labels = [c for c, count in enumerate(counts) for _ in range(count)]
    one = CsvFolder(test_share=share, split_seed=seed)
    train, test = (one._drawn(labels, len(counts), split) for split in ("train", "test"))
    assert sorted(train + test) == list(range(len(labels)))
    for part in (train, test):
        assert {labels[n] for n in part} == set(range(len(counts)))


def test_numbers_are_classes_in_their_order(data):
    data("file,label\n" + "".join(f"{n}.png,{k}\n" for n, k in zip(range(0, 24, 2), [10, 9, 2] * 4, strict=True)))
    train = made(test_share=0.3).load("train", root())
    assert made().info().classes == 3
    assert set(train.labels.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["10.0", "2.0", "1.0"], ["1.0", "2.0", "10.0"]),
        (["1e1", "+3", "-1", ".5"], ["-1", ".5", "+3", "1e1"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        (["010", "9"], ["9", "010"]),
        (["٣", "10"], ["10", "٣"]),
        (["nan", "b", "1"], ["1", "b", "nan"]),
        (["1e999999999999999999", "2"], ["2", "1e999999999999999999"]),
        (["1e9999999999999999999999", "3"], ["1e9999999999999999999999", "3"]),
    ],
)
def test_numbers_are_sorted_by_value_and_words_as_text(data, labels, classes):
    rows = [f"{n}.png,{label},{split}" for n, (label, split) in enumerate((x, s) for x in labels for s in SPLITS)]
    data("\n".join(["file,label,split", *rows]))
    assert list(made()._table(root()).classes) == classes


@pytest.mark.parametrize(("head", "end"), [("\ufeffFile, LABEL ,notes", "\n"), ("file,label,notes", "\r\n")])
def test_heads_of_other_programs_are_read(data, tmp_path, head, end):
    rows = [f"{n}.png,{'ab'[n % 4 // 2]},{n}" for n in range(0, 24, 2)]
    (tmp_path / "images" / "labels.csv").write_bytes(end.join([head, "", *rows, "", ",,", ""]).encode())
    assert made().missing(root()) is None
    assert made().info().classes == 2
    assert [row.line for row in made()._table(root()).rows] == list(range(3, 15))


def faulty(data, tmp_path, file):
    """What plan, a load and check say of a CSV whose fourth line names a certain file."""
    data(f"file,label,split\n0.png,a,train\n\n{file},a,test\n2.png,b,train\n4.png,b,test\n")
    said = made().missing(root())
    for split in SPLITS:
        with pytest.raises(UsageError) as told:
            made().load(split, root())
        assert str(told.value) == said
    (line,) = testing.check("datasets", "csv-folder")
    assert line.endswith(f"not checked: {said}")
    return said.removeprefix(f"{tmp_path}/images/labels.csv, ")


@pytest.mark.parametrize("link", ["hard", "symbolic"])
def test_a_file_under_two_names_is_refused_with_both_lines(data, tmp_path, link):
    folder = tmp_path / "images"
    if link == "hard":
        os.link(folder / "0.png", folder / "same.png")
    else:
        (folder / "same.png").symlink_to("0.png")
    said = faulty(data, tmp_path, "same.png")
    assert said == "lines 2 and 4: '0.png' and 'same.png' are the same file; an image has one label and one split"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fifo.png", "fifo.png is a FIFO, not an image file"),
        ("folder.png", "folder.png is a folder, not an image file"),
        ("dangling.png", "dangling.png is a link to a file that does not exist"),
        ("more\\1.png", "1.png; write / between folders"),
        ("no/where.png", "there is no image"),
        ("0.png/x.png", "there is no image"),
    ],
)
def test_what_is_no_image_file_is_named_with_its_line(data, tmp_path, name, expected):
    folder = tmp_path / "images"
    os.mkfifo(folder / "fifo.png")
    (folder / "folder.png").mkdir()
    (folder / "dangling.png").symlink_to("nothing")
    said = faulty(data, tmp_path, name)
    assert said.startswith("line 4: ")
    assert expected in said


def test_a_csv_that_is_a_fifo_is_not_waited_for(data, tmp_path):
    os.mkfifo(tmp_path / "images" / "labels.csv")
    assert "labels.csv is a FIFO; put a CSV" in made().missing(root())


def test_pictures_are_read_as_they_look(data, tmp_path):
    data("file,label,split\n0.png,a,train\n2.png,a,test\n4.png,b,train\n6.png,b,test\n")
    Image.fromarray(np.full((8, 8), 30 * 257, np.uint16)).save(tmp_path / "images" / "0.png")
    assert (made().load("train", root()).images[0] == 30).all()
    Image.fromarray(np.full((8, 8), 7.5, np.float32)).save(tmp_path / "images" / "4.png", "TIFF")
    with pytest.raises(UsageError, match=r"csv-folder: .*4\.png holds floats from 7.5 to 7.5"):
        made().load("train", root())


def test_a_changed_csv_is_read_anew(data):
    data()
    assert made().info().train == 15
    data("file,label,split\n0.png,a,train\n2.png,a,test\n4.png,b,train\n6.png,b,test\n")
    assert made().info().train == 2


def test_a_csv_that_has_not_changed_is_opened_once(data, tmp_path, monkeypatch):
    data()
    opened, really = [], Path.open

    def watched(path, *given, **named):
        opened.append(path)
        return really(path, *given, **named)

    monkeypatch.setattr(Path, "open", watched)
    assert made().info().train == 15
    assert made().missing(root()) is None
    made().load("train", root())
    assert opened.count(tmp_path / "images" / "labels.csv") == 1


def test_of_two_faults_the_misspelled_column_is_named(data):
    data("file,splt\n0.png\n")
    with pytest.raises(UsageError, match=r"labels.csv: the column 'splt' is not read; did you mean 'split'\?"):
        made().info()


WRONG = {
    "line 1: needs one column called label": "file,class\n0.png,a\n",
    "line 1: needs one column called file": "",
    "line 1: has the column split twice": "file,label,split,split\n",
    "line 3: has 2 values for 3 columns": "file,label,split\n0.png,a,train\n2.png,a\n",
    "line 2: file must be the name of an image": "file,label\n../secret.png,a\n",
    "line 2: label is empty": "file,label\n0.png,\n",
    "line 2: split must be train or test, not 'val'": "file,label,split\n0.png,a,val\n",
    "lines 2 and 3: '0.png' is there twice": "file,label\n0.png,a\n0.png,b\n",
    "lines 2 and 4: '0.png' is there twice": "file,label,split\n0.png,a,train\n2.png,b,test\n./0.png,b,test\n",
    "lines 2 and 3: 'more/1.png' is there twice": "file,label\nmore/1.png,a\nmore//./1.png,b\n",
    "line 2: file must be the name": "file,label\nmore/../0.png,a\n",
    "line 3: file must be the name": "file,label\n0.png,a\n.,a\n",
    "line 5: label is empty": "file,label\n\n0.png,a\n,\n2.png, \n",
    "line 4: needs one column called label": "\n  ,\n\nfile,class\n",
    "line 5: has 1 values for 2 columns": 'file,label\n0.png,"a\n\nb"\n2.png\n',
    "line 1: separates the columns by semicolons; save it with commas": "file;label\n0.png;a\n",
    "line 1: separates the columns by tabs; save it with commas": "file\tlabel\n0.png\ta\n",
    "lines 2 and 4: labels '1' and '01' are the same number": "file,label\n0.png,1\n2.png,2\n4.png,01\n",
    "lines 2 and 3: labels '10' and '1e1' are the same number": "file,label\n0.png,10\n2.png,1e1\n",
    "lines 2 and 3: labels '0' and '-0.0' are the same number": "file,label\n0.png,0\n2.png,-0.0\n",
    "line 3: label 'NaN' is not a number, but the others are": "file,label\n0.png,1\n2.png,NaN\n4.png,2\n",
    "has 1 classes; there must be 2": "file,label\n0.png,a\n2.png,a\n",
    "class 'b' has too few images, none for test": "file,label\n0.png,a\n2.png,a\n4.png,b\n",
    "class 'a' has too few images, none for train": "file,label,split\n0.png,a,test\n2.png,b,test\n4.png,b,train\n",
    "not CSV": 'file,label\n"0.png,a\n',
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_csv_is_refused_with_its_line(data, line):
    data(WRONG[line])
    with pytest.raises(UsageError) as told:
        made().info()
    assert line in str(told.value)
    assert "labels.csv" in str(told.value)
    assert made().missing(root()) == str(told.value)


def test_a_csv_that_is_not_there_is_asked_for(data):
    with pytest.raises(UsageError, match=r"labels\.csv cannot be read.*columns file and label"):
        made().info()


def test_a_csv_in_another_encoding_is_refused(data, tmp_path):
    (tmp_path / "images" / "labels.csv").write_bytes("file,label\n0.png,é\n".encode("latin-1"))
    with pytest.raises(UsageError, match="UTF-8"):
        made().info()


def test_an_image_that_is_not_there_is_named_with_its_line(data):
    data("file,label\n0.png,a\n2.png,a\n4.png,b\nnone.png,b\n")
    assert "line 5: there is no image" in made().missing(root())


@pytest.mark.parametrize(
    "given", [{"folder": "/etc"}, {"folder": "../x"}, {"labels": ""}, {"size": 4}, {"test_share": 1.0}]
)
def test_parameters_that_mean_nothing_are_refused(given):
    with pytest.raises(UsageError):
        made(**given)


def test_the_target_must_be_a_class(data):
    data()
    with pytest.raises(UsageError, match=r"target 3 is none of the 3 classes"):
        made(target=3).info()


def test_it_is_planned_with_data_named_on_the_command_line(data, tmp_path, monkeypatch, capsys):
    from benchbd.cli import main

    data()
    monkeypatch.delenv("BENCHBD_DATA")
    (tmp_path / "m.yaml").write_text(
        "{name: m, dataset: csv-folder, model: lenet, attacks: [bn-g], defenses: [none], recipe: {epochs: 1}}"
    )
    assert main(["plan", str(tmp_path / "m.yaml"), "--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    assert "impossible" not in capsys.readouterr().out.lower()


def test_input_files_are_the_csv_and_its_images(data):
    rows = data()
    named = made().input_files(root())
    folder = Path(root(), "images")
    assert sorted(named) == sorted(map(str, [folder / "labels.csv", *(folder / file for file, _ in rows)]))


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("splt", "split"),
        ("Splits", "split"),
        ("true label", "true_label"),
        ("poison", "poisoned"),
        ("trigger", "triggered"),
        ("triggred", "triggered"),
    ],
)
def test_a_column_that_is_nearly_one_is_refused(data, tmp_path, column, meant):
    rows = data()
    lines = [f"{file},{colour},train" for file, colour in rows]
    table = tmp_path / "images" / "labels.csv"
    table.write_text("\n".join([f"file,label,{column}", *lines]))
    line = rf"labels.csv: the column '{column.lower()}' is not read; did you mean '{meant}'\? Rename the column or take"
    with pytest.raises(UsageError, match=line):
        made().info()
    with pytest.raises(UsageError, match=line):
        made().poisoned_rows(root())


def test_a_name_that_no_system_accepts_is_one_line(data):
    data()
    with pytest.raises(UsageError, match=r"csv-folder: .* cannot be read: "):
        made(labels="a" * 300 + ".csv").info()


@pytest.mark.parametrize(
    "column",
    ["author", "labels", "files", "id", "class", "poison_rate", "split_date", "target_label", "trigger_id", ""],
)
def test_other_columns_have_any_name(data, tmp_path, column):
    rows = data()
    head, *lines = (tmp_path / "images" / "labels.csv").read_text().splitlines()
    table = tmp_path / "images" / "labels.csv"
    table.write_text("\n".join([f"{head},{column}", *(f"{line},x" for line in lines)]))
    assert made().info().train == 15
    assert len(rows) == 24
