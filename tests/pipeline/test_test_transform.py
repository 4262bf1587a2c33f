"""A defense that changes test images: declared, recorded, marked on the board, and blind to the test set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchbd import testing
from benchbd.pipeline.run_cell import execute
from benchbd.plugins import registry
from benchbd.report.leaderboard import board
from benchbd.storage import record_schema

PLUGINS = '''
from typing import ClassVar

from benchbd import Patch, TestTransform


@defense("renamer", version=1)
class Renamer(Defense):
    """Trains on labels that are one further, and undoes that at test time."""

    test_transform: ClassVar[bool] = True

    def train(self, lab):
        """Train."""
        model = lab.train(lab.poisoned.replace(labels=(lab.poisoned.labels + 1) % lab.classes))
        order = tuple((label + 1) % lab.classes for label in range(lab.classes))
        lab.trace("not undone", model)
        return lab.with_test_transform(model, TestTransform(Patch(0, 0, 1, 1, (0, 0, 0)), order))


@defense("secret", version=1)
class Secret(Renamer):
    """The same, undeclared."""

    test_transform: ClassVar[bool] = False


@defense("idle", version=1)
class Idle(Defense):
    """Declares what it does not do."""

    test_transform: ClassVar[bool] = True

    def train(self, lab):
        """Train."""
        return lab.train(lab.poisoned)
'''

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_registry", "quick_disk")


@pytest.fixture
def run(plugin_file, tmp_path):
    registry.add_plugin_file(str(plugin_file(PLUGINS)))

    def one(defense, attack="tiny-patch"):
        how = {"epochs": 20, "batch_size": 16, "augment": []}
        cell = testing.cell(dataset="tiny(train=160,test=40,size=16)", attack=attack, defense=defense, **how)
        return execute(cell.to_json(), output=tmp_path, device="cpu")

    return one


@pytest.mark.learning
def test_the_record_and_the_board_say_so(run, tmp_path):
    record = run("renamer")
    assert record["status"] == "done", record["error"]
    assert record["test_transform"] == {
        "stamp": {"top": 0, "left": 0, "height": 1, "width": 1, "value": [0.0, 0.0, 0.0]},
        "label_map": [1, 2, 3, 0],
    }
    assert record_schema.fault(record) is None
    assert record["ca"] > 0.5  # chance is 0.25
    (point,) = record["notes"]["curve"]
    assert point["ca"] < record["ca"] - 0.2  # the same network, with its labels as it learnt them
    plain = run("none")
    assert plain["test_transform"] is None
    text = board([record, plain]).render("md")
    assert "renamer \N{PILCROW SIGN}" in text
    assert "1x1 pixels at row 0, column 0 become (0, 0, 0); class 0 is output 1, 1 is output 2 and 2 more" in text
    assert "CA, ASR and RA" in text


def test_an_undeclared_change_fails_in_one_line(run):
    record = run("secret")
    assert record["status"] == "failed"
    assert "say test_transform = True in the class" in record["error"]
    assert "\n" not in record["error"]


def test_a_declaration_without_a_change_is_a_fault(run):
    assert any("changes no test image" in line for line in testing.check("defenses", "idle"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stamp": {"top": 0}},
        {"stamp": {"top": 0, "left": 0, "height": 1, "width": 1, "value": ["<b>", 0, 0]}},
        {"label_map": "abc"},
        [],
    ],
)
def test_a_record_with_a_wrong_transform_is_refused(wrong):
    line = (Path(__file__).parents[2] / "leaderboard" / "results.jsonl").open().readline()
    record = json.loads(line)
    assert record_schema.fault(record) is None
    assert "test_transform" in str(record_schema.fault({**record, "test_transform": wrong}))
