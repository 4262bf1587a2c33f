"""A record names the code of plugins that its components use, and is stale once that code changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchbd import testing
from benchbd.pipeline.other_sources import other_sources
from benchbd.pipeline.run_cell import execute
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.storage.staleness import changed_sources

OLD = "code:" + "0" * 64
TWO_NETS = '''
from benchbd import Defense, defense


@defense("two-nets", version=1)
class TwoNets(Defense):
    """Trains a smaller network first."""

    fail: bool = False
    """Fail after that."""

    def train(self, lab):
        lab.train(lab.poisoned, model="resnet-s1", kind="teacher", name="small")
        if self.fail:
            raise ValueError("told to")
        return lab.train(lab.poisoned)
'''


@pytest.fixture(autouse=True)
def plugins(zoo: Callable[[str], None], plugin_file: Callable[..., Path]) -> None:
    zoo("endings")
    registry.add_plugin_file(str(plugin_file(TWO_NETS)))


def cell(defense: str, attack: str = "tiny-patch") -> Cell:
    return testing.cell(dataset="tiny(train=80,test=20,size=16)", attack=attack, defense=defense, epochs=1)


def run(tmp_path: Path, this: Cell) -> dict[str, Any]:
    return execute(this.to_json(), output=tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("defense", "kind", "name"),
    [
        ("two-nets", "models", "resnet-s1"),
        ("two-nets(fail=True)", "models", "resnet-s1"),
        ("random-filter(of='tiny-filter()')", "defenses", "tiny-filter"),
    ],
)
def test_the_code_of_what_a_defense_uses(tmp_path: Path, defense: str, kind: str, name: str) -> None:
    this, key = cell(defense), f"{kind[:-1]} {name}"
    for _ in ("computed", "from the store"):
        record = run(tmp_path, this)
        assert record["status"] == ("failed" if "fail" in defense else "done")
        assert record["other_sources"] == {key: registry.source_digest(kind, name)}
    assert changed_sources(this, record) == []
    assert changed_sources(this, {**record, "other_sources": {key: OLD}}) == [key]


def test_a_defense_that_uses_no_other_plugin(tmp_path: Path) -> None:
    assert run(tmp_path, cell("none"))["other_sources"] is None


def test_the_code_of_what_an_attack_consults() -> None:
    this = cell("none", "lfd-adaptive(alpha=0.1,verify=False)")
    assert other_sources(this, []) == {"defense lfd": registry.source_digest("defenses", "lfd")}


def test_the_code_of_the_components_is_not_named_twice() -> None:
    this = cell("lfd", "lfd-adaptive(alpha=0.1,verify=False)")
    assert other_sources(this, [("models", this.model.name), ("attacks", "lfd-adaptive")]) == {}


@pytest.mark.parametrize("odd", [None, 3, [], {"model": OLD}, {"model ": OLD}, {"model gone": OLD}, {"engine x": OLD}])
def test_odd_entries_are_no_verdict(odd: Any) -> None:
    assert changed_sources(cell("none"), {"sources": {}, "other_sources": odd}) == []
