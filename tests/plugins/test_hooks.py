"""Whatever the harness asks of a plugin stands on its base class, and the harness knows no plugin by name."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchbd import testing
from benchbd.core.kinds import KINDS
from benchbd.errors import UsageError
from benchbd.plan.trainings import shared_trainings
from benchbd.plugins import registry
from benchbd.plugins.component import Component
from benchbd.plugins.contract import NO_ATTACK, NO_DEFENSE, UNDEFENDED, Attack, Dataset, Defense, Model

ROOT = Path(__file__).parents[2]
BASES = {"attack": Attack, "defense": Defense, "model": Model, "data set": Dataset}
NO_HOOKS = {"name", "version", "kind", "params"}
"""Public names of a base class that the decorator or the harness sets, or that no plugin overrides."""
NETWORK = {"features", "head", "last_convolution", "library_names", "unused_names", "initialise_from"}
"""What the harness asks of the network that a model builds."""


def declared(base: type[Component]) -> dict[str, list[str]]:
    """Hooks by section, as the docstring of a base class lists them."""
    sections: dict[str, list[str]] = {}
    for line in (base.__doc__ or "").splitlines():
        if heading := re.fullmatch(r" {4}((?:Required|Optional)[^:]*):", line):
            found = sections.setdefault(heading[1], [])
        elif hook := re.match(r" {8}(\w+)(?:\([\w, ]*\))?: ", line):
            found.append(hook[1])
    return sections


def asked(base: type[Component]) -> set[str]:
    """Public attributes and methods of a base class, its parameters left out."""
    fields = {field.name for field in dataclasses.fields(base)}
    return {name for cls in (base, Component) for name in vars(cls) if not name.startswith("_")} - fields - NO_HOOKS


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_base_class_lists_all_its_hooks_and_no_others(base):
    sections = declared(base)
    own = [name for title, names in sections.items() if "network" not in title for name in names]
    assert sorted(own) == sorted(asked(base))
    required = {name for name in asked(base) if "raise NotImplementedError" in _source(base, name)}
    assert set(sections["Required"]) == required
    if base is Model:
        assert {name for title, names in sections.items() if "network" in title for name in names} == NETWORK


def _source(base: type, name: str) -> str:
    import inspect

    method = vars(base).get(name)
    return inspect.getsource(method) if inspect.isfunction(method) else ""


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_every_hook_is_documented_where_it_is_defined(base):
    tree = ast.parse("\n".join(Path(file).read_text() for file in _files(base)))
    said = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in (base.__name__, "Component"):
            for here, below in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(here, ast.FunctionDef):
                    said[here.name] = bool(ast.get_docstring(here))
                elif isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name):
                    said[here.target.id] = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
    assert [name for name in sorted(asked(base)) if not said[name]] == []


def _files(base: type) -> set[str]:
    import inspect

    return {inspect.getfile(base), inspect.getfile(Component)}


@pytest.mark.parametrize("kind", BASES)
def test_the_document_lists_the_hooks_of_the_base_class(kind):
    text = (ROOT / "docs" / "plugins.md").read_text()
    _, _, section = text.partition("## All hooks")
    rows = re.findall(rf"^\| {kind}(?:'s network)? \| (required|optional) \| `(\w+)", section, re.MULTILINE)
    of_class = [
        ("required" if title.startswith("Required") else "optional", name)
        for title, names in declared(BASES[kind]).items()
        for name in names
    ]
    assert rows == of_class


# Names of plugins, parameters and trainings --------------------------------------------------------------------------

PAPER = "compares records with the paper's tables, figures and claims, which name methods"
FORMAT = "knows formats of other programs, some of which are named like their methods"
EXAMPLE = "the example that a verb starts from where nothing is given"
MAY_NAME = {
    "benchbd/cli/import.py": FORMAT,
    "benchbd/cli/new.py": EXAMPLE,
    "benchbd/cli/one_off.py": EXAMPLE,
    "benchbd/cli/preview.py": EXAMPLE,
    "benchbd/core/poisoned_set.py": FORMAT,
    "benchbd/core/poisoned_set_file.py": FORMAT,
    "benchbd/deprecated.py": "old names",
    "benchbd/plugins/aliases.py": "what papers and other programs call the built-in plugins",
    "benchbd/exchange/backdoorbench.py": FORMAT,
    "benchbd/exchange/formats.py": FORMAT,
    "benchbd/exchange/images.py": FORMAT,
    "benchbd/exchange/npz.py": FORMAT,
    "benchbd/report/earlier.py": "what records of earlier versions imply, which lack the parameter",
    "benchbd/report/figures/panels.py": PAPER,
    "benchbd/report/paper/claims_ablations.py": PAPER,
    "benchbd/report/paper/claims_curves.py": PAPER,
    "benchbd/report/paper/claims_table2.py": PAPER,
    "benchbd/exchange/backdoorbench_model.py": "the data sets and networks that files of BackdoorBench name",
    "benchbd/exchange/fitting_model.py": "the networks that public checkpoints mostly are",
    "benchbd/report/paper/sweeps.py": PAPER,
    "benchbd/report/probes.py": PAPER,
    "benchbd/report/published.py": PAPER,
    "benchbd/run/machine_check.py": "the row of table2 whose time on this machine it estimates",
    "benchbd/run/machine_probe.py": "the models whose training step it times",
}
"""Files that know plugins or parameters by name, and why."""
ALSO_WORDS = {"none", "features_of", "augment", "command", "parquet", "torchvision", "timm"}
"""Shipped names with another meaning in the harness: a choice of a flag, a function of the engine, a recipe's entry,
the line that repeats a cell, a format of tables, packages."""


def _strings(file: Path) -> Iterator[tuple[int, str]]:
    """String constants of a file that are no docstrings."""
    tree = ast.parse(file.read_bytes())
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value


def _shipped() -> tuple[set[str], set[str], set[str]]:
    """Names of the shipped plugins, of their own parameters, and of what they train."""
    names, parameters, trainings = set(), set(), set()
    for entry in registry.entries():
        if not entry.module.startswith(tuple(f"benchbd.{kind}s." for kind in KINDS)):
            continue
        cls = registry.load(entry.kind, entry.name)
        names.add(entry.name)
        parameters |= {field.name for field in dataclasses.fields(cls)}
        declared = cls().trainings() if issubclass(cls, Attack) else ()
        trainings |= {word for t in declared if t != UNDEFENDED for word in t.shared if isinstance(word, str)}
    on_base = {field.name for base in BASES.values() for field in dataclasses.fields(base)}
    # A parameter of one word (``epochs``, ``teacher``) is a word of the field, too.
    return names, {p for p in parameters - on_base if "_" in p}, trainings


def _known(text: str, names: set[str], parameters: set[str], trainings: set[str]) -> bool:
    if text in ALSO_WORDS:
        return False
    if text in names | parameters | trainings:
        return True
    affix = len(text) > 2 and (text[0] in "-_") != (text[-1] in "-_")
    return affix and any(word.startswith(text) or word.endswith(text) for word in names | parameters | trainings)


def test_the_harness_knows_no_plugin_parameter_or_training_by_name():
    shipped = _shipped()
    found = {}
    for file in sorted((ROOT / "benchbd").rglob("*.py")):
        if "scaffold" in file.parts or file.name == "tiny.py":  # a user's plugins, and plugins like theirs
            continue
        known = [f"{line}: {text}" for line, text in _strings(file) if _known(text, *shipped)]
        if known:
            found[str(file.relative_to(ROOT))] = known
    assert {file: lines for file, lines in found.items() if file not in MAY_NAME} == {}
    assert set(MAY_NAME) <= set(found), "an exception that is not needed"


@pytest.mark.parametrize(
    ("text", "known"),
    [
        *((text, True) for text in ("lfd", "teacher_tries", "_tries", "clean_frac", "dynamic-mask")),
        *((text, False) for text in ("none", "epochs", "full", "_", "trigger")),
    ],
)
def test_the_search_finds_names_and_their_pieces(text, known):
    assert _known(text, *_shipped()) is known


def test_the_two_plugins_that_the_harness_needs_are_declared():
    """The clean row and the undefended column: their names are constants of the contract, made nowhere by a literal."""
    literal = re.compile(r"""\b(?:make|load|find)\(\s*["'](?:attacks|defenses|models|datasets)["'],\s*["']""")
    for file in sorted((ROOT / "benchbd").rglob("*.py")):
        if "scaffold" not in file.parts:
            assert not literal.search(file.read_text()), file
    assert registry.load("attacks", NO_ATTACK).poisons is False
    assert registry.load("defenses", NO_DEFENSE).needs == ()


@pytest.mark.parametrize("file", sorted((ROOT / "benchbd").rglob("*.py")), ids=lambda file: str(file.name))
def test_no_file_asks_a_plugin_for_an_attribute_by_a_literal_name(file):
    """``getattr(defense, "word", default)`` is a hook that no base class declares."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            whose, name = ast.unparse(node.args[0]), node.args[1]
            plugin = re.search(r"(attack|defense|dataset|plugin|component)$", whose)
            assert not (plugin and isinstance(name, ast.Constant)), ast.unparse(node)


@pytest.mark.parametrize(
    ("returns", "said"),
    [
        ('("surrogate",)', "trainings() must return Training objects, not 'surrogate'"),
        ('(Training("half", ()),)', "kind must be one of full, feature-model, teacher, fine-tune"),
        ('(Training("full", (), (3,)),)', "TypeError"),
        ('(Training("full", ([],)),)', "unhashable"),
    ],
)
def test_wrong_declarations_are_blamed_on_the_plugin_in_one_line(returns, said, plugin_file):
    text = f'@attack("odd", version=1)\nclass Odd(Attack):\n    def trainings(self): return {returns}\n'
    text += (
        f'@defense("odd", version=1)\nclass OddDefense(Defense):\n    def trainings(self, attack): return {returns}\n'
    )
    registry.add_plugin_file(str(plugin_file(text)))
    for specs in ({"attack": "odd"}, {"defense": "odd"}):
        with pytest.raises(UsageError, match="odd") as caught:
            shared_trainings([testing.cell(**specs)])
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
