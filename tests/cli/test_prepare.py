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


PLUGIN = """
from benchbd import Attack, Diverged, UsageError, attack

@attack("ends", version=1)
class Ends(Attack):
    usage: bool = True

    def stamp(self, images, context):
        raise UsageError("its trigger is no picture") if self.usage else Diverged("its generator diverged")
"""


@pytest.mark.parametrize(("usage", "code"), [("true", 2), ("false", 1)])
def test_a_row_that_fails_does_not_stop_the_others(
    usage: str, code: int, pictures: Path, capsys: pytest.CaptureFixture[str], fresh_registry: None
) -> None:
    attacks = f"[{{ends: {{usage: {usage}}}}}, none]"
    (pictures.parents[1] / "prepared.yaml").write_text(MATRIX.replace("[none, bn-g]", attacks))
    (pictures.parents[1] / "ends.py").write_text(PLUGIN)
    assert main([*WORDS, "--plugin", "ends.py"]) == code
    said = capsys.readouterr()
    assert "40 clean images" in said.out
    (line,) = said.err.splitlines()
    assert line.startswith("benchbd: image-folder")
    assert line.endswith(("its trigger is no picture", "its generator diverged"))
