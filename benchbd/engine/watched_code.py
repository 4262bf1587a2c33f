"""A table of the code in memory that numbers depend on, and a comparison of that code with the table.

A plugin can change this code for its whole process: put another function in the place of one, change a function's body
or its defaults, give a class a method that hides an inherited one, or assign a constant. No key names such a change.
"""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch

_TORCH = str(Path(torch.__file__).parent)
_MODULES = (
    *("torch", "torch._C._nn", "torch.amp", "torch.autograd", "torch.fft", "torch.linalg", "torch.nn", "torch.random"),
    *("torch.special", "numpy", "numpy.linalg", "numpy.random"),
    *("builtins", "copy", "hashlib", "math", "random"),
)
_PACKAGES = ("torch.nn.", "torch.optim")
_OURS = tuple(f"benchbd.{name}." for name in ("attacks", "core", "datasets", "defenses", "engine", "lab", "models"))
_OURS += tuple(f"benchbd.{name}." for name in ("pipeline", "plugins", "storage"))
_PLAIN = (bool, int, float, str, bytes, tuple, frozenset)
_HOLDERS = (dict, list, set)
_NO_METHODS = ("__annotations__", "__annotations_cache__", "__annotate_func__", "__doc__", "__signature__")
"""Names that Python itself adds to classes."""


class Space(NamedTuple):
    """The names of a module or class.

    Attributes:
        owner: the module or class.
        title: its name in messages.
        kind: its own class.
        bases: its bases; None for a module.
        everything: the values of all its names, in their order.
        known: all its names.
        names: those whose values count.
        values: their values.
        held: the constants that are a dict, list or set with something in it, and a copy of each.
    """

    owner: Any
    title: str
    kind: type
    bases: Any
    everything: tuple[Any, ...]
    known: frozenset[str]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    held: tuple[tuple[str, Any, Any], ...]


class _States(NamedTuple):
    """What one attribute of functions, such as ``__code__``, held."""

    name: str
    functions: list[FunctionType]
    values: list[Any]


class CodeTable:
    """What modules and their classes held when they were added to the table."""

    def __init__(self) -> None:
        self._spaces: dict[str, list[Space]] = {}
        self._seen: set[int] = set()
        self._states = [_States(name, [], []) for name in ("__code__", "__defaults__", "__kwdefaults__")]

    def copy(self) -> CodeTable:
        """A table that can grow without this one."""
        other = CodeTable()
        other._spaces, other._seen = dict(self._spaces), set(self._seen)
        other._states = [_States(name, [*functions], [*values]) for name, functions, values in self._states]
        return other

    def add(self, plugins: Collection[str] = ()) -> None:
        """Add the modules that have been imported since the last call; ``plugins`` are users' modules to add, too."""
        for name, module in list(sys.modules.items()):
            ours = name.startswith(_OURS) or name in plugins
            counts = ours or name in _MODULES or name.startswith(_PACKAGES)
            if name in self._spaces or not counts or not isinstance(module, ModuleType):
                continue
            classes = [cls for cls in list(vars(module).values()) if isinstance(cls, type) and cls.__module__ == name]
            classes += [torch.Tensor] if name == "torch" else []
            plain = [cls for cls in classes if not issubclass(cls, BaseException) and not _is_old_tensor(cls)]
            values = _is_constant if ours else _is_code
            of_classes = _is_decisive if ours or name.startswith(_PACKAGES) else _is_code
            title = Path(str(module.__file__)).stem if name in plugins else name
            # A user's module may keep what it counts or caches: only its constants count, and none that can be filled.
            filled = ours and name not in plugins
            self._spaces[name] = [_space(module, title, values, filled)]
            self._spaces[name] += [_space(cls, f"{title}.{cls.__qualname__}", of_classes, filled) for cls in plain]
            self._add_functions(self._spaces[name])

    def _add_functions(self, spaces: Iterable[Space]) -> None:
        for function in (part for space in spaces for value in space.values for part in _functions_of(value)):
            if id(function) in self._seen:
                continue
            self._seen.add(id(function))
            for name, functions, values in self._states:
                if (value := getattr(function, name)) is not None:  # a default of more arguments changes nothing
                    functions.append(function)
                    values.append(value)

    def changed(self) -> str | None:
        """Say what differs from the table, as in ``torch.relu was replaced``; None if nothing does."""
        return next(self._changes(), None)

    def _changes(self) -> Iterator[str]:
        for spaces in self._spaces.values():
            for space in spaces:
                # By order, not by name: to look a name up in a class takes ten times as long.
                now = vars(space.owner).values()
                same = len(now) == len(space.everything) and all(map(operator.is_, now, space.everything))
                if not same or type(space.owner) is not space.kind:
                    yield from _changes_in(space)
                if space.bases is not None and space.owner.__bases__ is not space.bases:
                    yield f"{space.title}.__bases__ was replaced"
                for name, value, copy in space.held:
                    if not _holds(value, copy):
                        yield f"{space.title}.{name} was changed"
        for name, functions, values in self._states:
            if not all(map(operator.is_, map(operator.attrgetter(name), functions), values)):
                for function, value in zip(functions, values, strict=True):
                    if getattr(function, name) is not value:
                        yield f"{function.__module__}.{function.__qualname__} was changed"


def _is_code(name: str, value: Any) -> bool:
    kinds = (staticmethod, classmethod, property, ModuleType, torch.Generator)
    return callable(value) or isinstance(value, kinds)


def _is_constant(name: str, value: Any) -> bool:
    return _is_code(name, value) or (name.isupper() and isinstance(value, _PLAIN))


def _is_decisive(name: str, value: Any) -> bool:
    if isinstance(value, bool) and not name.isupper():
        return False  # a note of the plugin's own, such as whether it has warned
    return _is_code(name, value) or (isinstance(value, _PLAIN) and not name.startswith("__"))


def _is_old_tensor(cls: type) -> bool:
    """Whether a class is ``torch.FloatTensor`` or the like: ten classes of 700 names each, which nothing here uses."""
    return cls.__module__ == "torch" and cls.__name__.endswith("Tensor") and cls is not torch.Tensor


def _space(owner: Any, title: str, counts: Callable[[str, Any], bool], filled: bool) -> Space:
    now = dict(vars(owner))
    found = {name: value for name, value in now.items() if counts(name, value)}
    held = tuple(
        (name, value, value.copy())
        for name, value in now.items()
        if filled and name.isupper() and type(value) in _HOLDERS and value  # an empty one is there to be filled later
    )
    # The constant itself counts as well as its content.
    found |= {name: value for name, value, _ in held}
    return Space(
        owner=owner,
        title=title,
        kind=type(owner),
        bases=owner.__bases__ if isinstance(owner, type) else None,
        everything=tuple(now.values()),
        known=frozenset(now),
        names=tuple(found),
        values=tuple(found.values()),
        held=held,
    )


def _functions_of(value: Any) -> Iterator[FunctionType]:
    parts = (value.fget, value.fset) if isinstance(value, property) else (getattr(value, "__func__", value),)
    yield from (part for part in parts if isinstance(part, FunctionType))


def _holds(value: Any, copy: Any) -> bool:
    if isinstance(value, set):
        return bool(value == copy)
    items = (value.values(), copy.values()) if isinstance(value, dict) else (value, copy)
    return len(value) == len(copy) and all(map(operator.is_, *items)) and list(value) == list(copy)


def _changes_in(space: Space) -> Iterator[str]:
    owner, now = space.owner, vars(space.owner)
    if type(owner) is not space.kind:
        yield f"{space.title} was replaced"
    for name, value in zip(space.names, space.values, strict=True):
        if (found := now.get(name)) is not value and not _wrapped_by_torch(found, value):
            if type(found) is type(value) and isinstance(value, _PLAIN) and found == value:
                continue
            yield f"{space.title}.{name} was replaced"
    for name in now.keys() - space.known:
        if isinstance(owner, ModuleType):
            hidden = getattr(builtins, name, None)
        else:
            hidden = next((vars(base)[name] for base in owner.__mro__[1:] if name in vars(base)), None)
        if hidden is not None and name not in _NO_METHODS and not _wrapped_by_torch(now[name], hidden):
            yield f"{space.title}.{name} was replaced"


def _wrapped_by_torch(now: Any, before: Any) -> bool:
    """Whether torch itself has wrapped a function, as it does with an optimizer's step at its first use."""
    code = getattr(now, "__code__", None)
    return code is not None and code.co_filename.startswith(_TORCH) and getattr(now, "__wrapped__", None) is before
