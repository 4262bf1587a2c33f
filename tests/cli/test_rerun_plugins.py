"""rerun knows the plugins of the cell's matrix; leaderboard takes a results folder or file in the place of a matrix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchbd.cli import main
from benchbd.plugins import registry
from benchbd.storage.plugin_places import FILE, keep_plugin_places, merge_places, plugin_places

PLUGIN = '''"""mine: a defense."""
from benchbd import Defense, defense


@defense("of-a-file", version=1)
class OfAFile(Defense):
    """Train as usual."""

    def train(self, lab):
        return lab.train(lab.poisoned)
'''
MATRIX = """
plugins: [mine.py]
recipe: {epochs: 1, batch_size: 50, augment: []}
dataset: digits(train=100, test=50)
model: lenet-s
attacks: [bn-g]
defenses: [of-a-file]
"""
ONE_OFF = ("-a", "bn-g", "-d", "of-a-file", "--dataset", "digits")
HERE = ("--executor", "inline", "--device", "cpu", "--display", "none", "--output", "out")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(MATRIX)
    (tmp_path / "mine.py").write_text(PLUGIN)
    return tmp_path


def test_rerun_and_leaderboard(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "study.yaml", *HERE]) == 0
    (record,) = (folder / "out" / "records").glob("*.json")
    registry.forget_plugin_file(str((folder / "mine.py").resolve()))
    before = record.stat().st_mtime_ns
    capsys.readouterr()
    assert main(["rerun", record.stem, *HERE]) == 0
    assert "/of-a-file/s0" in capsys.readouterr().out
    assert record.stat().st_mtime_ns != before

    registry.forget_plugin_file(str((folder / "mine.py").resolve()))
    assert main(["merge", "out", "--output", "merged"]) == 0
    assert main(["rerun", record.stem, *HERE[:-1], "merged"]) == 0, "a merged folder knows the plugins too"

    registry.forget_plugin_file(str((folder / "mine.py").resolve()))
    (folder / "mine.py").rename(folder / "moved.py")
    assert main(["rerun", record.stem, *HERE]) == 2
    err = capsys.readouterr().err
    assert (
        f"the plugin '{folder.resolve() / 'mine.py'}' of matrix 'study' is gone; name where it is now with --plugin"
        in err
    )
    assert main(["rerun", record.stem, "--plugin", "moved.py", *HERE]) == 0
    capsys.readouterr()

    assert main(["leaderboard", "--output", "out"]) == 0
    usual = capsys.readouterr().out
    assert "of-a-file" in usual
    assert main(["leaderboard", "out"]) == 0
    assert capsys.readouterr().out == usual
    assert main(["leaderboard", "out/"]) == 0
    assert capsys.readouterr().out == usual
    assert main(["leaderboard", "out", "--format", "jsonl", "--write", "all.jsonl"]) == 0
    assert capsys.readouterr().out == "all.jsonl\n"
    assert main(["leaderboard", "all.jsonl"]) == 0
    assert capsys.readouterr().out == usual
    assert main(["leaderboard", "out", "--output", "other"]) == 2
    assert "'out' and --output both name results; give one of them" in capsys.readouterr().err
    (folder / "empty").mkdir()
    assert main(["leaderboard", "empty"]) == 2
    assert "no records in empty" in capsys.readouterr().err


def test_places_are_kept_by_matrix_and_nothing_breaks_without_them(tmp_path: Path) -> None:
    assert plugin_places(tmp_path) == {}
    keep_plugin_places(tmp_path, "one", [])
    assert not (tmp_path / FILE).exists()
    keep_plugin_places(tmp_path, "one", ["/a.py"])
    keep_plugin_places(tmp_path, "two", ["/b.py", "/c.py"])
    keep_plugin_places(tmp_path, "one", ["/d.py"])
    assert plugin_places(tmp_path) == {"one": ["/d.py"], "two": ["/b.py", "/c.py"]}
    for text in ("", "[1]", "{", json.dumps({"one": 3, "two": [4]})):
        (tmp_path / FILE).write_text(text)
        assert [file for files in plugin_places(tmp_path).values() for file in files] == []


def test_merged_places_never_replace_known_ones(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for place, files in ((one, {"a": ["/1.py"]}), (two, {"a": ["/2.py"], "b": ["/3.py"]})):
        place.mkdir()
        for matrix, paths in files.items():
            keep_plugin_places(place, matrix, paths)
    merge_places(tmp_path / "results.jsonl", one)
    assert plugin_places(one) == {"a": ["/1.py"]}
    merge_places(two, one)
    assert plugin_places(one) == {"a": ["/1.py"], "b": ["/3.py"]}


def _forgotten(folder: Path) -> None:
    registry.forget_plugin_file(str((folder / "mine.py").resolve()))


@pytest.mark.parametrize(
    "words",
    [
        ("rerun", "CELL", *HERE),
        ("export-model", "CELL", "--to", "m.safetensors", "--output", "out"),
        ("verify", "out"),
        ("plan", *ONE_OFF, "--output", "out"),
        ("status", *ONE_OFF, "--output", "out"),
        ("run", *ONE_OFF, *HERE),
    ],
)
def test_a_plugin_that_only_records_know(
    folder: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert main(["run", "study.yaml", *HERE]) == 0
    (record,) = (folder / "out" / "records").glob("*.json")
    place, code = folder.resolve() / "mine.py", 1 if words[0] == "verify" else 2

    def said(named: bool = True) -> str:
        registry.forget_plugin_file(str(place))
        capsys.readouterr()
        assert main([record.stem if word == "CELL" else word for word in words]) == code
        text = capsys.readouterr()
        (line,) = [line for line in (text.out + text.err).splitlines() if "of-a-file" in line]
        assert "did you mean" not in line
        assert not named or "no defense is called 'of-a-file' here" in line
        return line

    (folder / "mine.py").rename(folder / "moved.py")
    gone = f"the plugin '{place}' of matrix 'study' is gone; name where it is now with --plugin FILE"
    assert gone in said()
    (folder / "mine.py").write_text(PLUGIN.replace("of-a-file", "another"))
    assert f"name its file with --plugin FILE (runs of matrix 'study' had '{place}')" in said()
    if words[0] in ("rerun", "export-model", "verify"):
        (folder / "mine.py").write_text("def (:")
        assert words[0] == "verify" or f"plugin '{place}': SyntaxError" in said(named=False)
        (folder / "out" / FILE).unlink()
        assert "name its file with --plugin FILE if it is a plugin of its own" in said()


def test_a_typo_is_not_a_plugin_that_records_know(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "study.yaml", *HERE]) == 0
    capsys.readouterr()
    assert main(["plan", "-a", "bn-g", "-d", "lfdd", "--dataset", "digits", "--output", "out"]) == 2
    assert capsys.readouterr().err.endswith("no defense is called 'lfdd'; did you mean 'lfd'?\n")


def test_a_plugin_file_that_the_cell_does_not_need_may_be_gone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "study.yaml").write_text(MATRIX.replace("[of-a-file]", "[none]"))
    assert main(["run", "study.yaml", *HERE]) == 0
    (record,) = (folder / "out" / "records").glob("*.json")
    _forgotten(folder)
    (folder / "mine.py").unlink()
    assert main(["rerun", record.stem, *HERE]) == 0
    (folder / "mine.py").write_text("def (:")
    assert main(["rerun", record.stem, *HERE]) == 0


def test_a_run_with_other_plugin_files_keeps_those_of_earlier_runs(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("a.py", "b.py", "gone.py")]
    for file in files[:2]:
        Path(file).touch()
    keep_plugin_places(tmp_path, "cells", [files[0], files[2]])
    keep_plugin_places(tmp_path, "cells", [])
    assert plugin_places(tmp_path) == {"cells": [files[0], files[2]]}
    keep_plugin_places(tmp_path, "cells", [files[1]])
    assert plugin_places(tmp_path) == {"cells": [files[1], files[0]]}
