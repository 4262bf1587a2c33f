"""How a component is written: ``name``, ``name(a=1, b='x')`` or, in YAML, ``{name: {a: 1}}``."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from benchbd.errors import UsageError, shown

_FORM = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9_.-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
MAX_LENGTH = 2000


def parse_spec(given: Any, what: str) -> tuple[str, dict[str, Any]]:
    """Split a spec into a name and parameters (lists not yet expanded).

    Args:
        given: text, or a mapping with one key.
        what: ``attack``, ``defense``, ... for the message.

    Raises:
        UsageError: it is neither form, or its arguments are no literals.
    """
    inner: Any = {}
    if isinstance(given, dict):
        if len(given) != 1:
            raise UsageError(f"{what}: {{name: {{parameters}}}} takes one name, found {len(given)}")
        given, inner = next(iter(given.items()))
        inner = {} if inner is None else inner
        if not isinstance(given, str) or not isinstance(inner, dict):
            raise UsageError(f"{what} {shown(given)}: parameters must be a mapping such as {{rate: 0.1}}")
        for key in inner:
            if not isinstance(key, str):
                raise UsageError(f"{what} {shown(given)}: parameter names are words, not {shown(key)}")
    elif not isinstance(given, str):
        raise UsageError(f"{what}: expected a name, found {shown(given)}")
    if len(given) > MAX_LENGTH:
        raise UsageError(f"{what}: a name of {len(given)} characters is no name")
    match = _FORM.fullmatch(given)
    if match is None:
        raise UsageError(f"{what}: {shown(given)} is neither NAME nor NAME(parameter=value)")
    name, arguments = match.group(1), match.group(2)
    called = _arguments(name, arguments, what) if arguments else {}
    for key in inner:
        if key in called:
            raise UsageError(f"{what} {shown(name)}: {key!r} is given twice")
    return name, {**called, **inner}


def _arguments(name: str, text: str, what: str) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd escape in a string is no second line of ours
            call = ast.parse(f"f({text})", mode="eval").body
        # Whatever closes the bracket early, such as "a=1)(b=2", makes another tree than one plain call of f.
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
            raise ValueError("write parameter=value")
        found: dict[str, Any] = {}
        for keyword in call.keywords:
            if keyword.arg is None or keyword.arg in found:
                raise ValueError("each parameter once, by name")
            found[keyword.arg] = ast.literal_eval(keyword.value)
        return found
    except (SyntaxError, ValueError, RecursionError, MemoryError, TypeError) as error:
        how = "write name=value, each once, with text in quotes"
        raise UsageError(f"{what} {shown(name)}: cannot read the parameters {shown(text)}: {how}") from error
