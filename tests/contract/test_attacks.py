"""The same promises of every attack known, built in or not, each with its own ``smoke`` parameters."""

from __future__ import annotations

import pytest

from benchbd import testing
from benchbd.pipeline.run_cell import execute
from benchbd.plan import matrix, matrix_file
from benchbd.plugins import registry
from benchbd.testing.checker import names
from benchbd.testing.promises import CHECKS

TRAINED = ("cl", "dynamic", "l2", "lfd-adaptive", "tj-sq", "tj-wm")
"""Built-in attacks whose trigger is trained: what they need at full length is no matter of seconds."""


@pytest.mark.filterwarnings("ignore:dynamic")  # its generators are barely trained here, and it says so
@pytest.mark.parametrize("name", names("attacks"))
@pytest.mark.parametrize("check", CHECKS["attacks"], ids=lambda check: check.__name__)
def test_attack(passes, name, check):
    passes("attacks", name, check)


@pytest.mark.parametrize("name", names("attacks"))
def test_an_attack_that_trains_something_has_smoke_parameters(name):
    testing.register()
    cls = registry.load("attacks", name)
    usual, short = registry.make("attacks", name), registry.make("attacks", name, **cls.smoke)
    assert bool(cls.smoke) == bool(usual.trainings()) == (name in TRAINED)
    # What is poisoned, and with which kind of trigger, stays: only its making is cut short.
    assert [training.kind for training in short.trainings()] == [training.kind for training in usual.trainings()]
    for kept in ("rate", "rate_of", "pool", "target", "mode", "surrogate"):
        assert getattr(short, kept, None) == getattr(usual, kept, None)


def test_smoke_shrinks_the_attacks_of_a_matrix_and_set_wins():
    text = f"{{name: x, dataset: digits, model: resnet18, attacks: [{', '.join(TRAINED)}, sig], defenses: [none]}}"
    data = matrix_file.parse_yaml(text)

    def params(**given):
        return {cell.attack.name: cell.attack.params for cell in matrix.resolve(data, "x", **given).cells}

    usual, smoke = params(), params(smoke=True)
    for name in usual:
        assert smoke[name] == {**usual[name], **registry.load("attacks", name).smoke}
    assert params(smoke=True, sets=["l2.steps=7"])["l2"]["steps"] == 7


@pytest.mark.filterwarnings("ignore:dynamic")
@pytest.mark.parametrize("name", TRAINED)
def test_a_smoke_cell_of_a_trained_attack_comes_to_its_end(name, tmp_path):
    given = ", ".join(f"{key}={value!r}" for key, value in registry.load("attacks", name).smoke.items())
    cell = testing.cell(attack=f"{name}({given})", epochs=1)
    record = execute(cell.to_json(), output=tmp_path, device="cpu")
    assert (record["status"], record["error"]) == ("done", None)
    assert 0 <= record["asr"] <= 1
