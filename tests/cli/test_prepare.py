"""``benchbd prepare``: bad input is one line and exit code 2, and stops no other row."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchbd.cli import main

MATRIX = """
name: prepared
recipe: {epochs: 1, batch_size: 8}
dataset: {image-folder: {folder: mine, size: 16}}
model: lenet-s
attacks: [none, bn-g]
defenses: [none]
"""


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for part, each in (("train", 20), ("test", 4)):
        for label in ("ant", "bee"):
            folder = tmp_path / "data" / "mine" / part / label
            folder.mkdir(parents=True)
            for n in range(each):
                Image.new("RGB", (20, 20), (n, 9, 9)).save(folder / f"{n}.png")
    (tmp_path / "prepared.yaml").write_text(MATRIX)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data" / "mine"


WORDS = ["prepare", "prepared.yaml", "--data", "data", "--output", "out", "--device", "cpu"]


def test_rows_are_prepared(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(WORDS) == 0
    assert "40 clean images" in capsys.readouterr().out


def test_a_picture_that_cannot_be_read_is_one_line_for_all_rows(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = pictures / "train" / "bee" / "3.png"
    bad.write_bytes(bad.read_bytes()[:40])
    assert main(WORDS) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("benchbd: image-folder")
    assert "3.png" in first
    assert last == "benchbd: 2 of 2 rows are not prepared"


def test_a_row_that_fails_does_not_stop_the_others(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures.parents[1] / "prepared.yaml").write_text(MATRIX.replace("bn-g", "\"imported(file='gone.benchbd')\""))
    assert main(WORDS) == 2
    said = capsys.readouterr()
    assert "40 clean images" in said.out
    assert "gone.benchbd" in said.err
