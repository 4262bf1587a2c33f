"""A plugin's fields are its parameters: their types, defaults, help and the checks made on given values."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import math
import re
import types
import typing
from typing import Any, Literal, NamedTuple, Union

from benchbd.errors import UsageError, did_you_mean


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
    """Docstrings written under the fields of ``cls`` and its bases (base first, so that a subclass wins)."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object or base.__module__ == "builtins":
            continue
        try:
            tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError, IndentationError):
            continue
        body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
        for here, after in zip(body, body[1:]):
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
    """Write a type as users read it: ``int``, ``float | None``, ``'a' | 'b'``."""
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


def _coerce(value: Any, hint: Any) -> Any:
    """Return ``value`` as ``hint`` or raise ValueError. Lossless only: 1 is a float, 1.5 is no int, 'yes' no bool."""
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
    if hint is type(None):
        if value is None:
            return None
        raise ValueError
    if hint is float:
        # YAML 1.1 reads 1e-3 (no dot) as text; a number typed that way is still a number.
        if isinstance(value, str) and not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+", value):
            raise ValueError
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError
        try:
            number = float(value)
        except OverflowError as error:
            raise ValueError from error
        if not math.isfinite(number):
            raise ValueError
        return number
    if hint is int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or value in (math.inf, -math.inf):
            raise ValueError
        if int(value) != value or abs(value) > 2**53:
            raise ValueError
        return int(value)
    if hint is bool or hint is str:
        if type(value) is hint:
            return value
        raise ValueError
    raise ValueError


def resolve(cls: type, given: dict[str, Any], where: str) -> dict[str, Any]:
    """Fill in defaults and check what was given.

    Args:
        cls: a plugin class (or any dataclass of parameters).
        given: the parameters written by the user.
        where: what the parameters belong to, for the message (``attack 'blend'``).

    Returns:
        Every field of ``cls`` by name, typed.

    Raises:
        UsageError: an unknown name, or a value of the wrong type.
    """
    hints = _hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for name in given:
        if name not in fields:
            raise UsageError(f"{where} has no parameter {name!r}{did_you_mean(str(name), fields)}")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in given:
            values[name] = field.default
            continue
        try:
            values[name] = _coerce(given[name], hints[name])
        except ValueError:
            shown = repr(given[name])
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise UsageError(f"{where}: {name} must be {type_text(hints[name])}, not {shown}") from None
    return values
