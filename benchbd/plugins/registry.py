"""Find plugins by name without importing them.

Plugins come from three sources: the built-in folders, entry points (``benchbd.attacks`` and so on) of installed
packages, and files named by ``--plugin`` or by a matrix's ``plugins:``. The registry reads Python files as text and
looks for classes decorated with ``@attack("name", ...)`` and the like, so listing never runs plugin code. Loading
imports only the file of the requested plugin. A plugin that cannot be read or loaded is listed with its error and does
not affect the others.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchbd.core import params
from benchbd.core.paths import look, user_path
from benchbd.core.user_variables import plugin_at_work
from benchbd.errors import (
    BenchbdError,
    RunStopped,
    UnknownPlugin,
    UsageError,
    counted,
    did_you_mean,
    shown,
    suggestion,
    with_article,
)
from benchbd.plugins import own_module
from benchbd.plugins.aliases import meanings
from benchbd.plugins.contract import KINDS, Component, Dataset
from benchbd.plugins.scan import DECORATORS, PluginEntry, describe_error, may_be_installed, scan, scan_installed
from benchbd.plugins.spec import parse_spec
from benchbd.plugins.torchvision_ready import is_mismatch, note_torchvision, ready_torchvision
from benchbd.plugins.validate import check_declared, check_info

__all__ = [
    *("DECORATORS", "PluginEntry", "add_plugin_file", "blame", "canonical_name"),
    *("did_you_mean_plugin", "entries", "find"),
    *("forget_plugin_file", "load", "make", "named", "noting_uses", "plugin_files", "source_digest"),
]

FILE_HINT = "if a file of its own defines it, name that file with --plugin"
"""The end of a message about a plugin that is not known here."""
_plugin_files: dict[str, None] = {}


@functools.cache
def _builtin() -> tuple[PluginEntry, ...]:
    found: list[PluginEntry] = []
    for kind in KINDS:
        package = importlib.import_module(f"benchbd.{kind}")
        for place in package.__path__:
            for file in sorted(Path(place).glob("*.py")):
                if not file.name.startswith("_"):
                    in_file = scan(file, f"benchbd.{kind}.{file.stem}", f"{kind}/{file.name}", own=True)
                    found += [e for e in in_file if e.kind == kind or e.error]
    return tuple(found)


@functools.cache
def _installed() -> tuple[PluginEntry, ...]:
    """The entry points of other packages, whose names and targets are known without an import."""
    if not may_be_installed():
        return ()
    from importlib.metadata import entry_points

    found = []
    installed = entry_points()  # one pass over the installed packages, not one for each kind
    for kind in KINDS:
        for point in installed.select(group=f"benchbd.{kind}"):
            found.append(scan_installed(kind, point.name, point.value, point.dist.name if point.dist else "?"))
    return tuple(found)


def add_plugin_file(path: str, *, load: bool = True) -> None:
    """Register the plugins in a Python file.

    Args:
        path: the file.
        load: import the file at once, so that an import error shows up now and not in a worker. If False, a file that
            cannot be read is registered as an entry with an ``error``.

    Raises:
        UsageError: the file does not exist, defines no plugin, uses the name of another plugin, or raises on import.
            The file is then not registered.
    """
    file = user_path(path, "plugin")
    if (kind := look(file, "plugin")) != "file":
        what = {"nothing": "no such file", "folder": "is a folder; name a Python file"}.get(kind, "is not a plain file")
        raise UsageError(f"plugin {shown(path, 200)}: {what}")
    file = file.resolve()
    known = str(file) in _plugin_files
    if known and own_module.module_name(file) in sys.modules:
        return  # a worker registers it again for every cell
    found = scan(file, own_module.module_name(file), str(file))
    broken = next((e.error for e in found if e.error), None)
    if broken and load:
        raise UsageError(f"plugin {shown(path, 200)}: {broken}; fix the file or leave it out")
    if not found:
        decorators = ", ".join(f'@{word}("name")' for word in DECORATORS)
        raise UsageError(f"plugin {shown(path, 200)}: defines no plugin; decorate a class with one of {decorators}")
    _plugin_files[str(file)] = None
    _by_name.cache_clear()
    if not load:
        return
    try:
        for entry in found:
            _load(find(entry.kind, entry.name))
    except UsageError:
        if not known:
            forget_plugin_file(str(file))
        raise


def forget_plugin_file(file: str) -> None:
    """Undo :func:`add_plugin_file` and forget the file's names."""
    _plugin_files.pop(file, None)
    own_module.forget(own_module.module_name(Path(file)))
    for cache in (_by_name, _load, source_digest):
        cache.cache_clear()


def plugin_files() -> list[str]:
    """The plugin files registered so far, to pass on to worker processes."""
    return list(_plugin_files)


@functools.cache
def _by_name() -> dict[tuple[str, str], list[PluginEntry]]:
    table: dict[tuple[str, str], list[PluginEntry]] = {}
    for entry in entries():
        table.setdefault((entry.kind, entry.name), []).append(entry)
    return table


def entries(kind: str | None = None) -> list[PluginEntry]:
    """All known plugins, sorted by kind and then by name.

    Unusable ones are included with an ``error``: a file that cannot be read (its ``kind`` is ''), an entry point
    without a module, and a name that two plugins claim (each error names both places).
    """
    found = list(_builtin()) + list(_installed())
    for file in _plugin_files:
        found += scan(Path(file), own_module.module_name(Path(file)), file)
    claims: dict[tuple[str, str], list[str]] = {}
    for entry in found:
        claims.setdefault((entry.kind, entry.name), []).append(entry.origin)
    for i, entry in enumerate(found):
        places = claims[entry.kind, entry.name]
        if entry.kind and len(places) > 1:
            found[i] = entry._replace(error=f"defined twice, in {' and '.join(places)}; rename one")
    found = [e for e in found if kind is None or e.kind in (kind, "")]
    return sorted(found, key=lambda e: (KINDS.index(e.kind) if e.kind else len(KINDS), e.name, e.origin))


def named(kind: str, name: str) -> list[str]:
    """The plugins that a user may mean by a name, an alias or another spelling."""
    return meanings(kind, name, (known for of, known in _by_name() if of == kind))


def canonical_name(kind: str, name: str) -> str:
    """The plugin that a user means by a name, an alias or another spelling; ``name`` itself if there is none.

    Raises:
        UsageError: it may mean several plugins.
    """
    found = named(kind, name)
    if len(found) > 1:
        either = f"{' or '.join(found)}; write one of them (benchbd describe NAME shows each)"
        raise UsageError(f"{kind[:-1]} {shown(name)} may mean {either}")
    return found[0] if found else name


def did_you_mean_plugin(name: str, known: Iterable[str]) -> str:
    """The end of the message about an unknown plugin: a near name, or the known ones and how to name its file."""
    return suggestion(name, known) or f"{did_you_mean(name, known)}; {FILE_HINT}"


def find(kind: str, name: str) -> PluginEntry:
    """The entry for a name. Raises UsageError for an unknown name or one that two plugins claim."""
    table = _by_name()
    found = table.get((kind, name), [])
    if not found:
        unread = [e for (k, _), group in table.items() if not k for e in group]
        files = counted(len(unread), "plugin file")
        hint = f" ({files} cannot be read: {unread[0].origin}, {unread[0].error})" if unread else ""
        near = " or ".join(map(repr, named(kind, name)))
        advice = f"; did you mean {near}?" if near else did_you_mean_plugin(name, [n for k, n in table if k == kind])
        if other := [of for of in KINDS if (of, name) in table and not near]:
            advice = f"; {shown(name)} is {with_article(other[0][:-1])}"
        raise UnknownPlugin(f"no {kind[:-1]} is called {shown(name)}{advice}{hint}", kind[:-1], name)
    if len(found) > 1:
        raise UsageError(f"{kind[:-1]} {name!r} is {found[0].error}")
    return found[0]


@contextlib.contextmanager
def blame(kind: str, name: str) -> Iterator[None]:
    """Turn an exception from a plugin's own code into a UsageError that names the plugin.

    benchbd's own errors and Ctrl-C pass through. SystemExit is converted too: it would otherwise end the whole command
    silently, with the plugin's exit code; and so are errors that are not Exceptions, such as asyncio's CancelledError.
    """
    try:
        with _at_work(*_by_name().get((kind, name), ())):
            yield
    except (BenchbdError, KeyboardInterrupt, RunStopped):
        raise
    except BaseException as error:
        entry = find(kind, name)
        raise UsageError(
            f"{kind[:-1]} {name!r} in {entry.origin} raised {describe_error(error, entry.file)}"
        ) from error


def _at_work(*entries: PluginEntry) -> contextlib.AbstractContextManager[None]:
    """A context that remembers what users' plugins do to the environment."""
    shipped = all(entry.module.startswith("benchbd.") for entry in entries)
    return contextlib.nullcontext() if shipped else plugin_at_work()


def _module(entry: PluginEntry) -> Any:
    if entry.file and entry.module.startswith(own_module.PREFIX):
        return own_module.import_file(entry.module, entry.file, entry.origin)
    return importlib.import_module(entry.module)


def _module_with_torchvision(entry: PluginEntry) -> Any:
    if entry.file is None or entry.module.startswith("benchbd."):
        return _module(entry)
    note_torchvision(entry.file)
    try:
        return _module(entry)
    except RuntimeError as error:
        if not is_mismatch(error):
            raise
    ready_torchvision()
    return _module(entry)


@functools.lru_cache(maxsize=1024)
def _load(entry: PluginEntry) -> type[Component]:
    kind = entry.kind[:-1]
    if entry.error:
        raise UsageError(f"{kind} {entry.name!r} in {entry.origin} cannot be loaded: {entry.error}")
    try:
        with _at_work(entry):
            cls = getattr(_module_with_torchvision(entry), entry.attr)
        fits = isinstance(cls, type) and issubclass(cls, Component) and (cls.kind, cls.name) == (entry.kind, entry.name)
        if fits:
            params.defaults(cls)
            check_declared(cls)
    except (UsageError, KeyboardInterrupt, RunStopped):
        raise
    except BaseException as error:
        raise UsageError(
            f"{kind} {entry.name!r} in {entry.origin} cannot be loaded: {describe_error(error, entry.file)}"
        ) from error
    if not fits:
        raise UsageError(f"{entry.origin} does not define {kind} {entry.name!r} with the @{kind} decorator")
    return cls  # type: ignore[no-any-return]


def load(kind: str, name: str) -> type[Any]:
    """The class behind a name. Raises UsageError if the name is unknown or claimed twice, or the import fails."""
    return _load(find(kind, name))


_noted: dict[tuple[str, str], None] | None = None


@contextlib.contextmanager
def noting_uses() -> Iterator[dict[tuple[str, str], None]]:
    """The kind and name of each plugin of which :func:`make` creates an instance inside the context, as keys."""
    global _noted
    before, _noted = _noted, {}
    try:
        yield _noted
    finally:
        _noted = before


def make(kind: str, text: str, /, **given: Any) -> Any:
    """Create an instance from ``name`` or ``name(a=1)``, with further parameters as keywords.

    Raises:
        UsageError: an unknown name, a wrong parameter, an exception in the plugin's own code, or an invalid ``info``
            of a data set.
        Impossible: the plugin rejects its parameters.
    """
    name, inline = parse_spec(text, kind[:-1])
    cls = load(kind, name)
    if _noted is not None:
        _noted[kind, cls.name] = None
    values = params.resolve(cls, {**inline, **given}, f"{kind[:-1]} {name!r}")
    with blame(kind, name):
        component = cls(**values)
        if isinstance(component, Dataset):
            check_info(component)
        return component


@functools.lru_cache(maxsize=1024)
def source_digest(kind: str, name: str) -> str:
    """A digest of the code in the plugin's file and in the helpers (``_name``) that it imports from its folder.

    Comments, docstrings, annotations and formatting do not affect it (:mod:`benchbd.plugins.source_digest`).
    It begins with ``CODE`` and is '' if the plugin has no file.
    """
    from benchbd.plugins.source_digest import file_digest

    entry = find(kind, name)
    path = entry.file or getattr(sys.modules.get(entry.module), "__file__", None)
    return "" if path is None else file_digest(Path(path))
