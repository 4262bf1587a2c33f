"""Cells and what they are called: the identity is pinned here. A change of an id orphans every record ever made."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_edits import ABSENT, set_at

from benchbd.core.hashing import canonical
from benchbd.core.numerics import Numerics
from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError
from benchbd.plan.cell import Cell, identity
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.part import Part

SPEC: dict[str, Any] = {
    "schema": 1,
    "dataset": {"name": "digits", "version": 1, "params": {"train": None, "test": None, "subset_seed": 0}},
    "model": {"name": "resnet18", "version": 1, "params": {"width": 16, "stem": None}},
    "attack": {"name": "blend", "version": 2, "params": {"alpha": 0.1, "rate": 0.1, "rate_of": "set", "note": "é"}},
    "defense": {"name": "lfd", "version": 1, "params": {"alpha": 0.15, "beta": 1e-05, "layers": [1, 2.5], "on": True}},
    "recipe": {"epochs": 20, "lr": 0.001, "augment": ["crop4", "hflip"]},
    "seed": 3,
}


def from_spec(spec: dict[str, Any]) -> Cell:
    """The cell of a spec, plugins unasked."""
    parts = {
        kind: Part(spec[kind]["name"], spec[kind]["version"], spec[kind]["params"], spec[kind]["name"])
        for kind in ("dataset", "model", "attack", "defense")
    }
    return Cell(**parts, recipe=spec["recipe"], seed=spec["seed"])


def toy_cell(**changes: Any) -> Cell:
    parts = {
        "dataset": part_of(registry.make("datasets", changes.pop("dataset", "toy-images"))),
        "model": part_of(registry.make("models", changes.pop("model", "toy-net"))),
        "attack": part_of(registry.make("attacks", changes.pop("attack", "toy-attack"))),
        "defense": part_of(registry.make("defenses", changes.pop("defense", "toy-defense"))),
    }
    recipe = Recipe(**changes.pop("recipe", {})).spec()
    return Cell(**parts, recipe=recipe, **{"seed": 0, **changes})


# -- the identity


def test_golden_canonical_form() -> None:
    value = {"b": [1, 1.0, 1e-05, 1e22, -0.5, True, None], "a": {"z": "é\n\"'", "y": ""}}
    assert canonical(value) == '{"a":{"y":"","z":"\\u00e9\\n\\"\'"},"b":[1,1.0,1e-05,1e+22,-0.5,true,null]}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


def test_golden_id_of_a_spec() -> None:
    assert identity(SPEC) == "e45356e77ba86b5d"
    assert from_spec(SPEC).id == "e45356e77ba86b5d"
    assert from_spec(SPEC).row_key == "a2af827509e055db"


def test_golden_id_of_plugins_resolved_with_their_defaults_and_the_recipe(toys: Path) -> None:
    assert toy_cell().id == "30050b5784803268"
    assert (
        toy_cell(attack="toy-attack(strength=1, places=[1, 2])", recipe={"epochs": 80, "lr": 1e-3}).id
        == "30050b5784803268"
    )


def shuffled(value: Any, rng: random.Random) -> Any:
    """The same value, the keys of its mappings in another order."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {k: shuffled(value[k], rng) for k in keys}
    return [shuffled(v, rng) for v in value] if isinstance(value, list) else value


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    params=st.dictionaries(st.text(max_size=6), trees, max_size=4),
    where=st.sampled_from(["dataset", "model", "attack", "defense", "recipe"]),
    seed=st.integers(0, 2**31 - 1),
    rng=st.randoms(use_true_random=False),
)
def test_identity_does_not_depend_on_the_order_of_keys_nor_on_a_trip_through_json(
    params: dict[str, Any], where: str, seed: int, rng: random.Random
) -> None:
    spec = {**copy.deepcopy(SPEC), "seed": seed}
    if where == "recipe":
        spec["recipe"] = params
    else:
        spec[where]["params"] = params
    other = json.loads(json.dumps(shuffled(spec, rng)))
    assert identity(other) == identity(spec)
    assert from_spec(spec).id == from_spec(other).id == identity(spec)
    assert from_spec(spec).row_key == from_spec(other).row_key == identity({k: spec[k] for k in spec if k != "defense"})


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_change_of_any_entry_is_another_identity(data: st.DataObject) -> None:
    spec = copy.deepcopy(SPEC)
    node: Any = spec
    while True:
        key = data.draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
        if not isinstance(node[key], (dict, list)):
            break
        node = node[key]
    node[key] = data.draw(leaves.filter(lambda new: canonical(new) != canonical(node[key])))
    assert identity(spec) != identity(SPEC)


def test_the_matrix_is_no_part_of_the_identity_and_the_defense_none_of_the_row(toys: Path) -> None:
    cell = toy_cell()
    assert dataclasses.replace(cell, matrix="other").id == cell.id
    other = toy_cell(defense="toy-defense(beta=0.5)")
    assert other.id != cell.id
    assert other.row_key == cell.row_key
    for change in ({"seed": 1}, {"attack": "toy-clean"}, {"model": "toy-net(width=2)"}, {"recipe": {"epochs": 3}}):
        assert toy_cell(**change).row_key != cell.row_key


NUMERICS = {
    (): "30050b5784803268",
    ("precision", "bf16"): "d73aff8bab5c5716",
    ("precision", "fp32-strict"): "15f9f1eefa06ab8b",
    ("threads", 2): "b0b460c49fb5fc65",
}


@pytest.mark.parametrize("given", NUMERICS, ids=str)
def test_golden_ids_of_numerics(toys: Path, given: tuple[Any, ...]) -> None:
    asked = dict([given] if given else [])
    cell = toy_cell(numerics=Numerics(**asked))
    assert cell.id == identity(cell.spec()) == NUMERICS[given]
    assert cell.spec().keys() - toy_cell().spec().keys() == asked.keys()
    assert (cell.row_key == toy_cell().row_key) is not bool(asked), "stages of other numerics are others"


def test_numerics_are_in_the_label_and_cross_as_json(toys: Path) -> None:
    cell = toy_cell(numerics=Numerics("bf16-strict", 4))
    assert cell.label == "toy-images/toy-net/toy-attack/toy-defense/precision=bf16-strict,threads=4/s0"
    back = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert (back.id, back.row_key, back.label) == (cell.id, cell.row_key, cell.label)
    assert (back.precision, back.threads) == ("bf16-strict", 4)


# -- labels


def test_labels_name_what_differs_from_the_defaults_exactly(toys: Path) -> None:
    cell = toy_cell(
        attack="toy-attack(strength=0.12345678, places=[3])", defense="toy-defense(beta=1e-05, mode='soft')", seed=7
    )
    attack, defense = "toy-attack(strength=0.12345678,places=[3])", "toy-defense(beta=1e-05,mode=soft)"
    assert cell.label == f"toy-images/toy-net/{attack}/{defense}/s7"
    assert toy_cell(attack="toy-attack(strength=1.0)").label == "toy-images/toy-net/toy-attack/toy-defense/s0"


# -- crossing to a worker


def test_a_cell_crosses_as_json(toys: Path) -> None:
    cell = toy_cell(attack="toy-attack(places=[5])", seed=4, matrix="m")
    back = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert (back.id, back.row_key, back.label, back.matrix) == (cell.id, cell.row_key, cell.label, "m")


def change(path: str, value: Any) -> Any:
    return lambda data: set_at(data, path, value)


@pytest.mark.parametrize(
    ("apply", "words"),
    [
        (change("spec.schema", 2), "another benchbd"),
        (change("spec.attack.version", 1), "'toy-attack' is version 2 here, but the cell needs version 1"),
        (change("spec.attack.name", "toy-atack"), "did you mean 'toy-attack'"),
        (change("spec.attack.name", "toy-attack(strength=2)"), "plan again"),
        (change("spec.attack.name", "../../etc/passwd"), "neither NAME nor"),
        (change("spec.attack.name", 3), "expected a name"),
        (change("spec.attack.params.power", 3), "no parameter 'power'"),
        (change("spec.attack.params.kind", 3), "no parameter 'kind'"),
        (change("spec.attack.params.strength", "x"), "must be float"),
        (change("spec.attack.params.strength", 3), "plan again"),
        (change("spec.attack.params.strength", ABSENT), "plan again"),
        (change("spec.attack.params", None), "not a cell"),
        (change("spec.attack.params", [1]), "not a cell"),
        (change("spec.recipe.epochs", ABSENT), "plan again"),
        (change("spec.recipe", 3), "not a cell"),
        (change("spec.seed", "0"), "plan again"),
        (change("spec.seed", True), "plan again"),
        (change("spec.extra", 1), "plan again"),
        (change("spec.precision", "auto"), "plan again"),
        (change("spec.precision", "strict-bf16"), "plan again"),
        (change("spec.precision", "bf61"), "did you mean 'bf16'"),
        (change("spec.threads", 1), "plan again"),
        (change("spec.threads", "2"), "must be a whole number"),
        (change("spec.model", ABSENT), "not a cell"),
        (change("spec", None), "not a cell"),
        (change("spec", ABSENT), "not a cell"),
    ],
)
def test_a_cell_that_is_not_what_the_plugins_here_make_of_it_is_refused(toys: Path, apply: Any, words: str) -> None:
    data = json.loads(json.dumps(toy_cell().to_json()))
    apply(data)
    with pytest.raises(UsageError) as caught:
        Cell.from_json(data)
    assert words in str(caught.value)


def test_cells_of_equal_parts_share_their_instances(toys: Path) -> None:
    first, second = toy_cell().components(), toy_cell(seed=1, defense="toy-defense(beta=0.5)").components()
    assert first.attack is second.attack
    assert first.defense is not second.defense
    assert (first.defense.beta, second.defense.beta) == (0.001, 0.5)  # type: ignore[attr-defined]
    assert first.recipe == Recipe()


# -- parameters that were added later

GROWN = """
@defense("NAME", version=1)
class Grown(Defense):
    younger = YOUNGER

    first: int = 1
    second: tuple[str, ...] = ("a",)
"""


def grown(plugin_file: Any, name: str, younger: str) -> None:
    text = GROWN.replace("NAME", name).replace("YOUNGER", younger)
    registry.add_plugin_file(str(plugin_file(text, f"{name}.py")))


def test_a_younger_parameter_is_in_the_identity_only_with_another_value(toys: Path, plugin_file: Any) -> None:
    grown(plugin_file, "plain", "()")
    grown(plugin_file, "grown", "('second',)")
    params = {
        spec: toy_cell(defense=spec).defense.spec()["params"]
        for spec in ("plain", "grown", "grown(second=['a'])", "grown(second=['b'])")
    }
    assert params == {
        "plain": {"first": 1, "second": ["a"]},
        "grown": {"first": 1},
        "grown(second=['a'])": {"first": 1},
        "grown(second=['b'])": {"first": 1, "second": ["b"]},
    }


@pytest.mark.parametrize(("spec", "second"), [("grown", ("a",)), ("grown(second=['b'])", ("b",))])
def test_a_cell_with_a_younger_parameter_survives_json(
    toys: Path, plugin_file: Any, spec: str, second: tuple[str, ...]
) -> None:
    grown(plugin_file, "grown", "('second',)")
    cell = toy_cell(defense=spec)
    back = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert (back.id, back.label) == (cell.id, cell.label)
    assert back.components().defense.second == second  # type: ignore[attr-defined]
