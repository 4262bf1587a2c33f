"""Plugin parameters, which are the fields of the plugin class: types, defaults, help and checks of given values."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Union

from benchbd.errors import UsageError, did_you_mean, shown, suggestion

LONGEST_TEXT = 1000
"""Maximum length of a text parameter, in characters."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")


class Param(NamedTuple):
    """One parameter of a plugin: name, type as text, default, the docstring under the field."""

    name: str
    type: str
    default: Any
    help: str


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


@functools.cache
def _field_docs(cls: type) -> dict[str, str]:
    """Docstrings under the fields of ``cls`` and its bases. A subclass overrides its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object or base.__module__ == "builtins":
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
        for here, after in itertools.pairwise(body):
            if (
                isinstance(here, ast.AnnAssign)
                and isinstance(here.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[here.target.id] = " ".join(after.value.value.split())
    return docs


def type_text(hint: Any) -> str:
    """Format a type for users: ``int``, ``float | None``, ``'a' | 'b'``."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(a) for a in typing.get_args(hint))
    if origin is Literal:
        return " | ".join(repr(a) for a in typing.get_args(hint))
    if hint is type(None):
        return "None"
    if origin is tuple:
        return f"list of {type_text(typing.get_args(hint)[0])}"
    return getattr(hint, "__name__", str(hint))


def schema(cls: type) -> list[Param]:
    """The parameters of a plugin class, in the order of its fields."""
    hints, docs = _hints(cls), _field_docs(cls)
    return [Param(f.name, type_text(hints[f.name]), f.default, docs.get(f.name, "")) for f in dataclasses.fields(cls)]


@functools.cache
def list_typed(cls: type) -> frozenset[str]:
    """Parameters whose value is itself a list. In a matrix, a list of lists expands such a parameter."""

    def takes_list(hint: Any) -> bool:
        if typing.get_origin(hint) in (Union, types.UnionType):
            return any(takes_list(option) for option in typing.get_args(hint))
        return typing.get_origin(hint) is tuple

    return frozenset(f.name for f in dataclasses.fields(cls) if takes_list(_hints(cls)[f.name]))


def _supported(hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return all(_supported(option) for option in inner)
    if origin is Literal:
        return all(isinstance(option, (int, str)) for option in inner)
    if origin is tuple:
        return len(inner) == 2 and inner[1] is Ellipsis and _supported(inner[0])
    return hint in (int, float, bool, str, type(None))


@functools.cache
def defaults(cls: type) -> dict[str, Any]:
    """Every default, converted like a given value, so that an explicit default does not change a cell's identity.

    Raises:
        TypeError: a field lacks a default, has a type that a matrix cannot express, or has a default of another type.
    """
    hints = _hints(cls)
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        if not _supported(hint):
            can = "int, float, bool, str, None, Literal, unions of these and tuple[X, ...]"
            raise TypeError(f"parameter {field.name!r} has the type {type_text(hint)}; parameters may be {can}")
        if field.default is dataclasses.MISSING:
            raise TypeError(f"parameter {field.name!r} needs a plain default")
        try:
            found[field.name] = _coerce(field.default, hint)
        except ValueError:
            text = f"default of parameter {field.name!r} {_refusal(hint, field.default, ())}"
            raise TypeError(text) from None
    return found


def _coerce(value: Any, hint: Any) -> Any:
    """Return ``value`` as ``hint`` or raise ValueError.

    The conversion is lossless: 1 is a valid float, but 1.5 is not an int and 'yes' is not a bool.
    """
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return _coerce(value, option)
            except ValueError:
                continue
        raise ValueError
    if origin is Literal:
        for option in typing.get_args(hint):
            if value == option and type(value) is type(option):
                return option
        raise ValueError
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError
        return tuple(_coerce(v, typing.get_args(hint)[0]) for v in value)
    if hint is type(None) and value is None:
        return None
    if hint is float:
        return _float(value)
    if hint is int:
        return _int(value)
    if hint is bool and type(value) is bool:
        return value
    if hint is str and type(value) is str and value.isprintable() and len(value) <= LONGEST_TEXT:
        return value
    raise ValueError


def _float(value: Any) -> float:
    # YAML 1.1, and so --set in other tools, reads 1e-3 (without a dot) as text. Accept it as a number.
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise ValueError
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueError from error
    if not math.isfinite(number):
        raise ValueError
    return number + 0.0  # turns -0.0 into 0.0, so that equal values have one identity


def _int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -(2**53) <= value <= 2**53:
        raise ValueError
    if int(value) != value:
        raise ValueError
    return int(value)


def _refusal(hint: Any, value: Any, default: Any) -> str:
    """The words after a parameter's name that refuse a value: ``must be one of a, b, not 'c'``."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    choices = [choice for o in options if typing.get_origin(o) is Literal for choice in typing.get_args(o)]
    parts = [_type_or_example(o, value, default) for o in options if typing.get_origin(o) is not Literal]
    if choices:
        parts.insert(0, f"{'one of ' if len(choices) > 1 else ''}{', '.join(map(str, choices))}")
    near = suggestion(value, [choice for choice in choices if isinstance(choice, str)])
    return f"must be {' or '.join(parts)}, not {shown(value)}{near}"


def _type_or_example(hint: Any, value: Any, default: Any) -> str:
    """A type for the message that refuses ``value``: a list with an example, and a finite number for infinity."""
    if hint is float and _not_finite(value):
        return "a finite number"
    if typing.get_origin(hint) is not tuple or isinstance(value, (list, tuple)):
        return type_text(hint)
    example = list(default or ())
    # A word that stands for nothing, such as none, is no good example of an element.
    if len(str(shown(value))) <= 40 and str(value).lower() not in ("", "none", "null"):
        with contextlib.suppress(ValueError):
            example = list(_coerce([value], hint))
    listed = f"[{', '.join(map(str, example))}] or " if example else ""
    return f"{type_text(hint)} such as {listed}[]"


def _not_finite(value: Any) -> bool:
    try:
        return isinstance(value, (float, str)) and not math.isfinite(float(value))
    except ValueError:
        return False


def resolve(cls: type, given: dict[str, Any], where: str, also: Iterable[str] = ()) -> dict[str, Any]:
    """Check the given parameters and fill in defaults.

    Args:
        cls: a plugin class (or any dataclass of parameters).
        given: the user's parameters by name.
        where: the owner of the parameters, for the message (``attack 'blend'``).
        also: names that the owner takes besides its fields, for the message about an unknown one.

    Returns:
        Every field of ``cls`` by name, typed.

    Raises:
        UsageError: a name is unknown, or a value has the wrong type.
    """
    values = dict(defaults(cls))
    spellings: dict[str, str] = getattr(cls, "spellings", {})
    for spelling, name in spellings.items():
        if spelling in given and name in given:
            raise UsageError(f"{where}: {spelling} is another name of {name}; give one of them")
    for word, value in given.items():
        name = spellings.get(word, word) if isinstance(word, str) else word
        if name not in values:
            hint = did_you_mean(name if isinstance(name, str) else "", [*values, *also])
            raise UsageError(f"{where} has no parameter {shown(name)}{hint}")
        hint = _hints(cls)[name]
        try:
            values[name] = _coerce(value, hint)
        except (ValueError, RecursionError):
            raise UsageError(f"{where}: {name} {_refusal(hint, value, defaults(cls)[name])}") from None
    return values
