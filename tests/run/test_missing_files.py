"""A file that a plugin says is missing ends ``run`` and ``rerun`` in one line, before a cell starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchbd.cli import main
from benchbd.plan import matrix
from benchbd.plugins import registry
from benchbd.storage import records

MATRIX = """
name: m
dataset: DATASET
model: resnet18(width=4)
recipe: {epochs: 1}
attacks: [ATTACK]
defenses: [none]
"""
PLUGIN = """
@attack("patch", version=1)
class Patch(Attack):
    def missing(self, root):
        return f"patch: patch.png is not in {root}"
    def stamp(self, images, context):
        return images

@dataset("own", version=1)
class Own(Dataset):
    def missing(self, root):
        return f"own: own.npz is not in {root}"
    def info(self):
        return DatasetInfo(10, 32, 200, 60, None, 0)
    def load(self, root, split):
        raise FileNotFoundError("own.npz")
"""


@pytest.mark.parametrize(
    ("dataset", "attack", "line"),
    [
        ("digits(train=200, test=60)", "patch", "patch: patch.png is not in DATA"),
        ("own", "bn-g", "own: own.npz is not in DATA"),
        ("own", "patch", "own: own.npz is not in DATA"),
    ],
)
def test_a_missing_file_is_named_before_a_cell_starts(
    dataset: str,
    attack: str,
    line: str,
    tmp_path: Path,
    plugin_file: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchbd.run.run_cells", lambda *_: pytest.fail("a cell ran"))
    plugin_file(PLUGIN)
    registry.add_plugin_file("mine.py")
    Path("m.yaml").write_text(MATRIX.replace("DATASET", dataset).replace("ATTACK", attack))
    said = f"benchbd: {line.replace('DATA', str(tmp_path))}\n"
    given = ["--plugin", "mine.py", "--output", "out", "--data", str(tmp_path)]
    assert main(["run", "m.yaml", *given]) == 2
    assert capsys.readouterr().err == said
    assert not Path("out").exists()

    [cell] = matrix.load("m.yaml").cells
    records.write_record(Path("out"), records.blank(cell, "failed", "it broke"))
    assert main(["rerun", cell.id, *given]) == 2
    assert capsys.readouterr().err == said
    assert not Path("out/logs").exists()
