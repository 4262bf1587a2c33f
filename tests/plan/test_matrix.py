"""From a matrix to cells: expansion, duplicates, what is impossible or excluded, plugins of its own."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_matrices import BASE, plan, refused

from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError
from benchbd.plan import matrix
from benchbd.plan.trainings import shared_trainings
from benchbd.plugins import registry

pytestmark = pytest.mark.usefixtures("toys")


def labels(found: matrix.Plan) -> list[str]:
    return [cell.label for cell in found.cells]


def test_the_product_of_a_block_in_order_with_defaults_filled_in() -> None:
    found = plan(BASE + "seeds: [0, 3]")
    assert labels(found) == [
        f"toy-images/toy-net/{attack}/{defense}/s{seed}"
        for attack in ("none", "toy-attack")
        for defense in ("none", "toy-defense")
        for seed in (0, 3)
    ]
    assert found.skipped == ()
    assert (found.name, found.description, found.gate) == ("matrix", "", 0.5)
    assert found.cells[-1].defense.params == {"epochs": 5, "beta": 0.001, "mode": "hard", "note": None}
    assert found.cells[-1].recipe["batch_size"] == 128


def test_lists_inside_parameters_expand_and_list_typed_ones_take_a_list_of_lists() -> None:
    text = BASE.replace("[none, toy-defense]", "{toy-defense: {beta: [0, 1.0e-4, 1e-3], mode: [hard, soft]}}")
    betas = Counter((c.defense.params["beta"], c.defense.params["mode"]) for c in plan(text).cells)
    assert betas == {(b, m): 2 for b in (0.0, 1e-4, 1e-3) for m in ("hard", "soft")}
    text = BASE.replace("toy-attack]", "{toy-attack: {places: [1, 2, 3]}}, {toy-attack: {places: [[4], [5, 6], []]}}]")
    places = [c.attack.params["places"] for c in plan(text).cells if "places" in c.attack.params]
    assert places[::2] == [[1, 2, 3], [4], [5, 6], []]
    text = BASE.replace("toy-defense]", "'toy-defense(beta=[1, 2])']")
    assert len(plan(text).cells) == 6


def test_duplicates_collapse() -> None:
    one = plan(BASE)
    twice = BASE.replace(
        "toy-defense]", "toy-defense, none, toy-defense(epochs=5), {toy-defense: {beta: [0.001, 1e-3]}}]"
    )
    assert labels(plan(twice)) == labels(one)
    block = textwrap.indent(BASE.strip(), "    ").replace("    ", "  - ", 1)
    assert labels(plan(f"blocks:\n{block}\n{block}")) == labels(one)
    assert labels(plan(BASE + "seeds: [0, 0-0, '0']")) == labels(one)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    seeds=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    betas=st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=3),
    widths=st.lists(st.integers(1, 8), min_size=1, max_size=3),
)
def test_as_many_cells_as_distinct_combinations(seeds: list[int], betas: list[float], widths: list[int]) -> None:
    data = yaml.safe_load(BASE) | {
        "seeds": seeds,
        "model": {"toy-net": {"width": widths}},
        "defenses": [{"toy-defense": {"beta": betas}}],
    }
    found = matrix.resolve(data, "m")
    assert len(found.cells) == 2 * len(set(seeds)) * len(set(betas)) * len(set(widths))
    assert len({cell.id for cell in found.cells}) == len(found.cells)


def test_blocks_have_their_own_seeds_and_recipe_over_the_matrix_s() -> None:
    text = """
    seeds: 0-1
    recipe: {epochs: 7, lr: 0.01}
    blocks:
      - {dataset: toy-images, model: toy-net, attacks: none, defenses: none}
      - {dataset: toy-images, model: toy-net, attacks: none, defenses: none, seeds: 4, recipe: {epochs: 9}}
    """
    cells = plan(text).cells
    assert [(c.seed, c.recipe["epochs"], c.recipe["lr"]) for c in cells] == [(0, 7, 0.01), (1, 7, 0.01), (4, 9, 0.01)]


def recipes(text: str, **how) -> list[dict]:
    return [cell.recipe for cell in plan(text, **how).cells]


def test_a_recipe_may_name_a_preset_and_is_then_the_preset_written_out() -> None:
    fast = Recipe.parse({"preset": "fast"}).spec()
    plans = [plan(BASE + f"recipe: {json.dumps(given)}") for given in ("fast", {"preset": "fast"}, fast)]
    assert all(cell.recipe == fast for found in plans for cell in found.cells)
    assert len({tuple(cell.id for cell in found.cells) for found in plans}) == 1
    assert plan(BASE + "recipe: paper").cells[0].id == plan(BASE).cells[0].id


def test_a_blocks_preset_replaces_the_matrix_s_recipe_and_what_is_set_comes_on_top() -> None:
    text = """
    recipe: {preset: fast, lr: 0.5}
    blocks:
      - {dataset: toy-images, model: toy-net, attacks: none, defenses: none, recipe: {epochs: 9}}
      - {dataset: toy-images, model: toy-net, attacks: none, defenses: none, recipe: {preset: sgd-long, momentum: 0.8}}
    """
    top, own = recipes(text)
    assert (top["epochs"], top["lr"], top["ema"]) == (9, 0.5, Recipe.parse({"preset": "fast"}).ema)
    assert own == Recipe.parse({"preset": "sgd-long", "momentum": 0.8}).spec()
    assert {r["lr"] for r in recipes(text, sets=["lr=3.0"])} == {3.0}
    assert recipes(BASE, sets=["preset=fast", "epochs=2"])[0] == Recipe.parse({"preset": "fast", "epochs": 2}).spec()


def test_smoke_shortens_a_preset_too_and_yields_to_what_is_set() -> None:
    assert recipes(BASE + "recipe: fast", smoke=True)[0]["epochs"] == 1
    assert recipes(BASE, smoke=True, sets=["preset=fast"])[0]["epochs"] == 1
    assert recipes(BASE, smoke=True, sets=["preset=fast", "epochs=3"])[0]["epochs"] == 3


def test_an_unknown_preset_is_refused() -> None:
    words = "preset must be one of paper, backdoorbench, sgd-long, fast, muon, not 'fats'; did you mean 'fast'?"
    assert words in refused(BASE + "recipe: fats")


def test_the_order_of_keys_changes_no_id() -> None:
    data = yaml.safe_load(BASE + "recipe: {epochs: 3, lr: 0.1}")
    data["defenses"] = [{"toy-defense": {"beta": 0.5, "epochs": 2}}]
    turned = dict(reversed(data.items()))
    turned["recipe"] = {"lr": 0.1, "epochs": 3}
    turned["defenses"] = [{"toy-defense": {"epochs": 2, "beta": 0.5}}]
    assert {c.id for c in matrix.resolve(data, "m").cells} == {c.id for c in matrix.resolve(turned, "m").cells}


@pytest.mark.parametrize(
    ("written", "seeds"),
    [("3", [3]), ("0-2", [0, 1, 2]), ("[0, 2-3]", [0, 2, 3]), ("['7', 1]", [7, 1]), ("[5, 5]", [5])],
)
def test_seeds(written: str, seeds: list[int]) -> None:
    assert list(dict.fromkeys(c.seed for c in plan(BASE + f"seeds: {written}").cells)) == seeds


def test_impossible_cells_are_skipped_with_the_reason() -> None:
    text = """
    blocks:
      - dataset: toy-images
        model: [toy-net, toy-net(width=9)]
        attacks: [none, toy-clean(rate=0.2), toy-attack(target=11)]
        defenses: [none, toy-defense(beta=-1)]
    """
    found = plan(text)
    assert labels(found) == ["toy-images/toy-net/none/none/s0"]
    reasons = {s.cell.label: s.reason for s in found.skipped}
    assert len(reasons) == 11
    assert reasons["toy-images/toy-net/none/toy-defense(beta=-1)/s0"] == "beta must be 0 or more, not -1.0"
    assert reasons["toy-images/toy-net(width=9)/none/none/s0"] == "width 9 is more than 8 pixels"
    assert reasons["toy-images/toy-net/toy-attack(target=11)/none/s0"].startswith("target class 11 does not exist")
    budget = reasons["toy-images/toy-net/toy-clean(rate=0.2)/none/s0"]
    assert "20 images to poison" in budget
    assert "only 10 to choose from" in budget


def test_a_cell_that_one_block_excludes_and_another_runs_is_not_skipped() -> None:
    text = """
    blocks:
      - {dataset: toy-images, model: toy-net, attacks: toy-attack, defenses: none, seeds: [0, 1],
         exclude: [{seed: 0, reason: elsewhere}]}
      - {dataset: toy-images, model: toy-net, attacks: toy-attack, defenses: none, seeds: 0}
    """
    found = plan(textwrap.dedent(text))
    assert (len(found.cells), found.skipped) == (2, ())


def test_a_data_set_that_refuses_its_parameters_skips_its_cells() -> None:
    found = plan(BASE.replace("toy-images", "[toy-images, toy-images(train=5000)]"))
    assert len(found.cells) == len(found.skipped) == 4
    assert {s.reason for s in found.skipped} == {"there are 1000 images, not 5000"}


def test_excludes_skip_with_their_reason() -> None:
    text = BASE + "exclude: [{attack: none, defense: toy-*, reason: nothing to defend}]\nseeds: 0-1"
    found = plan(text)
    assert len(found.cells) == 6
    assert {(s.cell.label, s.reason) for s in found.skipped} == {
        (f"toy-images/toy-net/none/toy-defense/s{seed}", "excluded: nothing to defend") for seed in (0, 1)
    }
    several = BASE + "exclude: {attack: [none, 'x*'], seed: 0, reason: twice done}"
    assert {s.cell.attack.name for s in plan(several).skipped} == {"none"}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{attack: none}", "needs a reason"),
        ("{attack: none, reason: ''}", "needs a reason"),
        ("{attack: none, reason: [x]}", "needs a reason"),
        ("{reason: everything}", "needs at least one of dataset, model"),
        ("{atack: none, reason: x}", "unknown key 'atack'; did you mean 'attack'?"),
        ("{attack: {a: 1}, reason: x}", "attack must be a name"),
        ("{attack: [], reason: x}", "attack must be a name"),
        ("{attack: toy-atack, reason: x}", "matches no cell; is there a typo in it?"),
        ("none", "an exclude rule must be a mapping"),
    ],
)
def test_excludes_that_are_refused(rule: str, words: str) -> None:
    assert words in refused(BASE + f"exclude: [{rule}]")


def test_an_exclude_for_seeds_that_the_command_line_left_out_is_no_mistake() -> None:
    text = BASE + "seeds: 0-3\nexclude: {seed: 3, reason: lost}"
    assert len(plan(text).skipped) == 4
    assert len(plan(text, seeds=[0]).cells) == 4


def test_a_matrix_names_plugin_files_beside_it(tmp_path: Path, plugin_file: Callable[..., Path]) -> None:
    plugin_file('@defense("beside", version=1)\nclass Beside(Defense):\n    pass\n', "plugins/beside.py")
    file = tmp_path / "my matrix.yaml"
    file.write_text("plugins: plugins/beside.py\n" + BASE.replace("toy-defense", "beside"))
    found = matrix.load(str(file))
    assert {c.defense.name for c in found.cells} == {"none", "beside"}
    assert found.name == "my-matrix"
    file.write_text("plugins: [plugins/missing.py]\n" + BASE)
    with pytest.raises(UsageError, match=r"plugin .*missing.py.*: no such file"):
        matrix.load(str(file))
    file.write_text("plugins: [{a: 1}]\n" + BASE)
    with pytest.raises(UsageError, match="plugins must be file paths"):
        matrix.load(str(file))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("def __post_init__(self): 1 / 0", "raised ZeroDivisionError"),
        ("def check(self, info, attack): 1 / 0", "raised ZeroDivisionError"),
        ("def check(self, info): pass", "raised TypeError"),
        ("def trainings(self, attack): 1 / 0", "raised ZeroDivisionError"),
        ("def trainings(self, attack): return [[]]", "raised TypeError: trainings() must return Training objects"),
        ("def trainings(self, attack): return None", "raised TypeError"),
    ],
)
def test_a_plugin_that_raises_while_planning_is_blamed(
    plugin_file: Callable[..., Path], method: str, words: str
) -> None:
    file = plugin_file(f'@defense("bad", version=1)\nclass Bad(Defense):\n    {method}\n')
    registry.add_plugin_file(str(file))
    with pytest.raises(UsageError) as caught:
        shared_trainings(plan(BASE.replace("toy-defense", "bad")).cells)
    assert "defense 'bad' in " in str(caught.value)
    assert words in str(caught.value)
