"""Which trainings cells share, and which defense of its block another one means."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_matrices import BASE, plan, refused

from benchbd.plan.trainings import shared_trainings
from benchbd.plugins import registry
from benchbd.plugins.contract import Training

pytestmark = pytest.mark.usefixtures("toys")


def test_trainings_are_shared_within_a_row_and_seed() -> None:
    text = BASE.replace("toy-defense]", "{toy-defense: {beta: [1, 2, 3]}}]") + "seeds: 0-1"
    cells = plan(text).cells
    found = shared_trainings(cells)
    counts = Counter(training.kind for _, training in found)
    assert counts == {"teacher": 4, "full": 4 + 12}  # 2 attacks x 2 seeds rows; undefended, and 3 students a row
    teachers = [sharers for (_, training), sharers in found.items() if training.kind == "teacher"]
    assert {len(sharers) for sharers in teachers} == {3}
    assert {len({c.row_key for c in sharers}) for sharers in teachers} == {1}


def test_an_attack_that_trains_shares_no_model_with_a_cell_but_one_surrogate_with_all_of_its_cells() -> None:
    text = BASE.replace("toy-attack", "toy-attack(strength=6)") + "seeds: 0-1"
    cells = plan(text).cells
    clean = [c for c in cells if c.attack.name == "none" and c.defense.name == "none"]
    found = shared_trainings(cells)
    for one in clean:
        assert found[one.row_key, Training("full", ("undefended",))] == [one]
    sharers = [s for (row, _), s in found.items() if row not in {c.row_key for c in cells}]
    assert [[c.attack.name for c in s] for s in sharers] == [["toy-attack"] * 4], "the trigger's seed is 0 in every row"


def test_the_surrogate_of_an_attack_whose_trigger_follows_the_seed_is_one_for_each_seed() -> None:
    cells = plan(REAL.replace("ATTACKS", "tj-sq, tj-wm(trigger_seed=0), l2(trigger_seed=None)"), seeds=[0, 1, 2]).cells
    rows = {c.row_key for c in cells}
    surrogates = {row: s for (row, _), s in shared_trainings(cells).items() if row not in rows}
    assert sorted(len({c.seed for c in s}) for s in surrogates.values()) == [1, 1, 3]
    assert sorted(len(s) for s in surrogates.values()) == [2, 2, 5]


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
    found = shared_trainings(cells)
    assert {training.kind for _, training in found} == {"full"}
    return len(found) - len(cells)


@pytest.mark.parametrize(
    ("attacks", "extra"),
    [
        ("tj-sq", 1),
        ("tj-sq, tj-wm, l2, cl(surrogate='standard')", 1),
        ("none, tj-sq", 1),  # the surrogate is not the none cell's model: its seed is its own
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
    if "trigger_seed" not in attacks:
        assert fulls(attacks, seeds=[1, 2]) == 2 * fulls(attacks, seeds=[5])


def test_a_longer_recipe_shares_an_adversarial_training_of_given_length() -> None:
    block = (
        "  - {dataset: digits, model: resnet18(width=4), attacks: cl(robust_epochs=3), defenses: none, recipe: {X}}\n"
    )
    text = "blocks:\n" + "".join(block.replace("X", f"epochs: {n}, lr: {lr}") for n, lr in ((4, 1), (5, 1), (5, 2)))
    assert len(shared_trainings(plan(text).cells)) == 3 + 2


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
