"""The reference of matrix files has every key, its examples are matrices, and docs/matrix.md is made from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from developer_tools import tool

from benchbd.plan import matrix, matrix_file, reference
from benchbd.plan.reference import KEYS, MatrixKey

ROOT = Path(__file__).parents[2]
BASE = {"dataset": "digits", "model": "lenet", "attacks": ["none", "bn-g"], "defenses": ["none", "ac"]}
PLUGIN = """\
from benchbd import Defense, defense

@defense("of-the-example", version=1)
class Example(Defense):
    def train(self, lab):
        return lab.train(lab.poisoned)
"""


def resolved(text: str) -> matrix.Plan:
    return matrix.resolve(matrix.parse(text, "example.yaml"), "example.yaml")


def test_the_reference_has_the_keys_that_the_reader_takes() -> None:
    top = [key.name for key in KEYS if key.place in (reference.TOP_LEVEL, reference.BOTH)]
    block = [key.name for key in KEYS if key.place in (reference.BLOCKS, reference.BOTH)]
    assert sorted(top) == sorted(matrix_file.TOP)
    assert sorted(block) == sorted(matrix_file.BLOCK)
    assert all(all(key) for key in KEYS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_each_example_is_the_key_of_a_matrix_that_resolves(
    key: MatrixKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_defense.py").write_text(PLUGIN)
    given = yaml.safe_load(key.example)
    assert list(given) == [key.name]
    whole = given if key.name == "blocks" else {**BASE, **given}
    plain = resolved(yaml.safe_dump(BASE))
    found = resolved(yaml.safe_dump(whole))
    # It does something: the plan differs from the plan without the key.
    kept = [(cell.id, cell.matrix) for cell in plain.cells], plain.description, plain.gate
    if key.name != "plugins":
        assert ([(cell.id, cell.matrix) for cell in found.cells], found.description, found.gate) != kept
    if key.place != reference.TOP_LEVEL:
        inside = {**BASE, **given}
        assert len(resolved(yaml.safe_dump({"blocks": [inside]})).cells) == len(found.cells)


def test_defaults_are_those_of_a_matrix_without_the_key(fresh_registry: None) -> None:
    plain = resolved(yaml.safe_dump(BASE))
    for name in ("seeds", "precision", "threads", "gate"):
        given = {**BASE, name: yaml.safe_load(reference.matrix_key(name).default)}
        found = resolved(yaml.safe_dump(given))
        assert ([cell.id for cell in found.cells], found.gate) == ([cell.id for cell in plain.cells], plain.gate)


def test_the_whole_example_resolves(fresh_registry: None) -> None:
    found = resolved(reference.EXAMPLE)
    # Two seeds; three attacks of which blend has two values, so 4 rows; four defenses; random-filter without none.
    assert len(found.cells) == 2 * (4 * 4 - 1)
    assert len(found.skipped) == 2


def test_the_page_is_up_to_date() -> None:
    module = tool("matrix_page")
    assert (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8") == module.page(), "run tools/matrix_page.py"
