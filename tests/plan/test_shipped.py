"""The shipped matrices, and matrices of any size: planned in time, or counted and refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from toy_matrices import BASE, plan, refused

from benchbd.errors import UsageError
from benchbd.plan import matrix, matrix_file
from benchbd.plan.trainings import shared_trainings
from benchbd.plugins import registry

pytestmark = pytest.mark.usefixtures("toys")


def big_plan() -> matrix.Plan:
    betas = ", ".join(str(i / 1000) for i in range(18))
    text = BASE.replace("toy-attack]", "toy-attack, toy-clean, {toy-attack: {strength: [6, 7]}}]").replace(
        "toy-defense]", f"{{toy-defense: {{beta: [{betas}], mode: [hard, soft]}}}}]"
    )
    return plan(text + "seeds: 0-54")


def test_ten_thousand_cells_are_planned_in_a_second() -> None:
    """Processor time, the best of three: other work on the machine is no fault of the planner."""
    planning, sharing = [], []
    for _ in range(3):
        began = time.process_time()
        found = big_plan()
        planning.append(time.process_time() - began)
        assert len(found.cells) == 5 * 37 * 55 == 10_175
        began = time.process_time()
        matrix.narrow(found, ["defense=toy-defense*,attack!=none"], ["seed=3"])
        shared = shared_trainings(found.cells)
        sharing.append(time.process_time() - began)
        assert len(shared) == 5 * 55 * (1 + 1 + 18) + 1  # and the surrogate of the attack that trains one
    assert min(planning) < 1.0
    assert min(sharing) < 1.0


def test_plugins_are_asked_once_per_distinct_component_and_not_per_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(BASE + "seeds: 0-99")
    cls = registry.load("defenses", "toy-defense")
    calls: list[Any] = []
    original = cls.trainings
    monkeypatch.setattr(cls, "trainings", lambda self, attack: calls.append(self) or original(self, attack))
    shared_trainings(found.cells)
    assert len(calls) == 2  # with each of two attacks


def test_an_explosion_is_counted_and_not_built() -> None:
    hundred = list(range(100))
    lists = {"beta": hundred, "epochs": hundred}
    for text in (
        BASE + "seeds: 0-9999",
        BASE.replace("toy-defense]", f"{{toy-defense: {lists}}}]") + "seeds: 0-9",
        BASE.replace("toy-defense]", f"'toy-defense(beta={hundred}, epochs={hundred})']") + "seeds: 0-9",
    ):
        data = matrix.parse(text.replace("toy-attack", "toy-attack, {toy-attack: {strength: [6, 7, 8, 9, 10]}}"), "m")
        began = time.process_time()
        with pytest.raises(UsageError, match=r"cells, more than 100,000; is a list in the wrong place\?$"):
            matrix.resolve(data, "m")
        assert time.process_time() - began < 0.5


def test_an_explosion_by_set_is_counted_too() -> None:
    sets = [f"toy-defense.{key}={list(range(200))}" for key in ("beta", "epochs")] + ["dataset.train=[10, 20, 30]"]
    assert "240,006 cells, more than 100,000" in refused(BASE, sets=sets)


@pytest.mark.parametrize("name", matrix.shipped())
def test_every_shipped_matrix_resolves_and_is_described(name: str) -> None:
    found = matrix.load(name)
    assert found.cells
    assert found.name == name
    assert len(found.description) > 20
    assert matrix_file.parse_yaml(matrix.read(name)[0])["description"].startswith(found.description[:20])
    assert len(shared_trainings(found.cells)) >= 1
    assert matrix.load(name, smoke=True).cells


@pytest.mark.parametrize("name", matrix.shipped())
def test_what_random_filter_imitates_is_a_column_of_its_row(name: str) -> None:
    cells = matrix.load(name).cells
    rows: dict[str, list[Any]] = {}
    for cell in cells:
        rows.setdefault(cell.row_key, []).append(cell.components().defense)
    for cell in cells:
        if cell.defense.name == "random-filter":
            assert registry.make("defenses", cell.defense.params["of"]) in rows[cell.row_key], cell.label


def test_quickstart_is_shipped() -> None:
    assert "quickstart" in matrix.shipped()
    cells = matrix.load("quickstart").cells
    assert {c.attack.name for c in cells} == {"none", "bn-g", "blend"}
    assert {c.defense.name for c in cells} == {"none", "fine-pruning", "ac", "abl", "lfd", "oracle"}
    assert len(cells) == 36


def test_every_committed_record_is_a_cell_of_the_matrix_that_made_it() -> None:
    """Shows a default changed without raising its plugin's version, and a version raised without measuring anew."""
    file = Path(__file__).parents[2] / "leaderboard" / "results.jsonl"
    made: dict[str, set[str]] = {}
    for record in map(json.loads, file.read_text().splitlines()):
        made.setdefault(record["matrix"], set()).add(record["id"])
    assert made
    for name, ids in made.items():
        assert ids <= {cell.id for cell in matrix.load(name).cells}, f"of {name}"
