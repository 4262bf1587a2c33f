"""Import a user's plugin file, and the helper files (``_name.py``) beside it that it imports with ``from ._name``.

A plugin file becomes a package whose folder is the file's own, so relative imports find its helpers, and two plugins in
different folders may have helpers of one name. Only names of an underscore and a lower-case letter first are found: the
digest of a plugin's code counts these files (:mod:`benchbd.plugins.source_digest`), and would miss a change of any
other.
No file is imported from bytecode: that would leave a ``__pycache__`` beside the user's file, and trust a stale one.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType

from benchbd.errors import UsageError

PREFIX = "benchbd_plugin_"
"""Start of the names of modules that are users' plugin files."""


def module_name(file: Path) -> str:
    """The name under which a plugin file is imported; each path has its own."""
    return PREFIX + hashlib.sha256(str(file).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def import_file(name: str, file: str, origin: str) -> ModuleType:
    """The module of a plugin file, imported if it is not yet.

    Args:
        name: the module's name (:func:`module_name`).
        file: the plugin file.
        origin: the words that say where the plugin comes from.

    Raises:
        UsageError: the file's name does not end in .py.
        BaseException: whatever the file's own code raises.
    """
    if name in sys.modules:
        return sys.modules[name]
    if not file.endswith(tuple(importlib.machinery.SOURCE_SUFFIXES)):
        raise UsageError(f"plugin {origin}: not a Python file (its name must end in .py)")
    if _HelperFinder not in sys.meta_path:
        sys.meta_path.insert(0, _HelperFinder)  # before the usual finder, which finds every file and writes bytecode
    spec = importlib.util.spec_from_file_location(
        name, file, loader=_SourceOnly(name, file), submodule_search_locations=[str(Path(file).parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        forget(name)
        raise
    return module


def forget(name: str) -> None:
    """Forget the module of a plugin file and those of its helpers."""
    for known in [known for known in sys.modules if known == name or known.startswith(f"{name}.")]:
        del sys.modules[known]


class _SourceOnly(importlib.machinery.SourceFileLoader):
    """Compiles a file each time, and neither reads nor writes bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


class _HelperFinder:
    """Finds what a plugin file, or a helper of it, imports from its folder. An entry of ``sys.meta_path``."""

    @staticmethod
    def find_spec(
        fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        parent, _, word = fullname.rpartition(".")
        if not (parent.startswith(PREFIX) and path):
            return None
        from benchbd.plugins.source_digest import helper_name, is_helper

        file = Path(path[0]) / f"{word}.py"
        if not file.is_file():
            raise ModuleNotFoundError(f"there is no file {word}.py beside the plugin", name=fullname)
        if not is_helper(word):
            better = helper_name(word)
            raise ImportError(
                "a file that a plugin imports needs a name of an underscore and a lower-case letter first: "
                f"call {word}.py {better}.py, and import it as `from .{better} import ...`"
            )
        return importlib.util.spec_from_file_location(fullname, file, loader=_SourceOnly(fullname, str(file)))
