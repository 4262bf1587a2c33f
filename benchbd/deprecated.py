"""Old names of the plugin interface. They work for one release and warn with the new name.

A plugin author must see the warning, and Python hides ``DeprecationWarning`` outside ``__main__``. It is therefore a
``FutureWarning``, shown once per process, at the line of the plugin that uses the old name.

The old modules are resolved only on use: the finder comes last in ``sys.meta_path``, so Python consults it only for
modules that do not exist.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

from benchbd.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")


class _Moved(NamedTuple):
    """The new location of an old module's names.

    Attributes:
        public: the module from which plugins import the names now.
        places: modules that define the names, in search order. With one place and no renamed name, the old module is
            an alias of that place.
        renamed: new names by old names.
    """

    public: str
    places: tuple[str, ...]
    renamed: dict[str, str] = {}  # noqa: RUF012


_TRAINED = {"Trained": "TrainedModel", "NetworkPlan": "ModelSpec"}
_MOVED = {
    "benchbd.components": _Moved("benchbd", ("benchbd", "benchbd.plugins.contract"), {"Stamp": "StampContext"}),
    "benchbd.trained": _Moved("benchbd", ("benchbd.plugins.trained", "benchbd.plugins.train_set"), _TRAINED),
    "benchbd.workshop": _Moved("benchbd", ("benchbd.plugins.handles",)),
    "benchbd.recipe": _Moved("benchbd.core.recipe", ("benchbd.core.recipe",)),
    "benchbd.seeding": _Moved("benchbd.core.seeding", ("benchbd.core.seeding",)),
    "benchbd.params": _Moved("benchbd.core.params", ("benchbd.core.params",)),
    "benchbd.registry": _Moved("benchbd.plugins.registry", ("benchbd.plugins.registry",)),
    "benchbd.run.remote": _Moved("benchbd.run.cluster.remote", ("benchbd.run.cluster.remote",)),
    "benchbd.engine.routine": _Moved(
        "benchbd.engine",
        ("benchbd.engine.training_loop",),
        {"Run": "LoopContext", "Routine": "TrainingLoop", "fit_by": "fit_with_loop"},
    ),
    "benchbd.engine.reweigh": _Moved(
        "benchbd.engine", ("benchbd.engine.epoch_weights",), {"Reweigh": "PerEpochWeights", "Weigh": "WeightFunction"}
    ),
}

_shown: set[str] = set()


def warn_once(old: str, new: str, level: int = 2) -> None:
    """Warn that a name has changed, once per process.

    Args:
        old: the name in the plugin.
        new: its replacement.
        level: number of frames from this function's caller up to the plugin's line; import machinery does not count.
    """
    _warn(old, f"{old} is now {new}; the old name works in this release and is gone in the next", level + 1)


def _warn(key: str, text: str, level: int) -> None:
    if key not in _shown:
        _shown.add(key)
        warnings.warn(text, FutureWarning, stacklevel=level + 1)


def old_names(module: str, **renamed: str) -> None:
    """Make old names work in a module.

    Args:
        module: the module's ``__name__``.
        **renamed: new names by old names; ``package:Name`` if the object is in another module now.
    """
    here = sys.modules[module]
    before: Callable[[str], Any] | None = here.__dict__.get("__getattr__")

    def look_up(name: str) -> Any:
        if name in renamed:
            place, _, new = renamed[name].rpartition(":")
            warn_once(f"{module}.{name}", f"{place or module}.{new}")
            return getattr(importlib.import_module(place or module), new)
        if before is not None:
            return before(name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    setattr(here, "__getattr__", look_up)  # noqa: B010  (an assignment would make mypy accept every name)


def old_attributes(cls: type, **renamed: str) -> None:
    """Make old attribute names work on a class's objects. ``renamed`` maps old names to new names."""

    def alias(old: str, new: str) -> property:
        def look_up(self: Any) -> Any:
            warn_once(f"{cls.__name__}.{old}", f"{cls.__name__}.{new}")
            return getattr(self, new)

        return property(look_up)

    for old, new in renamed.items():
        setattr(cls, old, alias(old, new))


def old_keywords(cls: Any, **renamed: str) -> None:
    """Make a named tuple's constructor accept old keywords. ``renamed`` maps old names to new names."""
    make = cls.__new__

    def new_with(kind: Any, *given: Any, **named: Any) -> Any:
        for old in renamed.keys() & named.keys():
            warn_once(f"{cls.__name__}({old}=...)", f"{cls.__name__}({renamed[old]}=...)")
            named[renamed[old]] = named.pop(old)
        return make(kind, *given, **named)

    cls.__new__ = new_with


def renamed_keywords(**new_by_old: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A decorator that passes old keywords on under their new names, with a FutureWarning that names both.

    The call raises UsageError if it gives a keyword under both names.
    """

    def wrap(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for old, new in new_by_old.items():
                if old not in kwargs:
                    continue
                if new in kwargs:
                    raise UsageError(f"{function.__name__}: {old} is the old name of {new}; give {new} alone")
                text = f"{function.__name__}: the keyword {old} is now called {new}; the next release drops {old}"
                warnings.warn(text, FutureWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return wrap


def adapt_attack(cls: Any, training: Any) -> None:
    """Derive ``trainings`` from the old method ``trains``, which returned the names of an attack's trainings.

    The names have a meaning. ``surrogate`` is the clean row's undefended model. ``NAME-surrogate`` is another full
    training on the clean set; the parameters ``NAME_*`` determine it (``NAME_epochs`` replaces the recipe's epochs).
    ``NAME-teacher`` is a teacher; all parameters determine it. Any other name is a loop of the attack itself, and the
    result of the last loop is the trigger.

    Args:
        cls: the attack's class.
        training: :class:`benchbd.Training`.
    """

    if not hasattr(cls, "trains"):
        return

    def one(self: Any, name: str, shared: bool) -> Any:
        if name == "surrogate":
            return training("full", ("undefended",))
        if name.endswith("-surrogate"):
            prefix = name.removesuffix("surrogate").replace("-", "_")
            given = {key: value for key, value in self.params().items() if key.startswith(prefix)}
            epochs = given.pop(f"{prefix}epochs", None)
            changes = () if epochs is None else (("epochs", epochs),)
            return training("full", (self.name, name, repr(sorted(given.items()))), changes)
        if name.endswith("-teacher"):
            return training("teacher", (self.name, name, repr(self)))
        return training("loop", (name,) if shared else ())

    def trainings(self: Any) -> tuple[Any, ...]:
        names = [str(name) for name in self.trains()]
        loops = [n for n, name in enumerate(names) if not name.endswith(("surrogate", "teacher"))]
        return tuple(one(self, name, n in loops[:-1]) for n, name in enumerate(names))

    warn_once(f"{cls.__name__}.trains", "Attack.trainings, which returns Training objects", level=3)
    cls.trainings = trainings


def adapt_defense(cls: Any) -> None:
    """Derive ``clean_fraction`` from the old parameter ``clean_frac``, if the defense has it."""
    if not hasattr(cls, "clean_frac"):
        return
    _warn(
        f"{cls.__name__}.clean_frac",
        f"{cls.__name__} must return clean_frac from clean_fraction(); the next release no longer reads the parameter",
        level=3,
    )
    cls.clean_fraction = lambda self: float(self.clean_frac)


class _Alias(types.ModuleType):
    """An old module. It looks names up in their new modules and warns about renamed ones."""

    def __init__(self, name: str, moved: _Moved) -> None:
        super().__init__(name)
        self._moved = moved

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        new = self._moved.renamed.get(name, name)
        if new != name:
            warn_once(f"{self.__name__}.{name}", f"{self._moved.public}.{new}")
        for place in self._moved.places:
            module = importlib.import_module(place)
            if hasattr(module, new):
                return getattr(module, new)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


class _Loader:
    """Loads an old module as an alias, or as the new module itself if it has only moved."""

    def create_module(self, spec: Any) -> types.ModuleType:
        return _Alias(spec.name, _MOVED[spec.name])

    def exec_module(self, module: types.ModuleType) -> None:
        moved = _MOVED[module.__name__]
        warn_once(module.__name__, moved.public)
        if len(moved.places) == 1 and not moved.renamed:
            sys.modules[module.__name__] = importlib.import_module(moved.places[0])


class _Finder:
    """Finds old modules."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> Any:
        if name not in _MOVED:
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, _Loader())  # type: ignore[arg-type]


def find_old_modules() -> None:
    """Make the old modules importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
