"""From a name to a plugin, found without importing anything.

Three doors: the built-in folders, entry points (``benchbd.attacks`` and so on) of installed packages, and files named by
``--plugin`` or a matrix's ``plugins:``. Python files are read as text for classes under ``@attack("name", ...)`` and its
siblings, so listing never runs plugin code; loading imports the one file that is wanted.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchbd import params
from benchbd.components import KINDS, Component
from benchbd.errors import UsageError, did_you_mean
from benchbd.spec import parse_spec

DECORATORS = {"dataset": "datasets", "attack": "attacks", "defense": "defenses", "model": "models"}
FOLDERS = {"datasets": "data", "attacks": "attacks", "defenses": "defenses", "models": "models"}


class Entry(NamedTuple):
    """Where a plugin is to be found, and what can be told of it without importing it."""

    kind: str
    name: str
    module: str
    attr: str
    file: str | None
    origin: str
    version: int | None
    summary: str
    error: str | None


_plugin_files: dict[str, None] = {}


def _first_line(node: ast.ClassDef) -> str:
    return (ast.get_docstring(node) or "").split("\n")[0]


def _scan(file: Path, module: str, shown: str) -> list[Entry]:
    """Entries for the decorated classes in one Python file, read as text."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(file))
    except (OSError, ValueError, SyntaxError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        reason = f"{type(error).__name__}: {getattr(error, 'msg', None) or error}{line}"
        return [Entry("", file.stem, module, "", str(file), shown, None, "", reason)]
    found = []
    for node in tree.body:
        if not isinstance(node, ast.ClassDef):
            continue
        for mark in node.decorator_list:
            if not (isinstance(mark, ast.Call) and mark.args and isinstance(mark.args[0], ast.Constant)):
                continue
            word = mark.func.id if isinstance(mark.func, ast.Name) else getattr(mark.func, "attr", "")
            if word not in DECORATORS or not isinstance(mark.args[0].value, str):
                continue
            version = next((k.value.value for k in mark.keywords if k.arg == "version" and isinstance(k.value, ast.Constant)), None)
            found.append(
                Entry(
                    DECORATORS[word],
                    mark.args[0].value,
                    module,
                    node.name,
                    str(file),
                    f"{shown}:{node.lineno}",
                    version if isinstance(version, int) else None,
                    _first_line(node),
                    None,
                )
            )
    return found


@functools.cache
def _builtin() -> tuple[Entry, ...]:
    found: list[Entry] = []
    for kind, folder in FOLDERS.items():
        package = importlib.import_module(f"benchbd.{folder}")
        for place in package.__path__:
            for file in sorted(Path(place).glob("*.py")):
                if not file.name.startswith("_"):
                    found += [e for e in _scan(file, f"benchbd.{folder}.{file.stem}", f"{folder}/{file.name}") if e.kind == kind or e.error]
    return tuple(found)


@functools.cache
def _installed() -> tuple[Entry, ...]:
    """Entry points of other packages: name and target are known without importing them."""
    from importlib.metadata import entry_points

    found = []
    for kind in KINDS:
        for point in entry_points(group=f"benchbd.{kind}"):
            module, _, attr = point.value.partition(":")
            dist = point.dist.name if point.dist else "?"
            found.append(Entry(kind, point.name, module, attr, None, f"package {dist} ({point.value})", None, "", None))
    return tuple(found)


def _plugin_module(file: Path) -> str:
    return f"benchbd_plugin_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"


def add_plugin_file(path: str, *, load: bool = True) -> None:
    """Make the plugins in a Python file known.

    Args:
        path: the file.
        load: import it at once, so that a file that raises is found now and not in a worker.

    Raises:
        UsageError: no such file, no plugin in it, or importing it raised.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise UsageError(f"plugin {path}: no such file")
    file = file.resolve()
    entries = _scan(file, _plugin_module(file), str(file))
    broken = next((e.error for e in entries if e.error), None)
    if broken and load:
        raise UsageError(f"plugin {path}: {broken}; mend the file or leave out --plugin")
    if not entries:
        raise UsageError(f"plugin {path}: no class under @attack, @defense, @model or @dataset with a name in it")
    _plugin_files[str(file)] = None
    _by_name.cache_clear()
    if load:
        for entry in entries:
            _import(entry)


def plugin_files() -> list[str]:
    """The plugin files made known so far, for handing on to worker processes."""
    return list(_plugin_files)


@functools.cache
def _by_name() -> dict[tuple[str, str], list[Entry]]:
    table: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries():
        table.setdefault((entry.kind, entry.name), []).append(entry)
    return table


def entries(kind: str | None = None) -> list[Entry]:
    """Everything known, sorted by name; files that can't be read are entries with an ``error``."""
    found = list(_builtin()) + list(_installed())
    for file in _plugin_files:
        found += _scan(Path(file), _plugin_module(Path(file)), file)
    found = [e for e in found if kind is None or e.kind in (kind, "")]
    return sorted(found, key=lambda e: (KINDS.index(e.kind) if e.kind else len(KINDS), e.name, e.origin))


def find(kind: str, name: str) -> Entry:
    """The entry of a name. Raises UsageError for an unknown name or one that two plugins claim."""
    table = _by_name()
    found = table.get((kind, name), [])
    if not found:
        known = [n for k, n in table if k == kind]
        raise UsageError(f"no {kind[:-1]} is called {name!r}{did_you_mean(name, known)}")
    if len(found) > 1:
        places = " and ".join(e.origin for e in found)
        raise UsageError(f"{kind[:-1]} {name!r} is defined twice, in {places}; rename one")
    return found[0]


def _import(entry: Entry) -> type[Component]:
    try:
        if entry.file and entry.module.startswith("benchbd_plugin_"):
            if entry.module not in sys.modules:
                spec = importlib.util.spec_from_file_location(entry.module, entry.file)
                if spec is None or spec.loader is None:
                    raise UsageError(f"plugin {entry.origin}: not a Python file")
                module = importlib.util.module_from_spec(spec)
                sys.modules[entry.module] = module
                try:
                    spec.loader.exec_module(module)
                except BaseException:
                    del sys.modules[entry.module]
                    raise
            module = sys.modules[entry.module]
        else:
            module = importlib.import_module(entry.module)
        cls = getattr(module, entry.attr)
    except UsageError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{entry.kind[:-1]} {entry.name!r} in {entry.origin} cannot be loaded: {type(error).__name__}: {text}") from error
    if not (isinstance(cls, type) and issubclass(cls, Component) and cls.kind == entry.kind and cls.name == entry.name):
        raise UsageError(f"{entry.origin} does not define {entry.kind[:-1]} {entry.name!r} with the @{entry.kind[:-1]} decorator")
    return cls


@functools.lru_cache(maxsize=1024)
def _load(entry: Entry) -> type[Component]:
    return _import(entry)


def load(kind: str, name: str) -> type[Any]:
    """The class behind a name. Raises UsageError where it is unknown, claimed twice or cannot be imported."""
    return _load(find(kind, name))


def make(kind: str, text: str, **given: Any) -> Any:
    """An instance from ``name`` or ``name(a=1)``, with further parameters by keyword."""
    name, inline = parse_spec(text, kind[:-1])
    cls = load(kind, name)
    return cls(**params.resolve(cls, {**inline, **given}, f"{kind[:-1]} {name!r}"))


@functools.lru_cache(maxsize=1024)
def source_digest(kind: str, name: str) -> str:
    """sha256 over the plugin's file and the underscore files of its folder that it names; '' where there is no file."""
    entry = find(kind, name)
    path = entry.file or getattr(sys.modules.get(entry.module), "__file__", None)
    if path is None:
        return ""
    file = Path(path)
    text = file.read_bytes()
    digest = hashlib.sha256(text)
    for helper in sorted(set(re.findall(rb"\b(_[a-z]\w*)\b", text))):
        sibling = file.with_name(helper.decode() + ".py")
        if sibling.is_file():
            digest.update(sibling.read_bytes())
    return digest.hexdigest()
