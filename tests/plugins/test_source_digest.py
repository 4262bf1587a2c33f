"""The digest of a plugin's code: what counts in it, what does not, and what it says of the committed records."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchbd.lab import keys as keying
from benchbd.plugins import registry
from benchbd.plugins.source_digest import CODE, PLAN_HOOKS, code_digest, helper_names, with_helpers
from benchbd.storage.staleness import changed_sources

ROOT = Path(__file__).parents[2]
SHIPPED = sorted({Path(e.file) for e in registry.entries() if e.file and ROOT in Path(e.file).parents})
FOLDERS = ("attacks", "datasets", "defenses", "models")
HELPERS = sorted({f for plugin in SHIPPED for f in plugin.parent.glob("_[a-z]*.py")})

CHECKS = "parameters that mean nothing are refused; these records' are none of those"
LAST = "a method last_convolution, which no recorded cell calls"
DRAWN = "version 2: the trigger follows the cell's seed"
CHANGED = {
    ("dataset", "cifar10", "4c5725a5"): "the message about an unreadable file",
    ("model", "resnet18", "798eea1c"): LAST,
    ("attack", "bn-g", "1815ad02"): f"bn-w's margin, in the same file: {CHECKS}",
    ("attack", "blend", "472b098a"): DRAWN,
    ("attack", "sig", "8675a228"): CHECKS,
    ("defense", "lfd", "1204c467"): "version 2: counts a teacher's steps, and chooses among several teachers",
}
"""Why the code of a component is another than the one that some committed records were made with.

By kind, name and the digest that the records hold. A line goes when its records are measured anew. It is a reading of
the differences and no excuse for them: `benchbd status` and `--rerun stale` go by the digests alone.
"""


def digest_of(plugin: Path, edit: Callable[[str], str] = str, only: str = "") -> str:
    """The digest of a plugin after an edit of its file and its helpers, or of one of these files only."""

    def read(name: str) -> bytes | None:
        file = plugin.with_name(name)
        if not file.is_file():
            return None
        return (edit(file.read_text()) if only in ("", name) else file.read_text()).encode()

    return code_digest(with_helpers(plugin.name, read))


class Prose(ast.NodeTransformer):
    """Every constant that stands alone says something else, and every body has one more."""

    def visit_Expr(self, node: ast.Expr) -> Any:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Expr(ast.Constant("Other words, such as _grid."))
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self.generic_visit(node)
        node.body = [ast.Expr(ast.Constant("More words.")), *node.body]
        return node


class Annotations(ast.NodeTransformer):
    """Every annotation is another. What is no field stays none."""

    def visit_arg(self, node: ast.arg) -> Any:
        node.annotation = ast.Name("Another")
        return node

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return node  # has none

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        self.generic_visit(node)
        node.returns = None if node.returns else ast.Name("Another")
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        said = ast.unparse(node.annotation)
        node.annotation = ast.parse("ClassVar[Another]" if said.startswith("ClassVar") else "Another", mode="eval").body
        return node


def through(edit: ast.NodeTransformer) -> Callable[[str], str]:
    return lambda text: ast.unparse(ast.fix_missing_locations(edit.visit(ast.parse(text))))


def commented(text: str) -> str:
    """A comment before each statement of the module and at the end."""
    lines = text.splitlines()
    for start in sorted({node.lineno - 1 for node in ast.parse(text).body if node.lineno > 1}, reverse=True):
        if not lines[start].startswith(("class", "def")):  # a decorator stands before it
            lines.insert(start, "# See _grid for more.")
    return "\n".join([*lines, "# The end."])


def imported(text: str) -> str:
    """Two imports for the type checker, one of them outside ``if TYPE_CHECKING:``."""
    more = "from pathlib import Path as Typed\nif TYPE_CHECKING:\n    from benchbd.attacks import _grid\n"
    where = "from __future__ import annotations\n"
    assert where in text
    return text.replace(where, f"{where}from typing import TYPE_CHECKING\n{more}")


def moved(text: str) -> str:
    """Modules of the harness at another place, and the module's imports in the opposite order."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        path = (getattr(node, "module", None) or "").split(".")
        sibling = path[1:2] and path[1] in FOLDERS and not path[-1].startswith("_")  # a plugin, whose code counts
        if isinstance(node, ast.ImportFrom) and path[0] == "benchbd" and path[1:] and not sibling:
            node.module = f"benchbd.elsewhere.{(node.module or '').rpartition('.')[2]}"
    future = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom)) and n not in future]
    doc, rest = tree.body[:1], [n for n in tree.body[1:] if n not in imports and n not in future]
    tree.body = [*doc, *future, *reversed(imports), *rest]
    return ast.unparse(tree)


NEUTRAL = {
    "comments": commented,
    "formatting": lambda text: ast.unparse(ast.parse(text)),
    "docstrings": through(Prose()),
    "annotations": through(Annotations()),
    "type-only imports": imported,
    "moved modules": moved,
}


@pytest.mark.parametrize("plugin", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_prose_of_a_shipped_plugin_does_not_count(plugin: Path) -> None:
    now = digest_of(plugin)
    for name, edit in NEUTRAL.items():
        assert edit(plugin.read_text()) != plugin.read_text(), name
        assert digest_of(plugin, edit) == now, name


UNCOUNTED = ("smoke", "younger")
"""Attributes of a class whose values do not count."""


class One(ast.NodeTransformer):
    """Changes the first constant or operator of the code; annotations are left alone."""

    def __init__(self, what: type[ast.AST], change: Callable[[Any], Any]) -> None:
        self.what, self.change, self.done = what, change, False

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value and getattr(node.target, "id", "") not in UNCOUNTED:
            node.value = self.visit(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> Any:
        return node if getattr(node.targets[0], "id", "") in UNCOUNTED else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> Any:
        return node

    def visit_Expr(self, node: ast.Expr) -> Any:
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        if node.name in PLAN_HOOKS:  # does not count
            return node
        node.returns = None
        return self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> Any:
        if isinstance(node, self.what) and not self.done:
            self.done = True
            return self.change(node)
        return super().generic_visit(node)

    visit_Constant = generic_visit


def another_constant(node: ast.Constant) -> ast.Constant:
    return ast.Constant(node.value + "x" if isinstance(node.value, str) else repr(node.value))


CHANGES = {
    "constant": (ast.Constant, another_constant),
    "operator": (
        ast.BinOp,
        lambda n: ast.BinOp(n.left, ast.Sub() if isinstance(n.op, ast.Add) else ast.Add(), n.right),
    ),
    "comparison": (
        ast.Compare,
        lambda n: ast.Compare(
            n.left, [ast.IsNot() if isinstance(n.ops[0], ast.Is) else ast.Is(), *n.ops[1:]], n.comparators
        ),
    ),
    "call": (ast.Call, lambda n: ast.Call(n.func, [*n.args, ast.Constant(None)], n.keywords)),
}


@pytest.mark.parametrize("plugin", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_code_of_a_shipped_plugin_and_of_its_helpers_counts(plugin: Path) -> None:
    read = lambda name: plugin.with_name(name).read_bytes() if plugin.with_name(name).is_file() else None  # noqa: E731
    sources = with_helpers(plugin.name, read)
    beside = [file for file in dict.fromkeys([plugin, *HELPERS, *SHIPPED]) if file.parent == plugin.parent]
    files = [file for file in beside if file.read_bytes() in sources]
    assert len(files) == len(sources)
    now, changed = digest_of(plugin), 0
    for file in files:
        for what, change in CHANGES.values():
            one = One(what, change)
            digest = digest_of(plugin, through(one), only=file.name)
            assert (digest != now) == one.done, (file, what)
            changed += one.done
    assert changed > len(files)


def test_helpers_of_shipped_plugins_are_those_that_they_import() -> None:
    used = {
        e.name: sorted(helper_names(Path(e.file).read_bytes()))
        for e in registry.entries("attacks")
        if e.file and Path(e.file) in SHIPPED
    }
    assert used["bn-g"] == ["_grid", "_pixels"]
    assert used["none"] == []


@pytest.mark.parametrize(
    ("text", "helpers"),
    [
        ("from . import _x", {"_x"}),
        ("from ._x import f", {"_x"}),
        ("from benchbd.attacks._x import f", {"_x"}),
        ("def f():\n    import benchbd.attacks._x", {"_x"}),
        ("importlib.import_module('benchbd.attacks._x')", {"_x"}),
        ("# _x", set()),
        ('"""See _x."""', set()),
        ("print('see _x')", set()),
        ("from __future__ import annotations\nimport __main__", set()),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import _x", set()),
        ("not Python: _x", {"_x"}),
    ],
)
def test_helpers_are_named_by_code(text: str, helpers: set[str]) -> None:
    assert helper_names(text.encode()) == helpers


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 1", "x = '1'"),
        ("x = '1'", "x = b'1'"),
        ("x = 0.0", "x = 0j"),
        ("x = None", "x = ..."),
        ("x = None", "x = 'None'"),
        ("return_ = [None]", "return_ = []"),
        ("f(*a)", "f(**a)"),
        ("a = 1; b = 2", "b = 2; a = 1"),
        ("x = f'{a}'", "x = f'{a!r}'"),
        ("x = f'{a}'", "x = f'{a:d}'"),
        ("x = f'{a}'", "x = '{a}'"),
        ("@d(1)\ndef f(): g()", "@d(2)\ndef f(): g()"),
        ("class A:\n    x: int = 1", "class A:\n    x = 1"),
        ("class A:\n    x: int = 1", "class A:\n    x: ClassVar[int] = 1"),
        ("class A:\n    x: int", "class A:\n    y: int"),
        ("class A:\n    if B:\n        x: int = 1", "class A:\n    if B:\n        x = 1"),
        ("import a\na", "import b as a\na"),
        ("import a.b\na", "import a.c\na"),
        ("from a import b\nb", "from c import b\nb"),
        ("from a import b\nb", "from .a import b\nb"),
        ("from benchbd.a import b\nb", "from benchbd.a import c as b\nb"),
        ("from benchbd._a import b\nb", "from benchbd._c import b\nb"),
        ("import benchbd.a as x\nx", "import benchbd.b as x\nx"),
        ("from a import *", "from b import *"),
        ("from a import b\n__all__ = ['b']", "from c import b\n__all__ = ['b']"),
        ("if a: b()", "while a: b()"),
        ("if a: b()\nelse: c()", "if a: b()\nc()"),
    ],
)
def test_what_counts(one: str, other: str) -> None:
    assert code_digest([one.encode()]) != code_digest([other.encode()])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 'a' 'b'", 'x = u"ab"'),
        ("x = f'a{b}' 'c'", "x = f'a{b}c'"),
        ("x = f'{a:}'", "x = f'{a}'"),
        ("x = f'a'", "x = 'a'"),
        ("def f():\n    'Says nothing.'", "def f(): pass"),
        ("def f():\n    x: int = 1", "def f():\n    x = 1"),
        ("def f():\n    x: int\n    g()", "def f():\n    g()"),
        ("class A:\n    x: int = 1", "class A:\n    x: float = 1\n    'Its side.'"),
        ("class A:\n    x: int = 1", "class A:\n    younger = ('x',)\n    x: int = 1"),
        ("class A:\n    x: ClassVar[int] = 1", "class A:\n    x: 'typing.ClassVar[str]' = 1"),
        ("from a import b, c\nb, c", "from a import c\nfrom a import b\nb, c"),
        ("from benchbd.a import b\nb", "from benchbd.plugins.c import b\nb"),
        ("if typing.TYPE_CHECKING:\n    import a\nelse:\n    b()", "b()"),
        ("x = 1\r\n", "\ufeffx = (\n    1  # one\n)\n"),
    ],
)
def test_what_does_not_count(one: str, other: str) -> None:
    assert code_digest([one.encode()]) == code_digest([other.encode()])


def test_naming_files_does_not_count_unless_the_plugin_itself_asks() -> None:
    """``input_files`` cannot alter a result: the harness calls it, to notice that files changed."""

    def digest(*sources: str) -> str:
        return code_digest([source.encode() for source in sources])

    bare = "class A:\n    def load(self): return read(self.root)"
    named = f"import os\n{bare}\n    def input_files(self, root): return super().input_files(root) + os.listdir(root)"
    assert digest(named) == digest(bare)
    for use in ("self.input_files(root)", "getattr(self, 'input_files')(root)"):
        using = named.replace("read(self.root)", use)
        assert digest(using) != digest(using.replace("listdir", "scandir")), use
    for hook in ("training_work", "packed_models", "timed_loop"):
        assert digest(f"{bare}\n    def {hook}(self): return 1") == digest(bare), hook
    helper = "def read(plugin): return plugin.input_files(None)"
    assert digest(named, helper) != digest(bare, helper)
    assert digest("def input_files(): return 1") != digest("def input_files(): return 2"), "no method"


def test_every_python_gives_the_same_digest() -> None:
    """Measured with 3.10 to 3.13. Another digest here makes every record and every stored stage stale."""
    source = (ROOT / "tests" / "plugins" / "source_sample.txt").read_bytes()
    assert code_digest([source]) == "86c51a9fdf4e934ec7273d9c93fb3ca0b098490ec97214e81632382323315c81"
    assert code_digest([source + b"\n# More.\n"]) == code_digest([source])


def test_of_what_does_not_parse_the_bytes_count() -> None:
    digests = {code_digest([text]) for text in (b"x = (", b"x = ( ", b"\0", b"\xff", b"((((" * 9999, b"x = 1", b"")}
    assert len(digests) == 7


def test_files_are_told_apart() -> None:
    assert code_digest([b"x = 1", b"y = 2"]) != code_digest([b"x = 1\ny = 2"])
    assert code_digest([b"x = 1", b"y = 2"]) != code_digest([b"y = 2", b"x = 1"])


def test_prose_in_a_class_does_not_change_store_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loss:
        """Some words."""

        def __call__(self, losses: Any) -> Any:
            return losses.mean()  # over the batch

    now, text = keying.code_of(Loss), inspect.getsource(Loss)
    assert text.startswith("    class")
    edited = text
    monkeypatch.setattr(inspect, "getsource", lambda thing: edited)
    for was, becomes in (("Some words", "Others"), ("# over the batch", ""), ("losses: Any", "losses: int")):
        assert was in edited
        edited = edited.replace(was, becomes)
        assert keying.code_of(Loss) == now
    edited = text.replace("mean", "sum")
    assert keying.code_of(Loss) != now


def test_no_committed_record_is_stale_for_prose() -> None:
    """What is stale is so for code that truly changed, and CHANGED says how."""
    found: dict[tuple[str, str, str], int] = {}
    count = 0
    for name in ("results", "figures"):
        for line in (ROOT / "leaderboard" / f"{name}.jsonl").read_text().splitlines():
            record = json.loads(line)
            kinds = ("dataset", "model", "attack", "defense")
            cell: Any = SimpleNamespace(**{kind: SimpleNamespace(name=record[kind]) for kind in kinds})
            assert set(record["sources"]) == set(kinds)
            count += 1
            for said in changed_sources(cell, record):
                kind, component = said.split()
                key = (kind, component, record["sources"][kind].removeprefix(CODE)[:8])
                found[key] = found.get(key, 0) + 1
    assert count > 50
    assert found.keys() == CHANGED.keys()


def test_a_record_of_an_earlier_release_is_not_called_stale() -> None:
    """Its digests are over the bytes of files, so nobody can say whether the code has changed since."""
    cell: Any = SimpleNamespace(**{kind: SimpleNamespace(name="none") for kind in ("attack", "defense")})
    cell.dataset, cell.model = SimpleNamespace(name="digits"), SimpleNamespace(name="resnet18")
    kinds = ("dataset", "model", "attack", "defense")
    assert changed_sources(cell, {"sources": dict.fromkeys(kinds, "0" * 64)}) == []
    assert len(changed_sources(cell, {"sources": dict.fromkeys(kinds, CODE + "0" * 64)})) == 4


def test_a_plugin_that_imports_another_plugin_has_its_code_in_the_digest() -> None:
    read = lambda name: (ROOT / "defenses" / name).read_bytes() if (ROOT / "defenses" / name).is_file() else None  # noqa: E731
    assert read("lfd.py") in with_helpers("lfd_ensemble.py", read)
