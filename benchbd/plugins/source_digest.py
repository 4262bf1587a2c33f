"""A digest of what Python code does, independent of its layout and its comments.

The source is parsed, and its syntax tree is written in a canonical form that is the same in every Python version. The
digest is the hash of that form. The form leaves out everything that cannot affect a result:

- comments, formatting, docstrings (also those of attributes), other constants that stand alone, and ``pass``;
- annotations, except that a class keeps which of its names are fields, since these make a dataclass;
- imports from ``__future__``, ``if TYPE_CHECKING:`` blocks, and imports of names that the remaining code never uses;
- a class's ``smoke`` attribute, since ``--smoke`` turns its values into parameters, which a cell's identity includes;
- a class's ``younger`` attribute, which only decides about identities;
- a method ``input_files`` that no other code names, since it only tells the harness which files to compare, and
  likewise ``training_work`` and ``timed_loop``, which only serve estimates of time, and ``packed_models``;
- the order of imports, and the module that a harness name comes from. If that module is a helper file (``_name``), the
  helper's name stays.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from benchbd.plugins.component import KINDS

__all__ = [
    "CODE",
    "code_digest",
    "file_digest",
    "helper_files",
    "helper_name",
    "helper_names",
    "is_helper",
    "with_helpers",
]

CODE = "code:"
"""Start of a digest of code in a record. The digests of earlier releases are over the bytes of files and lack it."""
HARNESS = "benchbd"
"""The package whose modules may move without changing the digests of plugins that import from them."""

PLAN_HOOKS = ("input_files", "training_work", "packed_models", "timed_loop")
"""Methods for plans: files, work, packs and speed of a plugin. Results depend on them only if the plugin calls them."""

_HELPER = re.compile(r"_[a-z]\w*")
_PATH = re.compile(r"[\w.]+")
_NOT_FIELDS = re.compile(r"(?:\w+\.)*(ClassVar|InitVar|KW_ONLY)\b")
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)

_OMITTED_FIELDS = ("annotation", "ctx", "kind", "returns", "simple", "type_comment", "type_ignores")
"""Node fields about types, and node fields that follow from a node's position or text."""
_Import = (ast.Import, ast.ImportFrom)


def code_digest(sources: Iterable[bytes]) -> str:
    """sha256 of the code of several sources, in order.

    A source that does not parse (a fragment, say, or a later Python's syntax) enters with its bytes.
    """
    given = list(sources)
    omitted = frozenset(PLAN_HOOKS).difference(*map(_used_hooks, given))
    return hashlib.sha256(f"[{', '.join(_canonical(source, omitted) for source in given)}]".encode()).hexdigest()


@functools.lru_cache(maxsize=512)
def helper_names(source: bytes) -> frozenset[str]:
    """The underscore modules, such as ``_grid``, that code imports or names in a string constant, and imported plugins.

    Imports for the type checker alone are excluded. A helper whose names are never used is included, since importing
    it runs it. For a source that does not parse, every underscore word in it is included.
    """
    try:
        tree = _parse(source)
    except _UNREADABLE:
        return frozenset(word.decode() for word in re.findall(rb"\b(_[a-z]\w*)\b", source))
    words: set[str] = set()
    plugins: set[str] = set()
    for node in _walk(tree):
        if isinstance(node, _Import):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                path = [*module.split("."), *alias.name.split(".")] if module else alias.name.split(".")
                words.update(path)
                if path[0] == HARNESS and path[1:2] and path[1] in KINDS:
                    plugins.update(path[2:3])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _PATH.fullmatch(node.value):
            words.update(node.value.split("."))
    return frozenset(plugins | {word for word in words if is_helper(word)})


def is_helper(word: str) -> bool:
    """Whether a module of this name, beside a plugin, is part of the plugin's code."""
    return _HELPER.fullmatch(word) is not None


def helper_name(word: str) -> str:
    """The module's name if it is a helper's, else the nearest one that is: ``_grid`` of ``grid`` and ``_Grid``."""
    bare = word.lstrip("_")
    return word if is_helper(word) else f"_{bare[:1].lower()}{bare[1:]}"


def with_helpers(name: str, read: Callable[[str], bytes | None]) -> list[bytes]:
    """A plugin's source, followed by the sources of all helpers that it imports from its folder, directly or not.

    Args:
        name: the plugin's file name, such as ``badnets.py``.
        read: returns the bytes of a file in that folder, or None if there is no such file.

    Returns:
        The plugin's source, then the helpers' in the order of their file names.
    """
    found = _with_helpers(name, read)
    return [found.pop(name), *(found[file] for file in sorted(found))]


def helper_files(file: Path) -> dict[str, bytes]:
    """The sources of all helpers that a plugin's file imports from its folder, directly or not, by file name."""
    found = _with_helpers(file.name, _neighbors(file))
    del found[file.name]
    return dict(sorted(found.items()))


def _with_helpers(name: str, read: Callable[[str], bytes | None]) -> dict[str, bytes]:
    found = {name: read(name) or b""}
    unvisited = [name]
    while unvisited:
        for helper in sorted(helper_names(found[unvisited.pop()])):
            file = f"{helper}.py"
            source = None if file in found else read(file)
            if source is not None:
                found[file] = source
                unvisited.append(file)
    return found


def _neighbors(file: Path) -> Callable[[str], bytes | None]:
    """What reads the files in a file's folder by name; None for a name without a file."""

    def read(name: str) -> bytes | None:
        neighbor = file.with_name(name)
        return neighbor.read_bytes() if neighbor.is_file() else None

    return read


def file_digest(file: Path) -> str:
    """CODE and the digest of a plugin's file with its helpers; '' if it is not a file."""
    if not file.is_file():
        return ""
    return CODE + code_digest(with_helpers(file.name, _neighbors(file)))


def _parse(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def _without(tree: ast.Module, hooks: Iterable[str]) -> ast.Module:
    """The tree without the methods that are called like one of the hooks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            node.body = [item for item in node.body if not (_is_function(item) and item.name in hooks)]  # type: ignore[attr-defined]
    return tree


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


@functools.lru_cache(maxsize=512)
def _used_hooks(source: bytes) -> frozenset[str]:
    """The PLAN_HOOKS that code outside of the methods of these names names."""
    found = {hook for hook in PLAN_HOOKS if hook.encode() in source}
    if not found:
        return frozenset()
    try:
        nodes = list(ast.walk(_without(_parse(source), PLAN_HOOKS)))
    except _UNREADABLE:
        return frozenset(found)
    fields = ("attr", "id", "value", "name")
    return frozenset(
        hook for hook in found if any(hook in (getattr(node, field, None) for field in fields) for node in nodes)
    )


@functools.lru_cache(maxsize=512)
def _canonical(source: bytes, omitted: frozenset[str]) -> str:
    """The canonical form of one source: nested lists of text, as JSON, without the methods called like ``omitted``."""
    try:
        tree = _without(_parse(source), omitted)
        return json.dumps(_Canonicalizer(_used_names(tree)).body(tree.body))
    except _UNREADABLE:
        return json.dumps(["unreadable", hashlib.sha256(source).hexdigest()])


def _is_type_checking(test: ast.expr) -> bool:
    return (test.id if isinstance(test, ast.Name) else getattr(test, "attr", "")) == "TYPE_CHECKING"


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that can affect a result: not lone constants, ``pass`` or code for the type checker alone."""
    for node in body:
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        elif not (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            yield node


def _target(node: ast.stmt) -> str:
    """The name that a statement assigns to, or '' if it does not assign to exactly one name."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return targets[0].id if len(targets) == 1 and isinstance(targets[0], ast.Name) else ""


@functools.cache
def _kept_fields(fields: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(field for field in sorted(fields) if field not in _OMITTED_FIELDS)


def _fields(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """The kept, non-empty fields of a node, sorted by name, since Python versions differ in order and in empty ones."""
    for field in _kept_fields(node._fields):
        value = getattr(node, field, None)
        if isinstance(value, list) and value and all(isinstance(item, ast.stmt) for item in value):
            value = list(_statements(value))
        if value is not None and value != []:
            yield field, value


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all kept nodes below it, in no particular order."""
    unvisited = [node]
    while unvisited:
        node = unvisited.pop()
        yield node
        for _, value in _fields(node):
            unvisited += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST)]


def _used_names(tree: ast.Module) -> set[str]:
    """The names that code uses or exports in ``__all__``."""
    found = set()
    for node in _walk(tree):
        if isinstance(node, ast.Name):
            found.add(node.id)
            if node.id == "__all__":
                found.update(n.value for n in _walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return found


def _constant(value: Any) -> list[str]:
    """A constant as its type and text, so that 1, 1.0, True and "1" differ."""
    if isinstance(value, bytes):
        text = value.hex()
    elif isinstance(value, int):
        text = format(int(value), "x")  # Python limits the length of decimal conversions
    else:
        text = value if isinstance(value, str) else repr(value)
    return [type(value).__name__, text]


class _Canonicalizer:
    """Converts a syntax tree to nested lists.

    Args:
        used: the names that the code uses. Imports of other names are left out.
    """

    def __init__(self, used: set[str]) -> None:
        self.used = used
        self.in_class = False

    def body(self, body: Iterable[ast.stmt]) -> list[Any]:
        """Statements in order, except that imports come first and are sorted."""
        imports, others = [], []
        for node in _statements(body):
            if isinstance(node, _Import):
                imports += self.imports(node)
            elif self.in_class and _target(node) in ("smoke", "younger"):
                continue
            elif isinstance(node, ast.AnnAssign) and not self.in_class:
                if node.value is not None:  # without a value, it declares a type and does nothing
                    others.append(self.node(ast.Assign([node.target], node.value)))
            else:
                others.append(self.node(node))
        return [["imports", *sorted(imports)], *others] if imports else others

    def imports(self, node: ast.Import | ast.ImportFrom) -> list[list[str]]:
        """One ``[module, name, bound name]`` for each name that an import binds and the code uses."""
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
        """A node as its class name, followed by its fields as ``[name, value]``."""
        if isinstance(node, ast.Constant):
            return _constant(node.value)
        if isinstance(node, ast.JoinedStr):
            return self.joined(node)
        form: list[Any] = [type(node).__name__]
        if isinstance(node, ast.AnnAssign):
            form.append(_field_kind(node.annotation))
        was_in_class = self.in_class
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            self.in_class = isinstance(node, ast.ClassDef)
        for field, value in _fields(node):
            value_form = self.value(value)
            if field != "format_spec" or value_form != ["str", ""]:
                form.append([field, value_form])
        self.in_class = was_in_class
        return form

    def value(self, value: Any) -> Any:
        """A field's value: a node, a list of nodes or names, or a bare constant."""
        if isinstance(value, ast.AST):
            return self.node(value)
        if not isinstance(value, list):
            return _constant(value)
        if any(isinstance(item, ast.stmt) for item in value):
            return self.body(value)
        return [None if item is None else self.value(item) for item in value]

    def joined(self, node: ast.JoinedStr) -> Any:
        """An f-string with adjacent pieces of text joined, since Python versions split them differently."""
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


def _field_kind(annotation: ast.expr) -> str:
    """``field`` for an annotation that makes its name a dataclass field, else ClassVar, InitVar or KW_ONLY."""
    node: ast.AST = annotation
    while isinstance(node, ast.Subscript):
        node = node.value
    text = node.value if isinstance(node, ast.Constant) else getattr(node, "attr", getattr(node, "id", ""))
    found = _NOT_FIELDS.match(text.strip()) if isinstance(text, str) else None
    return found[1] if found else "field"
