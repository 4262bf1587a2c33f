"""A digest of what Python code does, the same for every way to lay it out and to describe it.

The source is parsed. The digest is taken over a spelling of its syntax tree that is the same in every Python version.
What no result can depend on is left out:

- comments, formatting, docstrings (those of attributes too) and other constants that stand alone, ``pass``;
- annotations. A class keeps which of its names are fields, since that makes a dataclass;
- imports from ``__future__``, ``if TYPE_CHECKING:``, imports that bind a name which the code left over never uses;
- a class's ``smoke`` attribute: under ``--smoke`` its values are parameters, which are part of a cell's identity;
- the order of imports, and the module that a name of the harness comes from. The helper file (``_name``) that it comes
  from counts.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["code_digest", "helper_names", "with_helpers"]

HARNESS = "benchbd"
"""The package whose modules may move without a change of the plugins that import from them."""

_HELPER = re.compile(r"_[a-z]\w*")
_PATH = re.compile(r"[\w.]+")
_NO_FIELDS = re.compile(r"(?:\w+\.)*(ClassVar|InitVar|KW_ONLY)\b")
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)

_LEFT_OUT = ("annotation", "ctx", "kind", "returns", "simple", "type_comment", "type_ignores")
"""Fields of nodes: those about types, and those that the place or the text of a node tells."""
_Import = (ast.Import, ast.ImportFrom)


def code_digest(sources: Iterable[bytes]) -> str:
    """sha256 over the code of some sources, one after the other.

    Of a source that does not parse (a fragment, say, or the syntax of a later Python) the bytes count.
    """
    return hashlib.sha256(f"[{', '.join(_spelled(source) for source in sources)}]".encode()).hexdigest()


@functools.lru_cache(maxsize=512)
def helper_names(source: bytes) -> frozenset[str]:
    """The underscore modules that code imports, or names in a string of its own, such as ``_grid``.

    What is imported for the type checker alone is not among them. A helper whose names are never used is: importing it
    runs it. A source that does not parse names every underscore word in it.
    """
    try:
        tree = _parsed(source)
    except _UNREADABLE:
        return frozenset(word.decode() for word in re.findall(rb"\b(_[a-z]\w*)\b", source))
    words: set[str] = set()
    for node in _walk(tree):
        if isinstance(node, _Import):
            words.update(*(alias.name.split(".") for alias in node.names))
            words.update((getattr(node, "module", None) or "").split("."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _PATH.fullmatch(node.value):
            words.update(node.value.split("."))
    return frozenset(word for word in words if _HELPER.fullmatch(word))


def with_helpers(name: str, read: Callable[[str], bytes | None]) -> list[bytes]:
    """A plugin's source, and by name those of the helpers in its folder that it, or one of these, imports.

    Args:
        name: the plugin's file name, such as ``badnets.py``.
        read: gives the bytes of a file of that folder by its name, None where there is none.
    """
    first = read(name)
    found = {name: first or b""}
    waiting = [name]
    while waiting:
        for helper in sorted(helper_names(found[waiting.pop()])):
            file = f"{helper}.py"
            text = None if file in found else read(file)
            if text is not None:
                found[file] = text
                waiting.append(file)
    return [found.pop(name), *(found[file] for file in sorted(found))]


def _parsed(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


@functools.lru_cache(maxsize=512)
def _spelled(source: bytes) -> str:
    """The code of one source as nested lists of text, in JSON."""
    try:
        tree = _parsed(source)
        return json.dumps(_Speller(_used(tree)).body(tree.body))
    except _UNREADABLE:
        return json.dumps(["unreadable", hashlib.sha256(source).hexdigest()])


def _is_type_checking(test: ast.expr) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", "")) == "TYPE_CHECKING"


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Those that can matter: no constant on its own, no ``pass``, nothing for the type checker alone."""
    for node in body:
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        elif not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            yield node


def _target(node: ast.stmt) -> str:
    """The one name that a statement assigns to, or ''."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


@functools.cache
def _counting(fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(field for field in sorted(fields) if field not in _LEFT_OUT)


def _parts(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The fields of a node that count and are not empty, by name: versions differ in their order and in empty ones."""
    for field in _counting(node._fields):
        value = getattr(node, field, None)
        if isinstance(value, list) and value and all(isinstance(item, ast.stmt) for item in value):
            value = list(_statements(value))
        if value is not None and value != []:
            yield field, value


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those below it that count, in no order."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        for _, value in _parts(node):
            waiting += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST)]


def _used(tree: ast.Module) -> set[str]:
    """The names that code uses, or exports in ``__all__``."""
    found = set()
    for node in _walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
            if node.id == "__all__":
                found.update(n.value for n in _walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return found


def _plain(value: Any) -> list[str]:
    """A constant with its type: 1, 1.0, True and "1" differ."""
    if isinstance(value, bytes):
        text = value.hex()
    elif isinstance(value, int):
        text = format(int(value), "x")  # decimal digits have a limit
    else:
        text = value if isinstance(value, str) else repr(value)
    return [type(value).__name__, text]


class _Speller:
    """Spells a tree as nested lists.

    Args:
        used: the names that the code uses. Imports of others are left out.
    """

    def __init__(self, used: set[str]) -> None:
        self.used = used
        self.in_class = False

    def body(self, body: Iterable[ast.stmt]) -> list[Any]:
        """Statements in their order, with the imports among them first and sorted."""
        imports, others = [], []
        for node in _statements(body):
            if isinstance(node, _Import):
                imports += self.imports(node)
            elif self.in_class and _target(node) == "smoke":
                continue
            elif isinstance(node, ast.AnnAssign) and not self.in_class:
                if node.value is not None:  # else a declaration, which does nothing
                    others.append(self.node(ast.Assign([node.target], node.value)))
            else:
                others.append(self.node(node))
        return [["imports", *sorted(imports)], *others] if imports else others

    def imports(self, node: ast.Import | ast.ImportFrom) -> list[list[str]]:
        """One entry for each name that an import binds and the code uses: from where, which, as what."""
        found = []
        for alias in node.names:
            module, name, bound = "", alias.name, alias.asname or alias.name
            if isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
            elif alias.asname:
                module, _, name = name.rpartition(".")
            else:
                bound = name.split(".")[0]
                name = HARNESS if bound == HARNESS else name
            if bound in self.used or bound == "*":
                path = module.split(".")
                if path[0] == HARNESS:
                    module = ".".join([HARNESS, *(word for word in path if word.startswith("_"))])
                found.append([module, name, bound])
        return found

    def node(self, node: ast.AST) -> Any:
        """A node: its class, and its fields by name."""
        if isinstance(node, ast.Constant):
            return _plain(node.value)
        if isinstance(node, ast.JoinedStr):
            return self.joined(node)
        spelled: list[Any] = [type(node).__name__]
        if isinstance(node, ast.AnnAssign):
            spelled.append(_field_mark(node.annotation))
        outside = self.in_class
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            self.in_class = isinstance(node, ast.ClassDef)
        for field, value in _parts(node):
            held = self.value(value)
            if field != "format_spec" or held != ["str", ""]:
                spelled.append([field, held])
        self.in_class = outside
        return spelled

    def value(self, value: Any) -> Any:
        """What a field holds: a node, nodes, names, or a bare constant."""
        if isinstance(value, ast.AST):
            return self.node(value)
        if not isinstance(value, list):
            return _plain(value)
        if any(isinstance(item, ast.stmt) for item in value):
            return self.body(value)
        return [None if item is None else self.value(item) for item in value]

    def joined(self, node: ast.JoinedStr) -> Any:
        """An f-string: its pieces of text joined, since versions cut them differently."""
        pieces: list[Any] = []
        for item in node.values:
            piece = self.node(item)
            if piece[0] == "str" and pieces and pieces[-1][0] == "str":
                piece = ["str", pieces.pop()[1] + piece[1]]
            if piece != ["str", ""]:
                pieces.append(piece)
        if not pieces:
            return ["str", ""]
        return pieces[0] if len(pieces) == 1 and pieces[0][0] == "str" else ["JoinedStr", *pieces]


def _field_mark(annotation: ast.expr) -> str:
    """What an annotation in a class makes of its name: a field, or the kind of thing that is none."""
    node: ast.AST = annotation
    while isinstance(node, ast.Subscript):
        node = node.value
    text = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", getattr(node, "id", ""))
    found = _NO_FIELDS.match(text.strip()) if isinstance(text, str) else None
    return found[1] if found else "field"
