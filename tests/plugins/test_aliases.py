"""Other names of plugins: they mean plugins that exist, never hide one, and leave the identities of cells alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchbd.core.kinds import KINDS
from benchbd.errors import UsageError
from benchbd.plan import matrix
from benchbd.plugins import registry
from benchbd.plugins.aliases import ALIASES, meanings, plain

PAIRS = [(kind, alias, names) for kind, aliases in ALIASES.items() for alias, names in aliases.items()]


def resolved(attacks: str, defenses: str = "none", **more: str) -> matrix.Plan:
    data = {"dataset": "digits", "model": "lenet", "attacks": attacks, "defenses": defenses, **more}
    return matrix.resolve(data, "x.yaml")


@pytest.mark.parametrize(("kind", "alias", "names"), PAIRS)
def test_aliases_mean_plugins_that_exist_and_hide_none(kind: str, alias: str, names: tuple[str, ...]) -> None:
    known = {entry.name for entry in registry.entries(kind)}
    assert kind in {f"{each}s" for each in KINDS}
    assert known.issuperset(names)
    assert plain(alias) not in {plain(name) for name in known - {*names}}
    if len(names) == 1:
        assert registry.canonical_name(kind, alias) == names[0]


def test_no_two_plugins_differ_only_in_spelling() -> None:
    for kind in ALIASES:
        names = [entry.name for entry in registry.entries(kind)]
        assert len({plain(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        ("attack", "blended", "blend"),
        ("attack", "label_consistent(steps=3)", "cl(steps=3)"),
        ("attack", "sinusoidal", "sig"),
        ("attack", "input-aware", "dynamic"),
        ("attack", "WaNet", "wanet"),
        ("attack", "BN-G", "bn-g"),
        ("defense", "Fine_Pruning", "fine-pruning"),
        ("defense", "fp", "fine-pruning"),
        ("defense", "activation-clustering", "ac"),
        ("defense", "spectral_signatures", "spectral"),
        ("defense", "anti-backdoor-learning", "abl"),
        ("defense", "nofense", "none"),
        ("defense", "LfD(beta=0)", "lfd(beta=0)"),
        ("model", "ResNet-18(width=8)", "resnet18(width=8)"),
        ("dataset", "CIFAR-10", "cifar10"),
    ],
)
def test_a_cell_has_one_identity_under_all_names(kind: str, written: str, meant: str) -> None:
    def cell(spec: str) -> tuple[str, str]:
        data = {"dataset": "digits", "model": "resnet18", "attacks": "bn-g", "defenses": "ac"}
        data |= {f"{kind}s" if kind in ("attack", "defense") else kind: spec}
        one = matrix.resolve(data, "x.yaml").cells[0]
        return one.id, one.label

    assert cell(written) == cell(meant)


def test_an_alias_of_several_plugins_is_answered_with_them() -> None:
    for name, both in (("badnets", "bn-g or bn-w"), ("BadNet", "bn-g or bn-w"), ("trojannn", "tj-sq or tj-wm")):
        with pytest.raises(UsageError, match=f"attack '{name}' may mean {both}; write one of them"):
            resolved(name)


def test_set_and_filter_take_aliases() -> None:
    data = {"dataset": "digits", "model": "lenet", "attacks": ["bn-g", "blend"], "defenses": ["none", "spectral"]}
    plain_plan = matrix.resolve({**data, "attacks": ["bn-g", {"blend": {"alpha": 0.3}}]}, "x.yaml")
    found = matrix.resolve(data, "x.yaml", sets=["blended.alpha=0.3"])
    assert [cell.id for cell in found.cells] == [cell.id for cell in plain_plan.cells]
    kept = matrix.narrow(found, ["defense=spectral-signatures"], ["attack=blended"])
    assert [cell.label.split("/")[2:4] for cell in kept.cells] == [["bn-g", "spectral"]]
    # badnets is bn-g or bn-w: a setting applies to those that are there.
    both = matrix.resolve({**data, "attacks": ["bn-g", "bn-w"]}, "x.yaml", sets=["badnets.rate=0.05"])
    assert {cell.attack.params["rate"] for cell in both.cells} == {0.05}


def test_a_parameter_takes_no_alias_since_its_text_is_part_of_the_identity() -> None:
    with pytest.raises(UsageError, match="no defense is called 'ss'; did you mean 'spectral'"):
        resolved("bn-g", "random-filter(of='ss')")


def test_a_users_plugin_wins_over_an_alias(plugin_file: Callable[..., Path]) -> None:
    path = plugin_file(
        """
        @defense("ss", version=1)
        class Mine(Defense):
            def train(self, lab):
                return lab.train(lab.poisoned)
        """
    )
    registry.add_plugin_file(str(path))
    assert resolved("bn-g", "ss").cells[0].defense.name == "ss"
    assert meanings("defenses", "ss", ["ss", "spectral"]) == ["ss"]
