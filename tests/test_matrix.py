"""From a matrix to cells: expansion, duplicates, what is impossible or excluded, --set, --seeds, --filter, --smoke."""

from __future__ import annotations

import json
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd import matrix, matrixfile, registry
from benchbd.components import Training
from benchbd.errors import UsageError

pytestmark = pytest.mark.usefixtures("toys")

BASE = """
dataset: toy-images
model: toy-net
attacks: [none, toy-attack]
defenses: [none, toy-defense]
"""


def plan(text: str = BASE, **options: Any) -> matrix.Plan:
    return matrix.resolve(matrix.parse(textwrap.dedent(text), "m"), "m", **options)


def refused(text: str, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        plan(text, **options)
    return str(caught.value)


def labels(found: matrix.Plan) -> list[str]:
    return [cell.label for cell in found.cells]


# -- expansion


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


# -- what cannot be


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
        ("{reason: everything}", "names nothing"),
        ("{atack: none, reason: x}", "unknown key 'atack'; did you mean 'attack'?"),
        ("{attack: {a: 1}, reason: x}", "attack must be a name"),
        ("{attack: [], reason: x}", "attack must be a name"),
        ("{attack: toy-atack, reason: x}", "fits no cell; is there a typo in it?"),
        ("none", "an exclude rule is a mapping"),
    ],
)
def test_excludes_that_are_refused(rule: str, words: str) -> None:
    assert words in refused(BASE + f"exclude: [{rule}]")


def test_an_exclude_for_seeds_that_the_command_line_left_out_is_no_mistake() -> None:
    text = BASE + "seeds: 0-3\nexclude: {seed: 3, reason: lost}"
    assert len(plan(text).skipped) == 4
    assert len(plan(text, seeds=[0]).cells) == 4


# -- --set, --seeds, --smoke


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("epochs=2", lambda c: c.recipe["epochs"] == 2),
        ("recipe.lr=1e-2", lambda c: c.recipe["lr"] == 0.01),
        ("augment=[]", lambda c: c.recipe["augment"] == []),
        ("dataset.train=50", lambda c: c.dataset.params["train"] == 50),
        ("dataset=toy-images(train=70)", lambda c: c.dataset.params["train"] == 70),
        ("model=toy-net(width=2)", lambda c: c.model.params["width"] == 2),
        ("toy-net.width=3", lambda c: c.model.params["width"] == 3),
        ("toy-defense.mode=soft", lambda c: c.defense.name == "none" or c.defense.params["mode"] == "soft"),
        ("defense.beta=0.5", lambda c: c.defense.name == "none" or c.defense.params["beta"] == 0.5),
        ("attack.rate=0.2", lambda c: c.attack.params["rate"] == (0.1 if c.attack.name == "none" else 0.2)),
    ],
)
def test_set_changes_what_it_names(text: str, check: Callable[[Any], bool]) -> None:
    cells = plan(sets=[text]).cells
    assert len(cells) == 4
    assert all(check(cell) for cell in cells)


def test_set_wins_over_the_matrix_a_name_over_its_kind_and_a_list_expands() -> None:
    text = BASE.replace("toy-defense", "toy-defense(beta=7)") + "recipe: {epochs: 9}"
    found = plan(text, sets=["toy-defense.beta=[1, 2]", "defense.beta=3", "epochs=1", "epochs=4"])
    assert {c.defense.params.get("beta") for c in found.cells} == {None, 1.0, 2.0}
    assert {c.recipe["epochs"] for c in found.cells} == {4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch=2", "recipe has no parameter 'epoch'; did you mean 'epochs'?"),
        ("epochs=two", "epochs must be int, not 'two'"),
        ("epochs=", "epochs must be int, not None"),
        ("epochs", "write --set key=value"),
        ("=2", "write --set key=value"),
        (".epochs=2", "write --set key=value"),
        ("toy-defense.=2", "write --set key=value"),
        ("toy-defense.alhpa=2", "toy-defense has no parameter 'alhpa'"),
        ("toy-defense.betta=2", "did you mean 'beta'?"),
        ("defense.betta=2", "defense has no parameter 'betta'; did you mean 'beta'?"),
        ("toy-defence.beta=2", "nothing in this matrix is called 'toy-defence'; did you mean 'toy-defense'?"),
        ("lfd.beta=2", "nothing in this matrix is called 'lfd'"),
        ("dataset.trian=5", "dataset has no parameter 'trian'; did you mean 'train'?"),
        ("dataset=", "name a dataset"),
        ("dataset=nosuch", "no dataset is called 'nosuch'"),
        ("model=3", "name a model"),
        ("toy-defense.beta=[", "cannot read the value"),
        ("toy-defense.beta=!!python/name:os.system x", "cannot read the value"),
        ("toy-defense.beta=[]", "beta is an empty list"),
        ("none.rate=" + "9" * 5000, "cannot read the value"),
    ],
)
def test_a_set_that_is_a_typo_is_an_error(text: str, words: str) -> None:
    message = refused(BASE, sets=[text])
    assert words in message
    assert len(message) < 400


@pytest.mark.parametrize(("text", "seeds"), [("0-2", [0, 1, 2]), ("0,3", [0, 3]), (" 5 ", [5]), ("1,0-1", [1, 0])])
def test_the_seeds_flag(text: str, seeds: list[int]) -> None:
    assert matrix.parse_seeds(text) == seeds
    assert list(dict.fromkeys(c.seed for c in plan(BASE + "seeds: 9", seeds=seeds).cells)) == seeds


@pytest.mark.parametrize(
    "text", ["", ",", "x", "2-0", "-1", "0-", "1.5", "0-99999999", "9" * 20, "0-9999,10000-19999", "²"]
)
def test_a_seeds_flag_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="seed"):
        matrix.parse_seeds(text)


def test_smoke_shrinks_every_cell_unless_told_otherwise() -> None:
    cells = plan(BASE + "recipe: {epochs: 50}", smoke=True).cells
    assert {c.recipe["epochs"] for c in cells} == {1}
    assert {c.defense.params.get("epochs") for c in cells} == {None, 1}
    assert {c.recipe["epochs"] for c in plan(smoke=True, sets=["epochs=2"]).cells} == {2}


# -- --filter, --exclude


@pytest.mark.parametrize(
    ("filters", "excludes", "count"),
    [
        ([], [], 16),
        (["defense=toy-*"], [], 12),
        (["defense=toy-defense"], [], 12),
        (["defense=toy-defense(beta=0.25)"], [], 4),
        (["defense=toy-defense(beta=0.25,mode=soft)"], [], 4),
        (["defense=toy-defense(*"], [], 8),
        (["defense=toy*,attack!=none"], [], 6),
        (["attack!=none", "seed=0"], [], 4),
        (["label=*/none/none/*"], [], 2),
        ([], ["defense=none"], 12),
        ([], ["attack=none,seed=0", "attack=none,seed=1"], 8),
        (["attack=none"], ["seed=1"], 4),
    ],
)
def test_filters(filters: list[str], excludes: list[str], count: int) -> None:
    text = BASE.replace("toy-defense]", "toy-defense, toy-defense(beta=0.25), 'toy-defense(beta=0.25, mode=\"soft\")']")
    found = plan(text + "seeds: 0-1")
    assert len(found.cells) == 16
    chosen = matrix.narrow(found, filters, excludes)
    assert len(chosen.cells) == count
    assert matrix.select(found.cells, filters, excludes) == chosen.cells
    one = matrix.narrow(found, [f"id={found.cells[3].id}"])
    assert one.cells == (found.cells[3],)


@pytest.mark.parametrize(
    ("filters", "excludes", "words"),
    [
        (["defense"], [], "--filter 'defense': write key=glob"),
        (["defense="], [], "write key=glob"),
        (["=x"], [], "write key=glob"),
        (["attack=none,"], [], "write key=glob"),
        (["defence=x"], [], "unknown key 'defence'; did you mean 'defense'?"),
        (["defense=toy-defence"], [], "no cell is left, none has defense 'toy-defence'; did you mean 'toy-defense'?"),
        (["attack!=nnone"], [], "no cell here has attack 'nnone'; did you mean 'none'?"),
        ([], ["defense=toy-defence"], "--exclude 'defense=toy-defence': no cell here has"),
        (["seed=7"], [], "known: 0"),
        (["attack=none,attack=toy-attack"], [], "no cell is left after"),
        ([], ["dataset=toy*"], "no cell is left after"),
        (["label=" + "*a" * 3000], [], "none has label"),
        (["defense=[z-a]"], [], "none has defense"),
    ],
)
def test_filters_with_a_typo(filters: list[str], excludes: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        matrix.narrow(plan(), filters, excludes)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_filters_narrow_what_is_skipped_too() -> None:
    found = plan(BASE.replace("toy-attack]", "toy-clean(rate=0.2)]"))
    assert (len(found.cells), len(found.skipped)) == (2, 2)
    assert matrix.narrow(found, ["attack=none"]).skipped == ()
    with pytest.raises(UsageError, match=r"no cell is left.*what fits is skipped, 20 images to poison"):
        matrix.narrow(found, ["attack=toy-clean"])


# -- plugins of a matrix


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
    with pytest.raises(UsageError, match="plugins are files"):
        matrix.load(str(file))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("def __post_init__(self): 1 / 0", "raised ZeroDivisionError"),
        ("def check(self, info, attack): 1 / 0", "raised ZeroDivisionError"),
        ("def check(self, info): pass", "raised TypeError"),
        ("def trainings(self, attack): 1 / 0", "raised ZeroDivisionError"),
        ("def trainings(self, attack): return [[]]", "raised TypeError: unhashable type"),
        ("def trainings(self, attack): return None", "raised TypeError"),
    ],
)
def test_a_plugin_that_raises_while_planning_is_blamed(
    plugin_file: Callable[..., Path], method: str, words: str
) -> None:
    file = plugin_file(f'@defense("bad", version=1)\nclass Bad(Defense):\n    {method}\n')
    registry.add_plugin_file(str(file))
    with pytest.raises(UsageError) as caught:
        matrix.trainings(plan(BASE.replace("toy-defense", "bad")).cells)
    assert "defense 'bad' in " in str(caught.value)
    assert words in str(caught.value)


# -- what is shared


def test_trainings_are_shared_within_a_row_and_seed() -> None:
    text = BASE.replace("toy-defense]", "{toy-defense: {beta: [1, 2, 3]}}]") + "seeds: 0-1"
    cells = plan(text).cells
    found = matrix.trainings(cells)
    counts = Counter(training.what for _, training in found)
    assert counts == {"teacher": 4, "full": 4 + 12}  # 2 attacks x 2 seeds rows; undefended, and 3 students a row
    teachers = [sharers for (_, training), sharers in found.items() if training.what == "teacher"]
    assert {len(sharers) for sharers in teachers} == {3}
    assert {len({c.row_key for c in sharers}) for sharers in teachers} == {1}


def test_an_attack_that_trains_shares_the_clean_row_s_undefended_model() -> None:
    text = BASE.replace("toy-attack", "toy-attack(strength=6)") + "seeds: 0-1"
    cells = plan(text).cells
    clean = next(c for c in cells if c.attack.name == "none" and c.defense.name == "none" and c.seed == 0)
    sharers = matrix.trainings(cells)[clean.row_key, Training("full", ("undefended",))]
    assert sharers[0] is clean
    assert [c.attack.name for c in sharers[1:]] == ["toy-attack"] * 4, "the trigger's seed is 0 in every row"


REAL = """
dataset: digits(train=200, test=60)
model: resnet18(width=4)
recipe: {epochs: 5}
attacks: [ATTACKS]
defenses: none
"""


def fulls(attacks: str, **options: Any) -> int:
    """Full trainings beyond the one undefended model of each cell."""
    cells = plan(REAL.replace("ATTACKS", attacks), **options).cells
    found = matrix.trainings(cells)
    assert {training.what for _, training in found} == {"full"}
    return len(found) - len(cells)


@pytest.mark.parametrize(
    ("attacks", "extra"),
    [
        ("tj-sq", 1),
        ("tj-sq, tj-wm, l2, cl(surrogate='standard')", 1),
        ("none, tj-sq", 0),  # the surrogate is the none cell's own model
        ("tj-sq(mode='random'), bn-g, blend", 0),
        ("tj-sq, tj-sq(trigger_seed=1)", 2),
        ("dynamic", 0),  # loops of its own, no training that a record counts
        ("cl", 1),
        ("cl, cl(eps=16), cl(rate=0.5), {cl: {steps: 3, trigger: four-corners}}", 1),
        ("cl, cl(robust_eps=4), cl(robust_steps=3)", 3),
        ("cl, cl(robust_epochs=5), cl(robust_epochs=4)", 2),  # five are the recipe's
        ("cl, cl(trigger_seed=1)", 2),
        ("none, cl", 1),
        ("cl, tj-sq", 2),
    ],
)
def test_what_attacks_train_first_is_counted_for_what_it_is(attacks: str, extra: int) -> None:
    assert fulls(attacks) == extra
    assert fulls(attacks.replace("none, ", ""), seeds=[1, 2]) == fulls(attacks.replace("none, ", ""), seeds=[5])


def test_a_longer_recipe_shares_an_adversarial_training_of_given_length() -> None:
    block = (
        "  - {dataset: digits, model: resnet18(width=4), attacks: cl(robust_epochs=3), defenses: none, recipe: {X}}\n"
    )
    text = "blocks:\n" + "".join(block.replace("X", f"epochs: {n}, lr: {lr}") for n, lr in ((4, 1), (5, 1), (5, 2)))
    assert len(matrix.trainings(plan(text).cells)) == 3 + 2


# -- defenses that refer to others of their block


def imitated(defenses: str, **options: Any) -> list[str]:
    cells = plan(REAL.replace("ATTACKS", "bn-g").replace("defenses: none", f"defenses: [{defenses}]"), **options).cells
    return [c.defense.params["of"] for c in cells if c.defense.name == "random-filter"]


def test_a_bare_name_means_the_variant_of_its_block() -> None:
    assert imitated("lfd(teacher_epochs=40), random-filter") == ["lfd(teacher_epochs=40)"]
    assert imitated("random-filter, lfd(teacher_epochs=40)") == ["lfd(teacher_epochs=40)"]
    assert imitated("lfd, random-filter") == imitated("random-filter") == imitated("ac, random-filter") == ["lfd"]
    assert imitated('abl(lr=0.01), \'random-filter(of=["lfd", "abl"])\'') == ["lfd", "abl(lr=0.01)"]
    several = "{lfd: {teacher_epochs: 3, alpha: 0.2, teacher: 'resnet-s(stem=4)'}}, random-filter"
    assert imitated(several) == ["lfd(alpha=0.2, teacher='resnet-s(stem=4)', teacher_epochs=3)"]
    assert imitated("lfd, random-filter", sets=["lfd.alpha=0.2"]) == ["lfd(alpha=0.2)"]
    assert imitated("lfd, random-filter", smoke=True) == ["lfd(teacher_epochs=1, teacher_tries=1)"]


def test_a_spec_with_parameters_means_itself() -> None:
    for of in ("lfd(alpha=0.3)", "lfd()"):
        assert imitated(f"lfd(alpha=0.2), 'random-filter(of=\"{of}\")'") == [of]
        assert imitated(f"{{lfd: {{beta: [0, 1]}}}}, 'random-filter(of=\"{of}\")'") == [of]


def test_a_bare_name_that_may_mean_several_is_refused_with_their_specs() -> None:
    text = REAL.replace("ATTACKS", "bn-g").replace("none", "[{lfd: {beta: [0, 1.0e-3]}}, random-filter]")
    assert refused(text) == (
        "matrix m: defense 'random-filter': of: lfd may mean lfd(beta=0.0) or lfd; "
        "name one with its parameters (lfd() for the defaults)"
    )
    assert "matrix m, block 1: defense 'random-filter'" in refused(
        "blocks:\n  - " + text.strip().replace("\n", "\n    ")
    )


def test_a_resolved_name_and_the_same_spec_written_out_are_one_cell() -> None:
    def ids(of: str) -> list[str]:
        head = REAL.replace("ATTACKS", "bn-g, blend").replace("defenses: none", "")
        return [c.id for c in plan(f"{head}\ndefenses: [lfd(teacher_epochs=40), {of}]").cells]

    written = "{random-filter: {of: 'lfd(teacher_epochs=40)'}}"
    assert ids("random-filter") == ids(written) == ids(f"random-filter, {written}")
    assert len(ids("random-filter")) == 4


def test_each_block_has_variants_of_its_own() -> None:
    block = (
        "  - {dataset: digits, model: resnet18(width=4), attacks: X, defenses: [lfd(teacher_epochs=N), random-filter]}"
    )
    text = "\n".join(
        ["blocks:", block.replace("X", "bn-g").replace("N", "3"), block.replace("X", "blend").replace("N", "4")]
    )
    found = {c.attack.name: c.defense.params["of"] for c in plan(text).cells if c.defense.name == "random-filter"}
    assert found == {"bn-g": "lfd(teacher_epochs=3)", "blend": "lfd(teacher_epochs=4)"}


def test_a_plugin_that_raises_when_told_of_its_block_is_blamed(plugin_file: Callable[..., Path]) -> None:
    text = '@defense("bad", version=1)\nclass Bad(Defense):\n    def among(self, defenses): 1 / 0\n'
    registry.add_plugin_file(str(plugin_file(text)))
    message = refused(BASE.replace("toy-defense", "bad"))
    assert "defense 'bad' in " in message
    assert "raised ZeroDivisionError" in message


# -- speed


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
        shared = matrix.trainings(found.cells)
        sharing.append(time.process_time() - began)
        assert len(shared) == 5 * 55 * (1 + 1 + 18)
    assert min(planning) < 1.0
    assert min(sharing) < 1.0


def test_plugins_are_asked_once_per_distinct_component_and_not_per_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(BASE + "seeds: 0-99")
    cls = registry.load("defenses", "toy-defense")
    calls: list[Any] = []
    original = cls.trainings
    monkeypatch.setattr(cls, "trainings", lambda self, attack: calls.append(self) or original(self, attack))
    matrix.trainings(found.cells)
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


# -- shipped matrices


@pytest.mark.parametrize("name", matrix.shipped())
def test_every_shipped_matrix_resolves_and_is_described(name: str) -> None:
    found = matrix.load(name)
    assert found.cells
    assert found.name == name
    assert len(found.description) > 20
    assert matrixfile.parse_yaml(matrix.read(name)[0])["description"].startswith(found.description[:20])
    assert len(matrix.trainings(found.cells)) >= 1
    assert matrix.load(name, smoke=True).cells


@pytest.mark.parametrize("name", matrix.shipped())
def test_what_random_filter_imitates_is_a_column_of_its_row(name: str) -> None:
    cells = matrix.load(name).cells
    rows: dict[str, list[Any]] = {}
    for cell in cells:
        rows.setdefault(cell.row_key, []).append(cell.made().defense)
    for cell in cells:
        if cell.defense.name == "random-filter":
            assert registry.make("defenses", cell.defense.params["of"]) in rows[cell.row_key], cell.label


def test_quickstart_is_shipped() -> None:
    assert "quickstart" in matrix.shipped()
    assert {c.attack.name for c in matrix.load("quickstart").cells} == {"none", "bn-g", "blend"}


def test_every_committed_record_is_a_cell_of_the_matrix_that_made_it() -> None:
    """Shows a default changed without raising its plugin's version, and a version raised without measuring anew."""
    file = Path(__file__).parent.parent / "leaderboard" / "results.jsonl"
    made: dict[str, set[str]] = {}
    for record in map(json.loads, file.read_text().splitlines()):
        made.setdefault(record["matrix"], set()).add(record["id"])
    assert made
    for name, ids in made.items():
        assert ids <= {cell.id for cell in matrix.load(name).cells}, f"of {name}"
