"""benchbd plan: cells, what records show to be stored, trainings still to do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_matrix_text import MATRIX

from benchbd.cli import main
from benchbd.cli import plan as plan_verb
from benchbd.plan import matrix
from benchbd.plan.cell import Cell
from benchbd.plugins.identity import part_of
from benchbd.storage import records


def test_plan(toy_matrix: Path, told: Callable[..., str]) -> None:
    found = matrix.load(str(toy_matrix))
    out = told("plan", "toys.yaml")
    assert out.splitlines() == [
        "toys: 4 cells (4 missing)",
        *(f"  {c.id}  missing  {c.label}" for c in found.cells),
        *(f"  skipped {s.cell.label}: {s.reason}" for s in found.skipped),
        "trainings still to do, at most: 4 full, 2 teacher (6 in total; 6 without sharing)",
        "data: put the toys into --data DIR",
    ]
    assert len(found.skipped) == 2
    records.write_record(Path("out"), records.blank(found.cells[0], "done") | {"ca": 0.9})
    records.write_record(Path("out"), records.blank(found.cells[1], "failed", "why"))
    data = json.loads(told("plan", "toys.yaml", "--output", "out", "--data", ".", "--json"))
    assert [c["status"] for c in data["cells"]] == ["done", "failed", "missing", "missing"]
    assert data["trainings"] == {"full": 3, "teacher": 2}
    assert data["missing_data"] == []
    assert [s["reason"] for s in data["skipped"]] == [s.reason for s in found.skipped]
    assert not Path("benchbd-out").exists(), "planning writes nothing"


def test_plan_says_what_its_counts_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    assert "The counts are upper bounds." in capsys.readouterr().out


def done(cell: Cell, status: str = "done", store: bool = True, **changes: Any) -> dict[str, Any]:
    """A record as a run leaves it, and artifacts of the names it gives."""
    keys = {name: hashlib.sha256(f"{cell.id} {name}".encode()).hexdigest() for name in ("teacher", "train", "losses")}
    row = hashlib.sha256(cell.row_key.encode()).hexdigest()
    for kind, key in (("model", keys["teacher"]), ("model", keys["train"]), ("array", keys["losses"]), ("poison", row)):
        if store:
            (Path("out/store") / kind / key[:2] / key).mkdir(parents=True, exist_ok=True)
    made = cell.components()
    trained = Counter(t.kind for t in made.defense.trainings(made.attack))
    fields = {
        "ca": 0.9 if status == "done" else None,
        "trainings": dict(trained),
        "artifacts": {"stages": keys, "poisoned_set": row},
        **changes,
    }
    record = records.blank(cell, status) | fields
    records.write_record(Path("out"), record)
    return record


@pytest.fixture
def left(toy_matrix: Path, told: Callable[..., str]) -> Callable[..., dict[str, int]]:
    """The trainings that a plan in ``out`` counts; one attack, which trains a surrogate first, and two seeds."""
    text = MATRIX.replace("none, toy-attack, toy-clean(rate=0.2)", "toy-attack(strength=6)") + "seeds: 0-1\n"
    toy_matrix.write_text(text)

    def count(*words: str) -> dict[str, int]:
        found: dict[str, int] = json.loads(told("plan", "toys.yaml", "--output", "out", "--json", *words))["trainings"]
        return found

    return count


def cells_of(*sets: str) -> list[Cell]:
    return list(matrix.load("toys.yaml", sets=list(sets)).cells)


def test_plan_leaves_out_what_records_show_to_be_stored(left: Callable[..., dict[str, int]]) -> None:
    none, none_1, toy, toy_1 = cells_of()
    assert [c.label.split("/")[-2:] for c in (none, none_1, toy, toy_1)] == [
        ["none", "s0"],
        ["none", "s1"],
        ["toy-defense", "s0"],
        ["toy-defense", "s1"],
    ]
    assert left() == {"full": 5, "teacher": 2}  # the surrogate, and two for each seed
    done(none)
    assert left() == {"full": 3, "teacher": 2}
    done(toy)
    assert left() == {"full": 2, "teacher": 1}
    assert left("--set", "toy-defense.beta=2") == {"full": 3, "teacher": 1}, "the teacher is another cell's"
    assert left("--set", "toy-defense.epochs=2") == {"full": 3, "teacher": 2}
    assert left("--filter", "seed=0", "--set", "toy-defense.beta=2") == {"full": 1}
    for cell in (none_1, toy_1):
        done(cell)
    assert left() == {}


def test_plan_counts_what_was_stored_and_is_no_longer_there(left: Callable[..., dict[str, int]]) -> None:
    for cell in cells_of():
        done(cell)
    assert left() == {}
    more = ("--set", "toy-defense.beta=2")
    assert left(*more) == {"full": 2}
    shutil.rmtree("out/store")
    assert left() == {}, "what is done is not run again"
    assert left(*more) == {"full": 3, "teacher": 2}


def test_plan_believes_a_record_only_as_far_as_its_artifacts_are_there(left: Callable[..., dict[str, int]]) -> None:
    more = ("--set", "toy-defense.beta=2", "--filter", "seed=0,defense=toy-defense*")
    toy = cells_of()[2]
    record = done(toy)
    assert left(*more) == {"full": 1}
    shutil.rmtree(Path("out/store/model") / record["artifacts"]["stages"]["teacher"][:2])
    assert left(*more) == {"full": 1, "teacher": 1}
    shutil.rmtree("out/store/poison")
    assert left(*more) == {"full": 2, "teacher": 1}


def test_plan_counts_a_failed_cell_but_not_what_it_had_trained(left: Callable[..., dict[str, int]]) -> None:
    toy = cells_of()[2]
    done(toy, "diverged", trainings={"teacher": 1})
    only = ("--filter", "seed=0,defense=toy-defense")
    assert left(*only) == {"full": 1}
    done(toy, "killed", trainings={}, artifacts={})
    assert left(*only) == {"full": 2, "teacher": 1}
    done(toy, "skipped", trainings={}, artifacts={})
    assert left(*only) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"trainings": {"teacher": "many", "full": None}},
        {"trainings": {"teacher": -3}},
        {"artifacts": {"stages": [1, {}], "poisoned_set": {}}},
        {"artifacts": {"stages": {"teacher": [], "train": {}}, "poisoned_set": None}},
        {"artifacts": {}},
    ],
)
def test_plan_survives_records_of_odd_content(left: Callable[..., dict[str, int]], changes: dict[str, Any]) -> None:
    toy = cells_of()[2]
    done(toy, **changes)
    found = left("--filter", "seed=0,defense=toy-defense*", "--set", "toy-defense.beta=2")
    assert found["full"] >= 1
    assert found["teacher"] == 1


def test_plan_passes_over_records_of_plugins_that_are_gone(
    left: Callable[..., dict[str, int]], plugin_file: Callable[..., Path]
) -> None:
    from benchbd.plugins import registry

    file = plugin_file('@defense("gone", version=1)\nclass Gone(Defense):\n    pass\n', "gone.py")
    registry.add_plugin_file(str(file))
    done(dataclasses.replace(cells_of()[0], defense=part_of(registry.make("defenses", "gone"))), store=False)
    registry.forget_plugin_file(str(file.resolve()))
    done(cells_of()[2])
    assert left("--filter", "seed=0", "--set", "toy-defense.beta=2") == {"full": 2}


def test_ten_thousand_cells_are_counted_against_their_records_in_time(
    toy_matrix: Path, told: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond reading the records themselves, which status does as well."""
    toy_matrix.write_text(MATRIX + "seeds: 0-2499\n")
    one = done(matrix.load("toys.yaml", seeds=[0]).cells[1])
    monkeypatch.setattr(plan_verb, "record_ids", lambda output: ids)
    monkeypatch.setattr(records, "look_up", lambda output, cell_id: ({**one, "id": cell_id}, None))
    ids = [cell.id for cell in matrix.load("toys.yaml").cells][:-1]
    assert len(ids) == 9_999
    best = 9.0
    for _ in range(2):
        began = time.process_time()
        out = told("plan", "toys.yaml", "--output", "out", "--json")
        best = min(best, time.process_time() - began)
    assert sum(json.loads(out)["trainings"].values()) <= 2
    assert best < 2.0


def test_plan_takes_all_that_narrows_and_changes(toy_matrix: Path, told: Callable[..., str]) -> None:
    words = [
        "--filter",
        "attack!=toy-clean",
        "--exclude",
        "defense=none",
        "--set",
        "toy-defense.beta=2",
        "--seeds",
        "3-4",
    ]
    data = json.loads(told("plan", "toys.yaml", *words, "--smoke", "--json"))
    defense = "toy-defense(epochs=1,beta=2)"
    assert [c["label"] for c in data["cells"]] == [
        f"toy-images/toy-net/{attack}/{defense}/s{seed}" for attack in ("none", "toy-attack") for seed in (3, 4)
    ]
    assert data["skipped"] == []


def test_plan_and_run_say_that_a_number_of_seeds_is_one_seed(
    toy_matrix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_matrix.write_text(MATRIX + "seeds: 3\n")
    line = "benchbd: matrix toys.yaml: seeds: 3 is one seed, number 3; for 3 seeds write seeds: [0, 1, 2]\n"
    assert main(["plan", "toys.yaml"]) == 0
    out, err = capsys.readouterr()
    assert err == line
    assert "toys: 4 cells" in out
    assert main(["plan", "toys.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "toys"
    main(["run", "toys.yaml", "--gpus", "nonsense"])
    assert capsys.readouterr().err.startswith(line)
