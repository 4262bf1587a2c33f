"""Find plugin classes by reading Python files as text, so that listing runs no plugin code."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import re
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

from benchbd.errors import one_line

DECORATORS = {"dataset": "datasets", "attack": "attacks", "defense": "defenses", "model": "models"}


class PluginEntry(NamedTuple):
    """Where a plugin is defined, and the facts about it that are known without importing it."""

    kind: str
    name: str
    module: str
    attr: str
    file: str | None
    origin: str
    version: int | None
    summary: str
    error: str | None


def describe_error(error: BaseException, file: str | None = None) -> str:
    """An error in a user's file, as one line of text: its class, its message and, if known, its line in the file."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None and not isinstance(error, SyntaxError):
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == file else line
        trace = trace.tb_next
    text = one_line(getattr(error, "msg", None) or error)
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and file and Path(file).with_name(f"{missing}.py").is_file():
        from benchbd.plugins.source_digest import helper_name

        helper = helper_name(missing)
        text += f"; the file beside the plugin is imported as `from .{helper} import ...`"
        text += "" if helper == missing else f", once it is called {helper}.py"
    source = error.filename if isinstance(error, SyntaxError) else None
    of_helper = f" of {Path(source).name}" if file and source and Path(source).is_absolute() and source != file else ""
    return type(error).__name__ + (f": {text}" if text else "") + (f" (line {line}{of_helper})" if line else "")


def scan(file: Path, module: str, origin: str, *, own: bool = False) -> list[PluginEntry]:
    """Entries for the decorated classes in one Python file, or one entry with an ``error`` if it cannot be read.

    Args:
        file: the file to read.
        module: the name under which the file is imported.
        origin: the words that say where the plugin comes from.
        own: parse only the heads of the decorated classes. This is ten times faster and enough for files that are
            formatted as ours are. A syntax error elsewhere in the file shows when the plugin is used.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = file.read_bytes()
            parts = _heads(source) if own else [(source, 0)]
            trees = [(ast.parse(part, filename=str(file)), above) for part, above in parts]
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        return [PluginEntry("", file.stem, module, "", str(file), origin, None, "", describe_error(error))]
    found = []
    for node, above in [(node, above) for tree, above in trees for node in tree.body]:
        for decorator in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            kind, name, version = _read_decorator(decorator)
            if isinstance(node, ast.ClassDef) and kind and name is not None:
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                place = f"{origin}:{above + node.lineno}"
                found.append(PluginEntry(kind, name, module, node.name, str(file), place, version, summary, None))
    return found


_HEAD = re.compile(
    rb'^@(?:%s)\(.*?^class [^\n]*:\n(?:    r?""".*?"""\n)?' % "|".join(DECORATORS).encode(), re.MULTILINE | re.DOTALL
)
"""A decorated class up to its docstring."""


def _heads(source: bytes) -> list[tuple[bytes, int]]:
    """The heads of the decorated classes, and the number of lines above each."""
    return [(m.group() + b"    ...\n", source.count(b"\n", 0, m.start())) for m in _HEAD.finditer(source)]


def _read_decorator(decorator: ast.expr) -> tuple[str, str | None, int | None]:
    """Kind, name and version in a decorator such as ``@attack("name", version=1)``; kind is '' for any other."""
    if not isinstance(decorator, ast.Call):
        return "", None, None
    word = decorator.func.id if isinstance(decorator.func, ast.Name) else getattr(decorator.func, "attr", "")
    given = {k.arg: k.value.value for k in decorator.keywords if isinstance(k.value, ast.Constant)}
    if decorator.args and isinstance(decorator.args[0], ast.Constant):
        given["name"] = decorator.args[0].value
    name, version = given.get("name"), given.get("version")
    return (
        DECORATORS.get(word, ""),
        name if isinstance(name, str) else None,
        version if isinstance(version, int) else None,
    )


def may_be_installed() -> bool:
    """Whether a package in ``sys.path`` may have an entry point of one of our groups.

    ``importlib.metadata`` knows for certain, but its import and search take a third of the time of ``benchbd list``.
    Whatever this function does not understand, such as a zip file or another package's finder, is left to it.
    """
    if [f for f in sys.meta_path if hasattr(f, "find_distributions")] != [importlib.machinery.PathFinder]:
        return True
    for folder in sys.path:
        try:
            packages = [path for path in Path(folder).iterdir() if path.suffix in (".dist-info", ".egg-info", ".egg")]
        except FileNotFoundError:
            continue
        except OSError:
            return True
        for package in packages:
            try:
                if package.suffix == ".egg" or b"[benchbd." in (package / "entry_points.txt").read_bytes():
                    return True
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError:
                return True
    return False


def scan_installed(kind: str, name: str, target: str, package: str) -> PluginEntry:
    """The plugin entry for an entry point ``module:Class``. Its file is found and read, but never imported."""
    module, _, attr = (part.strip() for part in target.partition(":"))
    origin = f"package {package} ({target})"
    entry = PluginEntry(kind, name, module, attr, None, origin, None, "", None)
    if not attr:
        return entry._replace(error=f"its entry point must be module:Class, not {target!r}")
    try:
        spec = _find(module)
    except Exception as error:  # finders are third-party code
        return entry._replace(error=describe_error(error))
    if spec is None:
        return entry._replace(error=f"ModuleNotFoundError: no module named {module!r}")
    if not spec.has_location or not spec.origin or not spec.origin.endswith(".py"):
        return entry
    entry = entry._replace(file=spec.origin)
    for scanned in scan(Path(spec.origin), module, origin):
        if scanned.error:
            return entry._replace(error=scanned.error)
        if scanned.attr == attr:
            return entry._replace(version=scanned.version, summary=scanned.summary)
    return entry


def _find(module: str) -> importlib.machinery.ModuleSpec | None:
    """The spec of a module. Unlike importlib.util.find_spec, this does not import the module's parents."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name += f".{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec
