"""The commands import and export-poison, on digits."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from poisoned_sets import poisoned_set

from benchbd.cli import export_poison, main, parser
from benchbd.cli.common import load_plan
from benchbd.core.poisoned_set import TriggeredTest
from benchbd.core.poisoned_set_file import write_set

MATRIX = "{name: x, dataset: digits, model: resnet18, attacks: [none, bn-g, blend], seeds: [0, 1], defenses: [none]}"


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    (tmp_path / "m.yaml").write_text(MATRIX)
    return tmp_path


def header(path):
    with np.load(path, allow_pickle=False) as file:
        return json.loads(file["header.json"])


def examples() -> list[str]:
    """The commands that the help and the documentation show, without the remark that follows on the line."""
    text = export_poison.EPILOG + (Path(__file__).parents[2] / "docs" / "importing.md").read_text()
    lines = (line.strip() for line in text.splitlines())
    return [line.split("      ")[0] for line in lines if line.startswith("benchbd export-poison ")]


@pytest.mark.parametrize("line", dict.fromkeys(examples()))
def test_each_example_names_one_poisoned_set(line):
    args = parser("export-poison").parse_args(shlex.split(line)[1:])
    cell = export_poison.chosen_cell(load_plan(args), args)
    assert cell.attack.name == args.attack


def test_an_export_comes_back_with_the_same_hashes(place, capsys):
    out = ["export-poison", "m.yaml", "--attack", "bn-g", "--seed", "1", "--to", "set", "--format", "backdoor-toolbox"]
    assert main(out) == 0
    assert main([*out[:-3], "own", "--format", "npz"]) == 0
    assert "1437 training images, 143 poisoned, 0 covers, 360 triggered" in capsys.readouterr().out
    assert main(["import", "set", "--format", "backdoor-toolbox", "--dataset", "digits", "--to", "in/set.npz"]) == 0
    mine, theirs = header(place / "own" / "poison.npz"), header(place / "in" / "set.npz")
    assert mine["sha256"] == theirs["sha256"]
    assert theirs["source"]["format"] == "backdoor-toolbox"
    assert mine["source"]["seed"] == 1
    assert main(["preview", "imported(file='set.npz')", "--data", "in", "-o", "sheet.png", "--images", "1"]) == 0


def test_changed_images_alone_need_the_data_set_they_come_from(place, capsys):
    (place / "record" / "bd_train_dataset").mkdir(parents=True)
    assert main(["import", "record", "--format", "backdoorbench", "--to", "x.npz"]) == 2
    err = capsys.readouterr().err
    assert "record holds only changed images; name the data set they come from with --dataset" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("among", ["all", "the target class"])
def test_triggered_images_of_the_target_class_alone_get_a_warning(among, place, capsys):
    given = poisoned_set()
    shown = given.triggered
    if among != "all":
        mine = shown.true_labels == shown.targets
        assert mine.any()
        assert not mine.all()
        given = dataclasses.replace(given, triggered=TriggeredTest(*(array[mine] for array in shown)))
    write_set(given, place / "set.npz")
    assert main(["import", "set.npz", "--format", "npz", "--to", "x.npz"]) == 0
    out, err = capsys.readouterr()
    line = "warning: all triggered test images are of the target class, so cells have no ASR and no RA\n"
    assert err == ("" if among == "all" else line)
    assert "there are no triggered test images" not in out
    assert header(place / "x.npz")["triggered"] == (16 if among == "all" else 4)


def test_an_import_overwrites_nothing_that_it_reads(place, capsys):
    out = ["export-poison", "m.yaml", "--attack", "bn-g", "--seed", "1", "--to", "set", "--format", "imagefolder"]
    assert main(out) == 0
    read = ["import", "set", "--format", "csv", "--to"]
    labels = (place / "set" / "labels.csv").read_bytes()
    capsys.readouterr()
    assert main([*read, "set/labels.csv"]) == 2
    assert "this command reads that file; name another one" in capsys.readouterr().err
    assert (place / "set" / "labels.csv").read_bytes() == labels
    for _ in range(2):  # its own file may be replaced, also in the folder that it reads
        assert main([*read, "set/set.npz"]) == 0
    before = (place / "set" / "set.npz").read_bytes()
    assert main(["import", "set/set.npz", "--format", "npz", "--to", "set/../set/set.npz"]) == 2
    assert (place / "set" / "set.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("import nowhere --format nab --to x.npz", "nowhere does not exist"),
        ("import . --format backdoor-toolbox --to x.npz", "labels is missing; --format backdoor-toolbox needs it"),
        ("import . --format toolbox --to x.npz", "--format 'toolbox': not a format"),
        ("import . --format backdoorbench --to x.npz", "bd_train_dataset is missing; --format backdoorbench needs it"),
        ("import . --format npz --to x.npz", "poison.npz is missing"),
        (
            "import . --format csv --to x.npz",
            "--format csv needs it, with the columns file, label, split, true_label, poisoned, triggered",
        ),
        ("import . --format imagefolder --to x.npz", "folders of images are imported with --format csv"),
        ("import . --format image-folder --to x.npz", "folders of images are imported with --format csv"),
        ("import . --format madrylab --to x.npz", "train_images.npy is missing"),
        ("import . --format hf --to x.npz", "has no train.parquet and no train-*.parquet; --format hf needs one"),
        (
            "import disk --format hf --to x.npz",
            "disk is a data set of save_to_disk(); write each part with to_parquet()",
        ),
        ("import . --format parquet --to x.npz", "Parquet files are imported with --format hf"),
        ("import . --format torch --to x.npz", "how arrays of Python become a file for --format npz"),
        ("import list.pt --format nab --to x.npz", "list.pt is a file; --format nab reads a folder with train"),
        (
            "import list.pt --format npz --to x.npz",
            "list.pt is a file of torch.save, not a .npz file; docs/importing.md",
        ),
        ("import one.npy --format npz --to x.npz", "one.npy is one .npy array, not a .npz file; docs/importing.md"),
        ("import torn.npz --format npz --to x.npz", "torn.npz is refused: it is not a .npz file, is damaged, or holds"),
        ("import batch --format npz --to x.npz", "batch is a pickle, not a .npz file; docs/importing.md"),
        ("import . --format nab --to x.npz --same-label maybe", "must be poison or cover"),
        ("import . --format nab --to x.npz --same-label cover", "--same-label is for --format backdoorbench only"),
        ("import . --format nab --to x.npz --size 32", "--size is for --format csv only"),
        ("import . --format nab --dataset cifar10 --to x.npz", "train is missing; --format nab needs it"),
        ("leaderboard nofolder", "'nofolder': there is no such folder, file or matrix"),
        ("plan -a bn-g,blend --dataset digits", "repeat -a, as in -a bn-g -a blend"),
        ("plan -a bn-g(rate=0.2),blend(alpha=0.3) --dataset digits", "repeat -a"),
        ("export-poison m.yaml --attack bn-x --to x --format npz", "--attack 'bn-x': not in the matrix; did you mean"),
        ("export-poison m.yaml --attack bn-g --to x --format npz", "there are 2 seeds (0, 1); choose with --seed"),
        ("export-poison m.yaml --attack bn-g --seed 7 --to x --format npz", "--seed 7: not in the matrix"),
        ("export-poison m.yaml --attack none --seed 0 --to x --format npz", "poisons nothing"),
        ("export-poison m.yaml --attack bn-g --seed 0 --to . --format npz", "is not an empty folder"),
        ("export-poison m.yaml --attack bn-g --seed 0 --to x --format hff", "--format 'hff': not a format"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, line, place, capsys):
    torch.save([1], place / "list.pt")
    np.save(place / "one.npy", np.zeros(3))
    np.savez(place / "torn.npz", images=np.zeros(3))
    (place / "torn.npz").write_bytes((place / "torn.npz").read_bytes().replace(b"PK\x01\x02", b"torn"))
    (place / "batch").write_bytes(pickle.dumps({"data": [1]}))
    (place / "disk").mkdir()
    (place / "disk" / "dataset_dict.json").write_text("{}")
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert not (place / "x.npz").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["import", "", "--format", "npz", "--to", "x.npz"], "FOLDER '': is empty"),
        (["plan", "-a", "bn-g", "--dataset", "digits", "--recipe", ""], "--recipe '': is empty"),
    ],
)
def test_an_empty_value_is_refused(words, line, place, capsys):
    assert main(words) == 2
    assert line in capsys.readouterr().err


def test_an_alias_names_the_attack_to_export(place, capsys):
    words = ["export-poison", "m.yaml", "--attack", "BN_G", "--seed", "0", "--to", "set", "--format", "npz"]
    assert main(words) == 0
    assert "143 poisoned" in capsys.readouterr().out


def test_an_attack_to_export_is_spelled_as_in_the_matrix(place, capsys):
    matrix = "{name: x, dataset: digits, model: resnet18, attacks: [SPELLED, bn-g], defenses: [none]}"
    for number, spelled in enumerate(("blend(rate=0.05, alpha=0.3)", "blend(alpha=0.30, rate=5.0e-2)")):
        (place / "m.yaml").write_text(matrix.replace("SPELLED", f'"{spelled}"'))
        to = f"set{number}"
        assert main(["export-poison", "m.yaml", "--attack", spelled, "--to", to, "--format", "npz"]) == 0
        assert "blend(rate=0.05,alpha=0.3)" in capsys.readouterr().out
    assert main(["export-poison", "m.yaml", "--attack", "blend(alpha=0.31)", "--to", "x", "--format", "npz"]) == 2
    assert "not in the matrix; did you mean 'blend(rate=0.05,alpha=0.3)'?" in capsys.readouterr().err
